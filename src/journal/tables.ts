/**
 * Small tables of the journal, texts by key, for what is learned and changes. The owner of a table bounds its rows. Part
 * of the journal.
 */
import type { Database } from "bun:sqlite";
import { prepare, type Row } from "./file.ts";
import type { Transactions } from "./transactions.ts";

/** The tables. One that an older journal lacks is created on first use; older gateways ignore it. */
const SMALL_TABLES = ["schemas", "shapes"] as const;
export type SmallTableName = (typeof SMALL_TABLES)[number];

export interface SmallTable {
  /** All rows, the one written longest ago first. @throws GatewayError journal_failed */
  all(): { key: string; value: string }[];
  /** Writes rows in one commit; a row whose value is null is removed. @throws GatewayError disk_full, journal_failed */
  write(rows: readonly { readonly key: string; readonly value: string | null }[]): void;
}

export function openTable(name: SmallTableName, database: Database, transactions: Transactions): SmallTable {
  transactions.change(`create the table ${name}`, () => create(name, database));
  const all = prepare(database, `SELECT key, value FROM ${name} ORDER BY turn`);
  // A row that is replaced moves to the end of the order.
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

/** Creates the table if it does not exist. */
function create(name: SmallTableName, database: Database): void {
  const columns = database.query<Row, [string]>("SELECT name FROM pragma_table_info(?)").all(name);
  const ordered = columns.some((column) => column.name === "turn");
  // Builds before the first release created `schemas` without the column `turn`. Its rows are kept.
  const old = columns.length > 0 && !ordered;
  if (old) database.run(`ALTER TABLE ${name} RENAME TO ${name}_before`);
  database.run(
    `CREATE TABLE IF NOT EXISTS ${name}(turn INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, value TEXT NOT NULL)`,
  );
  if (!old) return;
  database.run(`INSERT INTO ${name}(key, value) SELECT key, value FROM ${name}_before`);
  database.run(`DROP TABLE ${name}_before`);
}
