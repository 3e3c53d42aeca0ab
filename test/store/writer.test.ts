import { Database as Sqlite } from "bun:sqlite";
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Backlog } from "../../src/store/backlog.ts";
import { boundsOf } from "../../src/store/bounds.ts";
import { type Database, openDatabase, rowsOf } from "../../src/store/database.ts";
import { Generations } from "../../src/store/generations.ts";
import type { StoreCursors } from "../../src/store/protocol.ts";
import { Writer } from "../../src/store/writer.ts";
import { FakeClock } from "../fake-clock.ts";
import { EVERYTHING, JOURNAL_ID, many, numbered, physicsOf, TestJournal } from "./test-journal.ts";

setDefaultTimeout(60_000);

const ROOT = mkdtempSync(join(tmpdir(), "store-writer-test-"));
afterAll(() => rmSync(ROOT, { recursive: true, force: true }));

/** Counts the turns that a commit leaves to reads. */
class CountingClock extends FakeClock {
  turns = 0;

  override nextTurn(): Promise<void> {
    this.turns++;
    return super.nextTurn();
  }
}

class Case implements Disposable {
  readonly clock = new CountingClock();
  readonly backlog: Backlog;
  readonly generations: Generations;
  readonly writer: Writer;
  readonly #sqlite: Sqlite;
  readonly #ephemeral: boolean;
  database: Database | null = null;

