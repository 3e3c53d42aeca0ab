import { expect, test } from "bun:test";
import type { Embedder } from "../../src/embed/embedder.ts";
import { checkParaphrases } from "../../src/embed/paraphrases.ts";
import { refusal } from "./embedders.ts";

const SENTENCES = [
  { language: "pt", text: "a", paraphrase: "b", unrelated: "c" },
  { language: "en", text: "d", paraphrase: "e", unrelated: "f" },
];

/** @param angles the angle of each text's vector, in degrees. */
function embedderOf(angles: Record<string, number>): Embedder {
  const rows = (texts: readonly string[]): Float32Array =>
    new Float32Array(
      texts.flatMap((text) => {
        const radians = ((angles[text] ?? 0) * Math.PI) / 180;
        return [Math.cos(radians), Math.sin(radians)];
      }),
    );
  return { dim: 2, embed: async (texts: readonly string[]) => rows(texts) } as unknown as Embedder;
}

async function check(angles: Record<string, number>): Promise<string[]> {
  const lines: string[] = [];
  const progress = (line: string): number => lines.push(line);
  await checkParaphrases(embedderOf(angles), { folder: "models/x", paraphrases: SENTENCES, progress });
  return lines;
}

test("a model that puts each paraphrase nearer passes, and each cosine is shown", async () => {
  expect(await check({ a: 0, b: 60, c: 180, d: 0, e: 10, f: 90 })).toEqual([
    'paraphrase check pt: "a" ~ "b" 0.500, ~ "c" -0.500: ok',
    'paraphrase check en: "d" ~ "e" 0.985, ~ "f" 0.174: ok',
  ]);
});

test("a model fails for one language, even if only the paraphrase is near the unrelated sentence", async () => {
  const error = await refusal(check({ a: 0, b: 60, c: 61, d: 0, e: 10, f: 90 }));
  expect([error.code, error.object, error.detail.includes("(pt)")]).toEqual([
    "model_invalid",
    "models/x",
    true,
  ]);
});

test("a model that gives every text the same vector fails", async () => {
  expect((await refusal(check({}))).detail).toContain("(en)");
});
