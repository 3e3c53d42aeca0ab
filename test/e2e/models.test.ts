/** Embedders in the executable: a local model, an endpoint with faults, switching, and the vectors that are kept. */
import { afterEach, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, readFileSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";
import { FRAME_BYTES } from "../../src/frame.ts";
import { apiFrames, duckRows, Gateway, ringFrames, ringHead, TempFolder, until } from "./gateway.ts";

// These tests start processes, which is slow on a busy machine.
setDefaultTimeout(300_000);

const FIXTURE = resolve(import.meta.dir, "../fixtures/tiny-xlmr");
const REFERENCE = JSON.parse(readFileSync(join(FIXTURE, "reference.json"), "utf8")) as { texts: string[] };
const DIM = 1024;

let folder = new TempFolder();
afterEach(() => {
  folder[Symbol.dispose]();
  folder = new TempFolder();
});

function referenceRow(index: number): Float32Array {
  const bytes = readFileSync(join(FIXTURE, "reference.f32"));
  return new Float32Array(
    bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength),
    4 * DIM * index,
    DIM,
  );
}

function semantic(frame: Uint8Array): Float32Array {
  return new Float32Array(frame.slice(16, 16 + 4 * DIM).buffer);
}

function cosine(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, value, index) => sum + value * (b[index] ?? 0), 0);
}

async function framed(count: number): Promise<void> {
  await until(`${count} frames are in the ring`, () => (ringHead(folder.ring)?.head ?? 0) === count + 1);
}

test("a local model's vectors equal the reference, survive a deleted ring, and keep their model id", async () => {
  cpSync(FIXTURE, folder.file("models/tiny-xlmr"), { recursive: true });
  const db = folder.file("events.duckdb");
  const local = ["--db-path", db, "--models-dir", folder.file("models")];
  // One vector per text. White space alone has no vector: its frame says so and is not a frame of zeros.
  const said = REFERENCE.texts
    .map((text, index) => ({ text, index }))
    .filter(({ text }) => text.trim() !== "");
  const first = await Gateway.start(folder, { args: local });
  // One text at a time, because an int8 graph rounds by the whole batch.
  for (const { text } of said) {
    const reply = await first.fetch("/ingest?wait=enriched", {
      method: "POST",
      body: JSON.stringify({ message: text }),
      headers: { "content-type": "application/json" },
    });
    expect(await reply.json()).toMatchObject({
      enrichment: { provenance: { embedder: "tiny-xlmr@int8+cls" } },
    });
  }
  await framed(said.length);
  expect(first.log).toContain("embedder tiny-xlmr@int8+cls");
  const before = await apiFrames(first);
  before.forEach((frame, position) => {
    const view = new DataView(frame.buffer);
    expect(view.getUint16(4200, true)).toBe(DIM);
    expect(view.getUint16(4202, true) & 1).toBe(1);
    expect(cosine(semantic(frame), referenceRow(said[position]?.index ?? 0))).toBeGreaterThan(0.9999);
  });
  await first.stop();
  rmSync(folder.ring);
  // The database recorded a local model, so `auto` keeps it. Without its folder, events are accepted and frames wait.
  const second = await Gateway.start(folder, { args: [...local, "--embedder", "hashing"] });
  await framed(said.length);
  expect((await second.post({ message: "agora por hashing" })).status).toBe(200);
  await framed(said.length + 1);
  const after = ringFrames(folder.ring);
  before.forEach((frame, index) => {
    const refilled = after[index]?.bytes ?? new Uint8Array(FRAME_BYTES);
    expect(Buffer.compare(frame.subarray(8, 4192), refilled.subarray(8, 4192))).toBe(0);
  });
  const models = new Set(after.map(({ bytes }) => new DataView(bytes.buffer).getUint32(4204, true)));
  expect(models.size).toBe(2);
  await second.stop();
  const labels = JSON.parse(readFileSync(`${folder.ring}.json`, "utf8")) as {
    models: Record<string, { name: string }>;
  };
  expect(
    Object.values(labels.models)
      .map(({ name }) => name)
      .sort(),
  ).toEqual(["hashing-1024-v1", "tiny-xlmr@int8+cls"]);
  const kept = await duckRows(db, "SELECT DISTINCT model_id FROM enrichments");
  expect(new Set(kept.map((row) => row.model_id))).toEqual(models);
}, 300_000);

