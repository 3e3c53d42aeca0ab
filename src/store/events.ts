/**
 * Pages of events as JSON text. Part of the store's Worker. The body of an event goes into the response as the bytes that came, so
 * that 64-bit numbers and the order of keys survive.
 */

import { FLAG, UNKNOWN_EVENT } from "../frame.ts";
import { type duckdb, rowsOf } from "./database.ts";
import { inParts, isOutOfMemory } from "./memory.ts";
import type { EventsPage, EventsQuery } from "./protocol.ts";

/** Events that one query of a filtered search looks at: in the first query (a row group), and at most. */
const WINDOW_SEQS_MIN = 8192;
const WINDOW_SEQS_MAX = 524_288;
/** Events of a page whose sizes one query reads: in the first query, and how much more in each further one. */
const SIZES_FIRST = 32;
const SIZES_GROWTH = 8;

/** The lowest and highest seq that can exist. */
export interface SeqBounds {
  readonly min: number;
  readonly max: number;
}

const TEXT = new TextDecoder("utf-8", { ignoreBOM: true });

/** SQL for a text without the differences that a search ignores: capitals, and composed or decomposed letters. */
function folded(text: string): string {
  // Through upper case, so that letters with two small forms, such as σ and ς, become one.
  return `lower(upper(nfc_normalize(${text})))`;
}

function filtersOf(query: EventsQuery): { sql: string[]; values: Record<string, string> } {
  const sql: string[] = [];
  const values: Record<string, string> = {};
  const add = (name: string, value: string | undefined, condition: string): void => {
    if (value === undefined) return;
    sql.push(condition);
    values[name] = value;
  };
  add("type", query.type, `coalesce(a.event_type, n.event_type, e.event_type, '${UNKNOWN_EVENT}') = $type`);
  add("intent", query.intent, "CASE WHEN a.seq IS NULL THEN n.intent ELSE a.intent END = $intent");
  add("conversation", query.conversationId, "e.conversation_id = $conversation");
  add("q", query.q, `contains(${folded("coalesce(e.message, e.payload)")}, ${folded("$q")})`);
  return { sql, values };
}

/** Events with their enrichment and newest update, each table read only within `range`. */
function joinedSql(columns: string, joined: string, range: (column: string) => string): string {
  const only = (table: string, id: string): string =>
    `(SELECT ${id}, ${joined} FROM ${table} WHERE ${range("seq")})`;
  return `SELECT ${columns} FROM events e
    LEFT JOIN ${only("enrichments", "frame_id")} n ON n.seq = e.seq
    LEFT JOIN (SELECT * FROM ${only("answers", "answer_id")}
      QUALIFY row_number() OVER (PARTITION BY seq ORDER BY answer_id DESC) = 1) a ON a.seq = e.seq
    WHERE ${range("e.seq")}`;
}

/** The first `limit` seqs that match, in the order of the page. Searches the table window by window. */
async function matchingSeqs(
  connection: duckdb.DuckDBConnection,
  query: EventsQuery,
  bounds: SeqBounds,
  limit: number,
): Promise<number[]> {
  const ascending = query.after !== undefined;
  let low = Math.max(bounds.min, (query.after ?? 0) + 1);
  let high = Math.min(bounds.max, (query.before ?? Number.MAX_SAFE_INTEGER) - 1);
  const { sql: conditions, values } = filtersOf(query);
  const joins = query.type !== undefined || query.intent !== undefined;
  // Without a filter nearly every seq matches, so a window of one page is enough.
  let span = conditions.length === 0 ? limit : WINDOW_SEQS_MIN;
  const found: number[] = [];
  while (low <= high && found.length < limit) {
    const from = ascending ? low : Math.max(low, high - span + 1);
    const to = ascending ? Math.min(high, low + span - 1) : high;
    const range = (column: string): string => `${column} BETWEEN ${from} AND ${to}`;
    const source = joins
      ? joinedSql("e.seq", "seq, event_type, intent", range)
      : `SELECT e.seq FROM events e WHERE ${range("e.seq")}`;
    const sql = `${[source, ...conditions].join(" AND ")}
      ORDER BY e.seq ${ascending ? "ASC" : "DESC"} LIMIT ${limit - found.length}`;
    let rows: duckdb.DuckDBValue[][];
    try {
      rows = await (await connection.run(sql, values)).getRows();
    } catch (thrown) {
      // Large bodies are searched in smaller windows.
      if (to === from || !isOutOfMemory(thrown)) throw thrown;
      span = Math.ceil((to - from + 1) / 4);
      continue;
    }
    for (const [seq] of rows) found.push(Number(seq));
    if (ascending) low = to + 1;
    else high = from - 1;
    span = Math.min(span * 4, WINDOW_SEQS_MAX);
  }
  return found;
}

/** Cuts a page before its bodies exceed `bytesMax`. At least one event stays, however large. */
async function boundedByBytes(
  connection: duckdb.DuckDBConnection,
  seqs: readonly number[],
  bytesMax: number,
): Promise<readonly number[]> {
  let bytes = 0;
  // DuckDB reads a body to learn its size. So it looks at few of them first, and at more if these are small.
  for (let done = 0, count = SIZES_FIRST; done < seqs.length; done += count, count *= SIZES_GROWTH) {
    const slice = seqs.slice(done, done + count);
    const rows = await inParts(slice, (part) =>
      rowsOf(connection, `SELECT seq, strlen(payload) FROM events WHERE ${among(part, "seq")}`),
    );
    const sizes = new Map(rows.map(([seq, size]) => [Number(seq), Number(size)]));
    for (const [index, seq] of slice.entries()) {
      bytes += sizes.get(seq) ?? 0;
      if (done + index > 0 && bytes > bytesMax) return seqs.slice(0, done + index);
    }
  }
  return seqs;
}

