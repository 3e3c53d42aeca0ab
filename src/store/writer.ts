/**
 * Commits rows of the journal into DuckDB. Rows and cursors share one transaction, so that each row is stored exactly once. Part of
 * the store's Worker.
 */

import type { Database as Journal } from "bun:sqlite";
import type { Clock } from "../clock.ts";
import { FRAME_BYTES } from "../frame.ts";
import type { Backlog } from "./backlog.ts";
import { type StoreBounds, VectorFill } from "./bounds.ts";
import { appenderFor, type duckdb } from "./database.ts";
import type { Generations } from "./generations.ts";
import type { StoreCursors } from "./protocol.ts";
import { CHUNK_ROWS, CursorWriter, EventWriter, FrameWriter, type OnDamage } from "./rows.ts";

/**
 * Events in one transaction. DuckDB writes whole row groups (8,192 rows) straight to the file, and the log only says where they are.
 * So storing a backlog writes a fraction of the log that small transactions would.
 * @bound events in one transaction of DuckDB | the rest goes into the next
 */
const COMMIT_EVENTS_MAX = 16_384;
/**
 * Frames are wide. With a whole row group in a transaction, DuckDB would compress it and the commit would take twice as long.
 * @bound frames in one transaction of DuckDB | the rest goes into the next
 */
const COMMIT_FRAMES_MAX = 4096;
/** While more events wait than a transaction takes, so many transactions in a row have only events, which can then be read sooner. */
const EVENTS_ONLY_MAX = 8;
/** @bound updates in one transaction of DuckDB | the rest goes into the next */
const COMMIT_UPDATES_MAX = CHUNK_ROWS;

/** The appender of each table. */
interface Appenders {
  readonly events: duckdb.DuckDBAppender;
  readonly enrichments: duckdb.DuckDBAppender;
  readonly answers: duckdb.DuckDBAppender;
  readonly cursors: duckdb.DuckDBAppender;
}

export interface WriterOptions {
  readonly clock: Clock;
  readonly journal: Journal;
  readonly journalId: number;
  readonly bounds: StoreBounds;
  /** Whether rows may be missing, because an ephemeral journal drops what nobody has read. */
  readonly gapsAllowed: boolean;
  readonly onDamage: OnDamage;
}

export interface Committed {
  /** What the database holds now. */
  readonly cursors: StoreCursors;
  readonly eventBytes: number;
  /** Of frames and updates. */
  readonly frameBytes: number;
  readonly largestEventBytes: number;
}

export class Writer {
  readonly #clock: Clock;
  readonly #journal: Journal;
  readonly #journalId: number;
  readonly #gapsAllowed: boolean;
  readonly #onDamage: OnDamage;
  #bounds: StoreBounds;
  readonly #fill: VectorFill;
  readonly #events: EventWriter;
  readonly #frames: FrameWriter;
  /** Made with the first update. */
  #updates: FrameWriter | null = null;
  readonly #cursors = new CursorWriter();
  /** null while no database is open and while generations change. */
  #appenders: Appenders | null = null;

  constructor(o: WriterOptions) {
    this.#clock = o.clock;
    this.#journal = o.journal;
    this.#journalId = o.journalId;
    this.#gapsAllowed = o.gapsAllowed;
    this.#onDamage = o.onDamage;
    this.#bounds = o.bounds;
    this.#fill = new VectorFill(o.bounds.vectorBytesMax);
    this.#events = new EventWriter(o.journal, o.onDamage);
    this.#frames = new FrameWriter(o.journal, "frames", o.onDamage);
  }

  /** Transactions in a row without frames. */
  #eventsOnly = 0;

  /** Smaller bounds, after a transaction has run out of memory. */
  set bounds(bounds: StoreBounds) {
    this.#bounds = bounds;
    this.#fill.bytesMax = bounds.vectorBytesMax;
  }

  /** Whether a CHECKPOINT must complete before the next commit, because large rows have filled a vector. */
  get full(): boolean {
    return this.#fill.full;
  }

  /** Call when the next event begins a row group: after a CHECKPOINT, and in a new table. */
  rowGroupBegins(): void {
    this.#fill.reset();
  }

  /** Call if the row group to which events are appended may hold large rows that came before. */
  rowGroupMayBeFull(): void {
    this.#fill.fill();
  }

