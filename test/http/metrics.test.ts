import { expect, test } from "bun:test";
import fc from "fast-check";
import { LatencyHistogram } from "../../src/http/metrics.ts";

test("the histogram puts a duration into the first bucket whose bound it does not reach", () => {
  fc.assert(
    fc.property(fc.double({ min: 0, max: 1e6, noNaN: true }), (elapsedMs) => {
      const histogram = new LatencyHistogram();
      histogram.observe(elapsedMs);
      const first = histogram.lines("x").find((line) => line.endsWith(" 1")) as string;
      const bound = Number(/le="([^"]+)"/.exec(first)?.[1]?.replace("+Inf", "Infinity")) * 1000;
      expect(elapsedMs).toBeLessThan(bound);
      if (bound < 25_000) expect(elapsedMs).toBeGreaterThanOrEqual(bound === 0.1 ? 0 : bound / 2 - 1e-9);
    }),
  );
});
