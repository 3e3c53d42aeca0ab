import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { openHashing, openModel } from "../../src/embed/embed.ts";
import type { Embedder } from "../../src/embed/embedder.ts";
import { RemoteEmbedder } from "../../src/embed/remote.ts";
import { workerOf } from "../../src/embed/thread.ts";
import { openEndpoint } from "../../src/llm/llm.ts";
import { FIXTURE, PATIENCE_MS, WORKER } from "./embedders.ts";
import { EmbeddingsEndpoint, vectors } from "./embeddings-endpoint.ts";

setDefaultTimeout(PATIENCE_MS);

describe("the nearest examples", () => {
  const labels = ["cancelar meu plano", "meu cartão não chegou"];
  const set = async (embedder: Embedder) => {
    const rows = (await embedder.embed(labels)).slice() as Float32Array<ArrayBuffer>;
    const { dim } = embedder;
    return embedder.setExamples({ dim, labels: labels.map((label) => ({ label, count: 1 })), rows });
  };
  const ask = async (embedder: Embedder) => {
    const texts = ["cancelar meu plano", "meu cartão não chegou", "cancelar meu plano", "…"];
    const { rows, nearest } = await embedder.embedNearest(texts, [true, true, false, true]);
    expect(rows.length).toBe(texts.length * embedder.dim);
    return nearest.map((one) => one?.label ?? null);
  };

  test("come with the vectors of hashing, for the texts that want them", async () => {
    await using embedder = openHashing(WORKER);
    expect(await ask(embedder)).toEqual([null, null, null, null]);
    expect((await set(embedder))?.threshold).toBeGreaterThanOrEqual(0.95);
    expect(await ask(embedder)).toEqual([...labels, null, null]);
    expect(await embedder.setExamples({ dim: 1024, labels: [], rows: new Float32Array(0) })).toBeNull();
    expect(await ask(embedder)).toEqual([null, null, null, null]);
  });

  test("come with the vectors of a local model, and belong to that embedder only", async () => {
    await using embedder = await openModel(FIXTURE, WORKER);
    await using other = await openModel(FIXTURE, WORKER);
    await set(embedder);
    expect((await ask(embedder)).slice(0, 3)).toEqual([...labels, null]);
    expect(await ask(other)).toEqual([null, null, null, null]);
  });

  test("of an endpoint's vectors are found in the Worker", async () => {
    using server = new EmbeddingsEndpoint();
    server.answer = ({ input }) =>
      vectors(input.map((text) => [text.includes("plano") ? 1 : 0, text.includes("cartão") ? 1 : 0, 0.1]));
    const endpoint = openEndpoint({ baseUrl: server.baseUrl, apiKey: null });
    const worker = () => workerOf(WORKER);
    await using remote = new RemoteEmbedder({ endpoint, name: "m", dim: 0, worker });
    await set(remote);
    expect((await ask(remote)).slice(0, 3)).toEqual([...labels, null]);
  });

  test("are among the examples that were set last, however long earlier ones take to learn", async () => {
    await using embedder = openHashing(WORKER);
    const many = Array.from({ length: 3000 }, (_, at) => `a text number ${at}`);
    const slow = (await embedder.embed(many)).slice() as Float32Array<ArrayBuffer>;
    const learning = embedder.setExamples({
      dim: 1024,
      labels: [{ label: "slow", count: 3000 }],
      rows: slow,
    });
    await set(embedder);
    expect(await learning).toBeNull();
    expect((await ask(embedder)).slice(0, 2)).toEqual(labels);
  });
});
