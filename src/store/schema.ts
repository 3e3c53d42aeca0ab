/** The columns, tables and views of the database. Part of the store's Worker. */

import { FRAME_FIELDS, type LayoutField, PHYSICS_OFFSET, SEMANTIC_DIM_MAX } from "../frame.ts";

/** Version of the tables below. A later gateway wrote a database with a higher one. */
export const SCHEMA_VERSION = 1;

interface Column {
  readonly name: string;
  readonly sqlType: string;
}

const SQL_TYPE: Readonly<Record<LayoutField["type"], string>> = {
  u64: "UBIGINT",
  i64: "BIGINT",
  u32: "UINTEGER",
  i32: "INTEGER",
  u16: "USMALLINT",
  f32: "FLOAT",
};

/** The fields of a frame behind its vector. The columns have the same names. */
export const PHYSICS_FIELDS: readonly LayoutField[] = FRAME_FIELDS.filter(
  (field) => field.offset >= PHYSICS_OFFSET,
);

export const EVENT_COLUMNS: readonly Column[] = [
  { name: "seq", sqlType: "BIGINT" },
  { name: "id", sqlType: "VARCHAR" },
  { name: "received_us", sqlType: "BIGINT" },
  { name: "timestamp_us", sqlType: "BIGINT" },
  { name: "event_type", sqlType: "VARCHAR" },
  { name: "conversation_id", sqlType: "VARCHAR" },
  { name: "message", sqlType: "VARCHAR" },
  { name: "source", sqlType: "VARCHAR" },
  { name: "payload", sqlType: "VARCHAR" },
];

/**
 * `negative_zeros` has a bit for each float of a frame that is -0.0; NULL if none is. DuckDB's constant and run-length compression
 * compare values with ==, so a zero can come back with the sign of its neighbour (seen with 1.5.6). So DuckDB gets only 0.0, and the
 * mask restores the frame bit for bit.
 */
export const FRAME_COLUMNS: readonly Column[] = [
  { name: "seq", sqlType: "BIGINT" },
  { name: "decided_us", sqlType: "BIGINT" },
  { name: "event_type", sqlType: "VARCHAR" },
  { name: "intent", sqlType: "VARCHAR" },
  { name: "provenance", sqlType: "VARCHAR" },
  ...PHYSICS_FIELDS.map((field) => ({
    name: field.name,
    sqlType: SQL_TYPE[field.type] + (field.count === 1 ? "" : `[${field.count}]`),
  })),
  { name: "semantic", sqlType: `FLOAT[${SEMANTIC_DIM_MAX}]` },
  { name: "negative_zeros", sqlType: "BLOB" },
];

export const CURSOR_COLUMNS: readonly Column[] = [
  { name: "journal_id", sqlType: "UINTEGER" },
  { name: "schema_version", sqlType: "UINTEGER" },
  { name: "seq", sqlType: "BIGINT" },
  { name: "frame_id", sqlType: "BIGINT" },
  { name: "answer_id", sqlType: "BIGINT" },
];

export function columnsSql(columns: readonly Column[]): string {
  return columns.map((column) => `"${column.name}" ${column.sqlType}`).join(", ");
}

export type BigTable = "events" | "enrichments" | "answers";

/** The name of a big table in a generation; null: in a durable database, which has no generations. */
export function tableName(name: BigTable, generation: number | null): string {
  return generation === null ? name : `${name}_${generation}`;
}

export const BIG_TABLES: readonly BigTable[] = ["events", "enrichments", "answers"];

export function tableSql(name: BigTable, generation: number | null): string {
  const columns = {
    events: EVENT_COLUMNS,
    enrichments: [{ name: "frame_id", sqlType: "BIGINT" }, ...FRAME_COLUMNS],
    answers: [{ name: "answer_id", sqlType: "BIGINT" }, ...FRAME_COLUMNS],
  };
  return `CREATE TABLE ${tableName(name, generation)}(${columnsSql(columns[name])})`;
}

/** An event with its newest update or, if it has none, its enrichment: one of them as a whole, never a mixture. */
export function enrichedViewSql(): string {
  const overlaid = FRAME_COLUMNS.filter(
    (column) => column.name !== "seq" && column.name !== "event_type",
  ).map((column) => {
    // The event's own timestamp keeps the name; it is NULL if the sender gave none. The frame's is always set.
    const alias = column.name === "timestamp_us" ? "frame_timestamp_us" : column.name;
    return `CASE WHEN a.seq IS NULL THEN n."${column.name}" ELSE a."${column.name}" END AS "${alias}"`;
  });
  return `CREATE OR REPLACE VIEW enriched_events AS
    SELECT e.seq, e.id, e.received_us, e.timestamp_us,
      coalesce(a.event_type, n.event_type, e.event_type) AS event_type,
      e.conversation_id, e.message, e.source, e.payload, n.frame_id, a.answer_id, ${overlaid.join(", ")}
    FROM events e LEFT JOIN enrichments n ON n.seq = e.seq
    LEFT JOIN (SELECT * FROM answers QUALIFY row_number() OVER (PARTITION BY seq ORDER BY answer_id DESC) = 1) a
      ON a.seq = e.seq`;
}

/** The view over all generations of one table, oldest first. */
export function generationViewSql(name: BigTable, generations: readonly number[]): string {
  const parts = generations.map((generation) => `SELECT * FROM ${tableName(name, generation)}`);
  return `CREATE OR REPLACE VIEW ${name} AS ${parts.join(" UNION ALL ")}`;
}
