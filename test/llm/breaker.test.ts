import { expect, test } from "bun:test";
import { Breaker, Budget } from "../../src/llm/breaker.ts";

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

test("a budget that cannot be kept is not spent", () => {
  const write = (): void => {
    throw new Error("disk full");
  };
  expect(new Budget({ callsMax: 2, kept: null, nowUs: () => 0, write }).take()).toBe(false);
});

test("a budget: counted before the call, and what was kept is nonsense is no budget lost", () => {
  const written: string[] = [];
  const make = (kept: string | null): Budget =>
    new Budget({
      callsMax: 2,
      kept,
      nowUs: () => Date.parse("2026-01-31T23:00:00Z") * 1000,
      write: (t) => written.push(t),
    });
  const budget = make(null);
  expect([budget.take(), budget.take(), budget.take(), budget.left]).toEqual([true, true, false, 0]);
  expect(written).toEqual(["2026-01-31 1", "2026-01-31 2"]);
  expect(make("2026-01-31 1").left).toBe(1);
  expect(make("2026-01-30 2").left).toBe(2);
  expect(make("what?").left).toBe(2);
});
