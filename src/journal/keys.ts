/**
 * The dedup keys of the journal: which key was seen in the last 8 days, and which event it made.
 * Part of the journal: everything is read and written inside the transaction of the events.
 *
 * A key is first kept in `dedup_log` (one BLOB for each group) and in memory. When there are many,
 * they go, in the order of keys and a few in each transaction, to the tree `dedup`: there the order
 * makes one page serve many keys. Random keys written straight into a tree cost a page each (measured:
 * 30,000 events/s at a million keys, 100,000 this way). A temporary journal keeps the two newest
 * tables in memory instead and forgets the older ones.
 */

import type { Database } from "bun:sqlite";
import { KeyLog } from "./key-log.ts";
import { HASH_BYTES, KeyTable, type KnownKey } from "./key-table.ts";
import { KeyTree } from "./key-tree.ts";

/** A repeat within this time is a duplicate: 8 days. */
export const DEDUP_WINDOW_US = 8 * 24 * 3600 * 1e6;
/** Keys that move to `dedup` in one transaction, at least. */
const MERGE_KEYS_MIN = 512;

export const KEYS_SCHEMA_SQL = `
  CREATE TABLE dedup_log(batch INTEGER PRIMARY KEY, entries BLOB NOT NULL);
  CREATE TABLE dedup(generation INTEGER NOT NULL, key BLOB NOT NULL, seq INTEGER NOT NULL,
    received_us INTEGER NOT NULL, PRIMARY KEY(generation, key)) WITHOUT ROWID;
  CREATE TABLE dedup_generations(generation INTEGER PRIMARY KEY, started_us INTEGER NOT NULL,
    newest_us INTEGER NOT NULL);`;

export class Keys {
  readonly #inMemoryMax: number;
  readonly #forgetful: boolean;
  readonly #log: KeyLog;
  readonly #tree: KeyTree;
  #table = new KeyTable();
  /** Keys on their way to `dedup`; in a temporary journal the older of the two tables in memory. */
  #sealed: { readonly table: KeyTable; readonly lastBatch: number; nextSlot: number } | null = null;
  /** What the open transaction makes of the sealed keys' `nextSlot`, for after its commit. */
  #movedTo: number | null = null;

  /** The hashes of the calls at hand, HASH_BYTES each, and which of them are known beside `#table`. */
  #hashes = new Uint8Array(64 * HASH_BYTES);
  #words = new Uint32Array(this.#hashes.buffer);
  #known = new Map<number, KnownKey>();
  /** Index, seq and receipt of each key that was put and is not yet in the log. */
  #put: number[] = [];

  /**
   * @param o.inMemoryMax keys that wait in memory before they are moved, at least 1.
   * @param o.forgetful a temporary journal: beyond twice as many, the oldest are forgotten.
   */
  constructor(database: Database, o: { inMemoryMax: number; forgetful: boolean }) {
    this.#inMemoryMax = o.inMemoryMax;
    this.#forgetful = o.forgetful;
    this.#log = new KeyLog(database);
    // A generation is looked at until its newest key is too old.
    this.#tree = new KeyTree(database, DEDUP_WINDOW_US / 2);
    this.#log.load(
      (count) => {
        this.#table.commit();
        this.#table.reserve(count);
      },
      (words, at, seq, receivedUs) => this.#table.set(words, at, seq, receivedUs),
    );
    this.commit();
  }

  /** Makes room for as many new keys as a transaction may bring, before it begins. */
  reserve(count: number): void {
    this.#table.reserve(count);
  }

  /** Takes the keys of the calls at hand, scoped by their source; each is then known by its index here. */
  begin(keys: readonly string[]): void {
    this.#known.clear();
    this.#put = [];
    if (keys.length === 0) return;
    if (HASH_BYTES * (keys.length + 1) > this.#hashes.byteLength) {
      this.#hashes = new Uint8Array(HASH_BYTES * 2 ** Math.ceil(Math.log2(keys.length + 1)));
      this.#words = new Uint32Array(this.#hashes.buffer);
    }
    const digest = new Uint8Array(32);
    const missing: number[] = [];
    keys.forEach((key, index) => {
      Bun.SHA256.hash(key, digest);
      this.#hashes.set(digest.subarray(0, HASH_BYTES), HASH_BYTES * index);
      if (this.#table.find(this.#words, 4 * index) !== null) return;
      const sealed = this.#sealed?.table.find(this.#words, 4 * index) ?? null;
      if (sealed === null) missing.push(index);
      else this.#known.set(index, sealed);
    });
    this.#tree.find(this.#hashes, missing, this.#known);
  }

  /** The event that key `index` made, unless its window is over at `receivedUs`. */
  find(index: number, receivedUs: number): KnownKey | null {
    const known = this.#table.find(this.#words, 4 * index) ?? this.#known.get(index) ?? null;
    return known !== null && known.receivedUs >= receivedUs - DEDUP_WINDOW_US ? known : null;
  }

  put(index: number, seq: number, receivedUs: number): void {
    this.#table.set(this.#words, 4 * index, seq, receivedUs);
    this.#put.push(index, seq, receivedUs);
  }

  /** Writes the log of what was put since `begin`, in the open transaction. */
  log(): void {
    if (this.#put.length === 0) return;
    this.#log.append(this.#hashes, this.#put);
    this.#put = [];
  }

  /** Moves some sealed keys on, in the open transaction, as its last step. */
  step(): void {
    this.#log.step();
    const sealed = this.#sealed;
    if (sealed === null || this.#forgetful) return;
    // At least twice as many as come in, so that it ends before there are as many again.
    const limit = Math.max(MERGE_KEYS_MIN, 2 * this.#table.mark);
    this.#movedTo = this.#tree.add(sealed.table, sealed.nextSlot, limit);
    if (this.#movedTo === sealed.table.slots) this.#log.remove(sealed.lastBatch);
  }

  get mark(): number {
    return this.#table.mark;
  }

  /** Takes back what was put since `mark`; all of it: the transaction was rolled back. */
  rollback(mark: number): void {
    this.#table.rollback(mark);
    this.#put = [];
    if (mark > 0) return;
    this.#movedTo = null;
    this.#tree.rollback();
    this.#log.rollback();
  }

  /** The transaction has committed. */
  commit(): void {
    this.#table.commit();
    this.#log.commit();
    this.#tree.commit();
    if (this.#movedTo !== null && this.#sealed !== null) {
      this.#sealed.nextSlot = this.#movedTo;
      if (this.#movedTo === this.#sealed.table.slots) this.#sealed = null;
    }
    this.#movedTo = null;
    if (this.#table.count < this.#inMemoryMax) return;
    if (this.#sealed !== null && !this.#forgetful) return;
    this.#log.removeLater(this.#sealed?.lastBatch ?? 0);
    this.#sealed = { table: this.#table, lastBatch: this.#log.lastBatch, nextSlot: 0 };
    this.#table = this.#table.emptyCopy();
  }

  /** There are keys that `prune` would delete. */
  hasOlder(olderThanUs: number): boolean {
    // The generation that keys are moved to right now stays.
    return this.#tree.hasOlder(olderThanUs, this.#sealed !== null && this.#sealed.nextSlot > 0);
  }

  /**
   * Deletes keys of generations that hold nothing received at `olderThanUs` or later, at most `max`,
   * in the open transaction.
   * @returns how many, and what to do after the commit.
   */
  prune(olderThanUs: number, max: number): { removed: number; done: () => void } {
    return this.hasOlder(olderThanUs) ? this.#tree.prune(max) : { removed: 0, done: () => {} };
  }
}
