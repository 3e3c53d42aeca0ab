import { expect, test } from "bun:test";
import { WritePause } from "../../src/store/pause.ts";
import { FakeClock } from "../fake-clock.ts";

test("the pause doubles with each failure from 100 ms to 10 s", () => {
  const pause = new WritePause(new FakeClock());
  const lengths = Array.from({ length: 10 }, () => pause.begin());
  expect(lengths).toEqual([100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]);
});

test("the pause starts over after a success", () => {
  const pause = new WritePause(new FakeClock());
  pause.begin();
  pause.begin();
  pause.succeeded();
  expect(pause.begin()).toBe(100);
});

test("a pause ends by the clock, and without a failure there is none", async () => {
  const clock = new FakeClock();
  const pause = new WritePause(clock);
  expect(pause.remainingMs()).toBeLessThanOrEqual(0);
  pause.begin();
  await clock.advance(60);
  expect(pause.remainingMs()).toBe(40);
  await clock.advance(40);
  expect(pause.remainingMs()).toBe(0);
});
