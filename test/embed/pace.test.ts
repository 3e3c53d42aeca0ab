import { expect, test } from "bun:test";
import { Pace } from "../../src/embed/pace.ts";

test("a first request may take 30 s, because the model may have to be loaded, and so may one with patience", () => {
  const pace = new Pace();
  expect(pace.limitMs(1)).toBe(30_000);
  pace.succeeded(1, 5);
  expect([pace.limitMs(1), pace.limitMs(1, 12_000), pace.limitMs(1, 60_000)]).toEqual([3015, 12_000, 30_000]);
});

test("a request may take three times as long as its like took, and 3 s more, up to 30 s", () => {
  const pace = new Pace();
  pace.succeeded(64, 4000);
  expect(pace.limitMs(64)).toBe(15_000);
  expect(pace.limitMs(1)).toBe(3000);
  pace.succeeded(1, 100);
  // Nothing is known of 8 texts but what one text takes.
  expect(pace.limitMs(8)).toBe(5400);
  pace.succeeded(64, 20_000);
  expect(pace.limitMs(64)).toBe(30_000);
});
