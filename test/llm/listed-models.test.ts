import { expect, test } from "bun:test";
import { listedModels } from "../../src/llm/listed-models.ts";

const kindsOf = (id: string): string[] => {
  const [model] = listedModels({ data: [{ id }] }) ?? [];
  return [model?.chats === true ? "chats" : "", model?.embeds === true ? "embeds" : ""].filter(Boolean);
};

test("a model's name tells whether it chats, embeds, or neither", () => {
  const kinds: [id: string, kinds: string[]][] = [
    ["qwen3-4b", ["chats"]],
    ["gpt-4.1-mini", ["chats"]],
    ["text-embedding-bge-m3@f16", ["embeds"]],
    ["nomic-embed-text", ["embeds"]],
    ["BGE-M3", ["embeds"]],
    ["multilingual-e5-small", ["embeds"]],
    ["all-MiniLM-L6-v2", ["embeds"]],
    ["gte-large", ["embeds"]],
    ["bge-reranker-v2", ["embeds"]],
    ["jina-reranker", []],
    ["whisper-1", []],
    ["tts-1", []],
    ["dall-e-3", []],
    ["omni-moderation-latest", []],
  ];
  expect(kinds.map(([id]) => [id, kindsOf(id)])).toEqual(kinds);
});

test("models keep the order of the list", () => {
  expect(listedModels({ data: [{ id: "b" }, { id: "a", owner: 1 }] })?.map(({ id }) => id)).toEqual([
    "b",
    "a",
  ]);
});

test("a reply of another shape is not a list of models", () => {
  for (const reply of ["<html>", null, {}, { data: "x" }, { data: [{ name: "m" }] }]) {
    expect(listedModels(reply)).toBeNull();
  }
});
