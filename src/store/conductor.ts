/**
 * The store on its own thread. The conductor owns the open database and decides in which order the parts work on it.
 *
 * `#pump` is the only place that writes. A failure there loses nothing, because the journal keeps a row until a CHECKPOINT of this
 * process holds it. After any failure the DuckDB instance is closed and opened again, and the cursors say where to go on.
 */

import { Database as Journal } from "bun:sqlite";
import type { Clock } from "../clock.ts";
import type { GatewayError } from "../errors.ts";
import { Backlog, type Run } from "./backlog.ts";
import { Checkpoints } from "./checkpoints.ts";
import {
  allowMerges,
  type Database,
  type DatabaseOptions,
  failureOf,
  largestBodyBytes,
  logBytes,
  messageFor,
  openDatabase,
} from "./database.ts";
import { Generations } from "./generations.ts";
import { isOutOfMemory, Memory } from "./memory.ts";
import { WritePause } from "./pause.ts";
import type { FromWorker, StoreCalls, StoreCursors, StoreOpen } from "./protocol.ts";
import { Queries } from "./queries.ts";
import { Reads } from "./reads.ts";
import { Waiters } from "./waiters.ts";
import { Writer } from "./writer.ts";

/** A commit begins when so many rows are due, when the first of them has waited so long, or when a read waits for one. */
const COMMIT_ROWS = 2048;
const COMMIT_DELAY_MS = 200;
/** @bound a read waits for DuckDB to reach the journal's head | the response says in `x-store-lag` how many events are missing */
const READ_WAIT_MS_MAX = 2000;

export interface ConductorContext {
  readonly clock: Clock;
  /** Sends a message to the main thread. */
  readonly post: (message: FromWorker) => void;
  /** The memory that this process could still take. */
  readonly availableBytes: () => number;
}

export class Conductor {
  readonly #options: Omit<DatabaseOptions, "memoryLimitBytes">;
  readonly #clock: Clock;
  readonly #post: (message: FromWorker) => void;
  readonly #journal: Journal;

  readonly #backlog: Backlog;
  readonly #writer: Writer;
  readonly #generations: Generations;
  readonly #checkpoints: Checkpoints;
  readonly #reads: Reads;
  readonly #queries: Queries;
  readonly #waiters = new Waiters();
  readonly #pause: WritePause;
  readonly #memory: Memory;

  /** null while the database is closed, between a failure and reopening. */
  #database: Database | null = null;
  /** What the database has committed. */
  #cursors: StoreCursors = { seq: 0, frameId: 0, answerId: 0 };
  /** Settles when the running pump ends; null: no pump runs, so nothing is being written. */
  #pumping: Promise<void> | null = null;
  #pumpTimer: Disposable | null = null;
  #stopping = false;
  readonly #stop = Promise.withResolvers<void>();

