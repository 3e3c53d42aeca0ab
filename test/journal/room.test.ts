/** The bound of a temporary journal: it is never exceeded, and the newest events stay. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { statSync } from "node:fs";
import type { ParsedEvent } from "../../src/event/event.ts";
import { AppendCall, DecideCall } from "../../src/journal/calls.ts";
import { Generations } from "../../src/journal/generations.ts";
import { EventsGone, type Journal, type JournalEvent } from "../../src/journal/journal.ts";
import { type Dropped, Room } from "../../src/journal/room.ts";
import { event, FROM, failureOf, frames, openAt, openParts, rowsOf, seqsOf, tempFolder } from "./fixtures.ts";

// Generous, because the machine may be busy.
setDefaultTimeout(60_000);

const { newPath } = tempFolder();

describe("a temporary journal", () => {
  const LIMIT = 8_000_000;
  const bytesOf = (path: string): number =>
    ["", "-wal"].reduce(
      (sum, suffix) => sum + (statSync(path + suffix, { throwIfNoEntry: false })?.size ?? 0),
      0,
    );
  const openTemporary = (path = newPath()): Journal => openAt(path, { ephemeral: { limitBytes: LIMIT } });

  test("refuses nothing and never exceeds its bound; it keeps the newest events and counts the dropped ones", async () => {
    using journal = openTemporary();
    const batch = (from: number): ParsedEvent[] =>
      Array.from({ length: 500 }, (_, index) => event({ key: `k${from + index}`, message: "x".repeat(60) }));
    const total = 150_000;
    let largest = 0;
    for (let from = 0; from < total; from += 500) {
      await journal.append(batch(from), FROM);
      if (from % 2500 === 0) largest = Math.max(largest, bytesOf(journal.path));
    }
    expect(largest).toBeLessThanOrEqual(LIMIT);
    expect(largest).toBeGreaterThan(LIMIT / 3);
    const { events } = journal.backlog();
    expect(journal.headSeq()).toBe(total);
    expect(events).toBeGreaterThan(8000);
    expect(journal.dropped()).toBe(total - events);
    expect(journal.unframedAfter(0, 1)[0]?.seq).toBe(total - events + 1);
    expect(journal.eventsAt([total])[0]?.seq).toBe(total);
    const columns = "min(seq), max(seq), count(*)";
    expect(rowsOf(journal.path, `SELECT ${columns} FROM events`)).toEqual([
      [total - events + 1, total, events],
    ]);
    // The newest keys are known, the oldest are forgotten.
    expect(await journal.append(batch(total - 500), FROM)).toMatchObject(
      new Array(500).fill({ duplicate: true }),
    );
    expect(await journal.append(batch(0), FROM)).toMatchObject(new Array(500).fill({ duplicate: false }));
  });

  test("large events do not exceed the bound either", async () => {
    using journal = openTemporary();
    const body = new Uint8Array(400_000).fill(120);
    for (let index = 0; index < 60; index++) {
      await journal.append([event({ body })], FROM);
      expect(bytesOf(journal.path)).toBeLessThanOrEqual(LIMIT);
    }
    expect(journal.eventsAt([60])[0]?.body.byteLength).toBe(400_000);
  });

  test("text with more bytes than characters does not exceed the bound", async () => {
    using journal = openTemporary();
    const given = event({ message: "\u5b57".repeat(20_000) });
    for (let index = 0; index < 300; index++) {
      await journal.append([given], FROM);
      expect(bytesOf(journal.path)).toBeLessThanOrEqual(LIMIT);
    }
    expect(journal.eventsAt([300])[0]?.message).toBe(given.message);
  });

  test("frames are read and pruned in the order of their ids, even if an older event was decided after a newer one", async () => {
    using journal = openTemporary();
    const body = new Uint8Array(10_000).fill(120);
    for (let index = 0; index < 300; index++) {
      await journal.append([event({ body, conversationId: "c" })], FROM);
    }
    expect(journal.backlog().events).toBe(300);
    const count = (table: string): unknown => rowsOf(journal.path, `SELECT count(*) FROM ${table}`)[0]?.[0];
    expect([count("events_a"), count("events_b"), count("events_c"), count("events_d")]).not.toContain(300);
    for (const seq of [300, 1, 299, 2]) await journal.decide(frames(seq));
    expect(seqsOf(journal.framesFrom(1, 9))).toEqual([300, 1, 299, 2]);
    expect(seqsOf(journal.framesFrom(1, 1))).toEqual([300]);
    expect(journal.recentConversations(2).map(({ frameId }) => frameId)).toEqual([3, 4]);
    expect(journal.recentConversations(2, 1).map(({ frameId }) => frameId)).toEqual([2, 3]);
    expect(journal.prune({ seq: 300, frameId: 9, answerId: 0 }, 1)).toBe(1);
    expect(journal.prune({ seq: 200, frameId: 9, answerId: 0 })).toBe(1);
    expect(seqsOf(journal.framesFrom(1, 9))).toEqual([299, 2]);
  });

  test("frames leave with their events, readers see both under their plain names, and ids continue", async () => {
    using journal = openTemporary();
    let framed = 0;
    while (journal.backlog().events === journal.headSeq()) {
      const results = await journal.append(
        new Array(400).fill(event({ conversationId: "c", message: "x".repeat(100) })),
        FROM,
      );
      // The first of each batch waits; the newer half is decided before the older one.
      const seqs = seqsOf(results).slice(1);
      await journal.decide(frames(...seqs.slice(200), ...seqs.slice(0, 200)));
      framed += seqs.length;
    }
    const gone = journal.headSeq() - journal.backlog().events;
    expect(journal.dropped()).toBe(gone / 400);
    expect(journal.nextFrameId()).toBe(framed + 1);
    const orphans = "SELECT count(*) FROM frames WHERE seq NOT IN (SELECT seq FROM events)";
    expect(rowsOf(journal.path, orphans)).toEqual([[0]]);
    expect(rowsOf(journal.path, "SELECT max(frame_id), count(*) FROM frames")[0]).toEqual([
      framed,
      framed - (gone * 399) / 400,
    ]);
    const kept = journal.framesFrom(0, 1_000_000);
    expect(kept.map(({ frameId }) => frameId)).toEqual(
      Array.from({ length: kept.length }, (_, index) => framed - kept.length + 1 + index),
    );
    expect(journal.recentConversations(5).map(({ frameId }) => frameId)).toEqual(
      [-4, -3, -2, -1, 0].map((back) => framed + back),
    );
    expect(seqsOf(journal.unframedAfter(0, 3))).toEqual([1, 401, 801].map((seq) => gone + seq));
    const dropped = await failureOf(journal.decide(frames(1, gone + 1)));
    expect(dropped).toBeInstanceOf(EventsGone);
    expect((dropped as EventsGone).seqs).toEqual([1]);
    expect(journal.nextFrameId()).toBe(framed + 1);
    const first = kept[0]?.frameId ?? 0;
    expect(journal.prune({ seq: journal.headSeq(), frameId: first + 9, answerId: 0 })).toBe(10);
    expect(journal.framesFrom(0, 1)[0]?.frameId).toBe(first + 10);
  });
});

describe("room for a group", () => {
  /** A bound of 1,000,000 bytes for the tables. The test sets how many of them are in use. */
  function opened() {
    const path = newPath();
    const { database, transactions, [Symbol.dispose]: dispose } = openParts(path, "temporary");
    const generations = new Generations(database, "temporary");
    const file = { usedBytes: 0, dropped: [] as Dropped[], lastSeq: 0 };
    const room = new Room({
      path,
      database,
      transactions,
      generations,
      bounds: { tablesBytes: 1e6, walBytes: 1e6, groupBytes: 1e6 },
      usedBytes: () => file.usedBytes,
      onDropped: (dropped) => {
        file.dropped.push(dropped);
        file.usedBytes -= 200_000;
      },
    });
    return {
      file,
      room,
      generations,
      /** Counts events of 1,000 bytes without storing them. */
      append: (count: number): void => {
        const call = new AppendCall(new Array(count).fill(event({ body: new Uint8Array(872) })), FROM);
        call.stored = Array.from({ length: count }, () => ({ seq: ++file.lastSeq }) as JournalEvent);
        room.make([call], file.lastSeq - count + 1);
        room.stored([call]);
      },
      [Symbol.dispose]: dispose,
    };
  }

  test("costs no event as long as the tables are within the bound", () => {
    using test = opened();
    test.file.usedBytes = 800_000;
    test.append(200);
    expect([test.file.dropped, test.room.dropped]).toEqual([[], 0]);
  });

  test("is made by emptying the oldest generation when the newest fills a quarter; events without a frame are counted", () => {
    using test = opened();
    for (const count of [250, 250, 250, 250]) test.append(count);
    test.room.stored([new DecideCall("decide", frames(1, 2, 251))]);
    const generation = test.generations.of(3);
    if (generation === undefined) throw new Error("event 3 is in no generation");
    test.room.left([{ generation, frameId: 1, seq: 1, answerId: 0 }]);
    expect(test.file.dropped).toEqual([1, 1, 1].map((oldestSeq) => ({ events: 0, oldestSeq })));
    test.append(1);
    expect(test.file.dropped.slice(3)).toEqual([{ events: 249, oldestSeq: 251 }]);
    expect(test.room.dropped).toBe(248);
    test.append(249);
    test.append(1);
    expect(test.file.dropped.slice(4)).toEqual([{ events: 250, oldestSeq: 501 }]);
    expect(test.room.dropped).toBe(248 + 249);
  });

  test("is not made by dropping the newest events if frames fill the tables", () => {
    using test = opened();
    // 60,000 bytes of events are less than one sixteenth of the bound.
    test.append(60);
    test.file.usedBytes = 2e6;
    test.append(10);
    expect(test.file.dropped).toEqual([]);
    test.append(1);
    expect(test.file.dropped).not.toEqual([]);
  });

  test("does not count the events of a refused call", () => {
    using test = opened();
    test.append(250);
    const refused = new AppendCall([event()], FROM);
    refused.stored = [{ seq: 251 } as JournalEvent];
    refused.failure = new Error("a bad row");
    test.room.stored([refused]);
    for (let turn = 0; turn < 4; turn++) test.append(250);
    expect(test.file.dropped.map(({ events }) => events)).toEqual([0, 0, 0, 250]);
  });
});
