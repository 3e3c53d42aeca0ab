/**
 * Decided frames from wherever they are kept: the ring, memory, the journal, DuckDB. For whoever publishes, refills or
 * asks for them. Part of the pipeline.
 */
import type { Ring } from "../../collider.ts";
import type { Clock } from "../clock.ts";
import type { Embedder } from "../embed/embedder.ts";
import { decodeFrame, decodePhysics, encodeFrame, FLAG, FRAME_BYTES, PHYSICS_OFFSET } from "../frame.ts";
import type { Journal, StoredFrame } from "../journal/journal.ts";
import type { Store } from "../store/store.ts";
import { textToEmbed } from "./embedding.ts";
import type { RecentFrames } from "./recent.ts";
import type { FramesRun, RawFrames } from "./snapshot.ts";
import type { Entry } from "./work.ts";

/** Frames that /api/frames copies from ring or journal before other work has its turn: under 1 ms from the ring. */
const READ_SLICE_FRAMES = 128;
const NO_FRAMES: RawFrames = { bytes: new Uint8Array(0), count: 0 };

export interface DecidedFramesOptions {
  readonly journal: Pick<Journal, "framesFrom" | "eventsAt">;
  /** Computes again what the journal does not keep. */
  readonly hashing: Embedder;
  readonly textOf: (message: string | null, body: Uint8Array) => string;
  readonly ring: () => Pick<Ring, "capacity" | "read"> | null;
  readonly recent: Pick<RecentFrames, "entries" | "next">;
  readonly clock: Clock;
  /** @throws GatewayError store_unavailable where it is not open in time */
  readonly openedStore: () => Promise<Pick<Store, "cursors" | "frames">>;
}

export class DecidedFrames {
  readonly #o: DecidedFramesOptions;

  constructor(options: DecidedFramesOptions) {
    this.#o = options;
  }

