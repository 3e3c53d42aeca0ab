import { expect, test } from "bun:test";
import { Pace } from "../../src/embed/pace.ts";

const ONE = ["ready"];
/** As many short texts as a batch holds: eight times the smallest request. */
const BATCH = Array.from({ length: 64 }, (_, index) => `text ${index}`);

test("a first request may take 30 s, because the model may have to be loaded, and so may one with patience", () => {
  const pace = new Pace();
  expect(pace.limitMs(ONE)).toBe(30_000);
  pace.succeeded(ONE, 5);
  expect([pace.limitMs(ONE), pace.limitMs(ONE, 12_000), pace.limitMs(ONE, 60_000)]).toEqual([
    3015, 12_000, 30_000,
  ]);
});

test("a request may take three times as long as its like took, and 3 s more, up to 30 s", () => {
  const pace = new Pace();
  pace.succeeded(BATCH, 4000);
  expect(pace.limitMs(BATCH)).toBe(15_000);
  expect(pace.limitMs(ONE)).toBe(3000);
  pace.succeeded(BATCH, 20_000);
  expect(pace.limitMs(BATCH)).toBe(30_000);
});

test("a larger request than any before may take longer by its characters, not by its texts", () => {
  const pace = new Pace();
  pace.succeeded(ONE, 100);
  expect(pace.limitMs(BATCH)).toBe(5400);
  pace.succeeded(BATCH, 200);
  expect(pace.limitMs(BATCH)).toBe(3600);
  // Four of the texts have 8,192 characters instead of six: the request is eight times as large.
  const withLongTexts = [...BATCH.slice(4), ...Array.from({ length: 4 }, () => "x".repeat(8192))];
  expect(pace.limitMs(withLongTexts)).toBe(7800);
});

test("a first request that loads the model is forgotten after a dozen others", () => {
  const pace = new Pace();
  pace.succeeded(ONE, 20_000);
  expect(pace.limitMs(ONE)).toBe(30_000);
  for (let n = 0; n < 14; n++) pace.succeeded(ONE, 10);
  expect(pace.limitMs(ONE)).toBeLessThan(6000);
});
