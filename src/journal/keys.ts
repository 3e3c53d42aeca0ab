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

import type { Database, SQLQueryBindings } from "bun:sqlite";
import { Inserter, type PreparedStatement, type Row } from "./file.ts";

/** A repeat within this time is a duplicate: 8 days. */
const DEDUP_WINDOW_US = 8 * 24 * 3600 * 1e6;
/** A generation of `dedup` takes keys for this long and is looked at until its newest key is too old. */
const GENERATION_US = DEDUP_WINDOW_US / 2;
/** Keys of one look-up in `dedup`. */
const LOOKUP_KEYS = 16;
/** Keys that move to `dedup` in one transaction, at least. */
const MERGE_KEYS_MIN = 512;

export const KEYS_SCHEMA_SQL = `
  CREATE TABLE dedup_log(batch INTEGER PRIMARY KEY, entries BLOB NOT NULL);
  CREATE TABLE dedup(generation INTEGER NOT NULL, key BLOB NOT NULL, seq INTEGER NOT NULL,
    received_us INTEGER NOT NULL, PRIMARY KEY(generation, key)) WITHOUT ROWID;
  CREATE TABLE dedup_generations(generation INTEGER PRIMARY KEY, started_us INTEGER NOT NULL,
    newest_us INTEGER NOT NULL);`;

/** The event that a key made. */
interface KnownKey {
  readonly seq: number;
  readonly receivedUs: number;
}

/** In `dedup_log`: the hash, seq and receipt as float64. */
const ENTRY_BYTES = 32;
/** The leading bytes of SHA-256. */
const HASH_BYTES = 16;
const EMPTY = new Uint8Array(0);

/**
 * Keys in memory: open addressing by the key's leading bits, so that a walk over the slots is nearly
 * in the order of keys. What a transaction put in can be taken out again, last in, first out.
 */
class KeyTable {
  count = 0;
  newestUs = 0;
  #bits: number;
  #words: Uint32Array;
  #seqs: Float64Array;
  #receivedUs: Float64Array;
  readonly #undo: { slot: number; seq: number; receivedUs: number }[] = [];

  constructor(bits = 10) {
    this.#bits = bits;
    this.#words = new Uint32Array(4 << bits);
    this.#seqs = new Float64Array(1 << bits);
    this.#receivedUs = new Float64Array(1 << bits);
  }

