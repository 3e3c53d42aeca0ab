import { expect, test } from "bun:test";
import { Budget } from "../../src/llm/budget.ts";

test("a call that cannot be counted is not made", () => {
  const write = (): void => {
    throw new Error("disk full");
  };
  expect(new Budget({ callsMax: 2, kept: null, nowUs: () => 0, write }).take()).toBe(false);
});

test("a call is counted before it is made, and an unreadable count is taken as none", () => {
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
  expect(make("2026-01-31 what?").left).toBe(2);
});

test("a clock that is set back over midnight gives no call twice; one that was wrong by more days is forgotten", () => {
  const make = (now: string): Budget =>
    new Budget({
      callsMax: 2,
      kept: "2026-02-01 2",
      nowUs: () => Date.parse(now) * 1000,
      write: () => {},
    });
  expect(make("2026-01-31T23:59:00Z").left).toBe(0);
  expect(make("2026-02-01T00:00:00Z").left).toBe(0);
  expect(make("2026-01-30T23:59:00Z").left).toBe(2);
  expect(make("2026-02-02T00:00:00Z").left).toBe(2);
});
