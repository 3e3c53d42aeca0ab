/**
 * DuckDB, as the main thread sees it: the face of store.worker.ts, which owns every connection.
 *
 * Rows never pass through here. The worker reads events and frames from the journal by a read-only
 * connection of its own; main tells it the journal's head and offers vectors, which are transferred.
 */

import { deserialiseError, GatewayError, messageOf } from "../errors.ts";
import type {
  DecidedQuery,
  DecidedReply,
  EventsQuery,
  FromWorker,
  StoreCall,
  StoreCalls,
  StoreCursors,
  StoreOptions,
  StoreStats,
  ToWorker,
} from "./protocol.ts";

interface Waiting {
  resolve: (value: unknown) => void;
  reject: (error: Error) => void;
}

/** Events and enrichments in DuckDB: exactly once, behind the journal, for queries and refill. */
export class Store implements AsyncDisposable {
  /** After each commit. */
  onCursors: (cursors: StoreCursors) => void = () => {};
  /**
   * A CHECKPOINT of this process has completed; the cursors read before it began: what they cover
   * may leave the journal.
   */
  onCheckpoint: (cursors: StoreCursors) => void = () => {};
  /** What was offered beyond these cursors is gone: offer again from cursors.frameId + 1. */
  onReopened: (cursors: StoreCursors) => void = () => {};
  /** It goes on by itself: reopens DuckDB, and reads from the journal what the failed commit held. */
  onFailure: (error: GatewayError) => void = () => {};

  readonly #worker: Worker;
  readonly #path: string;
  readonly #onNotice: (message: string) => void;
  readonly #waiting = new Map<number, Waiting>();
  #lastId = 0;
  #cursors: StoreCursors = { seq: 0, frameId: 0, answerId: 0 };
  #broken: GatewayError | null = null;
  #closing: Promise<void> | null = null;

  private constructor(options: StoreOptions) {
    this.#path = options.databasePath;
    this.#onNotice = options.onNotice ?? (() => {});
    this.#worker = new Worker(options.workerUrl);
    this.#worker.onmessage = ({ data }: MessageEvent<FromWorker>) => this.#receive(data);
    this.#worker.onerror = (event) => this.#break(event.message);
    this.#worker.addEventListener("close", () => this.#break("its thread has ended"));
  }

  /**
   * Opens or creates the database in a worker of its own.
   * @throws GatewayError foreign_store, store_behind (then nothing was written) or store_failed.
   */
  static async open(options: StoreOptions): Promise<Store> {
    const store = new Store(options);
    const { workerUrl: _url, onNotice: _notice, ...open } = options;
    // A refused worker ends by itself.
    store.#cursors = await store.#call("open", open);
    return store;
  }

  /** Committed cursors, as last told by the worker. */
  get cursors(): StoreCursors {
    return this.#cursors;
  }

  /** Tells the journal's newest committed seq; the worker reads the rows up to it. */
  head(seq: number): void {
    this.#post({ call: "head", seq });
  }

  /** Tells the journal's newest committed answer; the worker reads the rows up to it. */
  answers(answerId: number): void {
    this.#post({ call: "updates", answerId });
  }

  /**
   * Offers frames that the journal has committed, in order of frame_id without gaps from
   * cursors.frameId + 1.
   * @param run `vectors`: count × 1024 floats, transferred (unusable afterwards); rows of frames
   *   without the semantic flag are ignored; null: the journal's rows have the vectors.
   */
  offer(run: { firstFrameId: number; count: number; vectors: Float32Array | null }): void {
    const { vectors } = run;
    const transferable = vectors?.buffer instanceof ArrayBuffer ? [vectors.buffer] : [];
    this.#post({ call: "offer", ...run }, transferable);
  }

  /**
   * The response body of GET /api/events. Waits up to 2 s until the store has `headSeq`.
   * @returns `lag`: events behind headSeq when it answered.
   * @throws GatewayError store_unavailable, overloaded
   */
  events(query: EventsQuery, headSeq: number): Promise<{ json: string; lag: number }> {
    return this.#call("events", { query, headSeq });
  }

  /** The response body of GET /api/events/SEQ; null where there is none. As {@link events}. */
  event(seq: number, headSeq: number): Promise<{ json: string | null; lag: number }> {
    return this.#call("event", { seq, headSeq });
  }

  /**
   * A contiguous run of raw frames from afterFrameId + 1 on (from the oldest stored where that is
   * newer), as they stand in a ring of `capacity`; it ends where the store does. `limit` × 4,224 bytes
   * are allocated at most: ask in slices.
   * @returns `bytes` of count × 4,224; `oldest` frame_id stored, 0 where there is none.
   */
  frames(
    afterFrameId: number,
    limit: number,
    capacity: number,
  ): Promise<{ bytes: ArrayBuffer; count: number; oldest: number }> {
    return this.#call("frames", { afterFrameId, limit, capacity });
  }

  /**
   * What was last said of events, ascending by seq; events without a frame here are left out. Does not wait for the
   * journal's head. @throws GatewayError store_unavailable, overloaded
   */
  decided(query: DecidedQuery): Promise<DecidedReply> {
    return this.#call("decided", query);
  }

  /** @throws GatewayError disk_full where it would not be safe, store_failed */
  async checkpoint(): Promise<void> {
    await this.#call("checkpoint", {});
  }

  stats(): Promise<StoreStats> {
    return this.#call("stats", {});
  }

  /** Resolves when the cursors hold `headSeq` and every offered run. @throws GatewayError store_failed */
  async flush(headSeq: number): Promise<void> {
    await this.#call("flush", { headSeq });
  }

  /** Flushes what was given (10 s at most), checkpoints, closes and lets the worker end. Idempotent. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing ??= this.#close();
    await this.#closing;
  }

  async #close(): Promise<void> {
    if (this.#broken !== null) return;
    const ended = new Promise<void>((resolve) => this.#worker.addEventListener("close", () => resolve()));
    await this.#call("close", {});
    await ended;
  }

  #post(message: ToWorker, transfer: ArrayBuffer[] = []): void {
    if (this.#broken === null) this.#worker.postMessage(message, transfer);
  }

  #call<K extends keyof StoreCalls>(call: K, args: StoreCalls[K][0]): Promise<StoreCalls[K][1]> {
    if (this.#broken !== null) return Promise.reject(this.#broken);
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      // The worker answers a call with the value that StoreCalls names.
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
    // A Worker that could not load its libraries says so in the middle of a long report.
    const unpacked = /GatewayError: (native: load .*)/.exec(why)?.[1];
    const detail = unpacked ?? messageOf(why);
    const broken = new GatewayError({
      code: unpacked === undefined ? "store_unavailable" : "temp_folder",
      operation: "store: worker",
      object: this.#path,
      detail: this.#closing === null ? detail : "it is closed",
    });
    this.#broken = broken;
    for (const { reject } of this.#waiting.values()) reject(broken);
    this.#waiting.clear();
    if (this.#closing === null) this.onFailure(broken);
  }
}