  /** An empty table of the same size, so that it need not grow again. */
  emptyCopy(): KeyTable {
    return new KeyTable(this.#bits);
  }

  get slots(): number {
    return 1 << this.#bits;
  }

  /** Makes room for `extra` more keys, so that none moves until they are in. */
  reserve(extra: number): void {
    let bits = this.#bits;
    while (this.count + extra > 2 ** (bits - 1)) bits += 1;
    if (bits === this.#bits) return;
    const larger = new KeyTable(bits);
    for (let slot = 0; slot < this.slots; slot++) {
      const seq = this.#seqs[slot] ?? 0;
      if (seq !== 0)
        larger.#write(
          larger.#slot(this.#words, 4 * slot),
          this.#words,
          4 * slot,
          seq,
          this.#receivedUs[slot] ?? 0,
        );
    }
    this.#bits = bits;
    this.#words = larger.#words;
    this.#seqs = larger.#seqs;
    this.#receivedUs = larger.#receivedUs;
  }

  /** The slot that has the key at `words[at]`, else the free one where it belongs. */
  #slot(words: Uint32Array, at: number): number {
    const [a, b, c, d] = [words[at] ?? 0, words[at + 1] ?? 0, words[at + 2] ?? 0, words[at + 3] ?? 0];
    const mask = this.slots - 1;
    // The key's first bytes are its leading ones: the word, read as little endian, is turned round.
    const leading = ((a & 0xff) << 24) | ((a & 0xff00) << 8) | ((a >>> 8) & 0xff00) | (a >>> 24);
    const table = this.#words;
    for (let slot = leading >>> (32 - this.#bits); ; slot = (slot + 1) & mask) {
      if (this.#seqs[slot] === 0) return slot;
      const base = 4 * slot;
      if (table[base] === a && table[base + 1] === b && table[base + 2] === c && table[base + 3] === d)
        return slot;
    }
  }

  find(words: Uint32Array, at: number): { seq: number; receivedUs: number } | null {
    const slot = this.#slot(words, at);
    const seq = this.#seqs[slot] ?? 0;
    return seq === 0 ? null : { seq, receivedUs: this.#receivedUs[slot] ?? 0 };
  }

  set(words: Uint32Array, at: number, seq: number, receivedUs: number): void {
    const slot = this.#slot(words, at);
    const before = this.#seqs[slot] ?? 0;
    this.#undo.push({ slot, seq: before, receivedUs: this.#receivedUs[slot] ?? 0 });
    if (before === 0) this.count += 1;
    if (receivedUs > this.newestUs) this.newestUs = receivedUs;
    this.#write(slot, words, at, seq, receivedUs);
  }

  #write(slot: number, words: Uint32Array, at: number, seq: number, receivedUs: number): void {
    for (let word = 0; word < 4; word++) this.#words[4 * slot + word] = words[at + word] ?? 0;
    this.#seqs[slot] = seq;
    this.#receivedUs[slot] = receivedUs;
  }

  get mark(): number {
    return this.#undo.length;
  }

  rollback(mark: number): void {
    while (this.#undo.length > mark) {
      const last = this.#undo.pop();
      if (last === undefined) return;
      this.#seqs[last.slot] = last.seq;
      this.#receivedUs[last.slot] = last.receivedUs;
      if (last.seq === 0) this.count -= 1;
    }
  }

  commit(): void {
    this.#undo.length = 0;
  }

  /** Up to `limit` keys from `slot` on, as rows of `dedup`; `next` is where to go on, `slots` at the end. */
  rowsFrom(slot: number, limit: number, generation: number): { rows: SQLQueryBindings[]; next: number } {
    const rows: SQLQueryBindings[] = [];
    const bytes = new Uint8Array(this.#words.buffer);
    let next = slot;
    for (; next < this.slots && rows.length < 4 * limit; next++) {
      const seq = this.#seqs[next] ?? 0;
      if (seq === 0) continue;
      const key = bytes.slice(HASH_BYTES * next, HASH_BYTES * (next + 1));
      rows.push(generation, key, seq, this.#receivedUs[next] ?? 0);
    }
    return { rows, next };
  }
}

interface KeyGeneration {
  readonly generation: number;
  readonly startedUs: number;
  readonly newestUs: number;
}

export class Keys {
  readonly #inMemoryMax: number;
  readonly #forgetful: boolean;
  #table = new KeyTable();
  /** Keys on their way to `dedup`; in a temporary journal the older of the two tables in memory. */
  #sealed: { readonly table: KeyTable; readonly lastBatch: number; nextSlot: number } | null = null;
  #generations: KeyGeneration[];
  /** The newest row of `dedup_log`, committed and as the open transaction would have it. */
  #lastBatch = 0;
  #writtenBatch = 0;
  /** Rows of `dedup_log` up to here belong to keys that a temporary journal has forgotten. */
  #forgottenBatch = 0;
  /** What the open transaction does to `#sealed`, for after its commit. */
  #merged: { readonly nextSlot: number; readonly generation: KeyGeneration } | null = null;

  /** The hashes of the calls at hand, HASH_BYTES each, and which of them are known beside `#table`. */
  #hashes = new Uint8Array(64 * HASH_BYTES);
  #words = new Uint32Array(this.#hashes.buffer);
  #known = new Map<number, KnownKey>();
  /** Index, seq and receipt of each key that was put and is not yet in the log. */
  #put: number[] = [];

  readonly #lookUp: PreparedStatement;
  readonly #log: PreparedStatement;
  readonly #unlog: PreparedStatement;
  readonly #setGeneration: PreparedStatement;
  readonly #dropGeneration: PreparedStatement;
  readonly #boundary: PreparedStatement;
  readonly #deleteTo: PreparedStatement;
  readonly #deleteAll: PreparedStatement;
  readonly #merge: Inserter;

  /**
   * @param o.inMemoryMax keys that wait in memory before they are moved, at least 1.
   * @param o.forgetful a temporary journal: beyond twice as many, the oldest are forgotten.
   */
  constructor(database: Database, o: { inMemoryMax: number; forgetful: boolean }) {
    this.#inMemoryMax = o.inMemoryMax;
    this.#forgetful = o.forgetful;
    const prepare = (sql: string): PreparedStatement => database.prepare<Row, SQLQueryBindings[]>(sql);
    const places = new Array(LOOKUP_KEYS).fill("?").join(",");
    this.#lookUp = prepare(
      `SELECT key, seq, received_us FROM dedup WHERE generation = ? AND key IN (${places})`,
    );
    this.#log = prepare("INSERT INTO dedup_log(entries) VALUES (?)");
    this.#unlog = prepare("DELETE FROM dedup_log WHERE batch <= ?");
    this.#setGeneration = prepare(
      "INSERT OR REPLACE INTO dedup_generations(generation, started_us, newest_us) VALUES (?, ?, ?)",
    );
    this.#dropGeneration = prepare("DELETE FROM dedup_generations WHERE generation = ?");
    this.#boundary = prepare("SELECT key FROM dedup WHERE generation = ? ORDER BY key LIMIT 1 OFFSET ?");
    this.#deleteTo = prepare("DELETE FROM dedup WHERE generation = ? AND key < ?");
    this.#deleteAll = prepare("DELETE FROM dedup WHERE generation = ?");
    this.#merge = new Inserter(
      database,
      "INSERT OR REPLACE INTO dedup(generation, key, seq, received_us)",
      4,
    );
    this.#generations = prepare("SELECT * FROM dedup_generations ORDER BY generation")
      .all()
      .map((row) => ({
        generation: row.generation as number,
        startedUs: row.started_us as number,
        newestUs: row.newest_us as number,
      }));
    this.#load(prepare("SELECT batch, entries FROM dedup_log ORDER BY batch"));
  }

  #load(log: PreparedStatement): void {
    for (const [batch, blob] of log.values() as [number, Uint8Array][]) {
      const bytes = blob.slice();
      const words = new Uint32Array(bytes.buffer);
      const floats = new Float64Array(bytes.buffer);
      this.#table.reserve(bytes.byteLength / ENTRY_BYTES);
      for (let at = 0; at < bytes.byteLength; at += ENTRY_BYTES) {
        this.#table.set(words, at / 4, floats[at / 8 + 2] ?? 0, floats[at / 8 + 3] ?? 0);
      }
      this.#table.commit();
      this.#writtenBatch = batch;
    }
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
    // The newest generation first: what stands there is the newer use of a key.
    for (const { generation } of this.#generations.toReversed()) {
      this.#findStored(
        generation,
        missing.filter((index) => !this.#known.has(index)),
      );
    }
  }

