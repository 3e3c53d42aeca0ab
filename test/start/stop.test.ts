/** One deadline over all steps of a stop. */
import { expect, test } from "bun:test";
import { Stop } from "../../src/start/stop.ts";
import { FakeClock } from "../fake-clock.ts";

function around() {
  const clock = new FakeClock();
  const lines: string[] = [];
  const stop = new Stop({ clock, log: (level, message) => lines.push(`${level} ${message}`) });
  return { clock, lines, stop };
}

test("a step that never ends is left at its time and named, and the next one follows", async () => {
  const { clock, lines, stop } = around();
  let ended = 0;
  const first = stop.step("a stuck thread", 2500, () => new Promise(() => {})).then(() => ended++);
  await clock.advance(2499);
  expect(ended).toBe(0);
  await clock.advance(1);
  await first;
  expect(lines).toEqual([
    "warn stop: a stuck thread is not done after 2.5 s and is left; the journal keeps every event",
  ]);
  await stop.step("the next one", 4000, () => {
    ended++;
  });
  expect([ended, lines.length, clock.pending]).toEqual([2, 1, 0]);
});

test("times count from the beginning of the stop, so late steps share what is left", async () => {
  const { clock, lines, stop } = around();
  await clock.advance(3000);
  expect([stop.leftMs(4000), stop.leftMs(2500)]).toEqual([1000, 0]);
  const step = stop.step("a late one", 2500, () => new Promise(() => {}));
  await clock.advance(1);
  await step;
  expect(lines.length).toBe(1);
});

test("a step that fails is named, and the next one follows", async () => {
  const { lines, stop } = around();
  await stop.step("the replies", 1000, () => Promise.reject(new Error("the disk is full")));
  await stop.step("the file", 1000, () => {
    throw new Error("no such file");
  });
  expect(lines).toEqual(["error stop: the replies: the disk is full", "error stop: the file: no such file"]);
});
