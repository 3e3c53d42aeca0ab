import { describe, expect, test } from "bun:test";
import { embeddedExamples } from "../../src/brain/example-vectors.ts";
import { embedderError, MemoryExamples, StubEmbedder } from "./example-stubs.ts";

function open(...texts: string[]) {
  const rows = new MemoryExamples();
  rows.replace("label", texts);
  return { rows, embedder: new StubEmbedder() };
}

describe("the vectors of examples", () => {
  test("are made once, in batches that the embedder takes, and kept", async () => {
    const { rows, embedder } = open("a", "bb", "ccc");
    const examples = await embeddedExamples(embedder, rows, "label");
    expect(examples.map(({ vector }) => vector?.[0])).toEqual([1, 2, 3]);
    expect(embedder.batches).toEqual([["a", "bb"], ["ccc"]]);
    expect(await embeddedExamples(embedder, rows, "label")).toHaveLength(3);
    expect(embedder.batches).toHaveLength(2);
  });

  test("of another model, or of another dimension, are made again", async () => {
    const { rows, embedder } = open("a");
    await embeddedExamples(embedder, rows, "label");
    const other = new StubEmbedder("model-2");
    await embeddedExamples(other, rows, "label");
    expect([other.batches.length, rows.of("label")[0]?.model]).toEqual([1, "model-2"]);
    const wider = new StubEmbedder("model-2");
    wider.dim = 8;
    expect((await embeddedExamples(wider, rows, "label"))[0]?.vector).toHaveLength(8);
  });

  test("are not kept if they are a pure function of the text", async () => {
    const { rows, embedder } = open("a");
    embedder.recomputed = true;
    expect((await embeddedExamples(embedder, rows, "label"))[0]?.vector).not.toBeNull();
    expect(rows.of("label")[0]?.vector).toBeNull();
  });

  test("are missing for a text that has nothing to embed, and for one that the embedder refuses", async () => {
    const { rows, embedder } = open("a", "?!", "poison", "bb");
    embedder.refuses = "poison";
    const examples = await embeddedExamples(embedder, rows, "label");
    expect(examples.map(({ vector }) => vector?.[0] ?? null)).toEqual([1, null, null, 2]);
  });

  test("are missing for a text with which the embedder fails in another way, and for no other", async () => {
    const { rows, embedder } = open("a", "poison", "bb", "ccc");
    embedder.refuses = "poison";
    embedder.refusal = embedderError("embedder_unavailable");
    const examples = await embeddedExamples(embedder, rows, "label");
    expect(examples.map(({ vector }) => vector?.[0] ?? null)).toEqual([1, null, 2, 3]);
    rows.replace("label", ["poison 1", "poison 2"]);
    const none = await embeddedExamples(embedder, rows, "label");
    expect(none.map(({ vector }) => vector)).toEqual([null, null]);
  });

  test("fail if the embedder is away, or refuses every text", async () => {
    const { rows, embedder } = open("poison 1", "poison 2");
    embedder.refuses = "";
    const failure = () => embeddedExamples(embedder, rows, "label").catch((error: unknown) => error);
    expect(await failure()).toMatchObject({ code: "embedder_invalid" });
    embedder.failWith = embedderError("embedder_unavailable");
    expect(await failure()).toBe(embedder.failWith);
    rows.replace("label", ["one text"]);
    expect(await failure()).toBe(embedder.failWith);
  });
});
