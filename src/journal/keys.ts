/**
 * The dedup keys of the journal: which keys were received in the last 15 days, and which event each made. Part of the
 * journal. Everything is read and written inside the transaction of the events.
 *
 * A key first goes to `dedup_log` (one BLOB for each group) and into a table in memory. When the table has many keys, it
 * is sealed: its keys move, sorted and a few in each transaction, to the tree `dedup`. Sorted keys share pages; random
 * keys written straight into a tree would cost a page each (measured at a million keys: 30,000 events/s, instead of
 * 100,000 this way). A temporary journal does not use the tree. It keeps its two newest tables in memory and forgets
 * older ones.
 */

import type { Database } from "bun:sqlite";
import { KeyLog } from "./key-log.ts";
import { HASH_BYTES, KeyTable, type KnownKey } from "./key-table.ts";
import { KeyTree } from "./key-tree.ts";

/**
 * An event is a duplicate if its key was received at most this long ago: 15 days.
 * @bound how long a dedup key is remembered, by receipt | a repeat is a new event
 */
export const DEDUP_WINDOW_US = 15 * 24 * 3600 * 1e6;
/** At least this many keys move to `dedup` in one transaction. */
const MERGE_KEYS_MIN = 512;

/** A key that the sender gave, or the whole body of an event that has none. */
export interface Key {
  /** The source of the event, a kind, and the key that was given. */
  readonly scope: string;
  readonly body: Uint8Array | null;
}

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
  /** Keys that are moving to `dedup`; in a temporary journal, the older of the two tables in memory. */
  #sealed: { readonly table: KeyTable; readonly lastBatch: number; nextSlot: number } | null = null;
  /** How far the open transaction moved the sealed keys; becomes their `nextSlot` at the commit. */
  #movedTo: number | null = null;

  /** The hashes of the keys given to `begin`, HASH_BYTES each, and those of them that are known from outside `#table`. */
  #hashes = new Uint8Array(64 * HASH_BYTES);
  #words = new Uint32Array(this.#hashes.buffer);
  #known = new Map<number, KnownKey>();
  /** Index, seq and receipt of each key that was put and is not in the log yet. */
  #put: number[] = [];

  /**
   * @param o.inMemoryMax keys that wait in memory before they are moved, at least 1.
   * @param o.forgetful for a temporary journal: keys stay in memory, and of more than twice as many the oldest are
   *   forgotten.
   */
  constructor(database: Database, o: { inMemoryMax: number; forgetful: boolean }) {
    this.#inMemoryMax = o.inMemoryMax;
    this.#forgetful = o.forgetful;
    this.#log = new KeyLog(database);
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

  /** Makes room for the most keys that a transaction can bring. Call it before the transaction. */
  reserve(count: number): void {
    this.#table.reserve(count);
  }

  /** Looks up keys. Until the next `begin`, each is meant by its index here. */
  begin(keys: readonly Key[]): void {
    this.#known.clear();
    this.#put = [];
    if (keys.length === 0) return;
    if (HASH_BYTES * (keys.length + 1) > this.#hashes.byteLength) {
      this.#hashes = new Uint8Array(HASH_BYTES * 2 ** Math.ceil(Math.log2(keys.length + 1)));
      this.#words = new Uint32Array(this.#hashes.buffer);
    }
    const digest = new Uint8Array(32);
    const missing: number[] = [];
    keys.forEach(({ scope, body }, index) => {
      if (body === null) Bun.SHA256.hash(scope, digest);
      else new Bun.SHA256().update(scope).update(body).digest(digest);
      this.#hashes.set(digest.subarray(0, HASH_BYTES), HASH_BYTES * index);
      if (this.#table.find(this.#words, 4 * index) !== null) return;
      const sealed = this.#sealed?.table.find(this.#words, 4 * index) ?? null;
      if (sealed === null) missing.push(index);
      else this.#known.set(index, sealed);
    });
    this.#tree.find(this.#hashes, missing, this.#known);
  }

  /** The event that key `index` made; null if there is none in the window before `receivedUs`. */
  find(index: number, receivedUs: number): KnownKey | null {
    const known = this.#table.find(this.#words, 4 * index) ?? this.#known.get(index) ?? null;
    return known !== null && known.receivedUs >= receivedUs - DEDUP_WINDOW_US ? known : null;
  }

  /** Notes that key `index` made event `seq`. */
  put(index: number, seq: number, receivedUs: number): void {
    this.#table.set(this.#words, 4 * index, seq, receivedUs);
    this.#put.push(index, seq, receivedUs);
  }

  /** Writes the keys that were put since `begin` to the log, in the open transaction. */
  log(): void {
    if (this.#put.length === 0) return;
    this.#log.append(this.#hashes, this.#put);
    this.#put = [];
  }

  /** Moves some sealed keys to the tree. Call it as the last step of a transaction. */
  step(): void {
    this.#log.step();
    const sealed = this.#sealed;
    if (sealed === null || this.#forgetful) return;
    // At least twice as many keys move as came in, so that all have moved before the next table is full.
    const limit = Math.max(MERGE_KEYS_MIN, 2 * this.#table.mark);
    this.#movedTo = this.#tree.add(sealed.table, sealed.nextSlot, limit);
    if (this.#movedTo === sealed.table.slots) this.#log.remove(sealed.lastBatch);
  }

  /** A point in the open transaction to which `rollback` can return; 0 at its start. */
  get mark(): number {
    return this.#table.mark;
  }

  /** Undoes what was put since `mark`. With mark 0 the transaction was rolled back. */
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

  /** Whether `prune` would delete keys. */
  hasOlder(olderThanUs: number): boolean {
    return this.#tree.hasOlder(olderThanUs, this.#sealed !== null && this.#sealed.nextSlot > 0);
  }

  /**
   * Deletes keys, at most `max`, of a generation whose keys were all received before `olderThanUs`, in the open
   * transaction.
   * @returns how many, and what must be called after the commit.
   */
  prune(olderThanUs: number, max: number): { removed: number; done: () => void } {
    return this.hasOlder(olderThanUs) ? this.#tree.prune(max) : { removed: 0, done: () => {} };
  }
}
