/** The clock that other tests rely on. */
import { expect, test } from "bun:test";
import { FakeClock } from "./fake-clock.ts";

test("time stands still until it is advanced, and both clocks move together", async () => {
  const clock = new FakeClock(5_000_000);
  await Bun.sleep(2);
  expect([clock.nowUs(), clock.monotonicMs()]).toEqual([5_000_000, 0]);
  await clock.advance(1.5);
  expect([clock.nowUs(), clock.monotonicMs()]).toEqual([5_001_500, 1.5]);
});

test("timers run at their own instants, in the order in which they are due, then in which they were set", async () => {
  const clock = new FakeClock();
  const ran: [name: string, atMs: number][] = [];
  const note = (name: string) => () => ran.push([name, clock.monotonicMs()]);
  clock.after(20, note("late"));
  clock.after(10, note("first"));
  clock.after(10, note("second"));
  const ticking = clock.every(8, note("tick"));
  clock.after(20, () => ticking[Symbol.dispose]());
  const disposed = clock.after(5, note("never"));
  disposed[Symbol.dispose]();
  await clock.advance(100);
  expect(ran).toEqual([
    ["tick", 8],
    ["first", 10],
    ["second", 10],
    ["tick", 16],
    ["late", 20],
  ]);
  expect([clock.pending, clock.monotonicMs()]).toEqual([0, 100]);
});

test("what a timer sets off runs before the next timer: promises, turns, and timers set meanwhile", async () => {
  const clock = new FakeClock();
  const ran: string[] = [];
  clock.after(10, async () => {
    await clock.nextTurn();
    await new Promise((resolve) => setImmediate(resolve));
    ran.push("after two turns");
    await clock.sleep(3);
    ran.push(`slept until ${clock.monotonicMs()}`);
  });
  clock.after(12, () => ran.push("at 12"));
  clock.after(14, () => ran.push("at 14"));
  await clock.advance(20);
  expect(ran).toEqual(["after two turns", "at 12", "slept until 13", "at 14"]);
});

test("a loop that sleeps 0 ms gets on and does not hold time still", async () => {
  const clock = new FakeClock();
  let turns = 0;
  void (async () => {
    while (turns < 5) {
      await clock.sleep(0);
      turns++;
    }
  })();
  await clock.advance(1);
  expect(turns).toBe(5);
});

test("until stops at the instant at which its condition holds, and gives up at its limit", async () => {
  const clock = new FakeClock();
  let done = false;
  clock.after(30, () => {
    done = true;
  });
  clock.every(7, () => {});
  await clock.until(() => done);
  expect(clock.monotonicMs()).toBe(30);
  await expect(clock.until(() => false, 100)).rejects.toThrow("not within 100 ms");
});
