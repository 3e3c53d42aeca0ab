import { expect, spyOn, test } from "bun:test";
import { systemClock } from "../src/clock.ts";

test("stamps follow the wall clock when it is set, in either direction and at once", () => {
  const realMs = Date.now();
  using now = spyOn(Date, "now");
  for (const offsetMs of [0, 8 * 3_600_000, -3_600_000, 365 * 86_400_000, 0]) {
    now.mockImplementation(() => realMs + offsetMs);
    const aheadUs = systemClock.nowUs() - (realMs + offsetMs) * 1000;
    expect(aheadUs).toBeGreaterThanOrEqual(0);
    expect(aheadUs).toBeLessThan(1000);
  }
});

test("stamps are whole microseconds that do not go back while the wall clock does not", () => {
  const stamps = Array.from({ length: 20_000 }, () => systemClock.nowUs());
  expect(stamps.every(Number.isSafeInteger)).toBe(true);
  expect(stamps).toEqual(stamps.toSorted((a, b) => a - b));
  expect(stamps.some((us) => us % 1000 !== 0)).toBe(true);
});