/** A condition for these seqs. The range lets DuckDB skip row groups; the list, if needed, picks the rows. */
function among(seqs: readonly number[], column: string): string {
  const sorted = [...seqs].sort((a, b) => a - b);
  const low = sorted[0] ?? 0;
  const high = sorted.at(-1) ?? 0;
  const range = `${column} BETWEEN ${low} AND ${high}`;
  return high - low + 1 === sorted.length ? range : `${range} AND ${column} IN (${sorted.join(",")})`;
}

// DuckDB hands text over as bytes, because the package's own decoder drops a leading U+FEFF.
const JOINED = "seq, event_type, intent, provenance, sentiment, confidence, flags";
const overlaid = (column: string): string => `CASE WHEN a.seq IS NULL THEN n.${column} ELSE a.${column} END`;
const PAGE_COLUMNS = [
  "e.seq",
  "encode(e.id)",
  "e.received_us",
  "e.timestamp_us",
  `encode(coalesce(a.event_type, n.event_type, e.event_type, '${UNKNOWN_EVENT}'))`,
  "encode(e.conversation_id)",
  "encode(e.message)",
  "encode(e.payload)",
  "n.frame_id",
  `encode(${overlaid("intent")})`,
  overlaid("sentiment"),
  overlaid("confidence"),
  overlaid("flags"),
  `encode(${overlaid("provenance")})`,
].join(", ");

/** The shortest decimal that rounds to this float32, so that 0.8 comes back as 0.8. */
function float32Json(value: number): string {
  for (let digits = 1; digits < 9; digits++) {
    const text = value.toPrecision(digits);
    if (Math.fround(Number(text)) === value) return JSON.stringify(Number(text));
  }
  return JSON.stringify(value);
}

function rowJson(chunk: duckdb.DuckDBDataChunk, row: number): { seq: number; json: string } {
  const raw = (column: number): string | null => {
    const bytes = (chunk.getColumnVector(column) as duckdb.DuckDBBlobVector).getItemBytes(row);
    return bytes === null ? null : TEXT.decode(bytes);
  };
  const text = (column: number): string => JSON.stringify(raw(column));
  const value = (column: number): duckdb.DuckDBValue => chunk.getColumnVector(column).getItem(row);
  const integer = (column: number): string => {
    const item = value(column);
    return item === null ? "null" : String(item);
  };
  const enrichment = (): string => {
    const flags = Number(value(12));
    const known = (column: number, flag: number): string =>
      (flags & flag) === 0 ? "null" : float32Json(Number(value(column)));
    return (
      `{"frame_id":${integer(8)},"intent":${text(9)},"sentiment":${known(10, FLAG.sentiment)},` +
      `"confidence":${known(11, FLAG.intent)},"provenance":${raw(13) ?? "null"}}`
    );
  };
  const json =
    `{"seq":${integer(0)},"id":${text(1)},"received_us":${integer(2)},"timestamp_us":${integer(3)},` +
    `"event_type":${text(4)},"conversation_id":${text(5)},"message":${text(6)},"payload":${raw(7) ?? "null"},` +
    `"enrichment":${value(8) === null ? "null" : enrichment()}}`;
  return { seq: Number(value(0)), json };
}

/** The JSON texts of these events, in the same order. Leaves out those that do not exist. */
async function eventJsons(connection: duckdb.DuckDBConnection, seqs: readonly number[]): Promise<string[]> {
  if (seqs.length === 0) return [];
  const result = await connection.run(joinedSql(PAGE_COLUMNS, JOINED, (column) => among(seqs, column)));
  const jsons = new Map<number, string>();
  for (const chunk of await result.fetchAllChunks()) {
    for (let row = 0; row < chunk.rowCount; row++) {
      const { seq, json } = rowJson(chunk, row);
      jsons.set(seq, json);
    }
  }
  return seqs.flatMap((seq) => jsons.get(seq) ?? []);
}

/** The response body of `GET /api/events`. */
export async function eventsPage(
  connection: duckdb.DuckDBConnection,
  query: EventsQuery,
  bounds: { readonly seqs: SeqBounds; readonly bytesMax: number },
): Promise<EventsPage> {
  const found = await matchingSeqs(connection, query, bounds.seqs, query.limit + 1);
  const page = found.slice(0, query.limit);
  const bytesMax = Math.min(query.bodyBytesMax ?? bounds.bytesMax, bounds.bytesMax);
  const kept = page.length === 0 ? page : await boundedByBytes(connection, page, bytesMax);
  const jsons = await inParts(kept, (part) => eventJsons(connection, part));
  const next = found.length > kept.length ? (kept.at(-1) ?? null) : null;
  const json = `{"events":[${jsons.join(",")}],"next":${JSON.stringify(next)}}`;
  return { json, count: jsons.length, next };
}

/** The response body of `GET /api/events/SEQ`; null if there is no such event. */
export async function eventJson(connection: duckdb.DuckDBConnection, seq: number): Promise<string | null> {
  return (await eventJsons(connection, [seq]))[0] ?? null;
}
