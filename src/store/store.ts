/**
 * DuckDB as the main thread sees it. The Worker behind it (store.worker.ts) owns every connection.
 *
 * Rows never pass through the main thread. The Worker reads events, frames and updates from the journal over a read-only
 * connection of its own. The main thread tells it how far the journal reaches, and offers the vectors that the journal does not
 * keep; their memory is transferred.
 */

import { deserialiseError, GatewayError, messageOf } from "../errors.ts";
import type {
  DamagedRow,
  DecidedQuery,
  DecidedReply,
  EventsPage,
  EventsQuery,
  FromWorker,
  StoreCall,
  StoreCalls,
  StoreCursors,
  StoreMemory,
  StoreOptions,
  StoreStats,
  ToWorker,
} from "./protocol.ts";

/** @bound DuckDB stores what is missing and closes, if nobody says how long that may take | the journal keeps the rest */
const CLOSE_MS_MAX = 10_000;
/** The share of that time in which the Worker stores and checkpoints. */
const WORKER_SHARE = 0.8;

interface Waiting {
  resolve: (value: unknown) => void;
  reject: (error: Error) => void;
}

/** Events, enrichments and updates in DuckDB: each exactly once, some time after the journal, for queries and to refill the ring. */
export class Store implements AsyncDisposable {
  /** Called after each commit, with what the database holds now. */
  onCursors: (cursors: StoreCursors) => void = () => {};
  /**
   * Called when a CHECKPOINT of this process has completed, with the cursors that were committed before it began: the journal may
   * give up what they cover.
   */
  onCheckpoint: (cursors: StoreCursors) => void = () => {};
  /** Called when the Worker has dropped the offered frames: offer again from cursors.frameId + 1. */
  onReopened: (cursors: StoreCursors) => void = () => {};
  /** Called at a failure. The store recovers by itself: it reopens DuckDB and reads the rows of the failed commit from the journal again. */
  onFailure: (error: GatewayError) => void = () => {};
  /** Called when a row of the journal is not stored because it is damaged; again if it is met again. */
  onDamage: (row: DamagedRow) => void = () => {};
  /** Called when DuckDB's memory limit was changed; see {@link memory}. */
  onMemory: () => void = () => {};

  readonly #worker: Worker;
  readonly #path: string;
  readonly #onNotice: (message: string) => void;
  readonly #waiting = new Map<number, Waiting>();
  #lastId = 0;
  #cursors: StoreCursors = { seq: 0, frameId: 0, answerId: 0 };
  #memory: StoreMemory;
  #broken: GatewayError | null = null;
  #closing: Promise<boolean> | null = null;

  private constructor(options: StoreOptions) {
    this.#path = options.databasePath;
    this.#memory = { limitBytes: options.memoryLimitBytes, raisedBecause: null };
    this.#onNotice = options.onNotice ?? (() => {});
    this.#worker = new Worker(options.workerUrl);
    this.#worker.onmessage = ({ data }: MessageEvent<FromWorker>) => this.#receive(data);
    this.#worker.onerror = (event) => this.#break(event.message);
    this.#worker.addEventListener("close", () => this.#break("its thread has ended"));
  }

  /**
   * Opens or creates the database in a Worker of its own.
   * @throws GatewayError foreign_store, store_behind (then nothing was written) or store_failed.
   */
  static async open(options: StoreOptions): Promise<Store> {
    const store = new Store(options);
    const { workerUrl: _url, onNotice: _notice, ...open } = options;
    // If opening is refused, the Worker ends by itself.
    store.#cursors = await store.#call("open", open);
    return store;
  }

  /** What the database holds, as the Worker last reported it. */
  get cursors(): StoreCursors {
    return this.#cursors;
  }

  /** DuckDB's memory limit in force. */
  get memory(): StoreMemory {
    return this.#memory;
  }

  /** Tells the Worker the journal's newest committed seq. It reads the rows up to it. */
  head(seq: number): void {
    this.#tell({ call: "head", seq });
  }

  /** Tells the Worker the journal's newest committed update. It reads the rows up to it. */
  updates(answerId: number): void {
    this.#tell({ call: "updates", answerId });
  }

  /**
   * Offers frames that the journal has committed, in order of frame_id and without gaps from cursors.frameId + 1 on.
   * @param run `vectors`: count × 1024 floats, one row a frame. Rows of frames without the semantic flag are ignored. The memory is
   *   transferred, so the array cannot be used afterwards. null: the journal's rows have the vectors.
   */
  offer(run: { firstFrameId: number; count: number; vectors: Float32Array | null }): void {
    const { vectors } = run;
    const transferable = vectors?.buffer instanceof ArrayBuffer ? [vectors.buffer] : [];
    this.#tell({ call: "offer", ...run }, transferable);
  }

  /** Says, in place of an offer, that the journal has none of these frames, because it skipped their numbers. */
  skip(run: { firstFrameId: number; count: number }): void {
    this.#tell({ call: "offer", ...run, vectors: null, absent: true });
  }

  /**
   * The response body of GET /api/events. Waits up to 2 s for the store to reach `headSeq`.
   * @returns `lag`: by how many events the store was behind `headSeq` when it read.
   * @throws GatewayError store_unavailable, overloaded
   */
  events(query: EventsQuery, headSeq: number): Promise<EventsPage & { lag: number }> {
    return this.#call("events", { query, headSeq });
  }