  /** Opens appenders into the newest tables. */
  async open(connection: duckdb.DuckDBConnection, generations: Generations): Promise<void> {
    this.#appenders = {
      events: await appenderFor(connection, generations.newest("events")),
      enrichments: await appenderFor(connection, generations.newest("enrichments")),
      answers: await appenderFor(connection, generations.newest("answers")),
      cursors: await appenderFor(connection, "cursors"),
    };
  }

  /** Commits what is due above `cursors`, up to the bounds of a transaction. If it throws, nothing is committed. */
  async commit(
    connection: duckdb.DuckDBConnection,
    backlog: Backlog,
    cursors: StoreCursors,
  ): Promise<Committed> {
    const appenders = this.#appenders;
    if (appenders === null) throw new Error("store: no appenders");
    const next = { ...cursors };
    await connection.run("BEGIN");
    const events = await this.#appendEvents(appenders.events, backlog, next);
    // In a bounded file events and frames keep pace, because each has half of it.
    const behind = next.seq < backlog.headSeq && !this.#gapsAllowed;
    this.#eventsOnly = behind && this.#eventsOnly < EVENTS_ONLY_MAX ? this.#eventsOnly + 1 : 0;
    const frameBytes =
      this.#eventsOnly > 0
        ? 0
        : (await this.#appendFrames(appenders.enrichments, backlog, next)) +
          this.#appendUpdates(appenders.answers, backlog, next);
    this.#cursors.append(appenders.cursors, this.#journalId, next);
    appenders.cursors.flushSync();
    await connection.run("COMMIT");
    return { cursors: next, eventBytes: events.bytes, frameBytes, largestEventBytes: events.largestBytes };
  }

  async #appendEvents(
    appender: duckdb.DuckDBAppender,
    backlog: Backlog,
    next: StoreCursors,
  ): Promise<{ bytes: number; largestBytes: number }> {
    const { commitBytesMax, wideBytes } = this.#bounds;
    let bytes = 0;
    let largestBytes = 0;
    for (let rows = 0; next.seq < backlog.headSeq && rows < COMMIT_EVENTS_MAX && bytes < commitBytesMax; ) {
      const bytesMax = Math.min(commitBytesMax - bytes, this.#fill.roomBytes);
      const appended = this.#events.append(appender, {
        afterSeq: next.seq,
        headSeq: backlog.headSeq,
        bytesMax,
      });
      next.seq = appended.seq;
      rows += appended.rows;
      bytes += appended.bytes;
      largestBytes = Math.max(largestBytes, appended.largestBytes);
      this.#fill.add({ ...appended, wide: appended.largestBytes > wideBytes });
      if (this.#fill.full) break;
      // Filling and appending keep the thread busy, so reads get a turn here.
      await this.#clock.nextTurn();
    }
    appender.flushSync();
    return { bytes, largestBytes };
  }

  async #appendFrames(
    appender: duckdb.DuckDBAppender,
    backlog: Backlog,
    next: StoreCursors,
  ): Promise<number> {
    const { commitBytesMax } = this.#bounds;
    let bytes = 0;
    let frames = 0;
    for (const run of [...backlog.runs]) {
      if (frames >= COMMIT_FRAMES_MAX || bytes >= commitBytesMax) break;
      const end = run.firstFrameId + run.count;
      next.frameId = Math.max(next.frameId, run.absent === true ? end - 1 : run.firstFrameId - 1);
      while (next.frameId + 1 < end && frames < COMMIT_FRAMES_MAX && bytes < commitBytesMax) {
        const firstFrameId = next.frameId + 1;
        const rowsMax = Math.max(1, Math.floor(commitBytesMax / FRAME_BYTES));
        const count = Math.min(CHUNK_ROWS, rowsMax, end - firstFrameId);
        const slice = { firstFrameId, count, gapsAllowed: this.#gapsAllowed };
        bytes += this.#frames.append(appender, run, slice).bytes;
        frames += count;
        next.frameId += count;
        await this.#clock.nextTurn();
      }
    }
    appender.flushSync();
    return bytes;
  }

  /** Appends one chunk of updates. The rest follows in the next commit. */
  #appendUpdates(appender: duckdb.DuckDBAppender, backlog: Backlog, next: StoreCursors): number {
    const count = Math.min(backlog.headAnswerId - next.answerId, COMMIT_UPDATES_MAX);
    if (count <= 0) return 0;
    this.#updates ??= new FrameWriter(this.#journal, "answers", this.#onDamage);
    const firstFrameId = next.answerId + 1;
    const run = { firstFrameId, count, vectors: null };
    // An ephemeral journal drops updates together with their event, so some may be missing.
    const { bytes } = this.#updates.append(appender, run, { firstFrameId, count, gapsAllowed: true });
    appender.flushSync();
    next.answerId += count;
    return bytes;
  }

  /** Closes the appenders between commits. */
  close(): void {
    for (const appender of this.#all()) appender.closeSync();
    this.#appenders = null;
  }

  /** Closes the appenders after a failure. What they still hold is read from the journal again. */
  discard(): void {
    for (const appender of this.#all()) {
      // Without clear(), closing would write it.
      try {
        appender.clear();
        appender.closeSync();
      } catch {
        // The instance is being given up; its appenders go with it.
      }
    }
    this.#appenders = null;
  }

  #all(): duckdb.DuckDBAppender[] {
    return Object.values(this.#appenders ?? {});
  }
}
