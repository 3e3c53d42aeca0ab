/**
 * Decides when a CHECKPOINT is due, and runs it to its end. Part of the store's Worker.
 *
 * The journal gives up only what a completed CHECKPOINT of this process holds. So the caller passes the cursors that were committed
 * before the checkpoint begins, and exactly these are reported when it has completed.
 */

import { statfsSync } from "node:fs";
import { dirname } from "node:path";
import type { Clock } from "../clock.ts";
import { GatewayError } from "../errors.ts";
import type { StoreBounds } from "./bounds.ts";
import {
  checkpointDatabase,
  type Database,
  type duckdb,
  failureOf,
  logBytes,
  messageFor,
  rowsOf,
} from "./database.ts";
import type { FromWorker, StoreCursors } from "./protocol.ts";
import type { Reads } from "./reads.ts";

/** @bound rows in DuckDB that no checkpoint holds, if no commit follows | a checkpoint, if there is room for it */
const CHECKPOINT_IDLE_MS = 30_000;
/**
 * A commit waits no longer for a checkpoint, because until then the journal cannot give up its rows.
 * @bound rows in DuckDB that no checkpoint holds | a checkpoint, if there is room for it
 */
const CHECKPOINT_AGE_MS_MAX = 300_000;
/**
 * The same two, if row groups are not merged because they hold large rows: each checkpoint leaves a row group for ever.
 * @bound rows in DuckDB that no checkpoint holds, if there are large ones | a checkpoint, if there is room for it
 */
const CHECKPOINT_APART_MS = 3_600_000;
/** @bound free disk for a checkpoint, beside twice DuckDB's log | with less, no checkpoint begins */
const CHECKPOINT_RESERVE_BYTES = 16 * 1024 * 1024;
const CURSOR_ROWS_MAX = 100_000;

export interface CheckpointsOptions {
  readonly clock: Clock;
  /** The database file. */
  readonly path: string;
  readonly bounds: Pick<StoreBounds, "checkpointLogBytes" | "checkpointRowBytes">;
  readonly reads: Reads;
  readonly post: (message: FromWorker) => void;
  /** Called when a checkpoint has become due because nothing was written for a while. */
  readonly onIdle: () => void;
  readonly freeBytes?: (folder: string) => number;
}

interface Request {
  readonly resolve: () => void;
  readonly reject: (error: GatewayError) => void;
}

export class Checkpoints {
  readonly #o: CheckpointsOptions;
  readonly #freeBytes: (folder: string) => number;
  /** Whether row groups are not merged. */
  #apart = false;
  #completed = 0;
  #requests: Request[] = [];
  /** Time of the oldest commit that no checkpoint holds; null: a checkpoint holds everything. */
  #dirtySinceMs: number | null = null;
  #dirtyBytes = 0;
  /** Rows of the table `cursors`. */
  #cursorRows = 0;
  #idleTimer: Disposable | null = null;
  /** The idle time has passed, and no checkpoint was tried since. */
  #idleDue = false;
  #stopped = false;

  constructor(options: CheckpointsOptions) {
    this.#o = options;
    this.#freeBytes = options.freeBytes ?? freeBytesOf;
  }

  /** Checkpoints completed by this process. */
  get completed(): number {
    return this.#completed;
  }

  /** Whether a caller or the idle timer has asked for a checkpoint. */
  get requested(): boolean {
    return this.#idleDue || this.#requests.length > 0;
  }

  /** Whether the database holds commits that no checkpoint does. */
  get dirty(): boolean {
    return this.#dirtySinceMs !== null;
  }

