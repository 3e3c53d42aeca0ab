/** Runs the README's examples as they are written, except for the port, the executable's path and the ring's path. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { BINARY, bankingMessages, Gateway, ringHead, TempFolder, until } from "./gateway.ts";
import { LlmStub } from "./llm-stub.ts";

// These tests start processes, which is slow on a busy machine.
setDefaultTimeout(300_000);

const ROOT = resolve(import.meta.dir, "../..");
const README = readFileSync(join(ROOT, "README.md"), "utf8");

interface Block {
  /** NAME of the marker `<!-- run: NAME -->` before the block; null if it has none. */
  readonly name: string | null;
  readonly language: string;
  readonly code: string;
}

const BLOCKS: Block[] = [...README.matchAll(/(?:<!-- run: (\S+) -->\n)?```(sh|python)\n([\s\S]*?)```/g)].map(
  ([, name, language = "", code = ""]) => ({ name: name ?? null, language, code }),
);

/** Blocks without a marker, and why this test does not run them. */
const NOT_RUN: readonly [start: string, why: string][] = [
  [
    "npx --yes bun",
    "the two commands: .ci/run runs the second, which includes the set-up and the build of the first",
  ],
  ["./one_file_gateway demo", "it does not end: demo.test.ts runs it"],
  ["python consumer.py --follow", "it does not end: demo.test.ts runs it"],
  [
    "GATEWAY_TOKEN=secret ./one_file_gateway --db-path",
    "it does not end: the gateway of this test is started so",
  ],
  ["python consumer.py --pytorch", "python.test.ts runs it and checks every value"],
];

const folder = new TempFolder();
let gateway: Gateway;
const env = {
  CS_PHYSICS_PATH: folder.ring,
  PYTHONPATH: ROOT,
  PYTHONDONTWRITEBYTECODE: "1",
  PATH: process.env.PATH ?? "",
};

beforeAll(async () => {
  const events = bankingMessages().map(({ text, category }, n) =>
    JSON.stringify({ message: text, conversation_id: `c${n % 400}`, type: category }),
  );
  writeFileSync(folder.file("messages.ndjson"), `${events.join("\n")}\n`);
  gateway = await Gateway.start(folder, {
    args: ["--db-path", folder.file("events.duckdb"), "--token", "secret"],
  });
});
afterAll(async () => {
  await gateway[Symbol.asyncDispose]();
  folder[Symbol.dispose]();
});

async function runBlock(name: string, at = gateway): Promise<string> {
  const block = BLOCKS.find((candidate) => candidate.name === name);
  if (block === undefined) throw new Error(`README.md has no block "run: ${name}"`);
  const code = block.code
    .replaceAll("localhost:9382", new URL(at.url).host)
    .replaceAll("./one_file_gateway", BINARY);
  const command =
    block.language === "sh" ? ["sh", "-e", "-c", code] : [join(ROOT, ".venv/bin/python"), "-c", code];
  const child = Bun.spawn(command, { cwd: folder.path, env, stdout: "pipe", stderr: "pipe" });
  const [out, err] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  expect([name, await child.exited, err]).toEqual([name, 0, ""]);
  return out;
}

describe("README", () => {
  test("every block is run, or has a stated reason not to be", () => {
    const names = BLOCKS.flatMap(({ name }) => (name === null ? [] : [name]));
    expect(names).toEqual(["ingest", "ndjson", "look", "python", "dataset", "ring", "intents", "enriched"]);
    const without = BLOCKS.filter(({ name }) => name === null).map(({ code }) => code);
    expect(without.filter((code) => !NOT_RUN.some(([start]) => code.startsWith(start)))).toEqual([]);
    for (const [start] of NOT_RUN) expect(without.some((code) => code.startsWith(start))).toBe(true);
  });

  test("ingest responds as shown", async () => {
    const shown = /```json\n([\s\S]*?)```/.exec(README)?.[1] ?? "";
    const { id: _, ...expected } = JSON.parse(shown) as Record<string, unknown>;
    expect(JSON.parse(await runBlock("ingest"))).toMatchObject(expected);
  });

  test("ndjson accepts the 10,003 messages", async () => {
    expect(JSON.parse(await runBlock("ndjson"))).toMatchObject({ accepted: 10_003, rejected: 0 });
    await until("every message is framed", () => (ringHead(folder.ring)?.head ?? 0) === 10_005, 60_000);
  });

  test("look shows events, frames, metrics and readiness", async () => {
    const out = await runBlock("look");
    expect(out).toContain("Quero cancelar meu plano");
    expect(out).toContain('"semantic"');
    expect(out).toContain('"$schema":"https://json-schema.org/draft/2020-12/schema","title":"UserMessage"');
    expect(out).toContain("gateway_frames_total 10004");
    expect(out).toContain('"status":"ready"');
  });

  test("python reads a batch of tensors", async () => {
    expect(await runBlock("python")).toMatch(/^\(100, 1024\) \d/);
  });

  test("intents accepts the examples and learns them", async () => {
    const said = JSON.parse(await runBlock("intents"));
    expect(said).toMatchObject({ label: "CancelPlan", examples: 3, in_force: true });
    expect(said.threshold).toBeGreaterThan(0);
  });

  test("dataset gives each frame to one of the workers", async () => {
    expect(await runBlock("dataset")).toBe("10004 frames, 0 lost\n");
  });

  test("ring shows the ring, its newest frames, and that all frames are whole", async () => {
    const out = await runBlock("ring");
    expect(out).toContain("frames     10,004 of 20,000 (50%)\n");
    expect(out).toContain("  #10004  ");
    expect(out).toEndWith(": 10,004 frames: 10,004 whole, 0 damaged\n");
  });

  test("a model at --llm-base-url understands a message as shown", async () => {
    await using stub = await LlmStub.start();
    stub.mode = "thinking";
    using own = new TempFolder();
    const args = ["--token", "secret", "--llm-base-url", stub.baseUrl, "--embedder", "hashing"];
    await using asking = await Gateway.start(own, { args });
    const shown = /reads as follows[\s\S]*?```json\n([\s\S]*?)```/.exec(README)?.[1] ?? "";
    const { id: _, seq: __, enrichment, ...expected } = JSON.parse(shown);
    const { frame_id: ___, confidence, ...understood } = enrichment;
    const got = JSON.parse(await runBlock("enriched", asking));
    expect(got).toMatchObject({ ...expected, enrichment: understood });
    expect(got.enrichment.confidence).toBeCloseTo(confidence);
  });

  test("every linked file exists", () => {
    for (const [, target = ""] of README.matchAll(/\]\((?!http)([^)#]+)\)/g)) {
      expect([target, existsSync(join(ROOT, target))]).toEqual([target, true]);
    }
  });
});
