import { expect, test } from "bun:test";
import { Pace } from "../../src/embed/pace.ts";

function around() {
  const state = { nowMs: 0 };
  return { state, pace: new Pace(() => state.nowMs) };
}

test("a first request, and one after a minute of silence, may take 30 s: the model may have to be loaded", () => {
  const { state, pace } = around();
  expect(pace.limitMs(1)).toBe(30_000);
  pace.succeeded(1, 5);
  expect(pace.limitMs(1)).toBeLessThan(4000);
  state.nowMs += 60_001;
  expect(pace.limitMs(1)).toBe(30_000);
});

test("a request may take three times as long as its like took, and 3 s more, up to 30 s", () => {
  const { pace } = around();
  pace.succeeded(64, 4000);
  expect(pace.limitMs(64)).toBe(15_000);
  expect(pace.limitMs(1)).toBe(3000);
  pace.succeeded(1, 100);
  // Nothing is known of 8 texts but what one text takes.
  expect(pace.limitMs(8)).toBe(5400);
  pace.succeeded(64, 20_000);
  expect(pace.limitMs(64)).toBe(30_000);
});

test("after a timeout the next request may take twice as long, until one succeeds", () => {
  const { pace } = around();
  pace.succeeded(1, 0);
  const limits = [];
  for (let n = 0; n < 5; n++) {
    limits.push(pace.limitMs(1));
    pace.timedOut(1);
  }
  expect(limits).toEqual([3000, 6000, 12_000, 24_000, 30_000]);
  pace.succeeded(1, 0);
  expect(pace.limitMs(1)).toBe(3000);
});
