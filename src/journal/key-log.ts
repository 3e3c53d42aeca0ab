/**
 * The log of dedup keys. Each group writes one row, a batch, in its own transaction, so that a key is durable exactly
 * when its event is. Batches are removed after their keys have moved to the tree. Part of the journal.
 */

import type { Database } from "bun:sqlite";
import { type PreparedStatement, prepare } from "./file.ts";
import { HASH_BYTES } from "./key-table.ts";

/** An entry is a hash, then seq and receipt as float64. */
const ENTRY_BYTES = 32;

export class KeyLog {
  readonly #read: PreparedStatement;
  readonly #insert: PreparedStatement;
  readonly #delete: PreparedStatement;
  /** The newest batch: of committed transactions, and with the open one. */
  #lastBatch = 0;
  #writtenBatch = 0;
  /** Batches up to here are removed in the next transaction that commits. */
  #unwantedBatch = 0;

  constructor(database: Database) {
    this.#read = prepare(database, "SELECT batch, entries FROM dedup_log ORDER BY batch");
    this.#insert = prepare(database, "INSERT INTO dedup_log(entries) VALUES (?)");
    this.#delete = prepare(database, "DELETE FROM dedup_log WHERE batch <= ?");
  }

  /** The newest committed batch; 0 before the first. */
  get lastBatch(): number {
    return this.#lastBatch;
  }

  /** Reads the whole log. `onBatch` is called before the entries of a batch. An entry's hash is `words[at]` to `words[at + 3]`. */
  load(
    onBatch: (count: number) => void,
    onEntry: (words: Uint32Array, at: number, seq: number, receivedUs: number) => void,
  ): void {
    for (const [batch, blob] of this.#read.values() as [number, Uint8Array][]) {
      const bytes = blob.slice();
      const words = new Uint32Array(bytes.buffer);
      const floats = new Float64Array(bytes.buffer);
      onBatch(bytes.byteLength / ENTRY_BYTES);
      for (let at = 0; at < bytes.byteLength; at += ENTRY_BYTES) {
        onEntry(words, at / 4, floats[at / 8 + 2] ?? 0, floats[at / 8 + 3] ?? 0);
      }
      this.#lastBatch = batch;
    }
    this.#writtenBatch = this.#lastBatch;
  }

  /**
   * Writes one batch in the open transaction.
   * @param hashes HASH_BYTES for each index.
   * @param put index, seq and receipt of one key after another.
   */
  append(hashes: Uint8Array, put: readonly number[]): void {
    const bytes = new Uint8Array((put.length / 3) * ENTRY_BYTES);
    const floats = new Float64Array(bytes.buffer);
    for (let from = 0, at = 0; from < put.length; from += 3, at += ENTRY_BYTES) {
      const hash = HASH_BYTES * (put[from] ?? 0);
      bytes.set(hashes.subarray(hash, hash + HASH_BYTES), at);
      floats[at / 8 + 2] = put[from + 1] ?? 0;
      floats[at / 8 + 3] = put[from + 2] ?? 0;
    }
    this.#writtenBatch = Number(this.#insert.run(bytes).lastInsertRowid);
  }

  /** Removes batches up to `batch` in the open transaction. */
  remove(batch: number): void {
    this.#delete.run(batch);
  }

  /** Lets `step` remove batches up to `batch`, until a transaction with it commits. */
  removeLater(batch: number): void {
    this.#unwantedBatch = batch;
  }

  /** Does what `removeLater` asked for, in the open transaction. */
  step(): void {
    if (this.#unwantedBatch > 0) this.remove(this.#unwantedBatch);
  }

  /** The transaction was rolled back. */
  rollback(): void {
    this.#writtenBatch = this.#lastBatch;
  }

  /** The transaction has committed. */
  commit(): void {
    this.#lastBatch = this.#writtenBatch;
    this.#unwantedBatch = 0;
  }
}
