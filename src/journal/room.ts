/**
 * The bound of a temporary journal: how many bytes its tables and its WAL may take. Before a group is stored, the oldest
 * generations are emptied until there is room for it. Part of the journal.
 */

import type { Database } from "bun:sqlite";
import { statSync } from "node:fs";
import { type Call, isAppend } from "./calls.ts";
import type { Generation, Generations } from "./generations.ts";
import type { Leaving } from "./logs.ts";
import type { Transactions } from "./transactions.ts";

/**
 * Bytes of bodies, messages and vectors in one transaction; a single call may hold more.
 * @bound bytes in one commit of the journal (one call may have more) | the rest goes into the next
 */
const GROUP_BYTES_MAX = 16 * 1024 * 1024;
/** The WAL is copied back whenever it has grown by this. It is small because copying delays one commit (by about 10 ms). */
const CHECKPOINT_BYTES = 4 * 1024 * 1024;
/** The oldest generation is emptied only if the others hold at least this part, one in 16, of the room in events. */
const NEWEST_SHARE = 16;
/** Roughly what a row takes besides body, message and vector. */
const ROW_BYTES = 128;

export interface Bounds {
  /** Of the tables. */
  readonly tablesBytes: number;
  /** The WAL is copied back whenever it has grown by this. */
  readonly walBytes: number;
  /** Of the calls in one group. */
  readonly groupBytes: number;
}

/** Divides `limitBytes` between the file and its WAL. A kept journal has an infinite limit. */
export function boundsOf(limitBytes: number): Bounds {
  const walBytes = Math.min(CHECKPOINT_BYTES, limitBytes / 16);
  const groupBytes = Math.min(GROUP_BYTES_MAX, limitBytes / 16);
  // Besides the tables there are a full WAL, which one more group may exceed, and the pages of that group.
  return { tablesBytes: limitBytes - 2 * walBytes - 2 * groupBytes, walBytes, groupBytes };
}

/** What was lost with a generation that was emptied. */
export interface Dropped {
  readonly events: number;
  /** The first event that is still in the journal. */
  readonly oldestSeq: number;
}

export interface RoomOptions {
  readonly path: string;
  readonly database: Database;
  readonly transactions: Transactions;
  readonly generations: Generations;
  readonly bounds: Bounds;
  readonly usedBytes: () => number;
  /** Called after a generation was emptied. */
  readonly onDropped: (dropped: Dropped) => void;
}

/** What one generation holds. */
interface Tally {
  events: number;
  /** Events without a frame. */
  unframed: number;
  /** Bytes of events, written while it took new events. */
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

  /** Events that were lost before they had a frame. */
  get dropped(): number {
    return this.#dropped;
  }

  /**
   * Empties the oldest generation if the group would exceed the bound or the newest generation is full.
   * @param nextSeq the number of the next event.
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
      // The frames of the newest events may fill the room by themselves. Those events must stay.
      if (!shareReached && this.#bytesBesideOldest() < tablesBytes / NEWEST_SHARE) break;
      this.#rotate(nextSeq);
    }
    // A long-lived reader keeps the WAL from starting over. Cut it as soon as no reader needs it.
    const wal = statSync(`${this.#o.path}-wal`, { throwIfNoEntry: false })?.size ?? 0;
    if (wal > walBytes + groupBytes) this.#o.database.run("PRAGMA wal_checkpoint(TRUNCATE)");
  }

  /** Counts the rows of a group that was stored. */
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
      // A frame goes to the generation of its event, mostly an older one, so its bytes do not fill the newest.
      if (call.kind !== "decide" || call.failure !== undefined) continue;
      for (const { seq } of call.frames) {
        const generation = this.#o.generations.of(seq);
        if (generation !== undefined) this.#of(generation).unframed -= 1;
      }
    }
  }

  /** Counts the events that were pruned. */
  left(leaving: readonly Leaving[]): void {
    for (const { generation } of leaving) this.#of(generation).events -= 1;
  }

  #of(generation: Generation): Tally {
    const tally = this.#tallies.get(generation);
    if (tally === undefined) throw new Error("journal: an unknown generation");
    return tally;
  }

  /** Bytes of events that stay when the oldest generation is emptied. */
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
