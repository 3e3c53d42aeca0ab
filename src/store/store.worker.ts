/**
 * The store's thread: owns every DuckDB connection and a read-only connection to the journal.
 *
 * One loop writes: events above the cursor and offered frames go into DuckDB together with the
 * cursors, in one transaction, which is what makes them exactly once. Nothing that fails here loses
 * anything: the journal keeps a row until a CHECKPOINT of this process holds it. After any failure
 * the instance is closed, opened again, and the cursors say where to go on.
 */

import { Database as Journal } from "bun:sqlite";
import { statfsSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { GatewayError } from "../errors.ts";
import { FRAME_BYTES } from "../frame.ts";
import { lowerThreadPriority } from "../native/libc.ts";
import {
  appenderFor,
  checkpointDatabase,
  type Database,
  type DatabaseOptions,
  type duckdb,
  failureOf,
  type Generations,
  generationsOf,
  logBytes,
  messageFor,
  openDatabase,
  rotateGeneration,
  rowsOf,
  tableName,
} from "./database.ts";
import { decidedRows } from "./decided.ts";
import { eventJson, eventsPage } from "./events.ts";
import type {
  DecidedReply,
  FromWorker,
  StoreCall,
  StoreCalls,
  StoreCursors,
  StoreOpen,
  ToWorker,
} from "./protocol.ts";
import {
  CHUNK_ROWS,
  CursorWriter,
  EventWriter,
  FRAME_SELECT,
  FrameBuffer,
  FrameWriter,
  type Run,
  skipUntil,
} from "./rows.ts";

/** A commit begins when so many rows wait, or the first has waited so long, or a read waits. */
const COMMIT_ROWS = 2048;
const COMMIT_DELAY_MS = 60;
/**
 * Rows in one transaction. Beyond a row group (8,192) DuckDB writes them to the file at once and the
 * log only says where, so that a backlog costs a fraction of its log.
 */
const COMMIT_EVENTS_MAX = 16_384;
/** Frames are wide: with a whole row group in one transaction, compressing it would make the commit twice as long. */
const COMMIT_FRAMES_MAX = 4096;
const ANSWERS_A_COMMIT = CHUNK_ROWS;
const COMMIT_BYTES_MAX = 48 * 1024 * 1024;

const CHECKPOINT_LOG_BYTES = 64 * 1024 * 1024;
const CHECKPOINT_ROW_BYTES = 256 * 1024 * 1024;
const CHECKPOINT_IDLE_MS = 30_000;
/** The oldest uncheckpointed commit is never older: the journal is pruned below checkpoints only. */
const CHECKPOINT_AGE_MS_MAX = 300_000;
/** Free space below which no checkpoint is tried, beside twice the log. */
const CHECKPOINT_RESERVE_BYTES = 16 * 1024 * 1024;
const CURSOR_ROWS_MAX = 100_000;

const READ_WAIT_MS_MAX = 2000;
const READ_MS_MAX = 10_000;
const READS_MAX = 256;
const FRAMES_SLICE = CHUNK_ROWS;
const CLOSE_FLUSH_MS_MAX = 10_000;
/** Between attempts to write, or to open, after a failure: doubling from, up to. */
const RETRY_MS_MIN = 100;
const RETRY_MS_MAX = 10_000;
const NICE = 10;

declare const self: Worker;

function post(message: FromWorker, transfer: ArrayBuffer[] = []): void {
  self.postMessage(message, transfer);
}

/** What an appender writes to, and how. */
interface Appenders {
  readonly events: duckdb.DuckDBAppender;
  readonly enrichments: duckdb.DuckDBAppender;
  readonly answers: duckdb.DuckDBAppender;
  readonly cursors: duckdb.DuckDBAppender;
}

interface Waiter {
  readonly headSeq: number;
  /** A flush also waits for every run offered, and every answer told of, before it. */
  readonly frameId: number;
  readonly answerId: number;
  readonly resolve: () => void;
  readonly reject: (error: GatewayError) => void;
}

class StoreThread {
  readonly #open: StoreOpen;
  readonly #options: DatabaseOptions;
  readonly #journal: Journal;
  readonly #eventWriter: EventWriter;
  readonly #frameWriter: FrameWriter;
  /** Made with the first answer. */
  #answerWriter: FrameWriter | null = null;
  readonly #cursorWriter = new CursorWriter();

  /** null while it is being opened again. */
  #database: Database | null = null;
  #appenders: Appenders | null = null;
  #cursors: StoreCursors = { seq: 0, frameId: 0, answerId: 0 };
  #headSeq = 0;
  #headAnswerId = 0;
  #runs: Run[] = [];
  #reofferAsked = false;
  #minSeq: number | null = null;
  #oldestFrameId: number | null = null;

  #pumping = false;
  #stopping = false;
  readonly #stop = Promise.withResolvers<void>();
  /** After a failed write: until when nothing is written, and how long the next such pause is. */
  #holdUntilMs = 0;
  #holdMs = RETRY_MS_MIN;
  #pumpTimer: ReturnType<typeof setTimeout> | null = null;
  #waiters: Waiter[] = [];
  #reads: Promise<unknown> = Promise.resolve();
  #readsWaiting = 0;
  #readable = true;

  #checkpoints = 0;
  #checkpointAsked: { resolve: () => void; reject: (error: GatewayError) => void }[] = [];
  #dirtySinceMs: number | null = null;
  #dirtyBytes = 0;
  #cursorRows = 0;
  #idleTimer: ReturnType<typeof setTimeout> | null = null;

  #generations: Generations = { events: [], enrichments: [] };
  readonly #generationBytes = { events: 0, enrichments: 0 };
  /** In an ephemeral database one commit is a small part of the bound. */
  readonly #commitBytesMax: number;

  constructor(open: StoreOpen) {
    this.#open = open;
    this.#options = {
      path: open.databasePath,
      journalId: open.journalId,
      memoryLimit: open.memoryLimit,
      tempFolder: open.tempFolder,
      pruned: open.pruned,
      generations: open.ephemeral !== null,
    };
    this.#commitBytesMax = Math.min(
      COMMIT_BYTES_MAX,
      (open.ephemeral?.limitBytes ?? Number.POSITIVE_INFINITY) / 16,
    );
    this.#journal = new Journal(open.journalPath, { readonly: true });
    this.#journal.run("PRAGMA busy_timeout = 5000");
    this.#eventWriter = new EventWriter(this.#journal, this.#commitBytesMax);
    this.#frameWriter = new FrameWriter(this.#journal, "frames");
  }

  async start(): Promise<StoreCursors> {
    try {
      await this.#openDatabase(this.#open.quarantine);
    } catch (thrown) {
      this.#journal.close();
      throw thrown;
    }
    return this.#cursors;
  }

  async #openDatabase(quarantine: boolean): Promise<void> {
    const database = await openDatabase(this.#options, {
      quarantine,
      nowUs: Date.now() * 1000,
      notice: (message) => post({ event: "notice", message }),
    });
    try {
      if (this.#open.ephemeral !== null) this.#generations = await generationsOf(database.writes);
      this.#appenders = await this.#openAppenders(database);
      const [rows] = await rowsOf(database.reads, "SELECT count(*) FROM cursors");
      this.#cursorRows = Number(rows?.[0] ?? 0);
    } catch (thrown) {
      database.close();
      throw thrown;
    }
    this.#database = database;
    this.#cursors = database.cursors;
    this.#minSeq = null;
    this.#oldestFrameId = null;
    // Replayed, not checkpointed: one is due even if nothing new comes.
    if (logBytes(this.#options.path) > 0) this.#touch(0);
  }

  async #openAppenders(database: Database): Promise<Appenders> {
    const { events, enrichments } = this.#generations;
    return {
      events: await appenderFor(database.writes, tableName("events", events.at(-1) ?? null)),
      enrichments: await appenderFor(database.writes, tableName("enrichments", enrichments.at(-1) ?? null)),
      answers: await appenderFor(database.writes, tableName("answers", enrichments.at(-1) ?? null)),
      cursors: await appenderFor(database.writes, "cursors"),
    };
  }

  #closeDatabase(): void {
    for (const appender of Object.values(this.#appenders ?? {}) as duckdb.DuckDBAppender[]) {
      // What it still holds comes again from the journal; without this, closing would flush it.
      try {
        appender.clear();
        appender.closeSync();
      } catch {
        // The instance is being given up; its appenders go with it.
      }
    }
    this.#appenders = null;
    this.#database?.close();
    this.#database = null;
  }

  // ---------------------------------------------------------------------------------------- input

  head(seq: number): void {
    if (seq <= this.#headSeq) return;
    this.#headSeq = seq;
    this.#schedule();
  }

  /** Answers are read from the journal like events: their rows have their vectors. */
  answers(answerId: number): void {
    if (answerId <= this.#headAnswerId) return;
    this.#headAnswerId = answerId;
    this.#schedule();
  }

  /** The frame_id that the next offered run must reach down to. */
  #nextOffered(): number {
    const last = this.#runs.at(-1);
    return last === undefined ? this.#cursors.frameId + 1 : last.firstFrameId + last.count;
  }

  offer(run: Run): void {
    const expected = this.#nextOffered();
    if (run.firstFrameId + run.count <= expected) return;
    // In an ephemeral journal, main passes over frames that were dropped unread.
    if (run.firstFrameId > expected && this.#open.ephemeral === null) {
      // On its way while the cursors fell back: main is told, once, where to begin again.
      if (!this.#reofferAsked) this.#askAgain();
      return;
    }
    this.#reofferAsked = false;
    this.#runs.push(skipUntil(run, expected));
    this.#schedule();
  }

  #askAgain(): void {
    this.#runs = [];
    this.#reofferAsked = true;
    post({ event: "reopened", cursors: this.#cursors });
  }

  // --------------------------------------------------------------------------------------- writing

  #pendingRows(): number {
    const events = Math.max(0, this.#headSeq - this.#cursors.seq);
    const answers = Math.max(0, this.#headAnswerId - this.#cursors.answerId);
    return events + answers + (this.#nextOffered() - 1 - this.#cursors.frameId);
  }

  #schedule(): void {
    if (this.#pumping || this.#database === null) return;
    const holdMs = this.#holdUntilMs - performance.now();
    if (holdMs > 0) {
      this.#pumpTimer ??= setTimeout(() => void this.#pump(), holdMs);
      return;
    }
    const pending = this.#pendingRows();
    const urgent = pending >= COMMIT_ROWS || (pending > 0 && this.#waiters.length > 0);
    if (urgent || this.#checkpointAsked.length > 0) {
      void this.#pump();
      return;
    }
    if (pending > 0) this.#pumpTimer ??= setTimeout(() => void this.#pump(), COMMIT_DELAY_MS);
  }

  #clearPumpTimer(): void {
    if (this.#pumpTimer !== null) clearTimeout(this.#pumpTimer);
    this.#pumpTimer = null;
  }

  /** The only place where something is written. Runs until nothing is due. */
  async #pump(): Promise<void> {
    this.#clearPumpTimer();
    if (this.#pumping || this.#database === null) return;
    this.#pumping = true;
    try {
      while (this.#pendingRows() > 0) {
        await this.#commit(this.#database);
        this.#wakeWaiters();
        if (this.#checkpointDue()) await this.#checkpoint(this.#database);
        await this.#rotateIfFull(this.#database);
        if (this.#pendingRows() < COMMIT_ROWS && this.#waiters.length === 0) break;
      }
      if (this.#checkpointAsked.length > 0) await this.#checkpoint(this.#database);
      this.#pumping = false;
    } catch (thrown) {
      await this.#recover(thrown);
      this.#pumping = false;
    }
    if (!this.#stopping) this.#schedule();
  }

  async #commit(database: Database): Promise<void> {
    const appenders = this.#appenders;
    if (appenders === null) throw new Error("store: no appenders");
    const next = { ...this.#cursors };
    let bytes = 0;
    await database.writes.run("BEGIN");
    for (
      let rows = 0;
      next.seq < this.#headSeq && rows < COMMIT_EVENTS_MAX && bytes < this.#commitBytesMax;
    ) {
      const appended = this.#eventWriter.append(appenders.events, next.seq, this.#headSeq);
      next.seq = appended.seq;
      rows += appended.rows;
      bytes += appended.bytes;
      // A turn for reads: filling and appending hold this thread.
      await new Promise((resolve) => setImmediate(resolve));
    }
    appenders.events.flushSync();
    const frameBytes =
      (await this.#appendFrames(appenders.enrichments, next)) + this.#appendAnswers(appenders.answers, next);
    this.#cursorWriter.append(appenders.cursors, this.#open.journalId, next);
    appenders.cursors.flushSync();
    await database.writes.run("COMMIT");
    this.#cursors = next;
    this.#holdMs = RETRY_MS_MIN;
    this.#cursorRows++;
    this.#generationBytes.events += bytes;
    this.#generationBytes.enrichments += frameBytes;
    this.#touch(bytes + frameBytes);
    while (
      this.#runs[0] !== undefined &&
      this.#runs[0].firstFrameId + this.#runs[0].count - 1 <= next.frameId
    ) {
      this.#runs.shift();
    }
    post({ event: "cursors", cursors: next });
  }

  async #appendFrames(appender: duckdb.DuckDBAppender, next: StoreCursors): Promise<number> {
    let bytes = 0;
    let frames = 0;
    for (const run of [...this.#runs]) {
      if (frames >= COMMIT_FRAMES_MAX || bytes >= this.#commitBytesMax) break;
      const end = run.firstFrameId + run.count;
      next.frameId = Math.max(next.frameId, run.firstFrameId - 1);
      while (next.frameId + 1 < end && frames < COMMIT_FRAMES_MAX && bytes < this.#commitBytesMax) {
        const firstFrameId = next.frameId + 1;
        const rowsMax = Math.max(1, Math.floor(this.#commitBytesMax / FRAME_BYTES));
        const count = Math.min(CHUNK_ROWS, rowsMax, end - firstFrameId);
        const gapsAllowed = this.#open.ephemeral !== null;
        bytes += this.#frameWriter.append(appender, run, { firstFrameId, count, gapsAllowed }).bytes;
        frames += count;
        next.frameId += count;
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
    appender.flushSync();
    return bytes;
  }

  /** A chunk of answers; what is left comes with the next commit. */
  #appendAnswers(appender: duckdb.DuckDBAppender, next: StoreCursors): number {
    const count = Math.min(this.#headAnswerId - next.answerId, ANSWERS_A_COMMIT);
    if (count <= 0) return 0;
    this.#answerWriter ??= new FrameWriter(this.#journal, "answers");
    const firstFrameId = next.answerId + 1;
    const run = { firstFrameId, count, vectors: null };
    // Those that are missing left the journal with an event that a temporary one dropped.
    const { bytes } = this.#answerWriter.append(appender, run, { firstFrameId, count, gapsAllowed: true });
    appender.flushSync();
    next.answerId += count;
    return bytes;
  }

  /** Notes that there is something a checkpoint would keep. */
  #touch(bytes: number): void {
    this.#dirtySinceMs ??= performance.now();
    this.#dirtyBytes += bytes;
    if (this.#idleTimer !== null) clearTimeout(this.#idleTimer);
    this.#idleTimer = setTimeout(() => {
      this.#idleTimer = null;
      this.#checkpointAsked.push({ resolve: () => {}, reject: () => {} });
      this.#schedule();
    }, CHECKPOINT_IDLE_MS);
  }

  // ------------------------------------------------------------------------------------ checkpoints

  #checkpointDue(): boolean {
    if (this.#checkpointAsked.length > 0) return true;
    if (this.#dirtySinceMs === null) return false;
    if (performance.now() - this.#dirtySinceMs > CHECKPOINT_AGE_MS_MAX) return true;
    const limit = this.#open.ephemeral?.limitBytes ?? Number.POSITIVE_INFINITY;
    return (
      this.#dirtyBytes >= Math.min(CHECKPOINT_ROW_BYTES, limit / 8) ||
      logBytes(this.#options.path) >= Math.min(CHECKPOINT_LOG_BYTES, limit / 8)
    );
  }

  /** A checkpoint that meets a full disk has lost committed rows (DuckDB's tracker): it is not begun. */
  #roomForCheckpoint(): GatewayError | null {
    const { bavail, bsize } = statfsSync(dirname(this.#options.path));
    const needed = 2 * logBytes(this.#options.path) + CHECKPOINT_RESERVE_BYTES;
    if (bavail * bsize >= needed) return null;
    return new GatewayError({
      code: "disk_full",
      operation: "store: checkpoint",
      object: this.#options.path,
      detail: `${bavail * bsize} bytes are free, ${needed} are needed`,
      hint: "free some disk space; until then the journal keeps everything",
    });
  }

  async #checkpoint(database: Database): Promise<void> {
    const asked = this.#checkpointAsked.splice(0);
    const noRoom = this.#roomForCheckpoint();
    if (noRoom !== null) {
      for (const { reject } of asked) reject(noRoom);
      // Looked at again when more has come, or after the idle time.
      this.#dirtyBytes = 0;
      this.#dirtySinceMs = performance.now();
      if (asked.length === 0) post({ event: "failure", error: messageFor(noRoom, this.#options.path) });
      this.#touch(0);
      return;
    }
    const before = this.#cursors;
    try {
      await this.#trimCursors(database, before);
      if (!(await checkpointDatabase(database.writes))) {
        const completed = await this.#withoutReads(() => checkpointDatabase(database.writes));
        if (!completed) throw new Error("CHECKPOINT was refused although nothing else runs");
      }
      const left = logBytes(this.#options.path);
      if (left > 0) throw new Error(`CHECKPOINT left ${left} bytes of log`);
    } catch (thrown) {
      for (const { reject } of asked) reject(failureOf(thrown, this.#options.path));
      throw thrown;
    }
    this.#checkpoints++;
    this.#dirtySinceMs = null;
    this.#dirtyBytes = 0;
    if (this.#idleTimer !== null) clearTimeout(this.#idleTimer);
    this.#idleTimer = null;
    post({ event: "checkpoint", cursors: before });
    for (const { resolve } of asked) resolve();
  }

  /** Each commit adds a row; all but the newest are of no use. Just before a CHECKPOINT, so that no log keeps it. */
  async #trimCursors(database: Database, newest: StoreCursors): Promise<void> {
    if (this.#cursorRows <= CURSOR_ROWS_MAX) return;
    await database.writes.run(
      `DELETE FROM cursors WHERE seq < ${newest.seq} OR frame_id < ${newest.frameId} OR answer_id < ${newest.answerId}`,
    );
    this.#cursorRows = 1;
  }

  // ------------------------------------------------------------------------------------ generations

  /** Keeps an ephemeral database within its bound: of events and of frames two generations, each an eighth of it. */
  async #rotateIfFull(database: Database): Promise<void> {
    const limit = this.#open.ephemeral?.limitBytes;
    if (limit === undefined) return;
    for (const kind of ["events", "enrichments"] as const) {
      if (this.#generationBytes[kind] < limit / 8) continue;
      this.#closeAppenders();
      const generations = this.#generations[kind];
      this.#generations[kind] = await this.#withoutReads(() =>
        rotateGeneration(database.writes, kind, generations),
      );
      this.#appenders = await this.#openAppenders(database);
      this.#generationBytes[kind] = 0;
      this.#minSeq = null;
      this.#oldestFrameId = null;
    }
  }

  #closeAppenders(): void {
    for (const appender of Object.values(this.#appenders ?? {}) as duckdb.DuckDBAppender[])
      appender.closeSync();
    this.#appenders = null;
  }

  // --------------------------------------------------------------------------------------- failures

  /**
   * Closes the instance and opens it again, as often as it takes; the cursors say where to go on. Reads
   * are answered as soon as it is open, writing pauses for a while that doubles with each failure.
   */
  async #recover(thrown: unknown): Promise<void> {
    for (let failure = failureOf(thrown, this.#options.path); ; ) {
      post({ event: "failure", error: messageFor(failure, this.#options.path) });
      for (const { reject } of this.#waiters.splice(0)) reject(failure);
      for (const { reject } of this.#checkpointAsked.splice(0)) reject(failure);
      await this.#endReads();
      this.#closeDatabase();
      const holdMs = this.#holdMs;
      this.#holdMs = Math.min(2 * holdMs, RETRY_MS_MAX);
      this.#holdUntilMs = performance.now() + holdMs;
      if (this.#stopping) return;
      try {
        await this.#openDatabase(false);
        this.#askAgain();
        return;
      } catch (again) {
        failure = failureOf(again, this.#options.path);
        await within(this.#stop.promise, holdMs);
        if (this.#stopping) return;
      }
    }
  }

  /** Ends the running read and refuses those that wait, before their connection goes. */
  async #endReads(): Promise<void> {
    this.#readable = false;
    this.#database?.reads.interrupt();
    await this.#reads;
    this.#readable = true;
  }

  // ----------------------------------------------------------------------------------------- reads

  #wakeWaiters(): void {
    this.#waiters = this.#waiters.filter((waiter) => {
      const { seq, frameId, answerId } = this.#cursors;
      if (seq < waiter.headSeq || frameId < waiter.frameId || answerId < waiter.answerId) return true;
      waiter.resolve();
      return false;
    });
  }

  /** Until the cursors hold what is asked for; every wait hastens the commit. Rejects at a failure. */
  #reached(headSeq: number, frameId: number, answerId: number): Promise<void> {
    this.#headSeq = Math.max(this.#headSeq, headSeq);
    const { seq, frameId: storedFrameId, answerId: storedAnswerId } = this.#cursors;
    if (seq >= headSeq && storedFrameId >= frameId && storedAnswerId >= answerId) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.#waiters.push({ headSeq, frameId, answerId, resolve, reject });
      this.#schedule();
    });
  }

  /** A read sees what the journal had when it came, or waits 2 s and says by how much it lags. */
  async #caughtUp(headSeq: number): Promise<number> {
    const waited = this.#reached(headSeq, 0, 0).catch(() => {});
    await within(waited, READ_WAIT_MS_MAX);
    return Math.max(0, headSeq - this.#cursors.seq);
  }

  /** One read at a time on the reading connection, each with a deadline. */
  #read<T>(work: (connection: duckdb.DuckDBConnection) => Promise<T>): Promise<T> {
    if (this.#readsWaiting >= READS_MAX) {
      throw this.#refusal("overloaded", `${READS_MAX} reads are waiting`);
    }
    this.#readsWaiting++;
    const turn = this.#reads.then(async () => {
      this.#readsWaiting--;
      const reads = this.#readable ? this.#database?.reads : undefined;
      if (reads === undefined) throw this.#refusal("store_unavailable", "the database is being opened again");
      let late = false;
      const timer = setTimeout(() => {
        late = true;
        reads.interrupt();
      }, READ_MS_MAX);
      try {
        return await work(reads);
      } catch (thrown) {
        if (!late) throw failureOf(thrown, this.#options.path);
        throw this.#refusal("store_unavailable", `the query took more than ${READ_MS_MAX / 1000} s`);
      } finally {
        clearTimeout(timer);
      }
    });
    this.#reads = turn.catch(() => {});
    return turn;
  }

  /** Work of the writing connection that no query may run beside: reads wait behind it. */
  #withoutReads<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#reads.then(work);
    this.#reads = turn.catch(() => {});
    return turn;
  }

  #refusal(code: "overloaded" | "store_unavailable", detail: string): GatewayError {
    return new GatewayError({ code, operation: "store: read", object: this.#options.path, detail });
  }

  async events({ query, headSeq }: StoreCalls["events"][0]): Promise<StoreCalls["events"][1]> {
    const lag = await this.#caughtUp(headSeq);
    const json = await this.#read(async (connection) =>
      eventsPage(connection, query, { min: await this.#oldestSeq(connection), max: this.#cursors.seq }),
    );
    return { json, lag };
  }

  async event({ seq, headSeq }: StoreCalls["event"][0]): Promise<StoreCalls["event"][1]> {
    const lag = await this.#caughtUp(Math.min(seq, headSeq));
    return { json: await this.#read((connection) => eventJson(connection, seq)), lag };
  }

  decided(query: StoreCalls["decided"][0]): Promise<DecidedReply> {
    return this.#read((connection) => decidedRows(connection, query));
  }

  async #oldestSeq(connection: duckdb.DuckDBConnection): Promise<number> {
    if (this.#minSeq !== null) return this.#minSeq;
    const [row] = await rowsOf(connection, "SELECT min(seq) FROM events");
    if (row?.[0] == null) return 1;
    this.#minSeq = Number(row[0]);
    return this.#minSeq;
  }

  async #oldestFrame(connection: duckdb.DuckDBConnection): Promise<number> {
    if (this.#oldestFrameId !== null) return this.#oldestFrameId;
    const [row] = await rowsOf(connection, "SELECT min(frame_id) FROM enrichments");
    if (row?.[0] == null) return 0;
    this.#oldestFrameId = Number(row[0]);
    return this.#oldestFrameId;
  }

  frames({ afterFrameId, limit, capacity }: StoreCalls["frames"][0]): Promise<StoreCalls["frames"][1]> {
    return this.#read(async (connection) => {
      const oldest = await this.#oldestFrame(connection);
      let first = Math.max(afterFrameId + 1, oldest);
      if (this.#open.ephemeral !== null) first = await nextFrameId(connection, first);
      const count = oldest === 0 ? 0 : Math.max(0, Math.min(limit, this.#cursors.frameId - first + 1));
      const frames = new FrameBuffer(first, count, capacity);
      for (let done = 0; done < count && frames.contiguous() === done; ) {
        const slice = Math.min(FRAMES_SLICE, count - done);
        const result = await connection.run(
          `SELECT ${FRAME_SELECT} FROM enrichments
           WHERE frame_id BETWEEN ${first + done} AND ${first + done + slice - 1}`,
        );
        for (const chunk of await result.fetchAllChunks()) frames.place(chunk);
        done += slice;
      }
      const whole = frames.contiguous();
      const bytes = whole === count ? frames.buffer : frames.buffer.slice(0, whole * FRAME_BYTES);
      return { bytes, count: whole, oldest };
    });
  }

  // -------------------------------------------------------------------------------------- the rest

  checkpoint(): Promise<null> {
    return new Promise((resolve, reject) => {
      this.#checkpointAsked.push({ resolve: () => resolve(null), reject });
      this.#schedule();
    });
  }

  stats(): Promise<StoreCalls["stats"][1]> {
    return this.#read(async (connection) => {
      const [row] = await rowsOf(
        connection,
        "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM enrichments)",
      );
      const file = statSync(this.#options.path, { throwIfNoEntry: false })?.size ?? 0;
      return {
        fileBytes: file + logBytes(this.#options.path),
        events: Number(row?.[0] ?? 0),
        enrichments: Number(row?.[1] ?? 0),
        checkpoints: this.#checkpoints,
      };
    });
  }

  async flush({ headSeq }: StoreCalls["flush"][0]): Promise<null> {
    await this.#reached(headSeq, this.#nextOffered() - 1, this.#headAnswerId);
    return null;
  }

  async close(): Promise<null> {
    const flushed = this.flush({ headSeq: this.#headSeq }).catch(() => {});
    // A database that cannot be opened has nothing to flush to; the journal keeps it.
    if (this.#database !== null) await within(flushed, CLOSE_FLUSH_MS_MAX);
    if (this.#dirtySinceMs !== null && this.#database !== null) await this.checkpoint().catch(() => {});
    this.#stopping = true;
    this.#stop.resolve();
    this.#clearPumpTimer();
    if (this.#idleTimer !== null) clearTimeout(this.#idleTimer);
    while (this.#pumping) await Bun.sleep(5);
    await this.#reads;
    this.#closeDatabase();
    this.#journal.close();
    return null;
  }
}

/** Waits for `promise`, at most so long; leaves no timer behind, which would keep the thread alive. */
async function within(promise: Promise<unknown>, timeoutMs: number): Promise<void> {
  const { promise: late, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, timeoutMs);
  await Promise.race([promise, late]);
  clearTimeout(timer);
}

async function nextFrameId(connection: duckdb.DuckDBConnection, from: number): Promise<number> {
  const [row] = await rowsOf(connection, `SELECT min(frame_id) FROM enrichments WHERE frame_id >= ${from}`);
  return row?.[0] == null ? from : Number(row[0]);
}

let thread: StoreThread | null = null;

async function answer(message: StoreCall): Promise<unknown> {
  if (message.call === "open") {
    const opening = new StoreThread(message.args);
    const cursors = await opening.start();
    thread = opening;
    return cursors;
  }
  if (thread === null) throw new Error("the store is not open");
  switch (message.call) {
    case "events":
      return thread.events(message.args);
    case "event":
      return thread.event(message.args);
    case "frames":
      return thread.frames(message.args);
    case "decided":
      return thread.decided(message.args);
    case "checkpoint":
      return thread.checkpoint();
    case "stats":
      return thread.stats();
    case "flush":
      return thread.flush(message.args);
    case "close":
      return thread.close();
  }
}

async function receive(message: ToWorker): Promise<void> {
  if (message.call === "head") {
    thread?.head(message.seq);
    return;
  }
  if (message.call === "answers") {
    thread?.answers(message.answerId);
    return;
  }
  if (message.call === "offer") {
    thread?.offer(message);
    return;
  }
  try {
    const value = await answer(message);
    const transfer = message.call === "frames" ? [(value as StoreCalls["frames"][1]).bytes] : [];
    post({ event: "reply", id: message.id, value }, transfer);
    if (message.call === "close") leave();
  } catch (thrown) {
    post({ event: "refusal", id: message.id, error: messageFor(thrown, "database") });
    if (message.call === "open") leave();
  }
}

/** A worker that listens no more and has nothing left to do ends by itself (Bun has no self.close). */
function leave(): void {
  self.onmessage = null;
}

// Only as a worker: a bundler's or a test's import of this module starts nothing.
if (!Bun.isMainThread) {
  // Elsewhere the call would lower the whole process, ingest included.
  if (process.platform === "linux") lowerThreadPriority(NICE);
  self.onmessage = ({ data }: MessageEvent<ToWorker>) => void receive(data);
}
