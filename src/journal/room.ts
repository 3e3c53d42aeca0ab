/**
 * The bound of a temporary journal: what its tables and its WAL may take, and what is in each generation. Before a
 * group is stored, the oldest generations are emptied until there is room for it. Part of the journal.
 */

import type { Database } from "bun:sqlite";
import { statSync } from "node:fs";
import { type Call, isAppend } from "./calls.ts";
import type { Generation, Generations } from "./generations.ts";
import type { Leaving } from "./logs.ts";
import type { Transactions } from "./transactions.ts";

/** Bytes of bodies and messages in one transaction; a single call may hold more. */
const GROUP_BYTES_MAX = 16 * 1024 * 1024;
/**
 * The WAL is copied back each time it has grown by this: small, since it holds up one commit (about 10
 * ms).
 */
const CHECKPOINT_BYTES = 4 * 1024 * 1024;
/** A temporary journal keeps at least this part of its room for the newest events, one in so many. */
const NEWEST_SHARE = 16;
/** What a row takes beside its bodies, messages and vectors, roughly. */
const ROW_BYTES = 128;

export interface Bounds {
  /** What the tables may take. */
  readonly tablesBytes: number;
  /** The WAL is copied back whenever it has grown by this. */
  readonly walBytes: number;
  /** Of one group. */
  readonly groupBytes: number;
}

/** How `limitBytes` of file and WAL are shared out; infinite for a kept journal. */
export function boundsOf(limitBytes: number): Bounds {
  const walBytes = Math.min(CHECKPOINT_BYTES, limitBytes / 16);
  const groupBytes = Math.min(GROUP_BYTES_MAX, limitBytes / 16);
  // Beside the tables: a full WAL, which a group more may exceed, and the group's own pages.
  return { tablesBytes: limitBytes - 2 * walBytes - 2 * groupBytes, walBytes, groupBytes };
}

/** What went with a generation that was emptied. */
export interface Dropped {
  readonly events: number;
  /** The first event that is still there. */
  readonly oldestSeq: number;
}

export interface RoomOptions {
  readonly path: string;
  readonly database: Database;
  readonly transactions: Transactions;
  readonly generations: Generations;
  readonly bounds: Bounds;
  readonly usedBytes: () => number;
  /** Called after each generation that was emptied. */
  readonly onDropped: (dropped: Dropped) => void;
}

/** What is in one generation. */
interface Tally {
  /** Rows of events there, those without a frame, and what was written since it is the current one. */
  events: number;
  unframed: number;
  bytes: number;
}

export class Room {
  readonly #o: RoomOptions;
  readonly #tallies: Map<Generation, Tally>;
  #dropped = 0;

  constructor(options: RoomOptions) {
    this.#o = options;
    this.#tallies = new Map(
      options.generations.all.map((generation) => [generation, { events: 0, unframed: 0, bytes: 0 }]),
    );
  }

  /** Events that went before they had a frame. */
  get dropped(): number {
    return this.#dropped;
  }

  /**
   * Empties the oldest generation when the bound would be passed or the newest has its share.
   * @param nextSeq the next event's, if none is stored before.
   * @throws GatewayError disk_full, journal_failed
   */
  make(group: readonly Call[], nextSeq: number): void {
    const { tablesBytes, walBytes, groupBytes } = this.#o.bounds;
    const generations = this.#o.generations.all.length;
    const incoming = group.reduce((sum, call) => sum + call.bytes + call.rows * ROW_BYTES, 0);
    for (let turn = 0; turn < generations; turn++) {
      const full = this.#o.usedBytes() + incoming > tablesBytes;
      const shareReached = this.#of(this.#o.generations.current).bytes >= tablesBytes / generations;
      if (!full && !shareReached) break;
      // Frames of the newest events may fill the room by themselves: these events are not what has to go.
      if (!shareReached && this.#bytesBesideOldest() < tablesBytes / NEWEST_SHARE) break;
      this.#rotate(nextSeq);
    }
    // A reader that sat on the WAL kept it from starting over; it is cut as soon as nobody does.
    const wal = statSync(`${this.#o.path}-wal`, { throwIfNoEntry: false })?.size ?? 0;
    if (wal > walBytes + groupBytes) this.#o.database.run("PRAGMA wal_checkpoint(TRUNCATE)");
  }

  /** Counts a group that was stored. */
  stored(group: readonly Call[]): void {
    const current = this.#of(this.#o.generations.current);
    for (const call of group) {
      if (!isAppend(call)) continue;
      current.bytes += call.bytes + call.rows * ROW_BYTES;
      if (call.failure !== undefined) continue;
      current.events += call.stored.length;
      current.unframed += call.stored.length;
    }
    for (const call of group) {
      // Frames stand beside their events, mostly older ones: they are no reason to begin a new generation.
      if (call.kind !== "decide" || call.failure !== undefined) continue;
      for (const { seq } of call.frames) {
        const generation = this.#o.generations.of(seq);
        if (generation !== undefined) this.#of(generation).unframed -= 1;
      }
    }
  }

  /** Counts what was pruned. */
  left(leaving: readonly Leaving[]): void {
    for (const { generation } of leaving) this.#of(generation).events -= 1;
  }

  #of(generation: Generation): Tally {
    const tally = this.#tallies.get(generation);
    if (tally === undefined) throw new Error("journal: a generation that is not counted");
    return tally;
  }

  /** Bytes of events that stay when the oldest generation goes. */
  #bytesBesideOldest(): number {
    return this.#o.generations.all.slice(1).reduce((sum, generation) => sum + this.#of(generation).bytes, 0);
  }

  #rotate(nextSeq: number): void {
    const { transactions, generations } = this.#o;
    transactions.change("drop the oldest events", () => generations.emptyOldest());
    const { emptied, oldestSeq } = generations.rotate(nextSeq);
    const tally = this.#of(emptied);
    const { events, unframed } = tally;
    Object.assign(tally, { events: 0, unframed: 0, bytes: 0 });
    this.#dropped += unframed;
    this.#o.onDropped({ events, oldestSeq });
  }
}
