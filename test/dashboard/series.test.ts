import { describe, expect, test } from "bun:test";
import { quantileBetween, SeriesRing } from "../../src/dashboard/series.ts";

describe("series", () => {
  test("a series keeps the values of the last hour; seconds before its start are NaN", () => {
    const ring = new SeriesRing();
    for (let second = 1; second <= 4000; second++) ring.push(second);
    expect(ring.newest(3)).toEqual([3998, 3999, 4000]);
    expect(ring.newest(99_999).length).toBe(3600);
    expect(new SeriesRing().newest(2)).toEqual([Number.NaN, Number.NaN]);
  });

  test("a quantile counts only what came between two readings", () => {
    const before = Float64Array.of(100, 0, 0, 0);
    const now = Float64Array.of(100, 1, 8, 1);
    const bound = (bucket: number): number => 2 ** bucket;
    expect(quantileBetween(before, now, 0.5, bound)).toBe(4);
    expect(quantileBetween(before, now, 0.99, bound)).toBe(8);
    expect(quantileBetween(now, now, 0.5, bound)).toBeNaN();
  });
});
