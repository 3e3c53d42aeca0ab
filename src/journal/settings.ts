/** The journal's settings, a text by its key, and the count of attempts to open the store. Part of the journal. */

import type { Database } from "bun:sqlite";
import { type PreparedStatement, prepare } from "./file.ts";
import type { Transactions } from "./transactions.ts";

const OPEN_ATTEMPTS = "journal.open_attempts";

export class Settings {
  readonly #transactions: Transactions;
  readonly #get: PreparedStatement;
  readonly #put: PreparedStatement;

  constructor(database: Database, transactions: Transactions) {
    this.#transactions = transactions;
    this.#get = prepare(database, "SELECT value FROM meta WHERE key = ?");
    this.#put = prepare(
      database,
      "INSERT INTO meta(key, value) VALUES(?, ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value",
    );
  }

  /** @throws GatewayError journal_failed */
  get(key: string): string | null {
    return this.#transactions.reading(() => (this.#get.get(key)?.value as string | undefined) ?? null);
  }

  /** The setting is durable when this returns. @throws GatewayError disk_full, journal_failed */
  set(key: string, value: string): void {
    this.#transactions.change("write a setting", () => this.put(key, value));
  }

  /** Like `set`, but inside the open transaction. @throws SQLiteError */
  put(key: string, value: string): void {
    this.#put.run(key, value);
  }

  openAttempts(): number {
    return Number(this.get(OPEN_ATTEMPTS) ?? 0);
  }

  raiseOpenAttempts(): void {
    this.set(OPEN_ATTEMPTS, String(this.openAttempts() + 1));
  }

  clearOpenAttempts(): void {
    this.set(OPEN_ATTEMPTS, "0");
  }
}
