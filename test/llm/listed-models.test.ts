import { expect, test } from "bun:test";
import { listedModels } from "../../src/llm/listed-models.ts";

const kindOf = (id: string): string => {
  const [model] = listedModels({ data: [{ id }] }) ?? [];
  return `${model?.chats === true ? "chats" : ""}${model?.embeds === true ? "embeds" : ""}` || "neither";
};

test.each([
  ["qwen3-4b", "chats"],
  ["gpt-4.1-mini", "chats"],
  ["text-embedding-bge-m3@f16", "embeds"],
  ["text-embedding-3-small", "embeds"],
  ["nomic-embed-text", "embeds"],
  ["nomic-embed-text:latest", "embeds"],
  ["BGE-M3", "embeds"],
  ["BAAI/bge-m3", "embeds"],
  ["multilingual-e5-small", "embeds"],
  ["intfloat/e5-mistral-7b-instruct", "embeds"],
  ["all-MiniLM-L6-v2", "embeds"],
  ["gte-large", "embeds"],
  ["embeddinggemma-300m", "embeds"],
  ["Qwen/Qwen3-Embedding-0.6B", "embeds"],
  ["snowflake-arctic-embed2", "embeds"],
  ["models/embedding-001", "embeds"],
  ["embed-v4.0", "embeds"],
  ["/models/bge-m3/ggml-model-f16.gguf", "embeds"],
  ["/cache/models--BAAI--bge-m3/snapshots/5617a9f61b028005a4858fdac845db406aefb181", "embeds"],
  ["C:\\models\\nomic-embed-text-v1.5.Q8_0.gguf", "embeds"],
  ["bge-reranker-v2", "neither"],
  ["jina-reranker", "neither"],
  ["whisper-1", "neither"],
  ["tts-1", "neither"],
  ["gpt-4o-transcribe", "neither"],
  ["dall-e-3", "neither"],
  ["omni-moderation-latest", "neither"],
])("the name %p tells that the model %s", (id, kind) => {
  expect(kindOf(id)).toBe(kind);
});

test.each([
  "/mnt/longterm/models/Qwen3-8B-Q4_K_M.gguf",
  "/srv/bgelato/models/gemma-3-4b-it-Q4_K_M.gguf",
  "/srv/embed/bge/gte/Qwen3-8B.gguf",
  "/opt/whisper/llama-3.gguf",
  "EmbeddedLLM/Mistral-7B-Merge-14-v0",
  "embedded-systems-coder-7b",
  "C:\\embeddings\\qwen3-8b.gguf",
  "bgelato/minilmx/gemma-2-9b",
])("words in the path of %p say nothing of the model, which chats", (id) => {
  expect(kindOf(id)).toBe("chats");
});

test("models keep the order of the list", () => {
  expect(listedModels({ data: [{ id: "b" }, { id: "a", owner: 1 }] })?.map(({ id }) => id)).toEqual([
    "b",
    "a",
  ]);
});

test("an id that is empty, has control characters or is as long as a book is no model", () => {
  const ids = ["", " ", "evil\u001b]0;owned\u0007\nFAKE", "x".repeat(513), "qwen3-4b"];
  expect(listedModels({ data: ids.map((id) => ({ id })) })?.map(({ id }) => id)).toEqual(["qwen3-4b"]);
});

test("a reply of another shape is not a list of models", () => {
  for (const reply of ["<html>", null, {}, { data: "x" }, { data: [{ name: "m" }] }]) {
    expect(listedModels(reply)).toBeNull();
  }
});
