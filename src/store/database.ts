/**
 * The DuckDB file: inspecting it without writing, creating it, opening it with its settings, and renaming a write-ahead log that
 * cannot be replayed. Part of the store's Worker.
 *
 * Three rules avoid recorded faults of DuckDB 1.5. There is no primary key, unique index or UPDATE. Rows are only appended. DDL runs
 * only while a database is created or changes its generation, and a CHECKPOINT follows at once.
 */

import { existsSync, renameSync, rmSync, statSync } from "node:fs";
import { type ErrorCode, GatewayError, messageOf, type SerialisedError, serialiseError } from "../errors.ts";
import * as duckdb from "../native/duckdb.ts";
import { isOutOfMemory } from "./memory.ts";
import type { StoreCursors } from "./protocol.ts";
import {
  BIG_TABLES,
  CURSOR_COLUMNS,
  columnsSql,
  enrichedViewSql,
  generationViewSql,
  SCHEMA_VERSION,
  tableSql,
} from "./schema.ts";

export { duckdb };

export const CATALOG = "store";

/** How many row groups a CHECKPOINT may merge, and DuckDB's own default. */
const MERGES_SETTING = "max_vacuum_tasks";
const MERGES_DEFAULT = 100;

export interface DatabaseOptions {
  readonly path: string;
  readonly journalId: number;
  /** DuckDB's own limit. */
  readonly memoryLimitBytes: number;
  readonly rowGroupRows: number;
  readonly tempFolder: string;
  /** What the journal has given up. */
  readonly pruned: StoreCursors;
  /** Whether tables come in generations behind views, so that the oldest can be dropped. */
  readonly generations: boolean;
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", "''")}'`;
}

function storeError(
  path: string,
  operation: string,
  options: { code: ErrorCode; detail: string; hint?: string; cause?: unknown },
): GatewayError {
  return new GatewayError({ operation: `store: ${operation}`, object: path, ...options });
}

/** Whether opening failed because the write-ahead log cannot be replayed, which setting it aside mends, or for another reason. */
function openFailureCode(thrown: unknown, path: string): "store_log_unreadable" | "store_failed" {
  // A replay that lacks memory or permission says nothing about the log.
  const detail = messageOf(thrown).replaceAll(path, "");
  const other =
    isOutOfMemory(thrown) || /permission denied|no space left|read-only|too many open files/i.test(detail);
  return !other && /\bWAL\b|write-ahead log/i.test(detail) ? "store_log_unreadable" : "store_failed";
}

/** Anything that was thrown while working with the database at `path`, as an error for the user. */
export function failureOf(thrown: unknown, path: string): GatewayError {
  if (thrown instanceof GatewayError) return thrown;
  const detail = messageOf(thrown);
  const full = /no space left|disk full|ENOSPC/i.test(detail);
  return new GatewayError({
    code: full ? "disk_full" : "store_failed",
    operation: "store: write",
    object: path,
    detail,
    hint: "nothing is lost: the journal keeps the rows, and the store tries again by itself",
    cause: thrown,
  });
}

/** The same, serialised for the main thread. */
export function messageFor(thrown: unknown, path: string): SerialisedError {
  return serialiseError(failureOf(thrown, path));
}

const DAMAGED_HINT =
  "nothing was written to it; put back a copy of this database with its journal, and check the disk";

/** Whether DuckDB says that a file is cut short or differs from its checksums. */
function isDamageText(detail: string): boolean {
  return /checksum|corrupt|could not read enough bytes|could not read all|unexpected end|serialization error|out of range|INTERNAL Error/i.test(
    detail,
  );
}

/** What to do next after DuckDB could not open a file, by what it says. */
function openHint(detail: string): string {
  if (/could not set lock|conflicting lock/i.test(detail)) return "close other programs that have it open";
  if (/permission denied/i.test(detail))
    return "make it readable and writable for the user that runs the gateway";
  if (/newer|different version|version number/i.test(detail)) return "use the later gateway that wrote it";
  if (isDamageText(detail)) return DAMAGED_HINT;
  return "check the file and its disk; nothing was written to it";
}

/** The files in which DuckDB 1.5 keeps what is not yet in the database file. */
function logPaths(path: string): string[] {
  return [`${path}.wal`, `${path}.wal.checkpoint`, `${path}.wal.recovery`];
}

