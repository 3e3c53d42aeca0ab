/** The SQLite file of the journal: how it is recognised, created and configured, and its tables. Part of the journal. */

import { constants, Database, SQLiteError, type SQLQueryBindings, type Statement } from "bun:sqlite";
import { closeSync, existsSync, fsyncSync, openSync, renameSync, rmSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { pathToFileURL } from "node:url";
import { GatewayError, messageOf } from "../errors.ts";

/** Version 2 added the column `checksum` to the three logs; it is NULL in older rows. */
export const SCHEMA_VERSION = 2;
/** The highest number of a row of any log that was written without a checksum. */
export const UNCHECKED_TO = "journal.unchecked_to";
/** "OFEG" or "OFET" in the header of the SQLite file marks a kept or a temporary journal. */
const APPLICATION_ID = { kept: 0x4f464547, temporary: 0x4f464554 } as const;
/**
 * Larger than SQLite's 4,096, so that rows of 1 to 5 KB leave less room unused and the WAL is copied back in fewer
 * pieces. A temporary journal has still larger pages, so that emptying a generation frees fewer of them.
 */
const PAGE_BYTES = { kept: 8192, temporary: 16_384 } as const;
const CACHE_KIB = 16_384;

export type JournalKind = "kept" | "temporary";

/**
 * The suffix of the table names in each generation. A kept journal has one generation. With four, emptying the oldest
 * takes about 7 ms for each 100 MB of the bound, and three quarters of the bound are always in use.
 */
export const GENERATION_SUFFIXES: Readonly<Record<JournalKind, readonly string[]>> = {
  kept: [""],
  temporary: ["_a", "_b", "_c", "_d"],
};

export type Row = Record<string, SQLQueryBindings>;
export type PreparedStatement = Statement<Row, SQLQueryBindings[]>;

export function prepare(database: Database, sql: string): PreparedStatement {
  return database.prepare<Row, SQLQueryBindings[]>(sql);
}

const SCHEMA_SQL = `
  CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
  CREATE TABLE labels(kind TEXT NOT NULL, id INTEGER NOT NULL, label TEXT NOT NULL, dim INTEGER NOT NULL,
    PRIMARY KEY(kind, id)) WITHOUT ROWID;`;

/** The three logs of one generation. */
function logsSql(suffix: string): string {
  const decided = (unique: string): string => `seq INTEGER NOT NULL${unique}, decided_us INTEGER NOT NULL,
    physics BLOB NOT NULL, vector BLOB, event_type TEXT, intent TEXT, provenance TEXT NOT NULL, checksum INTEGER`;
  return `
    CREATE TABLE events${suffix}(seq INTEGER PRIMARY KEY AUTOINCREMENT, received_us INTEGER NOT NULL,
      id TEXT NOT NULL, type TEXT, message TEXT, conversation_id TEXT, timestamp_us INTEGER, fields TEXT,
      source TEXT NOT NULL, body BLOB NOT NULL, checksum INTEGER);
    CREATE TABLE frames${suffix}(frame_id INTEGER PRIMARY KEY AUTOINCREMENT, ${decided(" UNIQUE")});
    CREATE TABLE answers${suffix}(answer_id INTEGER PRIMARY KEY AUTOINCREMENT, ${decided("")});
    CREATE INDEX answers_by_seq${suffix} ON answers${suffix}(seq);`;
}

/** If there are several generations, readers use views that have the names without suffix. */
function viewsSql(suffixes: readonly string[]): string {
  if (suffixes.length === 1) return "";
  const views = ["events", "frames", "answers"].map((name) => {
    const parts = suffixes.map((suffix) => `SELECT * FROM ${name}${suffix}`);
    return `CREATE VIEW ${name} AS ${parts.join(" UNION ALL ")};`;
  });
  return views.join("\n");
}

/** Whether SQLite failed because of the file and not because of a row. */
export function isFileFailure(thrown: unknown): boolean {
  if (!(thrown instanceof SQLiteError)) return false;
  return !/^SQLITE_(CONSTRAINT|TOOBIG|MISMATCH|RANGE)/.test(thrown.code ?? "");
}

/** The failure as a GatewayError, disk_full or journal_failed; a GatewayError is returned as it is. */
export function journalError(operation: string, path: string, thrown: unknown): GatewayError {
  if (thrown instanceof GatewayError) return thrown;
  const code = thrown instanceof SQLiteError ? (thrown.code ?? "") : "";
  const errno = (thrown as { code?: unknown } | null)?.code;
  // SQLITE_IOERR_SHMSIZE means that the index of the WAL does not fit on the disk.
  const damaged = /^SQLITE_(CORRUPT|NOTADB)/.test(code);
  const full = code === "SQLITE_FULL" || code === "SQLITE_IOERR_SHMSIZE" || errno === "ENOSPC";
  return new GatewayError({
    code: full ? "disk_full" : "journal_failed",
    operation: `journal: ${operation}`,
    object: path,
    detail: code === "" ? messageOf(thrown) : `${messageOf(thrown)} (${code})`,
    hint: full
      ? "make room on its disk; nothing that was acknowledged is lost"
      : damaged
        ? "the file is damaged: check its disk, and restart the gateway, which makes a new journal of the rows that can be read"
        : "check its disk and its folder",
    cause: thrown,
  });
}

function foreign(
  path: string,
  detail: string,
  hint = "choose another --db-path; this file was left as it is",
): GatewayError {
  return new GatewayError({
    code: "foreign_journal",
    operation: "journal: open",
    object: path,
    detail,
    hint,
  });
}

/**
 * Checks the header of an existing file without writing to it or to any file beside it.
 * @throws GatewayError foreign_journal
 */
function inspect(path: string, kind: JournalKind): void {
  if (statSync(path).size === 0) throw foreign(path, "the file is empty", "remove it if nobody needs it");
  const { applicationId, version } = headerOf(path);
  if (applicationId !== APPLICATION_ID.kept && applicationId !== APPLICATION_ID.temporary) {
    throw foreign(path, "it is another program's SQLite file");
  }
  if (applicationId === APPLICATION_ID.temporary) {
    throw foreign(path, "it is a temporary journal, which is never opened again");
  }
  if (kind === "temporary") throw foreign(path, "a temporary journal never opens an existing file");
  checkVersion(path, version);
}

interface Header {
  readonly applicationId: number;
  readonly version: number;
}

/**
 * Reads the header through SQLite, because closing any other descriptor of the file would drop SQLite's locks on it.
 * `immutable` means no locks, no WAL and no recovery. That is safe, because the lock on PATH.lock keeps others from
 * changing the file, and because a journal's header was written before WAL mode began, so that it is complete without
 * the WAL.
 */
function headerOf(path: string): Header {
  const read = (query: string): Header => {
    const flags = constants.SQLITE_OPEN_READONLY | constants.SQLITE_OPEN_URI;
    const database = new Database(`${pathToFileURL(path).href}?${query}`, flags);
    try {
      return {
        applicationId: pragmaOf(database, "application_id"),
        version: pragmaOf(database, "user_version"),
      };
    } finally {
      database.close(true);
    }
  };
  try {
    return read("immutable=1");
  } catch (error) {
    const code = error instanceof SQLiteError ? error.code : undefined;
    if (code === "SQLITE_NOTADB") {
      const hint = "put back a copy of the journal, or choose another --db-path; this file was left as it is";
      throw foreign(path, "it is not a SQLite file, or its first page is damaged", hint);
    }
    if (code !== "SQLITE_CORRUPT") throw error;
  }
  // A kill inside a checkpoint leaves the file shorter than its header says. Then it can only be read together with its
  // WAL. For that SQLite needs an index beside the file; it writes nothing else.
  const index = `${path}-shm`;
  const before = existsSync(index);
  try {
    return read("mode=ro");
  } finally {
    if (!before) rmSync(index, { force: true });
  }
}

function pragmaOf(database: Database, name: "application_id" | "user_version"): number {
  return database.prepare<Row, []>(`PRAGMA ${name}`).get()?.[name] as number;
}

function checkVersion(path: string, version: number): void {
  if (version <= SCHEMA_VERSION) return;
  throw foreign(
    path,
    `it has version ${version}, but this gateway knows only ${SCHEMA_VERSION}`,
    "use the later gateway that wrote it",
  );
}

/** Creates a journal under another name and renames it, so that a file at `path` is always complete. */
export function createFile(
  path: string,
  kind: JournalKind,
  o: { schemaSql: string; meta: Readonly<Record<string, string>> },
): void {
  for (const left of [`${path}-wal`, `${path}-journal`]) {
    // SQLite would replay it into the new file.
    if (existsSync(left) && statSync(left).size > 0) {
      throw new GatewayError({
        code: "journal_missing",
        operation: "journal: create",
        object: path,
        detail: `there is no journal, but ${left} of an earlier one exists`,
        hint: "put the journal back beside it, or move that file away",
      });
    }
    rmSync(left, { force: true });
  }
  rmSync(`${path}-shm`, { force: true });
  const aside = `${path}.new`;
  for (const suffix of ["", "-journal", "-wal", "-shm"]) rmSync(aside + suffix, { force: true });
  // SQLite gives the WAL and its index the mode of this file.
  closeSync(openSync(aside, "wx", 0o600));
  const database = new Database(aside, { create: false, readwrite: true });
  try {
    database.run(`PRAGMA synchronous = ${kind === "kept" ? "FULL" : "OFF"}`);
    database.run(`PRAGMA page_size = ${PAGE_BYTES[kind]}`);
    const suffixes = GENERATION_SUFFIXES[kind];
    database.run(`BEGIN;
      PRAGMA application_id = ${APPLICATION_ID[kind]};
      PRAGMA user_version = ${SCHEMA_VERSION};
      ${SCHEMA_SQL} ${o.schemaSql} ${suffixes.map(logsSql).join("")} ${viewsSql(suffixes)}`);
    for (const [key, value] of Object.entries(o.meta))
      database.run("INSERT INTO meta VALUES (?, ?)", [key, value]);
    database.run("COMMIT");
    database.run("PRAGMA journal_mode = WAL");
  } finally {
    database.close(true);
  }
  renameSync(aside, path);
  if (kind === "kept") syncFolder(path);
}

/** Makes the name `path` durable. */
export function syncFolder(path: string): void {
  const folder = openSync(dirname(path), "r");
  fsyncSync(folder);
  closeSync(folder);
}

/**
 * Opens the journal's file for writing, or creates it with `o.schemaSql` and `o.meta` if it does not exist.
 * @param o.walBytes the WAL is copied back whenever it has grown by this.
 * @throws GatewayError foreign_journal, journal_missing, disk_full, journal_failed
 */
export function openFile(
  path: string,
  kind: JournalKind,
  o: { walBytes: number; schemaSql: string; meta: Readonly<Record<string, string>> },
): Database {
  try {
    if (existsSync(path)) inspect(path, kind);
    else createFile(path, kind, o);
    const database = new Database(path, { create: false, readwrite: true });
    configure(database, path, kind, o.walBytes);
    if (kind === "kept") migrate(database);
    return database;
  } catch (error) {
    throw journalError("open", path, error);
  }
}

function configure(database: Database, path: string, kind: JournalKind, walBytes: number): void {
  try {
    // Checked again, because a later version may have left its number in the WAL.
    checkVersion(path, pragmaOf(database, "user_version"));
    for (const pragma of [
      // Only a reader that recovers the WAL at its first read can hold the lock, and only for moments.
      "busy_timeout = 2000",
      "journal_mode = WAL",
      `synchronous = ${kind === "kept" ? "FULL" : "OFF"}`,
      `wal_autocheckpoint = ${Math.max(1, Math.floor(walBytes / PAGE_BYTES[kind]))}`,
      `journal_size_limit = ${Math.floor(walBytes)}`,
      `cache_size = -${CACHE_KIB}`,
      "temp_store = MEMORY",
      "secure_delete = OFF",
    ]) {
      database.run(`PRAGMA ${pragma}`);
    }
  } catch (error) {
    database.close(true);
    throw error;
  }
}

/** Brings an older journal to SCHEMA_VERSION in one transaction, which writes only the schema and the header. */
function migrate(database: Database): void {
  try {
    if (pragmaOf(database, "user_version") >= SCHEMA_VERSION) return;
    const columns = ["events", "frames", "answers"].map(
      (log) => `ALTER TABLE ${log} ADD COLUMN checksum INTEGER;`,
    );
    database.run(`BEGIN IMMEDIATE; ${columns.join(" ")} PRAGMA user_version = ${SCHEMA_VERSION};
      INSERT OR REPLACE INTO meta VALUES('${UNCHECKED_TO}', (SELECT coalesce(max(seq), 0) FROM sqlite_sequence));
      COMMIT`);
  } catch (error) {
    database.close(true);
    throw error;
  }
}

/** Returns a function that counts the bytes of the pages in use. */
export function pagesInUse(database: Database): () => number {
  const statement = prepare(
    database,
    `SELECT (page_count - freelist_count) * page_size AS bytes
     FROM pragma_page_count, pragma_freelist_count, pragma_page_size`,
  );
  return () => statement.get()?.bytes as number;
}

/** INSERTs many rows with few statements, because starting a statement costs as much as several rows. */
export class Inserter {
  static readonly #ROWS = [16, 4, 1] as const;
  readonly #statements: readonly { cells: number; statement: PreparedStatement }[];

  constructor(database: Database, insertInto: string, columns: number) {
    const row = `(${new Array(columns).fill("?").join(",")})`;
    this.#statements = Inserter.#ROWS.map((rows) => ({
      cells: rows * columns,
      statement: prepare(database, `${insertInto} VALUES ${new Array(rows).fill(row).join(",")}`),
    }));
  }

  /** @param cells the values of one row after another. */
  insert(cells: SQLQueryBindings[]): void {
    let from = 0;
    for (const { cells: width, statement } of this.#statements) {
      for (; from + width <= cells.length; from += width) statement.run(...cells.slice(from, from + width));
    }
  }
}
