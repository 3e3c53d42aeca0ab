/**
 * Small tables of the journal for what is learned and may change: a text by its key. How many rows there may be is
 * their owner's bound. Part of the journal.
 */
import type { Database } from "bun:sqlite";
import { prepare, type Row } from "./file.ts";
import type { Transactions } from "./transactions.ts";

/** Tables that exist; a later one is made when an older journal is opened, which older gateways do not mind. */
const SMALL_TABLES = ["schemas", "shapes"] as const;
export type SmallTableName = (typeof SMALL_TABLES)[number];

export interface SmallTable {
  /** All rows, the one that was written longest ago first. @throws GatewayError journal_failed */
  all(): { key: string; value: string }[];
  /** Puts rows, or removes those whose value is null, in one commit. @throws GatewayError disk_full, journal_failed */
  write(rows: readonly { readonly key: string; readonly value: string | null }[]): void;
}

export function openTable(name: SmallTableName, database: Database, transactions: Transactions): SmallTable {
  transactions.change(`make the table ${name}`, () => make(name, database));
  const all = prepare(database, `SELECT key, value FROM ${name} ORDER BY turn`);
  // A row that is replaced gets a turn after all others.
  const put = prepare(database, `INSERT OR REPLACE INTO ${name}(key, value) VALUES(?, ?)`);
  const remove = prepare(database, `DELETE FROM ${name} WHERE key = ?`);
  return {
    all: () =>
      transactions.reading(() =>
        all.all().map(({ key, value }) => ({ key: key as string, value: value as string })),
      ),
    write: (rows) => {
      transactions.change(`write ${name}`, () => {
        for (const { key, value } of rows) {
          if (value === null) remove.run(key);
          else put.run(key, value);
        }
      });
    },
  };
}

function make(name: SmallTableName, database: Database): void {
  const columns = database.query<Row, [string]>("SELECT name FROM pragma_table_info(?)").all(name);
  const ordered = columns.some((column) => column.name === "turn");
  // Builds before the first release made `schemas` without an order; what it holds is kept.
  const old = columns.length > 0 && !ordered;
  if (old) database.run(`ALTER TABLE ${name} RENAME TO ${name}_before`);
  database.run(
    `CREATE TABLE IF NOT EXISTS ${name}(turn INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, value TEXT NOT NULL)`,
  );
  if (!old) return;
  database.run(`INSERT INTO ${name}(key, value) SELECT key, value FROM ${name}_before`);
  database.run(`DROP TABLE ${name}_before`);
}
