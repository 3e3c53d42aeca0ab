import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { TopScores } from "../../src/nearest/top-scores.ts";

const SEED = Number(process.env.FC_SEED ?? Date.now() % 2 ** 31);
console.log(`FC_SEED=${SEED}`);

describe("the score of a label", () => {
  test("is the mean of its three highest cosines, in whatever order they come", () => {
    fc.assert(
      fc.property(fc.array(fc.double({ min: -1, max: 1, noNaN: true }), { minLength: 1 }), (cosines) => {
        const top = new TopScores();
        for (const cosine of cosines) top.add(cosine);
        const highest = [...cosines].sort((a, b) => b - a).slice(0, 3);
        const mean = highest.reduce((sum, cosine) => sum + cosine, 0) / highest.length;
        expect(top.mean).toBeCloseTo(mean, 12);
      }),
      { seed: SEED },
    );
  });

  test("is below every other score without examples, and so it is again after a clear", () => {
    const top = new TopScores();
    expect(top.mean).toBe(Number.NEGATIVE_INFINITY);
    top.add(0.9);
    top.clear();
    expect(top.mean).toBe(Number.NEGATIVE_INFINITY);
    top.add(0.1);
    expect(top.mean).toBe(0.1);
  });
});
