/** Dedup keys in memory, each with the event that it made. Part of the journal. */

import type { SQLQueryBindings } from "bun:sqlite";

/** A key is the first bytes of a SHA-256; in memory it is four words. */
export const HASH_BYTES = 16;

/** The event that a key made. */
export interface KnownKey {
  readonly seq: number;
  readonly receivedUs: number;
}

/**
 * A hash table with open addressing by the leading bits of the key, so that a walk over the slots visits keys nearly in
 * their order. What a transaction set can be undone, last in, first out.
 */
export class KeyTable {
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

  /** An empty table with as many slots, so that it need not grow again. */
  emptyCopy(): KeyTable {
    return new KeyTable(this.#bits);
  }

  get slots(): number {
    return 1 << this.#bits;
  }

  /** Makes room for `extra` more keys, so that no key moves to another slot while they are set. */
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

  /** The slot of the key at `words[at]`, else the free slot for it. */
  #slot(words: Uint32Array, at: number): number {
    const [a, b, c, d] = [words[at] ?? 0, words[at + 1] ?? 0, words[at + 2] ?? 0, words[at + 3] ?? 0];
    const mask = this.slots - 1;
    // Keys are ordered by bytes, first byte first, so the word, which is little endian, is reversed.
    const leading = ((a & 0xff) << 24) | ((a & 0xff00) << 8) | ((a >>> 8) & 0xff00) | (a >>> 24);
    const table = this.#words;
    for (let slot = leading >>> (32 - this.#bits); ; slot = (slot + 1) & mask) {
      if (this.#seqs[slot] === 0) return slot;
      const base = 4 * slot;
      if (table[base] === a && table[base + 1] === b && table[base + 2] === c && table[base + 3] === d)
        return slot;
    }
  }

  find(words: Uint32Array, at: number): KnownKey | null {
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

  /** Up to `limit` keys from `slot` on, as rows of `dedup`. `next` is the slot to continue from; at the end, `slots`. */
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
