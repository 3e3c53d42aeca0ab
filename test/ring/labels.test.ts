import { expect, test } from "bun:test";
import { mkdirSync, readdirSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { GatewayError } from "../../src/errors.ts";
import { LabelsBeside, writeLabels } from "../../src/ring/labels.ts";
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
