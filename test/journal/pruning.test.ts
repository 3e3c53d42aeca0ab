/** Pruning: in small steps, oldest first, and numbers are never reused. */
import { Database } from "bun:sqlite";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { event, FROM, frames, openAt, rowsOf, seqsOf, tempFolder } from "./fixtures.ts";

// Generous, because the machine may be busy.
setDefaultTimeout(60_000);

const { newPath } = tempFolder();

describe("pruning", () => {
  test("events leave with their frames, oldest frame first, up to the first that is above a cursor", async () => {
    using journal = openAt(newPath());
    await journal.append(new Array(6).fill(event()), FROM);
    await journal.decide(frames(2, 1, 5, 3));
    expect(journal.prune({ seq: 4, frameId: 4, answerId: 0 })).toBe(2);
    expect(journal.pruned()).toEqual({ seq: 2, frameId: 2, answerId: 0 });
    expect(journal.framesFrom(0, 9).map(({ seq }) => seq)).toEqual([5, 3]);
    expect(journal.eventsAt([1, 2, 3, 4, 5, 6]).map((found) => found !== null)).toEqual([
      false,
      false,
      true,
      true,
      true,
      true,
    ]);
    expect(journal.backlog().events).toBe(4);
    expect(journal.prune({ seq: 9, frameId: 3, answerId: 0 }, 1000)).toBe(1);
    expect(journal.prune({ seq: 9, frameId: 9, answerId: 0 }, 1)).toBe(1);
    expect(journal.prune({ seq: 9, frameId: 9, answerId: 0 })).toBe(0);
    expect(seqsOf(journal.unframedAfter(0, 9))).toEqual([4, 6]);
    expect(journal.pruned()).toEqual({ seq: 5, frameId: 4, answerId: 0 });
  });

  test("an event stays until the store holds its newest update, and leaves together with its updates", async () => {
    const path = newPath();
    {
      using journal = openAt(path);
      await journal.append([event(), event()], FROM);
      await journal.decide(frames(1, 2));
    }
    const database = new Database(path);
    const insert = database.prepare(
      "INSERT INTO answers(seq, decided_us, physics, provenance) VALUES (?, 1, x'00', '{}')",
    );
    for (const seq of [1, 2, 1]) insert.run(seq);
    database.close(true);
    using journal = openAt(path);
    expect(journal.prune({ seq: 2, frameId: 2, answerId: 2 })).toBe(0);
    expect(journal.prune({ seq: 2, frameId: 2, answerId: 3 }, 1)).toBe(1);
    expect(rowsOf(path, "SELECT answer_id, seq FROM answers")).toEqual([[2, 2]]);
    expect(journal.pruned()).toEqual({ seq: 1, frameId: 1, answerId: 3 });
  });

  test("numbers are never reused, even if the journal was pruned empty and restarted", async () => {
    const path = newPath();
    {
      using journal = openAt(path);
      await journal.append([event(), event()], FROM);
      await journal.decide(frames(2, 1));
      expect(journal.prune({ seq: 2, frameId: 2, answerId: 0 })).toBe(2);
      expect(journal.backlog().events).toBe(0);
    }
    using journal = openAt(path);
    expect([journal.headSeq(), journal.nextFrameId(), journal.backlog().events]).toEqual([2, 3, 0]);
    expect(journal.pruned()).toEqual({ seq: 2, frameId: 2, answerId: 0 });
    expect(seqsOf(await journal.append([event()], FROM))).toEqual([3]);
    expect(await journal.decide(frames(3))).toBe(3);
  });

  test("pruning between an append and its commit disturbs neither", async () => {
    using journal = openAt(newPath());
    await journal.append([event(), event()], FROM);
    await journal.decide(frames(1, 2));
    const waiting = journal.append([event()], FROM);
    expect(journal.prune({ seq: 2, frameId: 2, answerId: 0 })).toBe(2);
    journal.setMeta("embedder", "x");
    expect(seqsOf(await waiting)).toEqual([3]);
  });
});
