import { describe, expect, test } from "bun:test";
import type { Clock } from "../../src/clock.ts";
import { Pace } from "../../src/tui/pace.ts";
import { FakeClock } from "../fake-clock.ts";

/** A pace whose drawing takes `costMs`. */
function open(costMs = 0) {
  const timers = new FakeClock();
  let blockedMs = 0;
  /** The thread does something else: time passes, but timers come late. */
  const block = (ms: number): void => {
    blockedMs += ms;
  };
  const drawnMs: number[] = [];
  const clock: Clock = {
    nowUs: () => timers.nowUs(),
    monotonicMs: () => timers.monotonicMs() + blockedMs,
    sleep: (ms) => timers.sleep(ms),
    nextTurn: () => timers.nextTurn(),
    after: (ms, callback) => timers.after(ms, callback),
    every: (ms, callback) => timers.every(ms, callback),
  };
  const pace = new Pace(clock, () => {
    drawnMs.push(Math.round(clock.monotonicMs()));
    block(costMs);
  });
  /** Lets time pass until it is `ms`. */
  const until = (ms: number): Promise<void> => timers.advance(ms - clock.monotonicMs());
  return { timers, block, drawnMs, pace, until };
}

describe("pace", () => {
  test("the first screen is drawn at once, and one that was not requested never", async () => {
    const { drawnMs, pace, until } = open();
    await until(1000);
    expect(drawnMs).toEqual([]);
    pace.request();
    expect(drawnMs).toEqual([]);
    await until(2000);
    expect(drawnMs).toEqual([1000]);
  });

  test("many requests give one screen, a fifteenth of a second after the one before", async () => {
    const { drawnMs, pace, until } = open();
    pace.request();
    await until(10);
    for (let request = 0; request < 5; request++) pace.request();
    await until(510);
    expect(drawnMs).toEqual([0, 67]);
    pace.request();
    await until(600);
    expect(drawnMs).toEqual([0, 67, 510]);
  });

  test("drawing that is slow takes a twentieth of the time at most, painting included", async () => {
    const { block, drawnMs, pace, until } = open(10);
    pace.request();
    await until(11);
    pace.request();
    await until(201);
    expect(drawnMs).toEqual([0, 200]);
    pace.measure(() => block(20));
    pace.request();
    await until(1000);
    expect(drawnMs).toEqual([0, 200, 800]);
  });

  test("a thread that is busy gets two screens a second, until a timer comes in time again", async () => {
    const { block, drawnMs, pace, until } = open();
    pace.request();
    block(9);
    await until(10);
    expect(drawnMs).toEqual([9]);
    pace.request();
    await until(1000);
    expect(drawnMs).toEqual([9, 509]);
    pace.request();
    await until(1001);
    pace.request();
    await until(1100);
    expect(drawnMs).toEqual([9, 509, 1000, 1067]);
  });

  test("a request that was taken back is not served, and another one may follow", async () => {
    const { timers, drawnMs, pace, until } = open();
    pace.request();
    pace[Symbol.dispose]();
    await until(1000);
    expect([drawnMs, timers.pending]).toEqual([[], 0]);
    pace.request();
    await until(1001);
    expect(drawnMs).toEqual([1000]);
  });
});
