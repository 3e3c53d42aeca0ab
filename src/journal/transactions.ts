/**
 * Transactions on the journal's file. They turn what SQLite throws into the journal's errors. Everything here is
 * synchronous, so that no two transactions are ever open at once. Part of the journal.
 */

import type { Database } from "bun:sqlite";
import { isFileFailure, journalError, type PreparedStatement, prepare } from "./file.ts";

export class Transactions {
  readonly #database: Database;
  readonly #path: string;
  readonly #begin: PreparedStatement;
  readonly #commit: PreparedStatement;
  readonly #rollback: PreparedStatement;
  readonly #onFailure: (thrown: unknown) => void;

  /** @param onFailure is told of everything that SQLite throws. */
  constructor(database: Database, path: string, onFailure: (thrown: unknown) => void = () => {}) {
    this.#onFailure = onFailure;
    this.#database = database;
    this.#path = path;
    this.#begin = prepare(database, "BEGIN IMMEDIATE");
    this.#commit = prepare(database, "COMMIT");
    this.#rollback = prepare(database, "ROLLBACK");
  }

  /**
   * Runs `work` in a transaction, which has committed when this returns.
   * @throws what `work` or SQLite throws; then nothing is stored.
   */
  run<T>(work: () => T): T {
    try {
      this.#begin.run();
      const result = work();
      this.#commit.run();
      return result;
    } catch (error) {
      this.#onFailure(error);
      // After some failures SQLite has already rolled back.
      if (this.#database.inTransaction) this.#rollback.run();
      throw error;
    }
  }

  /** Runs `work` in a transaction that is rolled back. @throws what `work` or SQLite throws */
  undone(work: () => void): void {
    this.#begin.run();
    try {
      work();
    } finally {
      if (this.#database.inTransaction) this.#rollback.run();
    }
  }

  /**
   * Runs `work` inside the open transaction so that it can fail alone: if SQLite refuses a row, only what `work` wrote
   * is undone. After a failure of the file the whole transaction must be rolled back.
   * @throws what `work` throws.
   */
  savepoint(work: () => void): void {
    this.#database.run("SAVEPOINT one_call");
    try {
      work();
    } catch (error) {
      if (!isFileFailure(error)) {
        this.#database.run("ROLLBACK TO one_call");
        this.#database.run("RELEASE one_call");
      }
      throw error;
    }
    this.#database.run("RELEASE one_call");
  }

  /**
   * Runs one small change as a transaction of its own. The change is durable when this returns.
   * @throws GatewayError disk_full, journal_failed
   */
  change<T>(operation: string, change: () => T): T {
    if (this.#database.inTransaction) throw new Error(`journal: ${operation} inside a transaction`);
    try {
      return this.run(change);
    } catch (error) {
      throw journalError(operation, this.#path, error);
    }
  }

  /** @throws GatewayError journal_failed */
  reading<T>(read: () => T): T {
    try {
      return read();
    } catch (error) {
      this.#onFailure(error);
      throw journalError("read", this.#path, error);
    }
  }
}
