import { expect, test } from "bun:test";
import { Breaker } from "../../src/llm/breaker.ts";

test("a breaker: opens after three failures, doubles its time, and closes with a success", () => {
  let nowMs = 0;
  const breaker = new Breaker(() => nowMs);
  for (let n = 0; n < 3; n++) {
    expect(breaker.enter()).toBe(true);
    breaker.failed("no");
  }
  expect([breaker.state, breaker.enter(), breaker.opensInMs]).toEqual(["open", false, 5000]);
  for (const openMs of [10_000, 20_000, 40_000, 60_000, 60_000]) {
    nowMs += breaker.opensInMs;
    expect([breaker.state, breaker.enter(), breaker.enter()]).toEqual(["half-open", true, false]);
    breaker.failed("no");
    expect([breaker.state, breaker.opensInMs]).toEqual(["open", openMs]);
  }
  nowMs += 60_000;
  expect(breaker.enter()).toBe(true);
  breaker.released();
  expect(breaker.enter()).toBe(true);
  breaker.succeeded();
  expect([breaker.state, breaker.opened]).toEqual(["closed", 1]);
  // Bad answers weigh less than no answer.
  for (let n = 0; n < 4; n++) breaker.failed("bad", { weight: 0.6 });
  expect(breaker.state).toBe("closed");
  breaker.failed("bad", { weight: 0.6 });
  expect(breaker.state).toBe("open");
});

test("a breaker that is open stays so for as long as before, whatever fails late", () => {
  let nowMs = 0;
  const breaker = new Breaker(() => nowMs);
  for (let n = 0; n < 3; n++) breaker.failed("no");
  nowMs += 4000;
  breaker.failed("late");
  expect([breaker.opensInMs, breaker.opened, breaker.reason]).toEqual([1000, 1, "late"]);
});

test("a breaker opens at once for as long as it is asked to, from 100 ms to an hour", () => {
  for (const [retryAfterMs, openMs] of [
    [7000, 7000],
    [0, 100],
    [86_400_000, 3_600_000],
  ] as const) {
    const breaker = new Breaker(() => 0);
    breaker.failed("busy", { retryAfterMs });
    expect([breaker.state, breaker.opensInMs]).toEqual(["open", openMs]);
  }
});

test("a breaker that is asked to wait does not double its own time", () => {
  let nowMs = 0;
  const breaker = new Breaker(() => nowMs);
  breaker.failed("busy", { retryAfterMs: 1000 });
  nowMs += 1000;
  expect(breaker.enter()).toBe(true);
  breaker.failed("no");
  expect(breaker.opensInMs).toBe(5000);
});
