/** When garbage is collected. */
import { expect, test } from "bun:test";
import { Rest } from "../../src/native/rest.ts";
import { FakeClock } from "../fake-clock.ts";

test("garbage is collected once when work has come to rest, and again after the next burst", async () => {
  const clock = new FakeClock();
  const state = { work: 5, collected: 0 };
  {
    using _rest = new Rest(
      clock,
      () => state.work,
      () => {
        state.collected++;
      },
    );
    const seen: number[] = [];
    for (const work of [5, 6, 7, 7, 7, 8, 8, 8]) {
      state.work = work;
      await clock.advance(10_000);
      seen.push(state.collected);
    }
    expect(seen).toEqual([0, 0, 0, 1, 1, 1, 2, 2]);
  }
  expect(clock.pending).toBe(0);
});