test("an endpoint that first replies with NaN, then is away, then works, loses no event and fakes no vector", async () => {
  let mode: "down" | "nan" | "well" = "nan";
  using endpoint = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    routes: {
      "/v1/models": () =>
        Response.json({ object: "list", data: [{ id: "text-embedding-stub", object: "model" }] }),
      "/v1/embeddings": async (request: Request) => {
        if (mode === "down") return new Response("loading", { status: 503 });
        const { input } = (await request.json()) as { input: string[] };
        const data = input.map((text, index) => ({
          object: "embedding",
          index,
          embedding: Array.from({ length: 8 }, (_, at) => (mode === "nan" ? null : text.length + at)),
        }));
        return Response.json({ object: "list", model: "text-embedding-stub", data });
      },
    },
  });
  const base = `http://127.0.0.1:${endpoint.port}/v1`;
  const args = ["--llm-base-url", base, "--embedder", "remote", "--embedding-model", "text-embedding-stub"];
  await using gateway = await Gateway.start(folder, { args });
  for (let n = 0; n < 5; n++) expect((await gateway.post({ message: `mensagem ${n}` })).status).toBe(200);
  const embedder = async (): Promise<{ state: string; detail: string }> => {
    const { parts } = await gateway.json<{ parts: { embedder: { state: string; detail: string } } }>(
      "/ready",
    );
    return parts.embedder;
  };
  await until("/ready reports a failing embedder", async () => (await embedder()).state === "degraded");
  await until("/ready says what is wrong with the reply", async () =>
    /NaN|null|list|finite|number/i.test((await embedder()).detail),
  );
  mode = "down";
  await until("/ready says that the endpoint is away", async () => (await embedder()).detail.includes("503"));
  expect(ringHead(folder.ring)?.head ?? 1).toBe(1);
  mode = "well";
  await framed(5);
  expect((await embedder()).state).toBe("ok");
  for (const { bytes, flags } of ringFrames(folder.ring)) {
    const vector = semantic(bytes);
    expect(flags & 1).toBe(1);
    expect(new DataView(bytes.buffer).getUint16(4200, true)).toBe(8);
    expect(cosine(vector, vector)).toBeCloseTo(1, 5);
    expect(vector.slice(8).every((value) => value === 0)).toBe(true);
  }
}, 300_000);

test("pull-model --from a folder without a model names the missing file and leaves nothing behind", async () => {
  const gateway = Gateway.launch(folder, {
    args: ["pull-model", "mine", "--from", folder.path, "--models-dir", folder.file("models")],
  });
  expect(await gateway.exited()).toBe(1);
  expect(gateway.log.trim().split("\n").at(-1)).toContain(folder.path);
});

test("one text that the endpoint cannot embed costs its own event the vector, and no other, within seconds", async () => {
  await using endpoint = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    routes: {
      "/v1/models": () => Response.json({ data: [{ id: "text-embedding-stub" }] }),
      "/v1/embeddings": async (request: Request) => {
        const { input } = (await request.json()) as { input: string[] };
        // What llama.cpp answers to the whole batch.
        if (input.some((text) => text.includes("palavra")))
          return Response.json({ error: { message: "input is too large to process" } }, { status: 500 });
        return Response.json({ data: input.map((text, index) => ({ index, embedding: [1, text.length] })) });
      },
    },
  });
  const url = `http://127.0.0.1:${endpoint.port}/v1`;
  await using gateway = await Gateway.start(folder, {
    args: ["--llm-base-url", url, "--embedder", "remote"],
  });
  const lines = Array.from({ length: 21 }, (_, n) => ({ message: n === 7 ? "palavra" : `mensagem ${n}` }));
  const startedMs = performance.now();
  expect((await gateway.post(lines)).status).toBe(200);
  await framed(21);
  expect(performance.now() - startedMs).toBeLessThan(28_000);
  const bare = ringFrames(folder.ring).flatMap(({ flags }, index) => (flags & 1 ? [] : [index]));
  expect(bare).toEqual([7]);
}, 300_000);
