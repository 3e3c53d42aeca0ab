/**
 * Commits rows of the journal into DuckDB. Rows and cursors share one transaction, so that each row is stored exactly once. Part of
 * the store's Worker.
 */

import type { Database as Journal } from "bun:sqlite";
import type { Clock } from "../clock.ts";
import { FRAME_BYTES } from "../frame.ts";
import type { Backlog } from "./backlog.ts";
import { appenderFor, type duckdb } from "./database.ts";
import type { Generations } from "./generations.ts";
import type { StoreCursors } from "./protocol.ts";
import { CHUNK_ROWS, CursorWriter, EventWriter, FrameWriter } from "./rows.ts";

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
/** @bound updates in one transaction of DuckDB | the rest goes into the next */
const COMMIT_UPDATES_MAX = CHUNK_ROWS;
/** @bound events, or frames, in one transaction of DuckDB | the rest goes into the next */
const COMMIT_BYTES_MAX = 48 * 1024 * 1024;
/** In an ephemeral database, a commit is also limited to this share of the bound. */
const EPHEMERAL_SHARE = 1 / 16;

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
  /** The bound of an ephemeral database; null: durable. */
  readonly limitBytes: number | null;
}

export interface Committed {
  /** What the database holds now. */
  readonly cursors: StoreCursors;
  readonly eventBytes: number;
  /** Of frames and updates. */
  readonly frameBytes: number;
}

export class Writer {
  readonly #clock: Clock;
  readonly #journal: Journal;
  readonly #journalId: number;
  /** Whether rows may be missing, because an ephemeral journal drops what nobody has read. */
  readonly #gapsAllowed: boolean;
  readonly #bytesMax: number;
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
    this.#gapsAllowed = o.limitBytes !== null;
    this.#bytesMax = Math.min(COMMIT_BYTES_MAX, (o.limitBytes ?? Number.POSITIVE_INFINITY) * EPHEMERAL_SHARE);
    this.#events = new EventWriter(o.journal, this.#bytesMax);
    this.#frames = new FrameWriter(o.journal, "frames");
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
    const eventBytes = await this.#appendEvents(appenders.events, backlog, next);
    const frameBytes =
      (await this.#appendFrames(appenders.enrichments, backlog, next)) +
      this.#appendUpdates(appenders.answers, backlog, next);
    this.#cursors.append(appenders.cursors, this.#journalId, next);
    appenders.cursors.flushSync();
    await connection.run("COMMIT");
    return { cursors: next, eventBytes, frameBytes };
  }

  async #appendEvents(
    appender: duckdb.DuckDBAppender,
    backlog: Backlog,
    next: StoreCursors,
  ): Promise<number> {
    let bytes = 0;
    for (let rows = 0; next.seq < backlog.headSeq && rows < COMMIT_EVENTS_MAX && bytes < this.#bytesMax; ) {
      const appended = this.#events.append(appender, next.seq, backlog.headSeq);
      next.seq = appended.seq;
      rows += appended.rows;
      bytes += appended.bytes;
      // Filling and appending keep the thread busy, so reads get a turn here.
      await this.#clock.nextTurn();
    }
    appender.flushSync();
    return bytes;
  }

  async #appendFrames(
    appender: duckdb.DuckDBAppender,
    backlog: Backlog,
    next: StoreCursors,
  ): Promise<number> {
    let bytes = 0;
    let frames = 0;
    for (const run of [...backlog.runs]) {
      if (frames >= COMMIT_FRAMES_MAX || bytes >= this.#bytesMax) break;
      const end = run.firstFrameId + run.count;
      next.frameId = Math.max(next.frameId, run.firstFrameId - 1);
      while (next.frameId + 1 < end && frames < COMMIT_FRAMES_MAX && bytes < this.#bytesMax) {
        const firstFrameId = next.frameId + 1;
        const rowsMax = Math.max(1, Math.floor(this.#bytesMax / FRAME_BYTES));
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
    this.#updates ??= new FrameWriter(this.#journal, "answers");
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
