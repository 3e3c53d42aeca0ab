/** What leaves the journal, and when. */
import { expect, test } from "bun:test";
import { GatewayError } from "../../src/errors.ts";
import type { JournalCursors } from "../../src/journal/journal.ts";
import { Pruner } from "../../src/pipeline/pruner.ts";
import { FakeClock } from "../fake-clock.ts";

function around(left: number) {
  const clock = new FakeClock();
  const state = { left, updatesLeft: 0, keysLeft: 0, published: 100, fails: false };
  const calls: JournalCursors[] = [];
  const warnings: string[] = [];
  const journal = {
    prune: (to: JournalCursors, max = 0) => {
      if (state.fails)
        throw new GatewayError({
          code: "disk_full",
          operation: "journal: prune",
          object: "x",
          detail: "full",
        });
      calls.push(to);
      const removed = Math.min(max, state.left);
      state.left -= removed;
      return removed;
    },
    pruneUpdates: (_to: number, max = 0) => {
      const removed = Math.min(max, state.updatesLeft);
      state.updatesLeft -= removed;
      return removed;
    },
    pruneKeys: (max = 0) => {
      const removed = Math.min(max, state.keysLeft);
      state.keysLeft -= removed;
      return removed;
    },
  };
  const pruner = new Pruner({
    ...{ journal, clock },
    published: () => state.published,
    log: (_level, line) => warnings.push(line),
  });
  return { clock, state, calls, warnings, pruner };
}

test("rows leave up to the checkpoint's cursors, in steps of 500 with a pause between", async () => {
  const { clock, state, calls, pruner } = around(1200);
  void pruner.prune({ seq: 9, frameId: 8, answerId: 7 });
  await clock.settle();
  expect([state.left, calls]).toEqual([700, [{ seq: 9, frameId: 8, answerId: 7 }]]);
  await clock.advance(5);
  expect(state.left).toBe(200);
  await clock.advance(50);
  expect([state.left, pruner.counters.pruned_events_total]).toEqual([0, 1200]);
});

test("no frame leaves that the ring has not shown, whatever the checkpoint holds", async () => {
  const { clock, state, calls, pruner } = around(0);
  state.published = 3;
  void pruner.prune({ seq: 9, frameId: 8, answerId: 7 });
  await clock.settle();
  expect(calls).toEqual([{ seq: 9, frameId: 3, answerId: 7 }]);
});

test("a later checkpoint extends the pruning that is under way", async () => {
  const { clock, calls, pruner } = around(600);
  void pruner.prune({ seq: 1, frameId: 1, answerId: 0 });
  void pruner.prune({ seq: 2, frameId: 2, answerId: 0 });
  await clock.advance(50);
  expect(calls.map(({ seq }) => seq)).toEqual([1, 2, 2]);
});

test("updates whose events have left go, too, and then dedup keys past their window", async () => {
  const { clock, state, pruner } = around(0);
  Object.assign(state, { updatesLeft: 900, keysLeft: 700 });
  void pruner.prune({ seq: 1, frameId: 1, answerId: 9 });
  await clock.advance(50);
  expect([state.updatesLeft, state.keysLeft]).toEqual([0, 0]);
});

test("a failure is logged, and the next checkpoint prunes again", async () => {
  const { clock, state, warnings, pruner } = around(10);
  state.fails = true;
  void pruner.prune({ seq: 1, frameId: 1, answerId: 0 });
  await clock.settle();
  expect(warnings).toHaveLength(1);
  state.fails = false;
  void pruner.prune({ seq: 1, frameId: 1, answerId: 0 });
  await clock.advance(50);
  expect(state.left).toBe(0);
});

test("after stop nothing leaves any more", async () => {
  const { clock, state, pruner } = around(2000);
  void pruner.prune({ seq: 1, frameId: 1, answerId: 0 });
  await clock.settle();
  pruner.stop();
  await clock.advance(1000);
  expect([state.left, clock.pending]).toEqual([1500, 0]);
});