  private constructor(open: StoreOpen, { clock, post, availableBytes }: ConductorContext) {
    const path = open.databasePath;
    const ephemeral = open.ephemeral !== null;
    const limitBytes = open.ephemeral?.limitBytes ?? null;
    const configuredBytes = open.memoryLimitBytes;
    this.#memory = new Memory({ configuredBytes, ephemeralBytes: limitBytes, availableBytes });
    const { bounds } = this.#memory;
    this.#options = {
      path,
      journalId: open.journalId,
      rowGroupRows: bounds.rowGroupRows,
      tempFolder: open.tempFolder,
      pruned: open.pruned,
      generations: ephemeral,
    };
    this.#clock = clock;
    this.#post = post;
    this.#journal = new Journal(open.journalPath, { readonly: true });
    this.#journal.run("PRAGMA busy_timeout = 5000");
    this.#backlog = new Backlog({ gapsAllowed: ephemeral });
    const { journalId } = open;
    this.#writer = new Writer({
      ...{ clock, journal: this.#journal, journalId, bounds, gapsAllowed: ephemeral },
      onDamage: (damage) => post({ event: "damage", damage }),
    });
    this.#generations = new Generations(limitBytes);
    this.#reads = new Reads({ clock, path });
    this.#checkpoints = new Checkpoints({
      ...{ clock, path, bounds, post, reads: this.#reads },
      onIdle: () => this.#schedule(),
    });
    const cursors = (): StoreCursors => this.#cursors;
    const { pageBytesMax } = bounds;
    this.#queries = new Queries({ path, cursors, reads: this.#reads, pageBytesMax });
    this.#pause = new WritePause(clock);
  }

  /** @throws GatewayError foreign_store, store_behind (then nothing was written) or store_failed. */
  static async open(open: StoreOpen, context: ConductorContext): Promise<Conductor> {
    const conductor = new Conductor(open, context);
    try {
      await conductor.#openDatabase(open.quarantine);
    } catch (thrown) {
      conductor.#journal.close();
      throw thrown;
    }
    return conductor;
  }

  get cursors(): StoreCursors {
    return this.#cursors;
  }

  /** Opens the database; if memory does not suffice to replay its log, with more of it. */
  async #openDatabase(quarantine: boolean): Promise<void> {
    for (;;) {
      try {
        await this.#tryToOpen(quarantine);
        return;
      } catch (thrown) {
        if (!isOutOfMemory(thrown) || !this.#spareMemory()) throw thrown;
      }
    }
  }

  async #tryToOpen(quarantine: boolean): Promise<void> {
    const options = { ...this.#options, memoryLimitBytes: this.#memory.limitBytes };
    const database = await openDatabase(options, {
      quarantine,
      nowUs: this.#clock.nowUs(),
      notice: (message) => this.#post({ event: "notice", message }),
    });
    try {
      await this.#generations.load(database.writes);
      await this.#writer.open(database.writes, this.#generations);
      await this.#checkpoints.opened(database.reads);
      await this.#lookForWideRows(database);
    } catch (thrown) {
      database.close();
      throw thrown;
    }
    this.#database = database;
    this.#cursors = database.cursors;
    this.#reads.open(database.reads);
    this.#queries.forgetOldest();
  }

  /** Call when a database has been opened. */
  async #lookForWideRows(database: Database): Promise<void> {
    const largest = await largestBodyBytes(database.reads, this.#generations.newest("events"));
    if (largest > this.#memory.bounds.wideBytes) this.#checkpoints.keepApart();
    await allowMerges(database.writes, !this.#checkpoints.apart);
    // A new row group begins, but with what was replayed from the log.
    if (this.#checkpoints.apart && logBytes(this.#options.path) > 0) this.#writer.rowGroupMayBeFull();
    else this.#writer.rowGroupBegins();
  }

  /** Makes room after DuckDB has run out of memory, and says what it does. @returns false if nothing can be done. */
  #spareMemory(): boolean {
    const message = this.#memory.failed();
    if (message === null) return false;
    this.#writer.bounds = this.#memory.bounds;
    this.#post({ event: "notice", message: `store ${this.#options.path}: ${message}` });
    this.#post({ event: "memory", state: this.#memory.state });
    return true;
  }

  #closeDatabase(): void {
    this.#writer.discard();
    this.#database?.close();
    this.#database = null;
  }

  // ---- News from the main thread ------------------------------------------------------------------

  /** The journal has committed events up to `seq`. */
  head(seq: number): void {
    if (seq <= this.#backlog.headSeq) return;
    this.#backlog.raiseSeq(seq);
    this.#schedule();
  }

  /** The journal has committed updates up to `answerId`. They are read from it like events, since their rows hold their vectors. */
  updates(answerId: number): void {
    if (answerId <= this.#backlog.headAnswerId) return;
    this.#backlog.raiseAnswerId(answerId);
    this.#schedule();
  }

  /** The main thread offers frames, in order of frame_id. */
  offer(run: Run): void {
    const outcome = this.#backlog.offer(run, this.#cursors);
    // The run was on its way while the cursors fell back.
    if (outcome === "missing") this.#askAgain();
    else if (outcome === "taken") this.#schedule();
  }

  /** Asks the main thread to offer frames again, from the cursors on. */
  #askAgain(): void {
    this.#backlog.beginAgain();
    this.#post({ event: "reopened", cursors: this.#cursors });
  }

  // ---- Writing -----------------------------------------------------------------------------------

  #schedule(): void {
    if (this.#stopping || this.#pumping !== null || this.#database === null) return;
    const pauseMs = this.#pause.remainingMs();
    if (pauseMs > 0) {
      this.#pumpLater(pauseMs);
      return;
    }
    const rows = this.#backlog.rows(this.#cursors);
    const urgent = rows >= COMMIT_ROWS || (rows > 0 && this.#waiters.count > 0);
    if (urgent || this.#checkpoints.requested) this.#pumpNow();
    else if (rows > 0) this.#pumpLater(COMMIT_DELAY_MS);
  }

  #pumpLater(ms: number): void {
    this.#pumpTimer ??= this.#clock.after(ms, () => this.#pumpNow());
  }

  #pumpNow(): void {
    this.#clearPumpTimer();
    if (this.#pumping !== null || this.#database === null) return;
    this.#pumping = this.#pump(this.#database).finally(() => {
      this.#pumping = null;
      this.#schedule();
    });
  }

  #clearPumpTimer(): void {
    this.#pumpTimer?.[Symbol.dispose]();
    this.#pumpTimer = null;
  }

  /** The only place that writes. Runs until nothing is due; never rejects. */
  async #pump(database: Database): Promise<void> {
    try {
      while (this.#backlog.rows(this.#cursors) > 0 && !this.#stopping) {
        if (this.#writer.full) await this.#endRowGroup(database);
        await this.#commit(database);
        this.#waiters.wake(this.#cursors);
        if (this.#checkpoints.due) await this.#checkpoint(database);
        await this.#rotateIfFull(database);
        if (this.#backlog.rows(this.#cursors) < COMMIT_ROWS && this.#waiters.count === 0) break;
      }
      if (this.#checkpoints.requested) await this.#checkpoint(database);
    } catch (thrown) {
      await this.#recover(thrown);
    }
  }

  async #commit(database: Database): Promise<void> {
    this.#memory.begin();
    const committed = await this.#writer.commit(database.writes, this.#backlog, this.#cursors);
    const { cursors, eventBytes, frameBytes } = committed;
    this.#cursors = cursors;
    this.#memory.succeeded();
    this.#pause.succeeded();
    this.#generations.wrote("events", eventBytes);
    this.#generations.wrote("enrichments", frameBytes);
    this.#checkpoints.committed(eventBytes + frameBytes);
    this.#backlog.stored(cursors);
    this.#post({ event: "cursors", cursors });
    if (committed.largestEventBytes <= this.#memory.bounds.wideBytes || this.#checkpoints.apart) return;
    this.#checkpoints.keepApart();
    await allowMerges(database.writes, false);
  }

  /** @returns null, or why no checkpoint was run. */
  async #checkpoint(database: Database): Promise<GatewayError | null> {
    // These cursors are read before the checkpoint begins, and nothing is committed until it has ended.
    const noRoom = await this.#checkpoints.run(database, this.#cursors);
    if (noRoom !== null) return noRoom;
    this.#memory.succeeded();
    this.#writer.rowGroupBegins();
    return null;
  }

  /** Ends the row group, because large rows have filled it. @throws GatewayError disk_full if the disk has no room for the checkpoint. */
  async #endRowGroup(database: Database): Promise<void> {
    const noRoom = await this.#checkpoint(database);
    if (noRoom !== null) throw noRoom;
  }

  async #rotateIfFull(database: Database): Promise<void> {
    for (const kind of this.#generations.full()) {
      this.#writer.close();
      await this.#reads.exclusive(() => this.#generations.rotate(database.writes, kind));
      await this.#writer.open(database.writes, this.#generations);
      this.#writer.rowGroupBegins();
      this.#queries.forgetOldest();
    }
  }

  /**
   * Closes the instance and opens it again, as often as it takes. Reads work as soon as it is open. Writing pauses, twice as long
   * after each further failure.
   */
  async #recover(thrown: unknown): Promise<void> {
    for (let failure = failureOf(thrown, this.#options.path); ; ) {
      this.#post({ event: "failure", error: messageFor(failure, this.#options.path) });
      this.#waiters.fail(failure);
      this.#checkpoints.fail(failure);
      await this.#reads.interrupt();
      this.#closeDatabase();
      const outOfMemory = isOutOfMemory(failure);
      if (outOfMemory) this.#spareMemory();
      const pauseMs = this.#pause.begin();
      if (this.#stopping) return;
      try {
        await this.#openDatabase(false);
        if (outOfMemory && logBytes(this.#options.path) > 0) this.#writer.rowGroupMayBeFull();
        this.#askAgain();
        return;
      } catch (again) {
        failure = failureOf(again, this.#options.path);
        await this.#within(this.#stop.promise, pauseMs);
        if (this.#stopping) return;
      }
    }
  }

  // ---- Reading -----------------------------------------------------------------------------------

  /** Resolves when the cursors reach `target`. A waiting call makes the next commit begin at once. Rejects at a failure. */
  #reached(target: StoreCursors): Promise<void> {
    this.#backlog.raiseSeq(target.seq);
    const reached = this.#waiters.reached(target, this.#cursors);
    this.#schedule();
    return reached;
  }

  /** Waits up to 2 s for the database to hold what the journal held when a read came. @returns how many events it lacks. */
  async #caughtUp(headSeq: number): Promise<number> {
    const reached = this.#reached({ seq: headSeq, frameId: 0, answerId: 0 }).catch(() => {});
    await this.#within(reached, READ_WAIT_MS_MAX);
    return Math.max(0, headSeq - this.#cursors.seq);
  }

  async events({ query, headSeq }: StoreCalls["events"][0]): Promise<StoreCalls["events"][1]> {
    const lag = await this.#caughtUp(headSeq);
    return { ...(await this.#queries.events(query)), lag };
  }

  async event({ seq, headSeq }: StoreCalls["event"][0]): Promise<StoreCalls["event"][1]> {
    const lag = await this.#caughtUp(Math.min(seq, headSeq));
    return { json: await this.#queries.event(seq), lag };
  }

  frames(range: StoreCalls["frames"][0]): Promise<StoreCalls["frames"][1]> {
    return this.#queries.frames(range);
  }

  frameCount(range: StoreCalls["frameCount"][0]): Promise<number> {
    return this.#queries.frameCount(range);
  }

  decided(query: StoreCalls["decided"][0]): Promise<StoreCalls["decided"][1]> {
    return this.#queries.decided(query);
  }

  async stats(): Promise<StoreCalls["stats"][1]> {
    return { ...(await this.#queries.stats()), checkpoints: this.#checkpoints.completed };
  }

  // ---- Checkpoint, flush, close ------------------------------------------------------------------

  async checkpoint(): Promise<null> {
    const completed = this.#checkpoints.request();
    this.#schedule();
    await completed;
    return null;
  }

  /** Resolves when the database holds `headSeq`, every run offered and every update told before. */
  async flush({ headSeq }: StoreCalls["flush"][0]): Promise<null> {
    await this.#reached({
      seq: headSeq,
      frameId: this.#backlog.lastFrameId(this.#cursors),
      answerId: this.#backlog.headAnswerId,
    });
    return null;
  }

  /**
   * Stores what is known, checkpoints and closes. After `withinMs` it begins nothing more and ends the read that is running; the journal
   * keeps the rest.
   */
  async close({ withinMs }: StoreCalls["close"][0]): Promise<null> {
    const endMs = this.#clock.monotonicMs() + withinMs;
    const flushed = this.flush({ headSeq: this.#backlog.headSeq }).catch(() => {});
    // If the database cannot be opened, the journal keeps the rows.
    if (this.#database !== null) await this.#within(flushed, withinMs);
    const leftMs = endMs - this.#clock.monotonicMs();
    if (this.#checkpoints.dirty && this.#database !== null && leftMs > 0)
      await this.#within(
        this.checkpoint().catch(() => {}),
        leftMs,
      );
    this.#stopping = true;
    this.#stop.resolve();
    this.#clearPumpTimer();
    this.#checkpoints.stop();
    while (this.#pumping !== null) await this.#pumping;
    if (this.#clock.monotonicMs() < endMs)
      await this.#within(this.#reads.stop(), endMs - this.#clock.monotonicMs());
    await this.#reads.interrupt();
    this.#closeDatabase();
    this.#journal.close();
    return null;
  }

  /** Waits for `promise`, at most `timeoutMs`. Leaves no timer behind, since a timer would keep the thread alive. */
  async #within(promise: Promise<unknown>, timeoutMs: number): Promise<void> {
    const { promise: late, resolve } = Promise.withResolvers<void>();
    using _timer = this.#clock.after(timeoutMs, resolve);
    await Promise.race([promise, late]);
  }
}
