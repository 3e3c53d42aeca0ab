/**
 * What is learned, small and changes: texts by kind and key, in the journal so that they survive with it. How many
 * there may be of a kind is the bound of whoever learns them. Part of the journal.
 */
import type { Database, SQLQueryBindings } from "bun:sqlite";
import type { PreparedStatement, Row } from "./journal-file.ts";

/** A text that was remembered. */
export interface Remembered {
  readonly key: string;
  readonly value: string;
}

/** Journals of version 0.1 have no such table, and need none: it is made at the first open that knows it. */
const SCHEMA_SQL = `CREATE TABLE IF NOT EXISTS memory(kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
  turn INTEGER NOT NULL, PRIMARY KEY(kind, key)) WITHOUT ROWID`;

export class Memory {
  readonly #select: PreparedStatement;
  readonly #put: PreparedStatement;
  readonly #delete: PreparedStatement;

  constructor(database: Database) {
    database.run(SCHEMA_SQL);
    const prepare = (sql: string): PreparedStatement => database.prepare<Row, SQLQueryBindings[]>(sql);
    this.#select = prepare("SELECT key, value FROM memory WHERE kind = ? ORDER BY turn");
    this.#put = prepare(`INSERT INTO memory(kind, key, value, turn)
      VALUES (?1, ?2, ?3, (SELECT coalesce(max(turn), 0) + 1 FROM memory WHERE kind = ?1))
      ON CONFLICT(kind, key) DO UPDATE SET value = excluded.value, turn = excluded.turn`);
    this.#delete = prepare("DELETE FROM memory WHERE kind = ? AND key = ?");
  }

  /** In the order in which they were last put. */
  of(kind: string): Remembered[] {
    return this.#select.all(kind).map((row) => ({ key: row.key as string, value: row.value as string }));
  }

  put(kind: string, key: string, value: string): void {
    this.#put.run(kind, key, value);
  }

  delete(kind: string, key: string): void {
    this.#delete.run(kind, key);
  }
}
