import { describe, expect, test } from "bun:test";
import { learn } from "../../src/nearest/lesson.ts";
import type { Trial } from "../../src/nearest/trials.ts";
import { randomOf } from "../random.ts";

const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000);
console.log(`SEED=${SEED}`);

describe("what trials teach", () => {
  const own = (score: number, right: boolean): Trial => ({ own: { score, right }, stranger: null });
  const stranger = (score: number): Trial => ({ own: null, stranger: score });

  test("the threshold separates right from wrong, and the confidence follows the score", () => {
    const trials = [
      ...Array.from({ length: 100 }, (_, at) => own(0.5 + at / 250, true)),
      ...Array.from({ length: 60 }, (_, at) => own(0.1 + at / 300, false)),
      ...Array.from({ length: 60 }, (_, at) => stranger(0.1 + at / 300)),
    ];
    const { threshold, confidence } = learn(trials);
    expect(threshold).toBeGreaterThan(0.3);
    expect(threshold).toBeLessThan(0.5);
    expect(confidence(0.9)).toBeGreaterThan(0.95);
    expect(confidence(0.1)).toBeLessThan(0.05);
  });

  test("the confidence of a score is the share of trials around it that are right", () => {
    const random = randomOf(SEED);
    const chance = (score: number): number => 1 / (1 + Math.exp(-10 * (score - 0.4)));
    const trials = Array.from({ length: 4000 }, () => {
      const score = random();
      return own(score, random() < chance(score));
    });
    const { confidence } = learn(trials);
    for (const score of [0.2, 0.4, 0.6])
      expect(Math.abs(confidence(score) - chance(score))).toBeLessThan(0.06);
  });

  test("a few examples that are far apart do not lower the threshold to unrelated texts", () => {
    const near = [0.41, 0.44, 0.32, 0.58, 0.23, 0.44].map((score) => own(score, true));
    const far = [-0.27, -0.4, -0.34, -0.38, -0.3, -0.34].map(stranger);
    expect(learn([...near, ...far]).threshold).toBeGreaterThanOrEqual(0.2);
  });

  test("if nothing can be learned, only near copies of an example get its label", () => {
    expect(learn([]).threshold).toBe(0.95);
    expect(learn([stranger(0.2), stranger(0.99)]).threshold).toBeCloseTo(0.995);
    expect(learn([own(0.2, true), own(0.8, true), own(0.6, true)]).threshold).toBe(0.6);
    expect(learn([own(0.5, false), own(0.6, false), stranger(0.5)]).threshold).toBeGreaterThanOrEqual(0.95);
  });
});