  #findStored(generation: number, indices: readonly number[]): void {
    for (let from = 0; from < indices.length; from += LOOKUP_KEYS) {
      const part = indices.slice(from, from + LOOKUP_KEYS);
      const keys = part.map((index) => this.#hashes.slice(HASH_BYTES * index, HASH_BYTES * (index + 1)));
      const rest = new Array<null>(LOOKUP_KEYS - keys.length).fill(null);
      for (const row of this.#lookUp.all(generation, ...keys, ...rest)) {
        part.forEach((index, at) => {
          if (Buffer.compare(keys[at] ?? EMPTY, row.key as Uint8Array) !== 0) return;
          this.#known.set(index, { seq: row.seq as number, receivedUs: row.received_us as number });
        });
      }
    }
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
    const put = this.#put;
    if (put.length === 0) return;
    const bytes = new Uint8Array((put.length / 3) * ENTRY_BYTES);
    const floats = new Float64Array(bytes.buffer);
    for (let from = 0, at = 0; from < put.length; from += 3, at += ENTRY_BYTES) {
      const hash = HASH_BYTES * (put[from] ?? 0);
      bytes.set(this.#hashes.subarray(hash, hash + HASH_BYTES), at);
      floats[at / 8 + 2] = put[from + 1] ?? 0;
      floats[at / 8 + 3] = put[from + 2] ?? 0;
    }
    this.#writtenBatch = Number(this.#log.run(bytes).lastInsertRowid);
    this.#put = [];
  }

  /** Moves some sealed keys on, in the open transaction, as its last step. */
  step(): void {
    if (this.#forgottenBatch > 0) this.#unlog.run(this.#forgottenBatch);
    const sealed = this.#sealed;
    if (sealed === null || this.#forgetful) return;
    const { table, lastBatch, nextSlot } = sealed;
    const newest = this.#generations.at(-1);
    const fresh = newest === undefined || table.newestUs - newest.startedUs >= GENERATION_US;
    const generation = {
      generation: (newest?.generation ?? 0) + (fresh ? 1 : 0),
      startedUs: fresh ? table.newestUs : newest.startedUs,
      newestUs: Math.max(newest?.newestUs ?? 0, table.newestUs),
    };
    // At least twice as many as come in, so that it ends before there are as many again.
    const limit = Math.max(MERGE_KEYS_MIN, 2 * this.#table.mark);
    const { rows, next } = table.rowsFrom(nextSlot, limit, generation.generation);
    if (nextSlot === 0)
      this.#setGeneration.run(generation.generation, generation.startedUs, generation.newestUs);
    this.#merge.insert(rows);
    if (next === table.slots) this.#unlog.run(lastBatch);
    this.#merged = { nextSlot: next, generation };
  }

  get mark(): number {
    return this.#table.mark;
  }

  /** Takes back what was put since `mark`. */
  rollback(mark: number): void {
    this.#table.rollback(mark);
    this.#put = [];
    if (mark > 0) return;
    this.#merged = null;
    this.#writtenBatch = this.#lastBatch;
  }

  /** The transaction has committed. */
  commit(): void {
    this.#table.commit();
    this.#lastBatch = this.#writtenBatch;
    this.#forgottenBatch = 0;
    if (this.#merged !== null && this.#sealed !== null) {
      const { nextSlot, generation } = this.#merged;
      this.#generations = [
        ...this.#generations.filter((known) => known.generation !== generation.generation),
        generation,
      ];
      this.#sealed.nextSlot = nextSlot;
      if (nextSlot === this.#sealed.table.slots) this.#sealed = null;
    }
    this.#merged = null;
    if (this.#table.count < this.#inMemoryMax) return;
    if (this.#sealed !== null && !this.#forgetful) return;
    this.#forgottenBatch = this.#sealed?.lastBatch ?? 0;
    this.#sealed = { table: this.#table, lastBatch: this.#lastBatch, nextSlot: 0 };
    this.#table = this.#table.emptyCopy();
  }

  /** There are keys that `prune` would delete. */
  hasOlder(olderThanUs: number): boolean {
    const oldest = this.#generations[0];
    // The generation that keys are moved to right now stays.
    const busy = this.#sealed !== null && this.#sealed.nextSlot > 0 && this.#generations.length === 1;
    return oldest !== undefined && oldest.newestUs < olderThanUs && !busy;
  }

  /**
   * Deletes keys of generations that hold nothing received at `olderThanUs` or later, at most `max`,
   * in the open transaction.
   * @returns how many, and what to do after the commit.
   */
  prune(olderThanUs: number, max: number): { removed: number; done: () => void } {
    const nothing = { removed: 0, done: () => {} };
    const oldest = this.#generations[0];
    if (oldest === undefined || !this.hasOlder(olderThanUs)) return nothing;
    const boundary = this.#boundary.get(oldest.generation, max)?.key as Uint8Array | undefined;
    if (boundary !== undefined) {
      return { ...nothing, removed: this.#deleteTo.run(oldest.generation, boundary).changes };
    }
    const removed = this.#deleteAll.run(oldest.generation).changes;
    this.#dropGeneration.run(oldest.generation);
    const done = (): void => {
      this.#generations = this.#generations.filter((known) => known !== oldest);
    };
    return { removed, done };
  }
}
