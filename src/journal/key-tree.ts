/**
 * Dedup keys on disk, sorted, in generations. A generation takes keys for half of the window and is forgotten as a whole
 * when its newest key is too old. Part of the journal.
 */

import type { Database } from "bun:sqlite";
import { Inserter, type PreparedStatement, prepare } from "./file.ts";
import { HASH_BYTES, type KeyTable, type KnownKey } from "./key-table.ts";

/** Keys in one look-up. */
const LOOKUP_KEYS = 16;
const EMPTY = new Uint8Array(0);

interface KeyGeneration {
  readonly generation: number;
  readonly startedUs: number;
  readonly newestUs: number;
}

export class KeyTree {
  readonly #generationUs: number;
  /** Oldest first. */
  #generations: readonly KeyGeneration[];
  /** The newest generation as the open transaction leaves it; adopted at the commit. */
  #written: KeyGeneration | null = null;
  readonly #lookUp: PreparedStatement;
  readonly #setGeneration: PreparedStatement;
  readonly #dropGeneration: PreparedStatement;
  readonly #boundary: PreparedStatement;
  readonly #deleteTo: PreparedStatement;
  readonly #deleteAll: PreparedStatement;
  readonly #insert: Inserter;

  /** @param generationUs for how long a generation takes keys. */
  constructor(database: Database, generationUs: number) {
    this.#generationUs = generationUs;
    const places = new Array(LOOKUP_KEYS).fill("?").join(",");
    this.#lookUp = prepare(
      database,
      `SELECT key, seq, received_us FROM dedup WHERE generation = ? AND key IN (${places})`,
    );
    this.#setGeneration = prepare(
      database,
      "INSERT OR REPLACE INTO dedup_generations(generation, started_us, newest_us) VALUES (?, ?, ?)",
    );
    this.#dropGeneration = prepare(database, "DELETE FROM dedup_generations WHERE generation = ?");
    this.#boundary = prepare(
      database,
      "SELECT key FROM dedup WHERE generation = ? ORDER BY key LIMIT 1 OFFSET ?",
    );
    this.#deleteTo = prepare(database, "DELETE FROM dedup WHERE generation = ? AND key < ?");
    this.#deleteAll = prepare(database, "DELETE FROM dedup WHERE generation = ?");
    this.#insert = new Inserter(
      database,
      "INSERT OR REPLACE INTO dedup(generation, key, seq, received_us)",
      4,
    );
    this.#generations = prepare(database, "SELECT * FROM dedup_generations ORDER BY generation")
      .all()
      .map((row) => ({
        generation: row.generation as number,
        startedUs: row.started_us as number,
        newestUs: row.newest_us as number,
      }));
  }

  /**
   * Looks up the keys of `indices` and adds those that it finds to `known`.
   * @param hashes HASH_BYTES for each index.
   */
  find(hashes: Uint8Array, indices: readonly number[], known: Map<number, KnownKey>): void {
    // Newest generation first, because it has the newest use of a key.
    for (const { generation } of this.#generations.toReversed()) {
      this.#findIn(
        generation,
        hashes,
        indices.filter((index) => !known.has(index)),
        known,
      );
    }
  }

  #findIn(
    generation: number,
    hashes: Uint8Array,
    indices: readonly number[],
    known: Map<number, KnownKey>,
  ): void {
    for (let from = 0; from < indices.length; from += LOOKUP_KEYS) {
      const part = indices.slice(from, from + LOOKUP_KEYS);
      const keys = part.map((index) => hashes.slice(HASH_BYTES * index, HASH_BYTES * (index + 1)));
      const rest = new Array<null>(LOOKUP_KEYS - keys.length).fill(null);
      for (const row of this.#lookUp.all(generation, ...keys, ...rest)) {
        part.forEach((index, at) => {
          if (Buffer.compare(keys[at] ?? EMPTY, row.key as Uint8Array) !== 0) return;
          known.set(index, { seq: row.seq as number, receivedUs: row.received_us as number });
        });
      }
    }
  }

  /**
   * Adds up to `limit` keys of `table` from `slot` on, in the open transaction.
   * @returns the slot to continue from; at the end, `table.slots`.
   */
  add(table: KeyTable, slot: number, limit: number): number {
    const newest = this.#generations.at(-1);
    // In either direction: a clock that stepped far back must not fill one generation until it has caught up.
    const fresh = newest === undefined || Math.abs(table.newestUs - newest.startedUs) >= this.#generationUs;
    const written = {
      generation: (newest?.generation ?? 0) + (fresh ? 1 : 0),
      startedUs: fresh ? table.newestUs : newest.startedUs,
      newestUs: fresh ? table.newestUs : Math.max(newest.newestUs, table.newestUs),
    };
    const { rows, next } = table.rowsFrom(slot, limit, written.generation);
    if (slot === 0) this.#setGeneration.run(written.generation, written.startedUs, written.newestUs);
    this.#insert.insert(rows);
    this.#written = written;
    return next;
  }

  /** The transaction was rolled back. */
  rollback(): void {
    this.#written = null;
  }

  /** The transaction has committed. */
  commit(): void {
    const written = this.#written;
    if (written === null) return;
    const others = this.#generations.filter(({ generation }) => generation !== written.generation);
    this.#generations = [...others, written];
    this.#written = null;
  }

  /**
   * Whether the oldest generation can be pruned: all of its keys were received before `olderThanUs`, or before all keys of
   * another generation that were. So stamps of a clock that was ahead do not keep it.
   * @param filling the newest generation is taking keys now, so it must stay.
   */
  hasOlder(olderThanUs: number, filling: boolean): boolean {
    const oldest = this.#generations[0];
    const busy = filling && this.#generations.length === 1;
    return oldest !== undefined && !busy && this.#generations.some(({ newestUs }) => newestUs < olderThanUs);
  }

  /**
   * Deletes keys of the oldest generation, at most `max`, in the open transaction.
   * @returns how many, and what must be called after the commit.
   */
  prune(max: number): { removed: number; done: () => void } {
    const oldest = this.#generations[0];
    if (oldest === undefined) return { removed: 0, done: () => {} };
    const boundary = this.#boundary.get(oldest.generation, max)?.key as Uint8Array | undefined;
    if (boundary !== undefined) {
      return { removed: this.#deleteTo.run(oldest.generation, boundary).changes, done: () => {} };
    }
    const removed = this.#deleteAll.run(oldest.generation).changes;
    this.#dropGeneration.run(oldest.generation);
    const done = (): void => {
      this.#generations = this.#generations.filter((known) => known !== oldest);
    };
    return { removed, done };
  }
}
