/**
 * Reads decided frames from wherever they are: the ring, memory, the journal or DuckDB. The publisher, the store feed, the
 * refill of a new ring and /api/frames use it.
 */
import type { Ring } from "../../collider.ts";
import type { Clock } from "../clock.ts";
import type { Embedder } from "../embed/embedder.ts";
import {
  decodeFrame,
  decodePhysics,
  encodeFrame,
  encodePhysics,
  FLAG,
  FRAME_BYTES,
  fillChecksum,
  PHYSICS_OFFSET,
} from "../frame.ts";
import type { Journal, StoredFrame } from "../journal/journal.ts";
import type { Store } from "../store/store.ts";
import { textToEmbed } from "./embedding.ts";
import type { RecentFrames } from "./recent.ts";
import type { FramesExtent, FramesRun, RawFrames } from "./snapshot.ts";
import type { Entry } from "./work.ts";

/**
 * From the ring, so many take less than 1 ms.
 * @bound frames that /api/frames copies from ring, memory or journal in one turn | other work runs first
 */
const READ_SLICE_FRAMES = 128;
const NO_FRAMES: RawFrames = { bytes: new Uint8Array(0), count: 0 };

export interface DecidedFramesOptions {
  readonly journal: Pick<
    Journal,
    "complete" | "damage" | "gaps" | "pruned" | "journalId" | "framesFrom" | "frameCount" | "eventsAt"
  >;
  /** Computes the vectors that the journal does not keep. */
  readonly hashing: Embedder;
  readonly textOf: (message: string | null, body: Uint8Array) => string;
  readonly ring: () => Pick<Ring, "capacity" | "head" | "read"> | null;
  readonly recent: Pick<RecentFrames, "entries" | "next">;
  readonly clock: Clock;
  /** @throws GatewayError store_unavailable if the store does not open in time */
  readonly openedStore: () => Promise<Pick<Store, "cursors" | "frames" | "frameCount">>;
}

export class DecidedFrames {
  readonly #o: DecidedFramesOptions;

  constructor(options: DecidedFramesOptions) {
    this.#o = options;
  }

