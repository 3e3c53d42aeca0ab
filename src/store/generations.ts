/**
 * The generations of an ephemeral database, which keep it within its bound. New rows go into the newest tables, views join all
 * generations, and the oldest tables are dropped whole. A durable database has a single set of tables. Part of the store's Worker.
 */

import { CATALOG, type duckdb, rowsOf } from "./database.ts";
import { type BigTable, enrichedViewSql, generationViewSql, tableName, tableSql } from "./schema.ts";

/**
 * The tables that change generation together. Events have generations of their own, because vectors are far larger than their events
 * and must not push these out. Updates go with the enrichments they stand over.
 */
const TABLES_OF_KIND = { events: ["events"], enrichments: ["enrichments", "answers"] } as const;
const KIND_OF_TABLE = { events: "events", enrichments: "enrichments", answers: "enrichments" } as const;

export type GenerationKind = keyof typeof TABLES_OF_KIND;

/** Share of the bound that one generation may fill. Two kinds keep two generations each: half of the bound. */
const GENERATION_SHARE = 1 / 8;

export class Generations {
  /** null: the database is durable and never changes its tables. */
  readonly #bytesMax: number | null;
  /** Numbers of the existing generations, oldest first. */
  #numbers: Record<GenerationKind, number[]> = { events: [], enrichments: [] };
  /** Bytes written into the newest generation by this process. */
  readonly #bytes: Record<GenerationKind, number> = { events: 0, enrichments: 0 };

  /** @param limitBytes the bound of an ephemeral database; null: durable. */
  constructor(limitBytes: number | null) {
    this.#bytesMax = limitBytes === null ? null : limitBytes * GENERATION_SHARE;
  }

  /** Reads which generations exist; for a durable database, nothing. */
  async load(connection: duckdb.DuckDBConnection): Promise<void> {
    if (this.#bytesMax === null) return;
    const rows = await rowsOf(
      connection,
      `SELECT table_name FROM duckdb_tables() WHERE database_name = '${CATALOG}'`,
    );
    const names = rows.map(([name]) => String(name));
    const numbers = (kind: GenerationKind): number[] =>
      names
        .filter((name) => name.startsWith(`${kind}_`))
        .map((name) => Number(name.slice(kind.length + 1)))
        .sort((a, b) => a - b);
    this.#numbers = { events: numbers("events"), enrichments: numbers("enrichments") };
  }

  /** The name of the table that takes new rows. */
  newest(table: BigTable): string {
    return tableName(table, this.#numbers[KIND_OF_TABLE[table]].at(-1) ?? null);
  }

  wrote(kind: GenerationKind, bytes: number): void {
    this.#bytes[kind] += bytes;
  }

  /** The kinds that are due for a new generation. */
  full(): GenerationKind[] {
    const bytesMax = this.#bytesMax;
    if (bytesMax === null) return [];
    return (["events", "enrichments"] as const).filter((kind) => this.#bytes[kind] >= bytesMax);
  }

  /**
   * Begins a new generation and drops the older of two; CHECKPOINT gives the space back to the file. No query may run beside it, and
   * every appender must be closed.
   */
  async rotate(connection: duckdb.DuckDBConnection, kind: GenerationKind): Promise<void> {
    const numbers = this.#numbers[kind];
    const newest = numbers.at(-1);
    if (newest === undefined) throw new Error("store: no generation to follow");
    const next = [newest, newest + 1];
    const statements: string[] = [];
    for (const name of TABLES_OF_KIND[kind]) {
      statements.push(tableSql(name, newest + 1), generationViewSql(name, next));
      for (const old of numbers.slice(0, -1)) statements.push(`DROP TABLE ${tableName(name, old)}`);
    }
    await connection.run("BEGIN");
    for (const statement of [...statements, enrichedViewSql()]) await connection.run(statement);
    await connection.run("COMMIT");
    await connection.run(`CHECKPOINT ${CATALOG}`);
    this.#numbers[kind] = next;
    this.#bytes[kind] = 0;
  }
}
