import { expect, test } from "bun:test";
import { Breaker, type Pass } from "../../src/llm/breaker.ts";

const CALL: Pass = { isTrial: false };

/** Claims leave that there must be. */
function entered(breaker: Breaker): Pass {
  const pass = breaker.enter();
  if (pass === null) throw new Error("no call may go out");
  return pass;
}

test("a breaker opens after three failures, doubles its time up to a minute, and closes after a success", () => {
  let nowMs = 0;
  const breaker = new Breaker(() => nowMs);
  for (let n = 0; n < 3; n++) {
    breaker.failed(entered(breaker), "no");
  }
  expect([breaker.state, breaker.enter(), breaker.openForMs]).toEqual(["open", null, 5000]);
  for (const openMs of [10_000, 20_000, 40_000, 60_000, 60_000]) {
    nowMs += breaker.openForMs;
    expect(breaker.state).toBe("half-open");
    const trial = entered(breaker);
    expect(breaker.enter()).toBeNull();
    breaker.failed(trial, "no");
    expect([breaker.state, breaker.openForMs]).toEqual(["open", openMs]);
  }
  nowMs += 60_000;
  breaker.released(entered(breaker));
  entered(breaker);
  breaker.succeeded();
  expect([breaker.state, breaker.opened]).toEqual(["closed", 1]);
  // A bad reply counts for less than none at all.
  for (let n = 0; n < 4; n++) breaker.failed(CALL, "bad", { weight: 0.6 });
  expect(breaker.state).toBe("closed");
  breaker.failed(CALL, "bad", { weight: 0.6 });
  expect(breaker.state).toBe("open");
});

test("a late failure does not keep an open breaker open for longer", () => {
  let nowMs = 0;
  const breaker = new Breaker(() => nowMs);
  for (let n = 0; n < 3; n++) breaker.failed(CALL, "no");
  nowMs += 4000;
  breaker.failed(CALL, "late");
  expect([breaker.openForMs, breaker.opened, breaker.reason]).toEqual([1000, 1, "late"]);
});

test("a breaker opens at once for the time that the endpoint asks for, within 100 ms and an hour", () => {
  for (const [retryAfterMs, openMs] of [
    [7000, 7000],
    [0, 100],
    [86_400_000, 3_600_000],
  ] as const) {
    const breaker = new Breaker(() => 0);
    breaker.failed(CALL, "busy", { retryAfterMs });
    expect([breaker.state, breaker.openForMs]).toEqual(["open", openMs]);
  }
});

test("a wait that the endpoint asks for does not double the breaker's own time", () => {
  let nowMs = 0;
  const breaker = new Breaker(() => nowMs);
  breaker.failed(CALL, "busy", { retryAfterMs: 1000 });
  nowMs += 1000;
  breaker.failed(entered(breaker), "no");
  expect(breaker.openForMs).toBe(5000);
});

test("the failure of a call from before does not end the trial, and does not open the breaker again", () => {
  let nowMs = 0;
  const breaker = new Breaker(() => nowMs);
  const old = entered(breaker);
  for (let n = 0; n < 3; n++) breaker.failed(CALL, "no");
  nowMs += 5000;
  const trial = entered(breaker);
  breaker.failed(old, "late");
  expect([breaker.state, breaker.enter()]).toEqual(["half-open", null]);
  breaker.released(old);
  expect(breaker.enter()).toBeNull();
  breaker.failed(trial, "no");
  expect([breaker.state, breaker.openForMs]).toEqual(["open", 10_000]);
});

test("an endpoint that asks for a short wait again and again is asked at most once a minute in the end", () => {
  let nowMs = 0;
  const breaker = new Breaker(() => nowMs);
  breaker.failed(CALL, "busy", { retryAfterMs: 300 });
  const waits = [];
  for (let n = 0; n < 9; n++) {
    waits.push(breaker.openForMs);
    nowMs += breaker.openForMs;
    breaker.failed(entered(breaker), "busy", { retryAfterMs: 300 });
  }
  expect(waits).toEqual([300, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
});

test("a shorter wait does not cut a longer one short", () => {
  const breaker = new Breaker(() => 0);
  breaker.failed(CALL, "busy", { retryAfterMs: 9000 });
  breaker.failed(CALL, "busy", { retryAfterMs: 1000 });
  expect(breaker.openForMs).toBe(9000);
});
