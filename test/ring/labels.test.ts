import { expect, test } from "bun:test";
import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { GatewayError } from "../../src/errors.ts";
import { claimLabels, isInPlace, LabelsBeside, writeLabels } from "../../src/ring/labels.ts";
import { MappedFile } from "./mapped-file.ts";

const LABELS = {
  intents: { "5": "refund" },
  types: { "7": 'quoted "ç"' },
  models: { "9": { name: "hashing-1024-v1", dim: 1024 } },
};

test("a reader finds what the writer put beside the ring", () => {
  using file = new MappedFile(1);
  const labels = new LabelsBeside(file.path);
  expect([labels.intent(5), labels.type(7), labels.model(9)]).toEqual([null, null, null]);
  writeLabels(file.path, 0o640, LABELS);
  expect([labels.intent(5), labels.type(7), labels.model(9)]).toEqual([
    "refund",
    'quoted "ç"',
    { name: "hashing-1024-v1", dim: 1024 },
  ]);
  expect([labels.intent(-1), labels.type(-1), labels.intent(6)]).toEqual([null, null, null]);
  expect(statSync(`${file.path}.json`).mode & 0o7777).toBe(0o640);
});

test("a later label is found, and an earlier one is kept", () => {
  using file = new MappedFile(1);
  const labels = new LabelsBeside(file.path);
  writeLabels(file.path, 0o600, LABELS);
  expect(labels.intent(5)).toBe("refund");
  writeLabels(file.path, 0o600, { ...LABELS, intents: { "6": "cancel" } });
  expect([labels.intent(6), labels.intent(5)]).toEqual(["cancel", "refund"]);
});

test("a file that has not changed is not read again", () => {
  using file = new MappedFile(1);
  const path = `${file.path}.json`;
  const labels = new LabelsBeside(file.path);
  const write = (label: string): void => {
    writeFileSync(path, JSON.stringify({ intents: { "6": label } }));
    utimesSync(path, 1, 1);
  };
  write("alpha");
  expect(labels.intent(5)).toBeNull();
  // Name, inode, size and time are the same, so nothing shows that the content changed.
  write("gamma");
  expect([labels.intent(7), labels.intent(6)]).toEqual([null, "alpha"]);
});

test.each([
  ["no JSON", "{"],
  ["no object", "7"],
  ["sections that are none", '{"intents":[],"types":"x","models":null}'],
  ["entries that are none", '{"intents":{"x":"y","12345678901":"z","5":5},"models":{"9":{"dim":3}}}'],
])("a file with %s leaves ids without labels", (_, content) => {
  using file = new MappedFile(1);
  writeFileSync(`${file.path}.json`, content);
  const labels = new LabelsBeside(file.path);
  expect([labels.intent(5), labels.intent(12345678901), labels.type(7), labels.model(9)]).toEqual(
    new Array(4).fill(null),
  );
});

test("labels that cannot be written are an error that names the file, and leave nothing behind", () => {
  using file = new MappedFile(1);
  mkdirSync(`${file.path}.json`);
  let thrown: unknown;
  try {
    writeLabels(file.path, 0o600, LABELS);
  } catch (error) {
    thrown = error;
  }
  expect(thrown).toBeInstanceOf(GatewayError);
  expect(thrown).toMatchObject({ code: "ring_failed", object: `${file.path}.json` });
  expect(readdirSync(file.folder).sort()).toEqual(["ring", "ring.json"]);
});

function refusal(path: string): GatewayError {
  try {
    claimLabels({ path, mode: 0o600 });
  } catch (error) {
    if (error instanceof GatewayError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

test("to claim the file beside the ring replaces it and keeps this user's labels", () => {
  using file = new MappedFile(1);
  writeLabels(file.path, 0o600, LABELS);
  const before = statSync(`${file.path}.json`).ino;
  claimLabels({ path: file.path, mode: 0o640 });
  const after = statSync(`${file.path}.json`);
  expect([after.ino === before, after.mode & 0o7777]).toEqual([false, 0o640]);
  expect(new LabelsBeside(file.path).intent(5)).toBe("refund");
});

test("to claim a path without a file makes one without labels", () => {
  using file = new MappedFile(1);
  claimLabels({ path: file.path, mode: 0o600 });
  expect(JSON.parse(readFileSync(`${file.path}.json`, "utf8"))).toEqual({
    intents: {},
    types: {},
    models: {},
  });
});

test("a folder at the labels' path is refused before the start, with the next step", () => {
  using file = new MappedFile(1);
  mkdirSync(`${file.path}.json`);
  const error = refusal(file.path);
  expect([error.code, error.message]).toEqual([
    "ring_failed",
    `ring: replace labels ${file.path}.json: is a folder; ` +
      "remove what is there, make its folder writable, or pass another --ring-path",
  ]);
  expect(readdirSync(file.folder)).not.toContainEqual(expect.stringContaining(".new."));
});

test("a link or a pipe at the labels' path is replaced, and what a link names stays as it is", () => {
  using file = new MappedFile(1);
  const path = `${file.path}.json`;
  const victim = `${file.path}-victim`;
  writeFileSync(victim, "precious");
  symlinkSync(victim, path);
  claimLabels({ path: file.path, mode: 0o600 });
  expect([lstatSync(path).isFile(), readFileSync(victim, "utf8")]).toEqual([true, "precious"]);
  expect(readFileSync(path, "utf8")).not.toContain("precious");
  rmSync(path);
  expect(Bun.spawnSync(["mkfifo", path]).exitCode).toBe(0);
  claimLabels({ path: file.path, mode: 0o600 });
  expect(lstatSync(path).isFile()).toBe(true);
});

test("a ring's name that leaves no room for the files beside it is refused before the start", () => {
  using file = new MappedFile(1);
  const error = refusal(join(file.folder, "r".repeat(240)));
  expect([error.code, error.message.includes("ENAMETOOLONG")]).toEqual(["ring_failed", true]);
});

test.skipIf(process.geteuid?.() !== 0)(
  "another user's labels in a folder where only owners may replace files are refused (needs root)",
  () => {
    using file = new MappedFile(1);
    writeFileSync(`${file.path}.json`, '{"types":{"1":"evil"}}');
    chmodSync(file.folder, 0o1777);
    // The claim of an ordinary user: this process cannot become one and root again, so a child does it.
    const claim = `
      process.seteuid(65534);
      const { claimLabels } = await import(${JSON.stringify(join(import.meta.dir, "../../src/ring/labels.ts"))});
      try { claimLabels({ path: process.argv[1], mode: 0o600 }); console.log("claimed"); }
      catch (error) { console.log(error.message); }`;
    const child = Bun.spawnSync([process.execPath, "-e", claim, file.path]);
    expect(child.stdout.toString()).toContain("belongs to user 0, and this user may not replace it");
    // Root may replace it, and does not show labels that another user wrote.
    chownSync(`${file.path}.json`, 12345, 12345);
    claimLabels({ path: file.path, mode: 0o600 });
    expect(new LabelsBeside(file.path).type(1)).toBeNull();
  },
);

test("a file of labels that was removed or replaced is no longer in place", () => {
  using file = new MappedFile(1);
  const written = writeLabels(file.path, 0o600, LABELS);
  expect(isInPlace(file.path, written)).toBe(true);
  renameSync(`${file.path}.json`, `${file.path}.kept`);
  expect(isInPlace(file.path, written)).toBe(false);
  writeFileSync(`${file.path}.json`, "{}");
  expect(isInPlace(file.path, written)).toBe(false);
});
