/** Dedup keys of a journal: a repeat within the window is a duplicate, wherever its key is stored. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import type { ParsedEvent } from "../../src/event/event.ts";
import { type AppendResult, eventId } from "../../src/journal/journal.ts";
import {
  DAY_US,
  event,
  FROM,
  frames,
  HOUR_US,
  keyed,
  NOW_US,
  openAt,
  rowsOf,
  seqsOf,
  tempFolder,
} from "./fixtures.ts";

// Generous, because the machine may be busy.
setDefaultTimeout(60_000);

const { newPath } = tempFolder();

describe("keys", () => {
  test("of two events with one key in one group, the second is a duplicate of the first", async () => {
    using journal = openAt(newPath());
    const stored: number[] = [];
    journal.onCommitted = ({ events }) => stored.push(...seqsOf(events));
    const [one, two] = await Promise.all([
      journal.append([event({ key: "k" }), event(), event({ key: "k" })], FROM),
      journal.append([event({ key: "k", id: "own" }), event({ key: "l" })], FROM),
    ]);
    const first = eventId(NOW_US, journal.journalId, 1);
    expect(one).toMatchObject([{ seq: 1, id: first }, { seq: 2 }, { seq: 1, id: first, duplicate: true }]);
    expect(two).toMatchObject([
      { seq: 1, id: "own", duplicate: true },
      { seq: 3, duplicate: false },
    ]);
    expect(stored).toEqual([1, 2, 3]);
    expect(rowsOf(journal.path, "SELECT seq FROM events")).toHaveLength(3);
  });

  test("a key belongs to its source", async () => {
    using journal = openAt(newPath());
    await journal.append(keyed("k"), FROM);
    expect(await journal.append(keyed("k"), { ...FROM, source: "other" })).toMatchObject([
      { seq: 2, duplicate: false },
    ]);
  });

  test("without a key, an event with an id is a repeat only of the same bytes from the same source", async () => {
    const path = newPath();
    const withId = (json: string, fields: Partial<ParsedEvent> = {}): ParsedEvent =>
      event({ id: "1", dedupByBody: true, body: new TextEncoder().encode(json), ...fields });
    const created = '{"id":1,"event":"order/created"}';
    const paid = '{"id":1,"event":"order/paid"}';
    {
      using journal = openAt(path);
      const seqs = async (events: ParsedEvent[], source = "shop"): Promise<number[]> =>
        seqsOf(await journal.append(events, { ...FROM, source }));
      // In one group: the second "paid" and the number written as text.
      expect(await seqs([withId(created), withId(paid), withId(paid), withId('{"id":"1"}')])).toEqual([
        1, 2, 2, 3,
      ]);
      expect(await seqs([withId(created)], "other")).toEqual([4]);
      // A given key decides alone, and never meets a body or an id.
      expect(await seqs([withId(created, { key: "webhook-id:1" })])).toEqual([5]);
      expect(await seqs([withId(paid, { key: "webhook-id:1" })])).toEqual([5]);
      expect(await seqs([withId(created, { dedupByBody: false })])).toEqual([6]);
      expect(await seqs([event({ key: `idempotency_key:${created}` })])).toEqual([7]);
    }
    using journal = openAt(path);
    const [repeat, fresh] = await journal.append(
      [withId(created), withId('{"id":1,"event":"order/packed"}')],
      {
        ...FROM,
        source: "shop",
      },
    );
    expect(repeat).toEqual({ seq: 1, id: "1", duplicate: true });
    expect(fresh).toEqual({ seq: 8, id: "1", duplicate: false });
  });

  test("keys that an earlier version wrote for plain ids repeat nothing, and its given keys still count", async () => {
    const path = newPath();
    {
      using journal = openAt(path);
      await journal.append([event({ key: "id:1", id: "1" }), event({ key: "idempotency_key:k" })], FROM);
    }
    using journal = openAt(path);
    const later = [event({ id: "1", dedupByBody: true }), event({ key: "idempotency_key:k" })];
    expect(await journal.append(later, FROM)).toMatchObject([
      { seq: 3, duplicate: false },
      { seq: 2, duplicate: true },
    ]);
  });

  test("a repeat gets the id of the first event, even if a sender gave it, even after a restart and after pruning", async () => {
    const path = newPath();
    {
      using journal = openAt(path);
      await journal.append([event({ key: "given", id: "sender-1" }), event({ key: "made" })], FROM);
      await journal.decide(frames(1, 2));
      const repeat = await journal.append(keyed("given", "made"), { ...FROM, receivedUs: NOW_US + HOUR_US });
      expect(repeat).toMatchObject([
        { seq: 1, id: "sender-1", duplicate: true },
        { seq: 2, duplicate: true },
      ]);
      expect(journal.prune({ seq: 2, frameId: 2, answerId: 0 })).toBe(2);
    }
    using journal = openAt(path);
    const [repeat] = await journal.append(keyed("made"), { ...FROM, receivedUs: NOW_US + DAY_US });
    expect(repeat).toEqual({ seq: 2, id: eventId(NOW_US, journal.journalId, 2), duplicate: true });
    const own = await journal.append([event({ key: "given", id: "sender-1" })], FROM);
    expect(own).toEqual([{ seq: 1, id: "sender-1", duplicate: true }]);
  });

  test("a key counts for 15 days from its first event; then it makes a new event", async () => {
    using journal = openAt(newPath());
    const at = async (days: number): Promise<AppendResult[]> =>
      journal.append(keyed("k"), { ...FROM, receivedUs: NOW_US + days * DAY_US });
    expect(await at(0)).toMatchObject([{ seq: 1, duplicate: false }]);
    expect(await at(15)).toMatchObject([{ seq: 1, duplicate: true }]);
    expect(await at(15.01)).toMatchObject([{ seq: 2, duplicate: false }]);
    expect(await at(30)).toMatchObject([{ seq: 2, duplicate: true }]);
  });

  test("keys are found in memory, while they move to the tree, and in the tree, through restarts at any point", async () => {
    const path = newPath();
    const total = 100 * 60;
    const keysInMemoryMax = 1800;
    const keys = Array.from({ length: total }, (_, index) => `k${index}`);
    let journal = openAt(path, { keysInMemoryMax });
    let roundsMoving = 0;
    for (let from = 0; from < total; from += 60) {
      const fresh = await journal.append(keyed(...keys.slice(from, from + 60)), FROM);
      expect(seqsOf(fresh)).toEqual(Array.from({ length: 60 }, (_, index) => from + index + 1));
      const [[logged = 0, moved = 0] = []] = rowsOf(
        path,
        "SELECT (SELECT sum(length(entries)) / 32 FROM dedup_log), (SELECT count(*) FROM dedup)",
      ) as number[][];
      // Moved keys stay in the log until all keys of their table have moved.
      const moving = logged + moved > from + 60;
      if (moving) roundsMoving += 1;
      if ((moving && roundsMoving <= 4) || from % 660 === 0) {
        journal[Symbol.dispose]();
        journal = openAt(path, { keysInMemoryMax });
      }
      const old = keys.filter((_, index) => index < from + 60 && index % 17 === 0);
      const again = await journal.append(keyed(...old), FROM);
      expect(again.every(({ duplicate, seq }, index) => duplicate && seq === index * 17 + 1)).toBe(true);
    }
    expect(roundsMoving).toBeGreaterThan(4);
    expect(rowsOf(path, "SELECT count(*) FROM dedup")[0]?.[0]).toBeGreaterThan(3000);
    expect(rowsOf(path, "SELECT sum(length(entries)) / 32 FROM dedup_log")[0]?.[0]).toBeLessThan(
      2 * keysInMemoryMax,
    );
    journal[Symbol.dispose]();
  });

  test("if a key is used again after its window, the newer use counts, wherever both are stored", async () => {
    using journal = openAt(newPath(), { keysInMemoryMax: 2 });
    const at = (days: number, ...keys: string[]): Promise<AppendResult[]> =>
      journal.append(keyed(...keys), { ...FROM, receivedUs: NOW_US + days * DAY_US });
    await at(0, "k", "a");
    await at(0, "b", "c");
    const [second] = await at(16, "k", "d");
    expect(second).toMatchObject({ seq: 5, duplicate: false });
    await at(16, "e", "f");
    await at(16, "g", "h");
    expect(rowsOf(journal.path, "SELECT seq FROM dedup WHERE seq IN (1, 5) ORDER BY seq")).toEqual([
      [1],
      [5],
    ]);
    expect(await at(17, "k")).toMatchObject([{ seq: 5, duplicate: true }]);
  });

  test("keys past their window are forgotten in small steps; younger keys are not", async () => {
    const path = newPath();
    let nowUs = NOW_US;
    using journal = openAt(path, { keysInMemoryMax: 200, nowUs: () => nowUs });
    const fill = async (day: number): Promise<void> => {
      for (let part = 0; part < 10; part++) {
        const keys = Array.from({ length: 100 }, (_, index) => `${day}/${part}/${index}`);
        await journal.append(keyed(...keys), { ...FROM, receivedUs: NOW_US + day * DAY_US });
      }
    };
    for (const day of [0, 9, 18]) await fill(day);
    const stored = (): number => rowsOf(path, "SELECT count(*) FROM dedup")[0]?.[0] as number;
    const before = stored();
    expect(journal.pruneKeys(300)).toBe(0);
    nowUs = NOW_US + 22 * DAY_US;
    let removed = 0;
    for (;;) {
      const step = journal.pruneKeys(300);
      if (step === 0) break;
      expect(step).toBeLessThanOrEqual(300);
      removed += step;
    }
    expect(removed).toBeGreaterThan(500);
    expect(stored()).toBe(before - removed);
    const young = await journal.append(keyed("9/0/0", "9/9/99", "18/3/3"), {
      ...FROM,
      receivedUs: NOW_US + 18 * DAY_US,
    });
    expect(young.map(({ duplicate }) => duplicate)).toEqual([true, true, true]);
  });

  test("by the journal's clock, a key is forgotten when it is older than the window, not when it is exactly as old", async () => {
    let nowUs = NOW_US;
    using journal = openAt(newPath(), { keysInMemoryMax: 2, nowUs: () => nowUs });
    for (const key of ["a", "b", "c", "d"]) await journal.append(keyed(key), FROM);
    expect(rowsOf(journal.path, "SELECT count(*) FROM dedup")).toEqual([[2]]);
    nowUs = NOW_US + 15 * DAY_US;
    expect(journal.pruneKeys()).toBe(0);
    nowUs += 1;
    expect(journal.pruneKeys()).toBe(2);
    expect(journal.pruneKeys()).toBe(0);
  });
});
