/**
 * The store without DuckDB: a file that survives processes, and the rules of the store's Worker. Events, frames, updates
 * and the three cursors commit together; a commit may fail, before or after it became durable; what was offered beyond
 * the cursors is gone then.
 */

import { GatewayError } from "../../../src/errors.ts";
import { decodePhysics, encodeFrame, FLAG, FRAME_BYTES, UNKNOWN_EVENT } from "../../../src/frame.ts";
import type { JournalCursors } from "../../../src/journal/journal.ts";
import type { DecidedQuery, DecidedReply, StoreCursors } from "../../../src/store/protocol.ts";
import type { JournalReader } from "./journal-reader.ts";
import { type Content, decidedOf, type KnownEvent, type Ledger, Violation } from "./ledger.ts";
import type { Surroundings } from "./models.ts";

const COMMIT_DELAY_MS = 60;
const MESSAGE_MS = 0.2;
const CHECKPOINT_IDLE_MS = 30_000;
const RETRY_MS_MIN = 100;
const RETRY_MS_MAX = 10_000;
const SEMANTIC_DIM = 1024;

export type StoreWeather = "ok" | "slow" | "failing";

/** What is on the disk. */
export class StoreFile {
  readonly events: KnownEvent[] = [];
  readonly frames: Content[] = [];
  readonly updates: Content[] = [];
  /** What the newest completed CHECKPOINT holds. */
  checkpointed: StoreCursors = { seq: 0, frameId: 0, answerId: 0 };

  get cursors(): StoreCursors {
    return { seq: this.events.length, frameId: this.frames.length, answerId: this.updates.length };
  }

  /** The log was set aside: what it held beyond the newest checkpoint is read from the journal again. */
  loseLog(): void {
    this.events.length = this.checkpointed.seq;
    this.frames.length = this.checkpointed.frameId;
    this.updates.length = this.checkpointed.answerId;
  }

  newest(seq: number): Content | undefined {
    return (
      this.updates.findLast((update) => update.seq === seq) ?? this.frames.find((frame) => frame.seq === seq)
    );
  }
}

export interface StoreDoubleOptions extends Surroundings {
  readonly file: StoreFile;
  readonly reader: JournalReader;
  readonly ledger: Ledger;
  readonly pruned: JournalCursors;
  readonly weather: () => StoreWeather;
  /** Something happens after which the process may die. */
  readonly point: () => void;
  /** A promise was found broken. */
  readonly fail: (error: unknown) => void;
}

interface Run {
  readonly firstFrameId: number;
  readonly count: number;
  readonly vectors: Float32Array | null;
}

interface Asked {
  readonly resolve: () => void;
  readonly reject: (error: GatewayError) => void;
}

export class StoreDouble {
  onCursors: (cursors: StoreCursors) => void = () => {};
  onCheckpoint: (cursors: StoreCursors) => void = () => {};
  onReopened: (cursors: StoreCursors) => void = () => {};
  readonly memory = { limitBytes: 150_000_000, raisedBecause: null };
  onFailure: (error: GatewayError) => void = () => {};
  /** As main last heard of them. */
  cursors: StoreCursors;
  readonly #o: StoreDoubleOptions;
  readonly #file: StoreFile;
  #headSeq = 0;
  #headAnswerId = 0;
  #runs: Run[] = [];
  #reofferAsked = false;
  #open = true;
  #busy = false;
  #holdMs = RETRY_MS_MIN;
  #pump: Disposable | null = null;
  #idle: Disposable | null = null;
  #asked: Asked[] = [];
  #commitsSinceCheckpoint = 0;
  #stopping = false;

  private constructor(o: StoreDoubleOptions) {
    this.#o = o;
    this.#file = o.file;
    this.cursors = o.file.cursors;
  }

  static async open(o: StoreDoubleOptions): Promise<StoreDouble> {
    await o.clock.sleep(o.dice.chance(0.2) ? o.dice.between(1000, 8000) : o.dice.between(1, 200));
    if (o.dice.chance(0.15)) o.file.loseLog();
    const { seq, frameId, answerId } = o.file.cursors;
    if (seq < o.pruned.seq || frameId < o.pruned.frameId || answerId < o.pruned.answerId)
      throw new Violation("the store is behind what has left the journal");
    return new StoreDouble(o);
  }

  // ---------------------------------------------------------------------------------------- messages

