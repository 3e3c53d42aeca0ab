import { describe, expect, test } from "bun:test";
import { rowOf } from "../../src/dashboard/rows.ts";
import { Tail } from "../../src/dashboard/tail.ts";
import { events } from "./fixtures.ts";

const rows = (from: number, to: number) => events(from, to).map(rowOf);
const seqs = (tail: Tail): number[] => tail.rows.map(({ seq }) => seq);
const FRAME = { frameId: 9, type: null, intent: "compra", sentiment: null };

describe("tail", () => {
  test("rows have no gaps: after missing events the tail begins again", () => {
    const tail = new Tail();
    tail.add(rows(1, 3));
    tail.add([]);
    tail.add(rows(4, 5));
    expect(seqs(tail)).toEqual([1, 2, 3, 4, 5]);
    tail.add(rows(7, 8));
    expect(seqs(tail)).toEqual([7, 8]);
    expect([tail.row(5), tail.row(7)?.seq, tail.newestSeq]).toEqual([null, 7, 8]);
  });

  test("rows are bounded, and the newest stay", () => {
    const tail = new Tail();
    for (let from = 1; from <= 12_000; from += 500) {
      tail.add(rows(from, from + 499));
      expect(tail.rows.length).toBeLessThanOrEqual(4608);
    }
    expect(tail.rows.length).toBeGreaterThanOrEqual(4096);
    const oldest = tail.rows[0]?.seq ?? 0;
    expect(seqs(tail)).toEqual(Array.from({ length: 12_001 - oldest }, (_, index) => oldest + index));
  });

  test("held rows stay; frames still come to them, and on release everything newer is there", () => {
    const tail = new Tail();
    expect(tail.heldFromSeq).toBeNull();
    tail.add(rows(2, 3));
    tail.hold();
    tail.add(rows(4, 5));
    tail.hold();
    tail.enrich(3, FRAME);
    tail.enrich(5, FRAME);
    tail.enrich(99, FRAME);
    expect(seqs(tail)).toEqual([2, 3]);
    expect(tail.rows[1]?.frameId).toBe(9);
    expect([tail.held, tail.heldFromSeq, tail.newestSeq, tail.row(5)?.frameId]).toEqual([true, 2, 5, 9]);
    tail.release();
    expect(seqs(tail)).toEqual([2, 3, 4, 5]);
    expect(tail.rows.map(({ frameId }) => frameId)).toEqual([null, 9, null, 9]);
  });

  test("stored rows go in front only if they lead up to the first row", () => {
    const tail = new Tail();
    tail.begin(rows(1, 2));
    expect(seqs(tail)).toEqual([1, 2]);
    const late = new Tail();
    late.add(rows(5, 6));
    late.begin(rows(1, 3));
    late.begin([]);
    expect(seqs(late)).toEqual([5, 6]);
    late.begin(rows(3, 4));
    expect(seqs(late)).toEqual([3, 4, 5, 6]);
  });
});
