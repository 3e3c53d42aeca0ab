/** When framing makes way for ingest, and for how long. */
import { expect, test } from "bun:test";
import { Arrivals } from "../../src/pipeline/arrivals.ts";
import { FakeClock } from "../fake-clock.ts";

async function after(events: number, ms: number): Promise<{ arrivals: Arrivals; clock: FakeClock }> {
  const clock = new FakeClock();
  const arrivals = new Arrivals(clock);
  arrivals.count(events);
  await clock.advance(ms);
  return { arrivals, clock };
}

test("below 3,000 events a second framing does not pause", async () => {
  const { arrivals } = await after(299, 100);
  expect([arrivals.pauseMs(0), arrivals.bursting]).toEqual([0, false]);
});

test("from 3,000 events a second on it pauses up to 100 ms, less with a backlog, and not at all from 500,000 on", async () => {
  const { arrivals } = await after(300, 100);
  expect([arrivals.pauseMs(0), arrivals.bursting]).toEqual([100, true]);
  expect(arrivals.pauseMs(250_000)).toBe(50);
  expect([arrivals.pauseMs(500_000), arrivals.pauseMs(900_000)]).toEqual([0, 0]);
});

test("the rate is that of the last whole window", async () => {
  const { arrivals, clock } = await after(300, 100);
  arrivals.pauseMs(0);
  await clock.advance(99);
  expect([arrivals.pauseMs(0), arrivals.bursting]).toEqual([100, true]);
  await clock.advance(1);
  expect([arrivals.pauseMs(0), arrivals.bursting]).toEqual([0, false]);
});
