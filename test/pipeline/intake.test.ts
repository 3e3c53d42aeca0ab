/** The order in which events are handed out, and where they come from. */
import { expect, test } from "bun:test";
import type { JournalEvent } from "../../src/journal/journal.ts";
import { Intake } from "../../src/pipeline/intake.ts";
import { eventOf } from "./fixtures.ts";

/** A journal with events 1 to `head`, of which `framed` have their frames. */
function around(head: number, framed: readonly number[] = []) {
  const journal = {
    head,
    reads: 0,
    bytesMax: [] as (number | undefined)[],
    headSeq: () => journal.head,
    unframedAfter: (seq: number, limit: number, bytesMax?: number): JournalEvent[] => {
      journal.reads += 1;
      journal.bytesMax.push(bytesMax);
      const seqs = Array.from({ length: journal.head - seq }, (_, index) => seq + 1 + index);
      return seqs
        .filter((one) => !framed.includes(one))
        .slice(0, limit)
        .map((one) => eventOf(one));
    },
  };
  return { journal, intake: new Intake(journal) };
}

const seqs = (events: readonly JournalEvent[]): number[] => events.map(({ seq }) => seq);

test("events that have just committed are handed out from memory", () => {
  const { journal, intake } = around(0);
  journal.head = 3;
  intake.take([eventOf(1), eventOf(2), eventOf(3)]);
  expect(intake.waiting).toBe(3);
  expect(seqs(intake.next(2))).toEqual([1, 2]);
  expect(seqs(intake.next(2))).toEqual([3]);
  expect(seqs(intake.next(2))).toEqual([]);
  expect([journal.reads, intake.waiting]).toEqual([0, 0]);
});

test("a new process reads from the journal what has no frame, and skips what has", () => {
  const { intake } = around(5, [1, 3]);
  expect(seqs(intake.next(2))).toEqual([2, 4]);
  expect(seqs(intake.next(9))).toEqual([5]);
  expect([seqs(intake.next(9)), intake.waiting]).toEqual([[], 0]);
});

test("nothing waits if the newest events of the journal have their frames", () => {
  const { journal, intake } = around(5, [3, 4, 5]);
  expect([seqs(intake.next(9)), intake.waiting]).toEqual([[1, 2], 3]);
  expect([seqs(intake.next(9)), intake.waiting]).toEqual([[], 0]);
  intake.next(9);
  expect(journal.reads).toBe(2);
});

test("after a gap, events are read from the journal, in order, and none twice", () => {
  const { journal, intake } = around(2);
  journal.head = 4;
  intake.take([eventOf(3), eventOf(4)]);
  expect(intake.waiting).toBe(4);
  expect(seqs(intake.next(9))).toEqual([1, 2, 3, 4]);
  journal.head = 5;
  intake.take([eventOf(5)]);
  expect(seqs(intake.next(9))).toEqual([5]);
});

test("beyond 4,096 events in memory, the rest is read from the journal", () => {
  const many = around(0);
  many.journal.head = 5000;
  many.intake.take(Array.from({ length: 5000 }, (_, index) => eventOf(index + 1)));
  expect(many.intake.next(9999)).toHaveLength(4096);
  expect(many.intake.waiting).toBe(904);
  expect(seqs(many.intake.next(1))).toEqual([4097]);
});

test("beyond 16 MiB of bodies and messages in memory, the rest is read from the journal", () => {
  const { journal, intake } = around(0);
  journal.head = 20;
  const body = new Uint8Array(1024 * 1024);
  const message = "m".repeat(1024 * 1024);
  intake.take(Array.from({ length: 20 }, (_, index) => eventOf(index + 1, { body, message })));
  for (let from = 1; from < 9; from += 2) expect(seqs(intake.next(99))).toEqual([from, from + 1]);
  expect(journal.reads).toBe(0);
  expect(seqs(intake.next(99)).at(0)).toBe(9);
  expect([journal.reads, journal.bytesMax]).toEqual([1, [8 * 1024 * 1024]]);
});

test("at most 4 MiB of bodies and messages are handed out at once, but at least one event", () => {
  const { journal, intake } = around(0);
  journal.head = 4;
  const large = { body: new Uint8Array(1024 * 1024), message: "m".repeat(1024 * 1024) };
  const huge = { body: new Uint8Array(8 * 1024 * 1024) };
  intake.take([eventOf(1, large), eventOf(2, large), eventOf(3, large), eventOf(4, huge)]);
  expect(seqs(intake.next(99))).toEqual([1, 2]);
  expect(seqs(intake.next(99))).toEqual([3]);
  expect(seqs(intake.next(99))).toEqual([4]);
});