/** Bytes of the write-ahead log. The files are only looked up by name, never opened. */
export function logBytes(path: string): number {
  let bytes = 0;
  for (const log of logPaths(path)) bytes += statSync(log, { throwIfNoEntry: false })?.size ?? 0;
  return bytes;
}

/** Renames the files of the write-ahead log to NAME.set-aside-SECONDS. @returns the renames, to undo them with. */
export function setLogAside(path: string, nowUs: number): { from: string; to: string }[] {
  const moved: { from: string; to: string }[] = [];
  for (const from of logPaths(path)) {
    if (!existsSync(from)) continue;
    const to = `${from}.set-aside-${Math.floor(nowUs / 1_000_000)}`;
    renameSync(from, to);
    moved.push({ from, to });
  }
  return moved;
}

/** All rows of a small result. */
export async function rowsOf(
  connection: duckdb.DuckDBConnection,
  sql: string,
): Promise<duckdb.DuckDBValue[][]> {
  return (await connection.run(sql)).getRows();
}

/** An instance with our settings. DuckDB keeps them per instance, not per connection. */
async function instanceOf(options: DatabaseOptions): Promise<duckdb.DuckDBInstance> {
  return duckdb.DuckDBInstance.create(":memory:", {
    memory_limit: `${options.memoryLimitBytes}B`,
    // With one thread a query runs on the pool thread that carries it, and memory stays small.
    threads: "1",
    // Without it, DuckDB's allocator gives freed memory back only as more is allocated, so that a burst's would stay.
    allocator_background_threads: "true",
    temp_directory: options.tempFolder,
    // In effect never: only checkpoints.ts decides when a checkpoint runs.
    checkpoint_threshold: "1TB",
    autoinstall_known_extensions: "false",
    autoload_known_extensions: "false",
    // With this optimizer, ORDER BY ... DESC LIMIT begins with the newest row group. DuckDB ends a scan at a row group without rows, and one
    // that a commit is filling has none yet, so the newest page came back empty (seen with 1.5.6).
    disabled_optimizers: "row_group_pruner",
  });
}

interface Inspection {
  /** The file has no table and no view, so it belongs to nobody. */
  readonly empty: boolean;
  readonly cursors: StoreCursors;
}

const NO_CURSORS: StoreCursors = { seq: 0, frameId: 0, answerId: 0 };

function foreign(options: DatabaseOptions, detail: string, cause?: unknown): GatewayError {
  return storeError(options.path, "open", {
    code: "foreign_store",
    detail,
    hint: "nothing was written to it; choose another --db-path",
    cause,
  });
}

/**
 * Reads the cursors of a database and checks that it is ours. The attachment is read-only: it replays the log in memory and writes
 * nothing.
 */
async function inspect(options: DatabaseOptions): Promise<Inspection> {
  const instance = await instanceOf(options);
  const connection = await instance.connect();
  try {
    try {
      await connection.run(`ATTACH ${quoted(options.path)} AS ${CATALOG} (READ_ONLY, TYPE duckdb)`);
    } catch (thrown) {
      if (/not a valid DuckDB database/i.test(messageOf(thrown)))
        throw foreign(options, "it is not a DuckDB database", thrown);
      throw storeError(options.path, "open", {
        code: openFailureCode(thrown, options.path),
        detail: messageOf(thrown),
        hint: openHint(messageOf(thrown)),
        cause: thrown,
      });
    }
    await connection.run(`USE ${CATALOG}`);
    const names = await rowsOf(
      connection,
      `SELECT table_name FROM duckdb_tables() WHERE database_name = '${CATALOG}'
       UNION ALL SELECT view_name FROM duckdb_views() WHERE database_name = '${CATALOG}' AND NOT internal`,
    );
    if (names.length === 0) return { empty: true, cursors: NO_CURSORS };
    return { empty: false, cursors: await cursorsOfOurs(connection, options) };
  } finally {
    connection.closeSync();
    instance.closeSync();
  }
}