  constructor(
    readonly journal: TestJournal,
    limitBytes: number | null = null,
  ) {
    this.#ephemeral = limitBytes !== null;
    this.#sqlite = new Sqlite(journal.path, { readonly: true });
    this.backlog = new Backlog({ gapsAllowed: this.#ephemeral });
    this.generations = new Generations(limitBytes);
    this.writer = new Writer({
      ...{ clock: this.clock, journal: this.#sqlite, journalId: JOURNAL_ID },
      bounds: boundsOf(150_000_000, limitBytes),
      gapsAllowed: this.#ephemeral,
      onDamage: () => {},
    });
  }

  async open(): Promise<Database> {
    const { databasePath: path, folder } = this.journal;
    const tempFolder = join(folder, "temp");
    const database = await openDatabase(
      {
        ...{ path, journalId: JOURNAL_ID, memoryLimitBytes: 150_000_000, tempFolder, pruned: EVERYTHING },
        generations: this.#ephemeral,
        rowGroupRows: 8192,
      },
      { quarantine: false, nowUs: 0, notice: () => {} },
    );
    await this.generations.load(database.writes);
    await this.writer.open(database.writes, this.generations);
    this.database = database;
    return database;
  }

  commit(cursors: StoreCursors = EVERYTHING): ReturnType<Writer["commit"]> {
    if (this.database === null) throw new Error("not open");
    return this.writer.commit(this.database.writes, this.backlog, cursors);
  }

  /** Rows of events, frames and updates, and the newest cursors, as a query beside the writer sees them. */
  async stored(): Promise<number[]> {
    if (this.database === null) throw new Error("not open");
    const [row] = await rowsOf(
      this.database.reads,
      `SELECT (SELECT count(*) FROM events)::INT, (SELECT count(*) FROM enrichments)::INT, (SELECT count(*) FROM answers)::INT,
         max(seq)::INT, max(frame_id)::INT, max(answer_id)::INT FROM cursors`,
    );
    return (row ?? []).map(Number);
  }

  [Symbol.dispose](): void {
    this.writer.discard();
    this.database?.close();
    this.#sqlite.close();
  }
}

const frames = (count: number) =>
  Array.from({ length: count }, (_, index) => ({
    seq: index + 1,
    physics: physicsOf({ event_seq: index + 1, flags: 0 }),
  }));

describe("a commit", () => {
  test("stores events, frames and updates together with the cursors that name them", async () => {
    using one = new Case(new TestJournal(ROOT));
    await one.open();
    one.backlog.raiseSeq(one.journal.addEvents(numbered(30)));
    one.journal.addFrames(frames(20));
    one.backlog.offer({ firstFrameId: 1, count: 20, vectors: null }, EVERYTHING);
    one.journal.addUpdates(frames(5));
    one.backlog.raiseAnswerId(5);
    const { cursors, eventBytes, frameBytes } = await one.commit();
    expect(cursors).toEqual({ seq: 30, frameId: 20, answerId: 5 });
    expect(await one.stored()).toEqual([30, 20, 5, 30, 20, 5]);
    expect([eventBytes > 30 * 128, frameBytes]).toEqual([true, 25 * 256]);
  });

  test("has only events while more of them wait than it takes, so that they can be read sooner", async () => {
    using one = new Case(new TestJournal(ROOT));
    await one.open();
    one.backlog.raiseSeq(one.journal.addEvents(numbered(40_000)));
    one.journal.addFrames(frames(10));
    one.backlog.offer({ firstFrameId: 1, count: 10, vectors: null }, EVERYTHING);
    const seen: number[][] = [];
    for (let cursors = EVERYTHING; cursors.frameId < 10; ) {
      ({ cursors } = await one.commit(cursors));
      seen.push([cursors.seq, cursors.frameId]);
    }
    expect(seen).toEqual([
      [16_384, 0],
      [32_768, 0],
      [40_000, 10],
    ]);
  });

  test("moves its cursor over frames whose numbers were skipped, without a row", async () => {
    using one = new Case(new TestJournal(ROOT));
    await one.open();
    one.backlog.offer({ firstFrameId: 1, count: 1_000_000, vectors: null, absent: true }, EVERYTHING);
    const { cursors } = await one.commit();
    expect(cursors).toEqual({ ...EVERYTHING, frameId: 1_000_000 });
    expect(await one.stored()).toEqual([0, 0, 0, 0, 1_000_000, 0]);
  });

  test("that fails leaves rows and cursors as they were, for the next one after reopening", async () => {
    using one = new Case(new TestJournal(ROOT));
    const database = await one.open();
    one.backlog.raiseSeq(one.journal.addEvents(numbered(10)));
    one.backlog.offer({ firstFrameId: 1, count: 3, vectors: null }, EVERYTHING);
    await expect(one.commit()).rejects.toThrow("the journal has only 0 of the 3 frames from 1 on");
    expect(await one.stored()).toEqual([0, 0, 0, 0, 0, 0]);
    one.writer.discard();
    await expect(one.commit()).rejects.toThrow("no appenders");
    database.close();
    one.journal.addFrames(frames(3));
    const { cursors } = await one.open();
    expect(cursors).toEqual(EVERYTHING);
    await one.commit(cursors);
    expect(await one.stored()).toEqual([10, 3, 0, 10, 3, 0]);
  });

  test("goes on where the cursors say", async () => {
    using one = new Case(new TestJournal(ROOT));
    await one.open();
    one.backlog.raiseSeq(one.journal.addEvents(numbered(10)));
    await one.commit({ ...EVERYTHING, seq: 7 });
    expect(await one.stored()).toEqual([3, 0, 0, 10, 0, 0]);
  });

  test("is bounded in rows, and gives reads a turn behind each chunk", async () => {
    using one = new Case(new TestJournal(ROOT));
    await one.open();
    one.backlog.raiseSeq(one.journal.addEvents(numbered(20_000)));
    one.journal.addFrames(frames(5000));
    one.backlog.offer({ firstFrameId: 1, count: 5000, vectors: null }, EVERYTHING);
    one.journal.addUpdates(frames(3000));
    one.backlog.raiseAnswerId(3000);
    const first = await one.commit();
    expect(first.cursors).toEqual({ seq: 16_384, frameId: 0, answerId: 0 });
    expect(one.clock.turns).toBe(16_384 / 2048);
    const second = await one.commit(first.cursors);
    expect(second.cursors).toEqual({ seq: 20_000, frameId: 4096, answerId: 2048 });
    expect((await one.commit(second.cursors)).cursors).toEqual({
      seq: 20_000,
      frameId: 5000,
      answerId: 3000,
    });
    expect(await one.stored()).toEqual([20_000, 5000, 3000, 20_000, 5000, 3000]);
  });

  test("is bounded in bytes to a sixteenth of an ephemeral database's bound", async () => {
    const limitBytes = 1_600_000;
    using one = new Case(new TestJournal(ROOT), limitBytes);
    await one.open();
    one.backlog.raiseSeq(one.journal.addEvents(many(100, () => ({ body: `{"n":"${"x".repeat(9992)}"}` }))));
    const { cursors, eventBytes } = await one.commit();
    expect(cursors.seq).toBe(10);
    expect(eventBytes).toBe(10 * (10_000 + 128));
  });

  test("passes over rows that an ephemeral journal has dropped unread", async () => {
    using one = new Case(new TestJournal(ROOT), 1 << 30);
    await one.open();
    one.journal.addFrames(frames(10));
    one.journal.addUpdates(frames(10));
    for (const table of ["frames WHERE frame_id", "answers WHERE answer_id"])
      one.journal.db.run(`DELETE FROM ${table} < 4`);
    one.backlog.offer({ firstFrameId: 1, count: 10, vectors: null }, EVERYTHING);
    one.backlog.raiseAnswerId(10);
    one.backlog.raiseSeq(50);
    const { cursors } = await one.commit();
    expect(cursors).toEqual({ seq: 50, frameId: 10, answerId: 10 });
    expect(await one.stored()).toEqual([0, 7, 7, 50, 10, 10]);
  });
});

test("a closed writer lets generations change, and writes into the newest tables when it is open again", async () => {
  using one = new Case(new TestJournal(ROOT), 1 << 30);
  const database = await one.open();
  one.backlog.raiseSeq(one.journal.addEvents(numbered(5)));
  const { cursors } = await one.commit();
  one.writer.close();
  await one.generations.rotate(database.writes, "events");
  await one.writer.open(database.writes, one.generations);
  one.backlog.raiseSeq(one.journal.addEvents(numbered(2, 6)));
  await one.commit(cursors);
  expect(await rowsOf(database.reads, "SELECT count(*)::INT FROM events_2")).toEqual([[2]]);
  expect(await one.stored()).toEqual([7, 0, 0, 7, 0, 0]);
});
