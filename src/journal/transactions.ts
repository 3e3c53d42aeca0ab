/**
 * Transactions on the journal's file, and the errors of the journal for what SQLite throws. Everything here is
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

  constructor(database: Database, path: string) {
    this.#database = database;
    this.#path = path;
    this.#begin = prepare(database, "BEGIN IMMEDIATE");
    this.#commit = prepare(database, "COMMIT");
    this.#rollback = prepare(database, "ROLLBACK");
  }

  /**
   * Runs `work` in a transaction, which has committed when this returns.
   * @throws what `work` or SQLite threw; then nothing of it is stored.
   */
  run<T>(work: () => T): T {
    try {
      this.#begin.run();
      const result = work();
      this.#commit.run();
      return result;
    } catch (error) {
      // After some failures SQLite has rolled back by itself.
      if (this.#database.inTransaction) this.#rollback.run();
      throw error;
    }
  }

  /**
   * Runs `work` inside the open transaction so that it can fail by itself: what it wrote is taken back if a row is
   * refused. A failure of the file leaves that to the whole transaction.
   * @throws what `work` threw.
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
   * One small change as a transaction of its own; durable when this returns.
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
      throw journalError("read", this.#path, error);
    }
  }
}