/** The cursors of a database with tables. @throws GatewayError foreign_store if it is not this journal's. */
async function cursorsOfOurs(
  connection: duckdb.DuckDBConnection,
  options: DatabaseOptions,
): Promise<StoreCursors> {
  let owners: duckdb.DuckDBValue[][];
  try {
    owners = await rowsOf(
      connection,
      `SELECT journal_id, max(schema_version), max(seq), max(frame_id), max(answer_id)
       FROM ${CATALOG}.main.cursors GROUP BY journal_id`,
    );
    await connection.run(`SELECT seq, payload FROM ${CATALOG}.main.events LIMIT 0`);
  } catch (thrown) {
    if (isOutOfMemory(thrown)) throw thrown;
    if (isDamageText(messageOf(thrown))) {
      const detail = `the file is damaged: ${messageOf(thrown)}`;
      throw storeError(options.path, "open", {
        code: "store_failed",
        detail,
        hint: DAMAGED_HINT,
        cause: thrown,
      });
    }
    throw foreign(options, "it is another program's database", thrown);
  }
  const owner = owners[0];
  if (owner === undefined || owners.length !== 1) {
    throw foreign(options, 'its table "cursors" does not name exactly one journal as the owner');
  }
  if (Number(owner[0]) !== options.journalId) {
    const detail = `it belongs to journal ${String(owner[0])}; this is journal ${options.journalId}`;
    throw foreign(options, detail);
  }
  if (Number(owner[1]) > SCHEMA_VERSION) {
    const detail = `its schema version is ${String(owner[1])}; this gateway reads versions up to ${SCHEMA_VERSION}`;
    throw foreign(options, detail);
  }
  return { seq: Number(owner[2]), frameId: Number(owner[3]), answerId: Number(owner[4]) };
}

function refuseIfBehind(options: DatabaseOptions, cursors: StoreCursors): void {
  const { pruned } = options;
  if (cursors.seq >= pruned.seq && cursors.frameId >= pruned.frameId && cursors.answerId >= pruned.answerId) {
    return;
  }
  throw storeError(options.path, "open", {
    code: "store_behind",
    detail:
      `it holds events up to ${cursors.seq} and frames up to ${cursors.frameId}, but the journal has already ` +
      `given up events up to ${pruned.seq} and frames up to ${pruned.frameId}`,
    hint: "put back the database that belongs to this journal; nothing was written to this one",
  });
}

async function createSchema(connection: duckdb.DuckDBConnection, options: DatabaseOptions): Promise<void> {
  const first = options.generations ? 1 : null;
  const statements = [
    `CREATE TABLE cursors(${columnsSql(CURSOR_COLUMNS)})`,
    `INSERT INTO cursors VALUES (${options.journalId}, ${SCHEMA_VERSION}, 0, 0, 0)`,
    ...BIG_TABLES.map((name) => tableSql(name, first)),
    ...(first === null ? [] : BIG_TABLES.map((name) => generationViewSql(name, [first]))),
    enrichedViewSql(),
  ];
  await connection.run("BEGIN");
  for (const statement of statements) await connection.run(statement);
  await connection.run("COMMIT");
  await connection.run(`CHECKPOINT ${CATALOG}`);
}

/** An open database, with two connections so that reads go on while the other one commits. */
export interface Database {
  readonly writes: duckdb.DuckDBConnection;
  readonly reads: duckdb.DuckDBConnection;
  /** What it held when it was opened. */
  readonly cursors: StoreCursors;
  /** Idempotent; never checkpoints. */
  close(): void;
}

async function attach(options: DatabaseOptions, path: string, create: boolean): Promise<Database> {
  const instance = await instanceOf(options);
  const open: duckdb.DuckDBConnection[] = [];
  const close = (): void => {
    for (const connection of open.splice(0)) connection.closeSync();
    instance.closeSync();
  };
  try {
    const writes = await instance.connect();
    open.push(writes);
    await writes.run(`ATTACH ${quoted(path)} AS ${CATALOG} (ROW_GROUP_SIZE ${options.rowGroupRows})`);
    await writes.run(`USE ${CATALOG}`);
    await writes.run("PRAGMA disable_checkpoint_on_shutdown");
    await writes.run("SET enable_external_access = false");
    // Everything else is locked below.
    await writes.run(`SET allowed_configs = ['${MERGES_SETTING}']`);
    await writes.run("SET lock_configuration = true");
    if (create) await createSchema(writes, options);
    const reads = await instance.connect();
    open.push(reads);
    await reads.run(`USE ${CATALOG}`);
    const [row] = await rowsOf(writes, "SELECT max(seq), max(frame_id), max(answer_id) FROM cursors");
    if (row === undefined) throw new Error("store: no cursors after opening");
    let closed = false;
    return {
      writes,
      reads,
      cursors: { seq: Number(row[0]), frameId: Number(row[1]), answerId: Number(row[2]) },
      close: () => {
        if (!closed) close();
        closed = true;
      },
    };
  } catch (thrown) {
    close();
    throw thrown;
  }
}

