import { expect, test } from "bun:test";
import { Breaker } from "../../src/llm/breaker.ts";

test("a breaker opens after three failures, doubles its time up to a minute, and closes after a success", () => {
  let nowMs = 0;
  const breaker = new Breaker(() => nowMs);
  for (let n = 0; n < 3; n++) {
    expect(breaker.enter()).toBe(true);
    breaker.failed("no");
  }
  expect([breaker.state, breaker.enter(), breaker.openForMs]).toEqual(["open", false, 5000]);
  for (const openMs of [10_000, 20_000, 40_000, 60_000, 60_000]) {
    nowMs += breaker.openForMs;
    expect([breaker.state, breaker.enter(), breaker.enter()]).toEqual(["half-open", true, false]);
    breaker.failed("no");
    expect([breaker.state, breaker.openForMs]).toEqual(["open", openMs]);
  }
  nowMs += 60_000;
  expect(breaker.enter()).toBe(true);
  breaker.released();
  expect(breaker.enter()).toBe(true);
  breaker.succeeded();
  expect([breaker.state, breaker.opened]).toEqual(["closed", 1]);
  // A bad reply counts for less than none at all.
  for (let n = 0; n < 4; n++) breaker.failed("bad", { weight: 0.6 });
  expect(breaker.state).toBe("closed");
  breaker.failed("bad", { weight: 0.6 });
  expect(breaker.state).toBe("open");
});

test("a late failure does not keep an open breaker open for longer", () => {
  let nowMs = 0;
  const breaker = new Breaker(() => nowMs);
  for (let n = 0; n < 3; n++) breaker.failed("no");
  nowMs += 4000;
  breaker.failed("late");
  expect([breaker.openForMs, breaker.opened, breaker.reason]).toEqual([1000, 1, "late"]);
});

test("a breaker opens at once for the time that the endpoint asks for, within 100 ms and an hour", () => {
  for (const [retryAfterMs, openMs] of [
    [7000, 7000],
    [0, 100],
    [86_400_000, 3_600_000],
  ] as const) {
    const breaker = new Breaker(() => 0);
    breaker.failed("busy", { retryAfterMs });
    expect([breaker.state, breaker.openForMs]).toEqual(["open", openMs]);
  }
});

test("a wait that the endpoint asks for does not double the breaker's own time", () => {
  let nowMs = 0;
  const breaker = new Breaker(() => nowMs);
  breaker.failed("busy", { retryAfterMs: 1000 });
  nowMs += 1000;
  expect(breaker.enter()).toBe(true);
  breaker.failed("no");
  expect(breaker.openForMs).toBe(5000);
});