  /** Returns at most `limit` neighbouring frames from `start` on, from memory, else the journal; [] if neither has `start`. */
  async #keptFrom(start: number, limit: number): Promise<Entry[]> {
    const { entries } = this.#o.recent;
    const first = entries[0]?.frameId;
    if (first !== undefined && start >= first) return entries.slice(start - first, start - first + limit);
    const rows = this.#o.journal.framesFrom(start, limit);
    return rows[0]?.frameId === start ? this.#entriesOf(rows) : [];
  }

  /**
   * Returns at most `limit` neighbouring frames from `start` on, from memory, else the journal, else DuckDB; [] if no place
   * has frame `start` any more.
   * @throws GatewayError store_unavailable if only DuckDB can have them and it is not open yet.
   */
  async entriesFrom(start: number, limit: number): Promise<Entry[]> {
    const kept = await this.#keptFrom(start, limit);
    if (kept.length > 0) return kept;
    const { bytes, count } = await this.#storedFrom(start, limit);
    if (count === 0 && this.#isDamaged(start)) {
      this.#o.journal.damage.note(
        "frames",
        start,
        "its event, from which its vector is computed, is damaged",
      );
      return [emptyFrame(start, this.#o.journal.journalId)];
    }
    return Array.from({ length: count }, (_, index) => {
      const at = index * FRAME_BYTES;
      const { frame_id: frameId, flags, semantic, semantic_dim } = decodeFrame(bytes, at);
      const physics = bytes.subarray(at + PHYSICS_OFFSET, at + FRAME_BYTES);
      const vector = (flags & FLAG.semantic) === 0 ? null : semantic.subarray(0, semantic_dim);
      return { frameId, physics, vector, eventType: null, intent: null };
    });
  }

  /** Whether frame `start`, which is in no place, was decided and neither skipped nor pruned: then its row was damaged. */
  #isDamaged(start: number): boolean {
    const { journal, recent } = this.#o;
    const oldest = Math.max(journal.gaps.firstFrameId, journal.pruned().frameId + 1);
    return journal.complete && start >= oldest && start < recent.next;
  }

  /** Returns the first rows without a gap between them. Computes the vectors that the journal does not keep. */
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
      // Its event is damaged, or has just left, so only DuckDB can have the vector.
      const gone = events.indexOf(null);
      if (gone !== -1) return this.#entriesOf(run.slice(0, part[gone]));
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

  /** Like {@link entriesFrom}, as bytes of the ring. */
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

  /** Returns frames from DuckDB that begin with `start`; none if DuckDB does not have that one. */
  async #storedFrom(start: number, limit: number): Promise<RawFrames> {
    const store = await this.#o.openedStore();
    if (start > store.cursors.frameId) return NO_FRAMES;
    const { bytes, count } = await store.frames(start - 1, limit, this.#capacity());
    const raw = new Uint8Array(bytes);
    return count > 0 && decodeFrame(raw).frame_id === start ? { bytes: raw, count } : NO_FRAMES;
  }

  /** The ring's capacity. Without a ring, `sequence` becomes that of the first lap. */
  #capacity(): number {
    return this.#o.ring()?.capacity ?? Number.MAX_SAFE_INTEGER;
  }

  /**
   * Returns at most `limit` neighbouring frames after frame `after`, in order, for /api/frames. If older ones are not kept any
   * more, or `after` is null, it begins with the oldest that is. Other work runs between the slices.
   * @throws GatewayError store_unavailable if only DuckDB can have them and it is not open.
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

  /**
   * Returns which frames {@link run} gives with the same arguments, without reading all of them; null: none. So a long run can be
   * read in slices.
   * @throws GatewayError store_unavailable as {@link run} does.
   */
  async extent(after: number | null, limit: number): Promise<FramesExtent | null> {
    const { chunks } = await this.run(after, 1);
    if (chunks[0] === undefined) return null;
    const first = decodeFrame(chunks[0]).frame_id;
    const end = Math.min(first + limit, this.#o.recent.next);
    let next = first + 1;
    while (next < end) {
      const count = await this.#countFrom(next, end - next);
      if (count === 0) break;
      next += count;
    }
    return { first, count: next - first };
  }

  /** How many frames one place has from `start` on without a gap, at most `limit`; 0 if no place has that one. */
  async #countFrom(start: number, limit: number): Promise<number> {
    const oldest = this.#o.recent.entries[0]?.frameId;
    if (oldest !== undefined && start >= oldest) return limit;
    const ring = this.#o.ring();
    if (ring !== null && ring.read(start, 1) !== null) return Math.min(limit, ring.head() - start);
    const inJournal = this.#o.journal.frameCount(start, limit);
    if (inJournal > 0) return inJournal;
    const store = await this.#o.openedStore();
    const stored = start > store.cursors.frameId ? 0 : await store.frameCount(start, limit);
    return stored === 0 && this.#isDamaged(start) ? 1 : stored;
  }

  /** Returns raw frames that begin with `start`: one slice from ring, memory or journal, else at most `limit` from DuckDB. */
  async #runFrom(start: number, limit: number): Promise<RawFrames> {
    const slice = Math.min(limit, READ_SLICE_FRAMES);
    const inRing = this.#o.ring()?.read(start, slice) ?? null;
    if (inRing !== null) return { bytes: inRing, count: inRing.byteLength / FRAME_BYTES };
    const kept = await this.#keptFrom(start, slice);
    if (kept.length > 0) return this.#raw(kept);
    const stored = await this.#storedFrom(start, limit);
    return stored.count === 0 && this.#isDamaged(start) ? this.rawFrom(start, 1) : stored;
  }

  /** Returns the oldest frames that are kept from `start` on. A temporary folder at its bound has dropped older ones. */
  async #oldestAfter(start: number, limit: number): Promise<RawFrames> {
    const store = await this.#o.openedStore();
    const { bytes, count } = await store.frames(start - 1, limit, this.#capacity());
    if (count > 0) return { bytes: new Uint8Array(bytes), count };
    const oldest = this.#o.journal.framesFrom(start, 1)[0]?.frameId ?? this.#o.recent.entries[0]?.frameId;
    return oldest === undefined ? NO_FRAMES : this.rawFrom(oldest, limit);
  }
}

/** Holds the place of a frame whose row was damaged, so that ids have no gap: it has no flags, and `event_seq` is 0. */
function emptyFrame(frameId: number, journalId: number): Entry {
  const physics = encodePhysics({
    ...{ delta_time: 0, duration_ms: 0, velocity: 0, interrupt: 0, timestamp_us: 0, conversation_hash: 0n },
    ...{ workflow_node: -1, case_status: 0, lead_status: 0, fill_rate: 0, actor_type: 0, intent_id: -1 },
    ...{ sentiment: 0, confidence: 0, spin: [1, 0, 0, 0], event_seq: 0, semantic_dim: 0, flags: 0 },
    ...{ model_id: 0, type_id: -1, journal_id: journalId, checksum: 0n },
  });
  fillChecksum(physics, null);
  return { frameId, physics, vector: null, eventType: null, intent: null, damaged: true };
}