  get due(): boolean {
    if (this.requested) return true;
    if (this.#dirtySinceMs === null) return false;
    const ageMsMax = this.#apart ? CHECKPOINT_APART_MS : CHECKPOINT_AGE_MS_MAX;
    if (this.#o.clock.monotonicMs() - this.#dirtySinceMs > ageMsMax) return true;
    const { checkpointLogBytes, checkpointRowBytes } = this.#o.bounds;
    return this.#dirtyBytes >= checkpointRowBytes || logBytes(this.#o.path) >= checkpointLogBytes;
  }

  /** Asks for a checkpoint. Resolves when it has completed. @throws GatewayError disk_full, store_failed */
  request(): Promise<void> {
    return new Promise((resolve, reject) => this.#requests.push({ resolve, reject }));
  }

  /** Call when a database has been opened. If rows were replayed from a log, a checkpoint will be due even if no commit follows. */
  async opened(connection: duckdb.DuckDBConnection): Promise<void> {
    const [rows] = await rowsOf(connection, "SELECT count(*) FROM cursors");
    this.#cursorRows = Number(rows?.[0] ?? 0);
    if (logBytes(this.#o.path) > 0) this.#touch(0);
  }

  /** Whether row groups are not merged, because a merged one could not be read within the memory limit. */
  get apart(): boolean {
    return this.#apart;
  }

  /** From now on row groups are not merged. */
  keepApart(): void {
    this.#apart = true;
  }

  /** Call after each commit. */
  committed(bytes: number): void {
    this.#cursorRows++;
    this.#touch(bytes);
  }

  /** Notes that a commit waits for a checkpoint, and starts the idle time again. */
  #touch(bytes: number): void {
    this.#dirtySinceMs ??= this.#o.clock.monotonicMs();
    this.#dirtyBytes += bytes;
    this.#clearIdleTimer();
    if (this.#stopped) return;
    this.#idleTimer = this.#o.clock.after(this.#apart ? CHECKPOINT_APART_MS : CHECKPOINT_IDLE_MS, () => {
      this.#idleTimer = null;
      this.#idleDue = true;
      this.#o.onIdle();
    });
  }

  /**
   * Runs a checkpoint for everybody who has asked so far. Call only while nothing is written.
   * @param before the committed cursors, read before the checkpoint begins.
   * @returns null, or why none was run: then nothing has happened.
   * @throws what DuckDB throws; then the database must be opened again.
   */
  async run(database: Database, before: StoreCursors): Promise<GatewayError | null> {
    const requests = this.#requests.splice(0);
    this.#idleDue = false;
    const noRoom = this.#whyNoRoom();
    if (noRoom !== null) {
      for (const { reject } of requests) reject(noRoom);
      // It is tried again when more rows have come, or after the idle time.
      this.#dirtyBytes = 0;
      this.#dirtySinceMs = this.#o.clock.monotonicMs();
      if (requests.length === 0) this.#o.post({ event: "failure", error: messageFor(noRoom, this.#o.path) });
      this.#touch(0);
      return noRoom;
    }
    try {
      await this.#complete(database, before);
    } catch (thrown) {
      for (const { reject } of requests) reject(failureOf(thrown, this.#o.path));
      throw thrown;
    }
    this.#completed++;
    this.#dirtySinceMs = null;
    this.#dirtyBytes = 0;
    this.#clearIdleTimer();
    this.#o.post({ event: "checkpoint", cursors: before });
    for (const { resolve } of requests) resolve();
    return null;
  }

  async #complete({ writes }: Database, newest: StoreCursors): Promise<void> {
    await this.#trimCursors(writes, newest);
    if (!(await checkpointDatabase(writes))) {
      const completed = await this.#o.reads.exclusive(() => checkpointDatabase(writes));
      if (!completed) throw new Error("CHECKPOINT was refused although nothing else runs");
    }
    const left = logBytes(this.#o.path);
    if (left > 0) throw new Error(`CHECKPOINT left ${left} bytes of log`);
  }

  /** Deletes all cursors but the newest; each commit adds a row. This runs just before a CHECKPOINT, so that no log keeps the deletion. */
  async #trimCursors(connection: duckdb.DuckDBConnection, newest: StoreCursors): Promise<void> {
    if (this.#cursorRows <= CURSOR_ROWS_MAX) return;
    await connection.run(
      `DELETE FROM cursors WHERE seq < ${newest.seq} OR frame_id < ${newest.frameId} OR answer_id < ${newest.answerId}`,
    );
    this.#cursorRows = 1;
  }

  /** Why a checkpoint must not begin: one that fills the disk can lose committed rows (reported in DuckDB's issue tracker). null: it may. */
  #whyNoRoom(): GatewayError | null {
    const { path } = this.#o;
    const free = this.#freeBytes(dirname(path));
    const needed = 2 * logBytes(path) + CHECKPOINT_RESERVE_BYTES;
    if (free >= needed) return null;
    return new GatewayError({
      code: "disk_full",
      operation: "store: checkpoint",
      object: path,
      detail: `${free} bytes are free, ${needed} are needed`,
      hint: "free some disk space; until then the journal keeps everything",
    });
  }

  /** Rejects everybody who has asked, because the database is being closed after a failure. */
  fail(error: GatewayError): void {
    this.#idleDue = false;
    for (const { reject } of this.#requests.splice(0)) reject(error);
  }

  /** Stops the idle timer for good: it would keep the thread alive. */
  stop(): void {
    this.#stopped = true;
    this.#clearIdleTimer();
  }

  #clearIdleTimer(): void {
    this.#idleTimer?.[Symbol.dispose]();
    this.#idleTimer = null;
  }
}

function freeBytesOf(folder: string): number {
  const { bavail, bsize } = statfsSync(folder);
  return bavail * bsize;
}
