import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { EmbedWorker, Examples, workerOf } from "../../src/embed/thread.ts";
import { PATIENCE_MS, refusal } from "./embedders.ts";

setDefaultTimeout(PATIENCE_MS);

/** A Worker that replies to the second of two requests first, fails at the text "fail", and ends at "end". */
const SCRIPT = `
let held = null;
self.onmessage = ({ data }) => {
  if (data.kind === "unload") return postMessage({ id: data.id, kind: "unloaded" });
  if (data.texts?.[0] === "end") return process.exit(0);
  if (data.texts?.[0] === "fail") {
    const failure = { code: "embedder_invalid", operation: "embed", object: "a", detail: "b" };
    return postMessage({ id: data.id, kind: "failed", failure });
  }
  const reply = { id: data.id, kind: "loaded", name: data.folder, dim: 1 };
  if (held === null) held = reply;
  else {
    postMessage(reply);
    postMessage(held);
    held = null;
  }
};`;

let folder = "";
let script = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "gateway-thread-"));
  script = join(folder, "script.js");
  writeFileSync(script, SCRIPT);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const texts = (text: string) => ({ kind: "hash", texts: [text], comparison: null }) as const;

test("each reply reaches its request, in whatever order replies arrive", async () => {
  const worker = new EmbedWorker(script);
  const folders = ["one", "two"];
  const replies = await Promise.all(
    folders.map((name) => worker.ask({ kind: "load", model: 1, folder: name })),
  );
  expect(replies.map((reply) => (reply.kind === "loaded" ? reply.name : ""))).toEqual(folders);
});

test("a failure in the Worker becomes the same error on the main thread", async () => {
  const worker = new EmbedWorker(script);
  const error = await refusal(worker.ask(texts("fail")));
  expect([error.code, error.object, error.detail]).toEqual(["embedder_invalid", "a", "b"]);
});

test("all requests fail once a Worker has ended, and the error asks for a restart", async () => {
  const worker = new EmbedWorker(script);
  const waiting = refusal(worker.ask({ kind: "load", model: 1, folder: "held" }));
  const errors = await Promise.all([waiting, refusal(worker.ask(texts("end")))]);
  errors.push(await refusal(worker.ask({ kind: "unload", model: 1 })));
  for (const error of errors) {
    expect([error.code, error.hint?.includes("restart")]).toEqual(["embedder_unavailable", true]);
  }
});

test("a file has one Worker per process, which gives unique numbers", () => {
  const worker = workerOf(script);
  expect(workerOf(new URL(`file://${script}`).pathname)).toBe(worker);
  expect(new Set([worker.nextNumber(), worker.nextNumber(), worker.nextNumber()]).size).toBe(3);
});

test("an embedder without examples starts no Worker", async () => {
  const examples = new Examples(() => {
    throw new Error("started");
  });
  expect(await examples.set({ dim: 1, labels: [], rows: new Float32Array(0) })).toBeNull();
  expect(await examples.nearest(new Float32Array(2), [true, true])).toEqual([null, null]);
  expect(examples.comparison([true])).toBeNull();
});
