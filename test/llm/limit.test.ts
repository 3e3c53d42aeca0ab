import { expect, test } from "bun:test";
import { aborted, Deadline, isPast } from "../../src/llm/limit.ts";
import { FakeClock } from "../fake-clock.ts";

test("a deadline aborts its signal on time, not before", async () => {
  const clock = new FakeClock();
  using limit = new Deadline(clock, 1000, []);
  await clock.advance(999);
  expect([limit.signal.aborted, isPast(limit)]).toEqual([false, false]);
  await clock.advance(1);
  expect([limit.signal.aborted, isPast(limit)]).toEqual([true, true]);
});

test("another signal ends it sooner, with its own reason", () => {
  const asker = new AbortController();
  using limit = new Deadline(new FakeClock(), 1000, [new AbortController().signal, asker.signal]);
  asker.abort("gone");
  expect([limit.signal.aborted, limit.signal.reason, isPast(limit)]).toEqual([true, "gone", false]);
});

test("a signal that is already aborted ends it at once", () => {
  using limit = new Deadline(new FakeClock(), 1000, [AbortSignal.abort("gone")]);
  expect([limit.signal.aborted, limit.signal.reason]).toEqual([true, "gone"]);
});

test("neither the clock nor a signal reaches it after its disposal", async () => {
  const clock = new FakeClock();
  const asker = new AbortController();
  const limit = new Deadline(clock, 1000, [asker.signal]);
  limit[Symbol.dispose]();
  expect(clock.pending).toBe(0);
  asker.abort();
  await clock.advance(2000);
  expect(limit.signal.aborted).toBe(false);
});

test("aborted resolves when the signal aborts, and at once if it already has", async () => {
  const controller = new AbortController();
  const waiting = aborted(controller.signal);
  controller.abort();
  await Promise.all([waiting, aborted(controller.signal)]);
});