/**
 * Opens the database, or creates it. A new one is created under another name and renamed when it is complete, so that a kill never
 * leaves half a database.
 * @param notice takes what the user must know, such as that a log was set aside.
 * @throws GatewayError foreign_store, store_behind (then nothing was written) or store_failed.
 */
export async function openDatabase(
  options: DatabaseOptions,
  o: { quarantine: boolean; nowUs: number; notice: (message: string) => void },
): Promise<Database> {
  const { path } = options;
  try {
    // DuckDB refuses an empty file, and nobody misses one.
    if (statSync(path, { throwIfNoEntry: false })?.size === 0) rmSync(path);
    const exists = existsSync(path);
    const aside = o.quarantine || !exists ? setLogAside(path, o.nowUs) : [];
    let create = !exists;
    try {
      const seen = exists ? await inspect(options) : { empty: true, cursors: NO_CURSORS };
      create = seen.empty;
      refuseIfBehind(options, seen.cursors);
    } catch (thrown) {
      // It is refused, so its owner must find it as it was.
      for (const { from, to } of aside) renameSync(to, from);
      throw thrown;
    }
    for (const { from, to } of aside) {
      o.notice(
        `the write-ahead log ${from} was set aside as ${to}; its rows are read again from the journal`,
      );
    }
    if (!exists) {
      const fresh = `${path}.new`;
      for (const leftover of [fresh, ...logPaths(fresh)]) rmSync(leftover, { force: true });
      (await attach(options, fresh, true)).close();
      renameSync(fresh, path);
      create = false;
    }
    return await attach(options, path, create);
  } catch (thrown) {
    if (thrown instanceof GatewayError) throw thrown;
    const code = openFailureCode(thrown, path);
    throw storeError(path, "open", { code, detail: messageOf(thrown), cause: thrown });
  }
}

/** Whether a CHECKPOINT merges small neighbouring row groups into larger ones. */
export async function allowMerges(connection: duckdb.DuckDBConnection, allowed: boolean): Promise<void> {
  await connection.run(`SET ${MERGES_SETTING} = ${allowed ? MERGES_DEFAULT : 0}`);
}

/**
 * Bytes of the largest body that a table of events holds or has held, from the table's statistics: no row is read. Infinity if DuckDB
 * does not know; 0 if the table is empty.
 */
export async function largestBodyBytes(connection: duckdb.DuckDBConnection, table: string): Promise<number> {
  const [row] = await rowsOf(connection, `SELECT stats(payload) FROM "${table}" LIMIT 1`);
  if (row === undefined) return 0;
  const bytes = /Max String Length: (\d+)/.exec(String(row[0]))?.[1];
  return bytes === undefined ? Number.POSITIVE_INFINITY : Number(bytes);
}

/**
 * Runs CHECKPOINT to its end. DuckDB refuses to begin one beside a transaction that it takes for a writing one, and it can take a
 * query over views for that.
 * @returns false if DuckDB refused for that reason; then nothing has happened.
 */
export async function checkpointDatabase(connection: duckdb.DuckDBConnection): Promise<boolean> {
  try {
    await connection.run(`CHECKPOINT ${CATALOG}`);
    return true;
  } catch (thrown) {
    if (/Cannot CHECKPOINT: there are other/i.test(messageOf(thrown))) return false;
    throw thrown;
  }
}

/** A new appender into one of our tables. */
export async function appenderFor(
  connection: duckdb.DuckDBConnection,
  table: string,
): Promise<duckdb.DuckDBAppender> {
  return connection.createAppender(table, "main", CATALOG);
}
