import { expect, test } from "bun:test";
import fc from "fast-check";
import { planRuns } from "../../src/embed/runs.ts";

const END = 2;

/** One token per character, and a closing token. */
function modelOf(maxTokens: number) {
  return {
    description: { maxTokens },
    tokenize: (text: string): number[] => [...Array.from(text, () => 7), END],
    suffix: [END],
  };
}

const lengths = (texts: readonly string[], maxTokens = 512): number[][] =>
  planRuns(modelOf(maxTokens), texts).map(({ ids }) => ids.map((one) => one.length));
const x = (count: number): string => "x".repeat(count);

test("texts of similar length are in one run, the shortest first", () => {
  const texts = [x(99), x(9), x(9), x(99), x(9), x(9)];
  expect(planRuns(modelOf(512), texts).map(({ at }) => at)).toEqual([
    [1, 2, 4, 5],
    [0, 3],
  ]);
});

test("a run of fewer than four texts also takes longer ones", () => {
  expect(lengths([x(9), x(9), x(9), x(99)])).toEqual([[10, 10, 10, 100]]);
});

test("a run holds at most 2,048 tokens, padding included, or one text", () => {
  expect(lengths(Array(9).fill(x(511)))).toEqual([Array(4).fill(512), Array(4).fill(512), [512]]);
  expect(lengths([x(2999), x(2999)], 8192)).toEqual([[3000], [3000]]);
});

test("a text that is cut keeps its closing token", () => {
  const [run] = planRuns(modelOf(4), [x(10)]);
  expect(run?.ids).toEqual([[7, 7, 7, END]]);
});

test("every text except white space is in exactly one run", () => {
  const texts = fc.array(fc.oneof(fc.constantFrom("", " ", "\n\t"), fc.nat(700).map(x)), { maxLength: 60 });
  fc.assert(
    fc.property(texts, (given) => {
      const runs = planRuns(modelOf(512), given);
      const present = given.flatMap((text, at) => (text.trim() === "" ? [] : [at]));
      expect(runs.flatMap(({ at }) => at).sort((a, b) => a - b)).toEqual(present);
      for (const { ids } of runs) {
        const longest = Math.max(...ids.map((one) => one.length));
        expect(longest * ids.length <= 2048 || ids.length === 1).toBe(true);
      }
    }),
  );
});
