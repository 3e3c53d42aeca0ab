import { describe, expect, test } from "bun:test";
import { Backlog } from "../../src/store/backlog.ts";
import { EVERYTHING } from "./test-journal.ts";

const DIM = 4;

const run = (firstFrameId: number, count: number, vectors: Float32Array | null = null) => ({
  ...{ firstFrameId, count, vectors },
});

describe("a backlog", () => {
  test("keeps the highest head it was told", () => {
    const backlog = new Backlog({ gapsAllowed: false });
    for (const id of [5, 9, 3]) {
      backlog.raiseSeq(id);
      backlog.raiseAnswerId(id + 1);
    }
    expect([backlog.headSeq, backlog.headAnswerId]).toEqual([9, 10]);
  });

  test("counts events, frames and updates above the cursors, none twice", () => {
    const backlog = new Backlog({ gapsAllowed: false });
    expect(backlog.rows(EVERYTHING)).toBe(0);
    backlog.raiseSeq(10);
    backlog.raiseAnswerId(4);
    backlog.offer(run(1, 3), EVERYTHING);
    backlog.offer(run(2, 6), EVERYTHING);
    expect(backlog.rows(EVERYTHING)).toBe(10 + 4 + 7);
    expect(backlog.rows({ seq: 8, frameId: 5, answerId: 4 })).toBe(2 + 0 + 2);
    expect(backlog.rows({ seq: 12, frameId: 7, answerId: 6 })).toBe(0);
  });

  test("takes a run that overlaps from where it is new, with the vectors that belong to it", () => {
    const backlog = new Backlog({ gapsAllowed: false });
    const cursors = { ...EVERYTHING, frameId: 2 };
    const vectors = Float32Array.from({ length: 4 * DIM }, (_, index) => Math.floor(index / DIM));
    expect(backlog.offer(run(1, 4, vectors), cursors)).toBe("taken");
    expect(backlog.runs).toEqual([run(3, 2, vectors.subarray(2 * DIM))]);
    expect(backlog.lastFrameId(cursors)).toBe(4);
    expect(backlog.offer(run(2, 3), cursors)).toBe("ignored");
    expect(backlog.runs.length).toBe(1);
  });

  test("reports once that frames are missing before a run, until a run fits again", () => {
    const backlog = new Backlog({ gapsAllowed: false });
    backlog.offer(run(1, 2), EVERYTHING);
    expect(backlog.offer(run(4, 2), EVERYTHING)).toBe("missing");
    backlog.beginAgain();
    expect(backlog.runs).toEqual([]);
    expect(backlog.offer(run(6, 2), EVERYTHING)).toBe("ignored");
    expect(backlog.offer(run(1, 5), EVERYTHING)).toBe("taken");
    expect(backlog.offer(run(8, 1), EVERYTHING)).toBe("missing");
  });

  test("takes a run behind missing frames if the journal may drop frames", () => {
    const backlog = new Backlog({ gapsAllowed: true });
    expect(backlog.offer(run(4, 2), EVERYTHING)).toBe("taken");
    expect(backlog.lastFrameId(EVERYTHING)).toBe(5);
  });

  test("forgets the runs that are stored and keeps one that is stored in part", () => {
    const backlog = new Backlog({ gapsAllowed: false });
    for (const first of [1, 11, 21]) backlog.offer(run(first, 10), EVERYTHING);
    backlog.stored({ ...EVERYTHING, frameId: 15 });
    expect(backlog.runs.map(({ firstFrameId }) => firstFrameId)).toEqual([11, 21]);
    backlog.stored({ ...EVERYTHING, frameId: 30 });
    expect(backlog.runs).toEqual([]);
  });
});