  #toWorker(receive: () => void): void {
    this.#o.clock.after(MESSAGE_MS, receive);
  }

  #toMain(receive: () => void): void {
    this.#o.clock.after(MESSAGE_MS, receive);
  }

  head(seq: number): void {
    this.#toWorker(() => {
      this.#headSeq = Math.max(this.#headSeq, seq);
      this.#schedule();
    });
  }

  updates(answerId: number): void {
    this.#toWorker(() => {
      this.#headAnswerId = Math.max(this.#headAnswerId, answerId);
      this.#schedule();
    });
  }

  offer(run: Run): void {
    if (run.count < 1) throw new Violation("an empty run was offered");
    this.#toWorker(() => {
      const next = this.#nextOffered;
      if (run.firstFrameId + run.count <= next) return;
      if (run.firstFrameId > next) {
        if (!this.#reofferAsked) this.#askAgain();
        return;
      }
      this.#reofferAsked = false;
      const skipped = next - run.firstFrameId;
      this.#runs.push({
        firstFrameId: next,
        count: run.count - skipped,
        vectors: run.vectors?.subarray(skipped * SEMANTIC_DIM) ?? null,
      });
      this.#schedule();
    });
  }

  get #nextOffered(): number {
    const last = this.#runs.at(-1);
    return last === undefined ? this.#file.frames.length + 1 : last.firstFrameId + last.count;
  }

  #askAgain(): void {
    this.#runs = [];
    this.#reofferAsked = true;
    const { cursors } = this.#file;
    this.#toMain(() => {
      this.cursors = cursors;
      this.onReopened(cursors);
    });
  }

  // ----------------------------------------------------------------------------------------- writing

  get #pending(): number {
    const { seq, answerId, frameId } = this.#file.cursors;
    const events = Math.max(0, this.#headSeq - seq) + Math.max(0, this.#headAnswerId - answerId);
    return events + this.#nextOffered - 1 - frameId;
  }

  #schedule(): void {
    if (this.#busy || !this.#open) return;
    if (this.#pending === 0 && this.#asked.length === 0) return;
    this.#pump ??= this.#o.clock.after(this.#asked.length > 0 ? 1 : COMMIT_DELAY_MS, () => void this.#work());
  }

  async #work(): Promise<void> {
    this.#pump = null;
    this.#busy = true;
    const { clock, dice, weather } = this.#o;
    try {
      if (this.#pending > 0) {
        await clock.sleep(weather() === "slow" ? dice.between(100, 3000) : dice.between(1, 30));
        if (!this.#commit()) return await this.#recover();
      }
      const due = this.#asked.length > 0 || this.#commitsSinceCheckpoint >= 6;
      if (due && !(await this.#checkpoint())) return await this.#recover();
    } catch (error) {
      this.#o.fail(error);
    } finally {
      this.#busy = false;
      this.#schedule();
    }
  }

  /** @returns false where it failed. */
  #commit(): boolean {
    const { dice, weather } = this.#o;
    const fails = weather() === "failing" && dice.chance(0.7);
    if (fails && dice.chance(0.6)) return false;
    this.#takeEvents();
    this.#takeFrames();
    this.#takeUpdates();
    this.#commitsSinceCheckpoint += 1;
    this.#o.point();
    if (fails) return false;
    this.#holdMs = RETRY_MS_MIN;
    const { cursors } = this.#file;
    this.#runs = this.#runs.filter(({ firstFrameId, count }) => firstFrameId + count - 1 > cursors.frameId);
    this.#toMain(() => {
      this.cursors = cursors;
      this.onCursors(cursors);
    });
    this.#startIdle();
    return true;
  }

  #takeEvents(): void {
    const { reader, ledger } = this.#o;
    const from = this.#file.events.length;
    const rows = reader.events(from, this.#headSeq);
    if (rows.length < this.#headSeq - from)
      throw new Violation(`of events ${from + 1} to ${this.#headSeq} the journal has ${rows.length}`);
    for (const row of rows) {
      const known = ledger.events.get(row.seq);
      if (known === undefined || !Bun.deepEquals(known.body, row.body))
        throw new Violation(`event ${row.seq} is another one`);
      this.#file.events.push(known);
    }
  }

  #takeFrames(): void {
    const { reader, ledger } = this.#o;
    for (const { firstFrameId, count, vectors } of this.#runs) {
      const rows = reader.frames(firstFrameId - 1, firstFrameId + count - 1);
      if (rows.length !== count)
        throw new Violation(
          `of the ${count} frames offered from ${firstFrameId} the journal has ${rows.length}`,
        );
      for (const [index, row] of rows.entries()) {
        if (row.id !== this.#file.frames.length + 1)
          throw new Violation(`the store has no frame before ${row.id}`);
        const decided = decidedOf(row);
        const { flags, semantic_dim } = decodePhysics(row.physics);
        const at = index * SEMANTIC_DIM;
        const offered =
          (flags & FLAG.semantic) === 0 ? null : (vectors?.slice(at, at + semantic_dim) ?? null);
        const content = { ...decided, vector: vectors === null ? decided.vector : offered };
        ledger.checkFrame("the store", row.id, content);
        this.#file.frames.push(content);
      }
    }
  }

  #takeUpdates(): void {
    const { reader, ledger } = this.#o;
    const from = this.#file.updates.length;
    const rows = reader.updates(from, this.#headAnswerId);
    if (rows.length < this.#headAnswerId - from)
      throw new Violation(`of updates ${from + 1} to ${this.#headAnswerId} the journal has ${rows.length}`);
    for (const row of rows) {
      ledger.checkUpdate("the store", row);
      this.#file.updates.push(decidedOf(row));
    }
  }

  /** @returns false where it failed. */
  async #checkpoint(): Promise<boolean> {
    const { clock, dice, weather, point } = this.#o;
    const asked = this.#asked.splice(0);
    const before = this.#file.cursors;
    await clock.sleep(weather() === "slow" ? dice.between(100, 2000) : dice.between(1, 40));
    if (weather() === "failing" && dice.chance(0.5)) {
      for (const { reject } of asked) this.#toMain(() => reject(failure("the checkpoint failed")));
      return false;
    }
    this.#file.checkpointed = before;
    this.#commitsSinceCheckpoint = 0;
    this.#idle?.[Symbol.dispose]();
    point();
    this.#toMain(() => this.onCheckpoint(before));
    for (const { resolve } of asked) this.#toMain(resolve);
    return true;
  }

  /** Closed and opened again; the cursors say where to go on. */
  async #recover(): Promise<void> {
    const { clock } = this.#o;
    this.#open = false;
    this.#toMain(() => this.onFailure(failure("a commit failed")));
    for (const { reject } of this.#asked.splice(0)) this.#toMain(() => reject(failure("it is opened again")));
    await clock.sleep(this.#holdMs);
    this.#holdMs = Math.min(2 * this.#holdMs, RETRY_MS_MAX);
    this.#open = true;
    this.#askAgain();
  }

  #startIdle(): void {
    this.#idle?.[Symbol.dispose]();
    this.#idle = this.#o.clock.after(CHECKPOINT_IDLE_MS, () => void this.checkpoint().catch(() => {}));
  }

  // ------------------------------------------------------------------------------------------- calls

  checkpoint(): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#toWorker(() => {
      this.#asked.push({ resolve, reject });
      this.#schedule();
    });
    return promise;
  }

  async #read<T>(read: () => T): Promise<T> {
    await this.#o.clock.sleep(this.#o.dice.between(1, 10));
    if (!this.#open || this.#stopping) throw failure("it is opened again", "store_unavailable");
    const value = read();
    await this.#o.clock.sleep(MESSAGE_MS);
    return value;
  }

  frames(afterFrameId: number, limit: number, capacity: number) {
    return this.#read(() => {
      const rows = this.#file.frames.slice(afterFrameId, afterFrameId + limit);
      const bytes = new Uint8Array(rows.length * FRAME_BYTES);
      rows.forEach(({ physics, vector }, index) => {
        encodeFrame(bytes, index * FRAME_BYTES, {
          frameId: afterFrameId + index + 1,
          capacity,
          physics,
          vector,
        });
      });
      return { bytes: bytes.buffer, count: rows.length, oldest: this.#file.frames.length > 0 ? 1 : 0 };
    });
  }

  frameCount(firstFrameId: number, limit: number): Promise<number> {
    return this.#read(() => Math.max(0, Math.min(limit, this.#file.frames.length - firstFrameId + 1)));
  }

  decided(query: DecidedQuery): Promise<DecidedReply> {
    return this.#read(() => {
      const rowOf = (seq: number): DecidedReply["rows"] => {
        const event = this.#file.events[seq - 1];
        const newest = this.#file.newest(seq);
        if (event === undefined || newest === undefined) return [];
        const payload = event.message === null ? new TextDecoder().decode(event.body) : "";
        return [{ ...newest, message: event.message, payload, physics: decodePhysics(newest.physics) }];
      };
      if ("seqs" in query) return { rows: query.seqs.flatMap(rowOf), reachedSeq: 0 };
      const rows: DecidedReply["rows"] = [];
      for (let seq = query.afterSeq + 1; seq <= query.toSeq; seq++) {
        rows.push(...rowOf(seq).filter(({ physics }) => physics.model_id !== query.notModel));
        if (rows.length >= query.limit) return { rows, reachedSeq: seq };
      }
      return { rows, reachedSeq: query.toSeq };
    });
  }

  event(seq: number): Promise<{ json: string | null; lag: number }> {
    return this.#read(() => {
      const event = this.#file.events[seq - 1];
      const newest = this.#file.newest(seq);
      if (event === undefined) return { json: null, lag: 0 };
      const enrichment =
        newest === undefined
          ? null
          : {
              frame_id: this.#file.frames.findIndex((frame) => frame.seq === seq) + 1,
              intent: newest.intent,
              provenance: JSON.parse(newest.provenance),
            };
      return { json: JSON.stringify({ event_type: newest?.eventType ?? UNKNOWN_EVENT, enrichment }), lag: 0 };
    });
  }

  async close(withinMs: number): Promise<boolean> {
    const { clock } = this.#o;
    const untilMs = clock.monotonicMs() + withinMs;
    while ((this.#pending > 0 || this.#busy) && clock.monotonicMs() < untilMs) await clock.sleep(5);
    if (this.#open && !this.#busy) {
      this.#busy = true;
      await this.#checkpoint();
    }
    this.#stopping = true;
    this.#open = false;
    this.#pump?.[Symbol.dispose]();
    this.#idle?.[Symbol.dispose]();
    return true;
  }
}

function failure(detail: string, code: "store_failed" | "store_unavailable" = "store_failed"): GatewayError {
  return new GatewayError({ code, operation: "store: commit", object: "the simulation", detail });
}
