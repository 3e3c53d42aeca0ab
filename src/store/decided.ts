/**
 * The newest enrichment of events, for the code that writes updates: late replies of the language model, and new vectors after a
 * change of the embedder. Part of the store's Worker.
 */
import { type LayoutField, type Physics, SEMANTIC_DIM_MAX } from "../frame.ts";
import { duckdb, rowsOf } from "./database.ts";
import { inParts } from "./memory.ts";
import type { DecidedQuery, DecidedReply, DecidedRow } from "./protocol.ts";
import { PHYSICS_FIELDS } from "./schema.ts";

/** Events that one query looks at. */
const WINDOW_SEQS = 8192;
const ROWS_MAX = 256;

const overlaid = (column: string): string =>
  `CASE WHEN a.seq IS NULL THEN n."${column}" ELSE a."${column}" END`;

/** Events in a range of `seq`, each with its newest update, or its enrichment if it has none. */
function newestSql(columns: string, range: string): string {
  return `SELECT ${columns} FROM events e JOIN (SELECT * FROM enrichments WHERE ${range}) n ON n.seq = e.seq
    LEFT JOIN (SELECT * FROM answers WHERE ${range}
      QUALIFY row_number() OVER (PARTITION BY seq ORDER BY answer_id DESC) = 1) a ON a.seq = e.seq
    WHERE e.${range}`;
}

/** @param bytesMax bytes of texts in the reply to a query with `afterSeq`. At least one event goes in, however large. */
export async function decidedRows(
  connection: duckdb.DuckDBConnection,
  query: DecidedQuery,
  bytesMax: number,
): Promise<DecidedReply> {
  if ("seqs" in query)
    return { rows: await rowsAt(connection, query.seqs.slice(0, ROWS_MAX)), reachedSeq: 0 };
  const { afterSeq, notModel } = query;
  const limit = Math.min(query.limit, ROWS_MAX);
  const toSeq = Math.min(query.toSeq, afterSeq + WINDOW_SEQS);
  const found = await rowsOf(
    connection,
    `${newestSql("e.seq", `seq BETWEEN ${afterSeq + 1} AND ${toSeq}`)}
     AND ${overlaid("model_id")} <> ${notModel} ORDER BY e.seq LIMIT ${limit}`,
  );
  // The texts are read apart from the joins, which would hold them in memory.
  const sizes = await inParts(found, (part) =>
    rowsOf(
      connection,
      `SELECT seq, strlen(coalesce(message, payload)) FROM events
       WHERE seq IN (${part.map(([seq]) => Number(seq)).join(",")}) ORDER BY seq`,
    ),
  );
  const seqs: number[] = [];
  let bytes = 0;
  for (const [seq, textBytes] of sizes) {
    bytes += Number(textBytes);
    if (seqs.length > 0 && bytes > bytesMax) break;
    seqs.push(Number(seq));
  }
  const whole = seqs.length === found.length && found.length < limit;
  return { rows: await rowsAt(connection, seqs), reachedSeq: whole ? toSeq : (seqs.at(-1) ?? toSeq) };
}

const COLUMNS = [
  "e.seq",
  "encode(e.message)",
  // If there is a message, nobody needs the body.
  "CASE WHEN e.message IS NULL THEN encode(e.payload) END",
  `encode(${overlaid("event_type")})`,
  `encode(${overlaid("intent")})`,
  `encode(${overlaid("provenance")})`,
  overlaid("semantic"),
  ...PHYSICS_FIELDS.map(({ name }) => overlaid(name)),
].join(", ");
const PHYSICS_AT = 7;
/** Fields that do not fit the integers of a double. */
const BIGINTS: ReadonlySet<string> = new Set(["conversation_hash", "checksum"]);

async function rowsAt(connection: duckdb.DuckDBConnection, seqs: readonly number[]): Promise<DecidedRow[]> {
  if (seqs.length === 0) return [];
  const sql = `${newestSql(COLUMNS, `seq IN (${seqs.map(Number).join(",")})`)} ORDER BY e.seq`;
  return (await rowsOf(connection, sql)).map(rowOf);
}

function rowOf(row: readonly duckdb.DuckDBValue[]): DecidedRow {
  const physics = Object.fromEntries(
    PHYSICS_FIELDS.map((field, index) => [field.name, fieldOf(field, row[PHYSICS_AT + index] ?? 0)]),
  ) as unknown as Physics;
  const semantic = row[6];
  return {
    seq: Number(row[0]),
    message: textOf(row[1]),
    payload: textOf(row[2]) ?? "",
    eventType: textOf(row[3]),
    intent: textOf(row[4]),
    provenance: textOf(row[5]) ?? "{}",
    physics,
    vector:
      semantic instanceof duckdb.DuckDBArrayValue
        ? Float32Array.from(
            semantic.items.slice(0, Math.min(physics.semantic_dim, SEMANTIC_DIM_MAX)) as number[],
          )
        : null,
  };
}

/** Takes text as bytes, because the package's own decoder drops a leading U+FEFF. */
function textOf(value: duckdb.DuckDBValue | undefined): string | null {
  return value instanceof duckdb.DuckDBBlobValue
    ? new TextDecoder("utf-8", { ignoreBOM: true }).decode(value.bytes)
    : null;
}

function fieldOf({ name, count }: LayoutField, value: duckdb.DuckDBValue): number | bigint | number[] {
  if (count > 1) return value instanceof duckdb.DuckDBArrayValue ? (value.items as number[]) : [];
  return BIGINTS.has(name) ? BigInt(value as bigint) : Number(value);
}