  /** A contiguous run of decided frames from `start`, at most `limit`, from memory or else the journal. */
  async #keptFrom(start: number, limit: number): Promise<Entry[]> {
    const { entries } = this.#o.recent;
    const first = entries[0]?.frameId;
    if (first !== undefined && start >= first) return entries.slice(start - first, start - first + limit);
    const rows = this.#o.journal.framesFrom(start, limit);
    return rows[0]?.frameId === start ? this.#entriesOf(rows) : [];
  }

  /**
   * A contiguous run of decided frames from `start`, at most `limit`: from memory, else the journal, else DuckDB.
   * Empty where they are gone for good.
   * @throws GatewayError store_unavailable where only DuckDB can have them and is not open yet.
   */
  async entriesFrom(start: number, limit: number): Promise<Entry[]> {
    const kept = await this.#keptFrom(start, limit);
    if (kept.length > 0) return kept;
    const { bytes, count } = await this.#storedFrom(start, limit);
    return Array.from({ length: count }, (_, index) => {
      const at = index * FRAME_BYTES;
      const { frame_id: frameId, flags, semantic, semantic_dim } = decodeFrame(bytes, at);
      const physics = bytes.subarray(at + PHYSICS_OFFSET, at + FRAME_BYTES);
      const vector = (flags & FLAG.semantic) === 0 ? null : semantic.subarray(0, semantic_dim);
      return { frameId, physics, vector, eventType: null, intent: null };
    });
  }

  /** The run of rows from the first on; vectors that the journal does not keep are computed again. */
  async #entriesOf(rows: readonly StoredFrame[]): Promise<Entry[]> {
    const { journal, hashing, textOf } = this.#o;
    const start = rows[0]?.frameId ?? 0;
    const run = rows.filter(({ frameId }, index) => frameId === start + index);
    const vectors = run.map(({ vector }) => vector);
    const missing = run.flatMap(({ physics, vector }, index) =>
      vector === null && (decodePhysics(physics).flags & FLAG.semantic) !== 0 ? [index] : [],
    );
    for (let from = 0; from < missing.length; from += hashing.maxBatch) {
      const part = missing.slice(from, from + hashing.maxBatch);
      const events = journal.eventsAt(part.map((index) => run[index]?.seq ?? 0));
      const texts = events.map((event) =>
        event === null ? "" : textToEmbed(textOf(event.message, event.body)),
      );
      const packed = await hashing.embed(texts);
      part.forEach((index, row) => {
        vectors[index] = packed.subarray(row * hashing.dim, (row + 1) * hashing.dim);
      });
    }
    return run.map(({ frameId, physics, eventType, intent }, index) => {
      return { frameId, physics, vector: vectors[index] ?? null, eventType, intent };
    });
  }

  /** Raw frames as in the ring, from memory, the journal or DuckDB; see {@link entriesFrom}. */
  async rawFrom(start: number, limit: number): Promise<RawFrames> {
    return this.#raw(await this.entriesFrom(start, limit));
  }

  #raw(entries: readonly Entry[]): RawFrames {
    const capacity = this.#capacity();
    const bytes = new Uint8Array(entries.length * FRAME_BYTES);
    entries.forEach(({ frameId, physics, vector }, index) => {
      encodeFrame(bytes, index * FRAME_BYTES, { frameId, capacity, physics, vector });
    });
    return { bytes, count: entries.length };
  }

  /** Frames that DuckDB holds from exactly `start`; none where it does not have that one. */
  async #storedFrom(start: number, limit: number): Promise<RawFrames> {
    const store = await this.#o.openedStore();
    if (start > store.cursors.frameId) return NO_FRAMES;
    const { bytes, count } = await store.frames(start - 1, limit, this.#capacity());
    const raw = new Uint8Array(bytes);
    return count > 0 && decodeFrame(raw).frame_id === start ? { bytes: raw, count } : NO_FRAMES;
  }

  /** Of the ring; `sequence` of a frame that is in none is that of its first lap. */
  #capacity(): number {
    return this.#o.ring()?.capacity ?? Number.MAX_SAFE_INTEGER;
  }

  /**
   * Frames in order for /api/frames: a contiguous run of at most `limit` after frame `after`
   * (null: from the oldest that is kept). Other work has its turn between the slices it is read in.
   * @throws GatewayError store_unavailable where only DuckDB can have them and is not open.
   */
  async run(after: number | null, limit: number): Promise<FramesRun> {
    const start = (after ?? 0) + 1;
    const chunks: Uint8Array[] = [];
    let count = 0;
    let next = start;
    while (count < limit && next < this.#o.recent.next) {
      let run = await this.#runFrom(next, limit - count);
      if (run.count === 0 && count === 0) run = await this.#oldestAfter(start, limit);
      if (run.count === 0) break;
      chunks.push(run.bytes);
      count += run.count;
      next = decodeFrame(run.bytes, run.bytes.byteLength - FRAME_BYTES).frame_id + 1;
      await this.#o.clock.nextTurn();
    }
    return { chunks, count };
  }

  /** Raw frames from exactly `start`, at most `limit`: a slice from ring, memory or journal, or what DuckDB has of them. */
  async #runFrom(start: number, limit: number): Promise<RawFrames> {
    const slice = Math.min(limit, READ_SLICE_FRAMES);
    const inRing = this.#o.ring()?.read(start, slice) ?? null;
    if (inRing !== null) return { bytes: inRing, count: inRing.byteLength / FRAME_BYTES };
    const kept = await this.#keptFrom(start, slice);
    return kept.length > 0 ? this.#raw(kept) : this.#storedFrom(start, limit);
  }

  async #oldestAfter(start: number, limit: number): Promise<RawFrames> {
    // Older ones are gone, as in a temporary folder at its bound: the oldest that are kept.
    const store = await this.#o.openedStore();
    const { bytes, count } = await store.frames(start - 1, limit, this.#capacity());
    if (count > 0) return { bytes: new Uint8Array(bytes), count };
    const oldest = this.#o.journal.framesFrom(start, 1)[0]?.frameId ?? this.#o.recent.entries[0]?.frameId;
    return oldest === undefined ? NO_FRAMES : this.rawFrom(oldest, limit);
  }
}