  /** The response body of GET /api/events/SEQ; null if the store has no such event. Waits like {@link events}. */
  event(seq: number, headSeq: number): Promise<{ json: string | null; lag: number }> {
    return this.#call("event", { seq, headSeq });
  }

  /**
   * Raw frames without a gap, from afterFrameId + 1 on (or from the oldest stored one, if that is newer), with the sequence numbers
   * of a ring of `capacity`. The run ends at the newest stored frame. Allocates `limit` × 4,224 bytes, so read in slices.
   * @returns `bytes`: count × 4,224; `oldest`: the oldest stored frame_id, 0 if no frame is stored.
   */
  frames(
    afterFrameId: number,
    limit: number,
    capacity: number,
  ): Promise<{ bytes: ArrayBuffer; count: number; oldest: number }> {
    return this.#call("frames", { afterFrameId, limit, capacity });
  }

  /** How many stored frames follow each other without a gap from `firstFrameId` on, at most `limit`; 0 if that one is not stored. */
  frameCount(firstFrameId: number, limit: number): Promise<number> {
    return this.#call("frameCount", { firstFrameId, limit });
  }

  /**
   * The newest enrichment of events, ascending by seq. Leaves out events that have no frame in the store. Does not wait for the
   * journal's head.
   * @throws GatewayError store_unavailable, overloaded
   */
  decided(query: DecidedQuery): Promise<DecidedReply> {
    return this.#call("decided", query);
  }

  /** Resolves when a CHECKPOINT has completed. @throws GatewayError disk_full if it would not be safe; store_failed */
  async checkpoint(): Promise<void> {
    await this.#call("checkpoint", {});
  }

  stats(): Promise<StoreStats> {
    return this.#call("stats", {});
  }

  /** Resolves when the database holds `headSeq`, every frame offered and every update told before. @throws GatewayError store_failed */
  async flush(headSeq: number): Promise<void> {
    await this.#call("flush", { headSeq });
  }

  /**
   * Stores what was told and offered, checkpoints, closes and lets the Worker end. Idempotent.
   * @returns false if the Worker has not ended within `withinMs`; DuckDB may keep its thread busy. It is not waited for any longer.
   */
  close(withinMs: number): Promise<boolean> {
    this.#closing ??= this.#close(withinMs);
    return this.#closing;
  }

  /** Closes within 10 s. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close(CLOSE_MS_MAX);
  }

  async #close(withinMs: number): Promise<boolean> {
    if (this.#broken !== null) return true;
    const { promise: ended, resolve } = Promise.withResolvers<boolean>();
    const late = setTimeout(() => resolve(false), withinMs);
    this.#worker.addEventListener("close", () => resolve(true));
    // The Worker keeps some time for closing the files.
    this.#call("close", { withinMs: withinMs * WORKER_SHARE }).catch(() => {});
    const inTime = await ended;
    clearTimeout(late);
    return inTime;
  }

  /** Passes news on. Once it closes, the store takes none: the next start reads it from the journal. */
  #tell(message: ToWorker, transfer: ArrayBuffer[] = []): void {
    if (this.#closing === null) this.#post(message, transfer);
  }

  #post(message: ToWorker, transfer: ArrayBuffer[] = []): void {
    if (this.#broken === null) this.#worker.postMessage(message, transfer);
  }

  #call<K extends keyof StoreCalls>(call: K, args: StoreCalls[K][0]): Promise<StoreCalls[K][1]> {
    if (this.#broken !== null) return Promise.reject(this.#broken);
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      // The Worker replies to each call with the type that StoreCalls names.
      this.#waiting.set(id, { resolve: resolve as (value: unknown) => void, reject });
      this.#post({ call, id, args } as StoreCall);
    });
  }

  #receive(message: FromWorker): void {
    switch (message.event) {
      case "reply":
        this.#settle(message.id)?.resolve(message.value);
        return;
      case "refusal":
        this.#settle(message.id)?.reject(deserialiseError(message.error));
        return;
      case "cursors":
        this.#cursors = message.cursors;
        this.onCursors(message.cursors);
        return;
      case "checkpoint":
        this.onCheckpoint(message.cursors);
        return;
      case "reopened":
        this.#cursors = message.cursors;
        this.onReopened(message.cursors);
        return;
      case "failure":
        this.onFailure(deserialiseError(message.error));
        return;
      case "memory":
        this.#memory = message.state;
        this.onMemory();
        return;
      case "damage":
        this.onDamage(message.damage);
        return;
      case "notice":
        this.#onNotice(message.message);
    }
  }

  #settle(id: number): Waiting | undefined {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    return waiting;
  }

  #break(why: string): void {
    if (this.#broken !== null) return;
    // If a Worker cannot load its libraries, our error stands in the middle of a long report.
    const unpacked = /GatewayError: (native: load .*)/.exec(why)?.[1];
    const detail = unpacked ?? messageOf(why);
    const broken = new GatewayError({
      code: unpacked === undefined ? "store_unavailable" : "temp_folder",
      operation: "store: worker",
      object: this.#path,
      detail: this.#closing === null ? detail : "the store is closed",
    });
    this.#broken = broken;
    for (const { reject } of this.#waiting.values()) reject(broken);
    this.#waiting.clear();
    if (this.#closing === null) this.onFailure(broken);
  }
}
