/**
 * The SQLite file of the journal: how it is recognised, made and set up, and the tables in it.
 * Part of the journal.
 */

import { constants, Database, SQLiteError, type SQLQueryBindings, type Statement } from "bun:sqlite";
import { closeSync, existsSync, fsyncSync, openSync, renameSync, rmSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { pathToFileURL } from "node:url";
import { GatewayError, messageOf } from "../errors.ts";

const SCHEMA_VERSION = 1;
/** "OFEG" and "OFET" in the header of the SQLite file: a kept and a temporary journal. */
const APPLICATION_ID = { kept: 0x4f464547, temporary: 0x4f464554 } as const;
/**
 * Larger than SQLite's 4,096: rows of 1 to 5 KB leave less room unused and a WAL of the same bytes is copied
 * back in fewer pieces. Those of a temporary journal are larger still, so that a generation has few to give
 * back.
 */
const PAGE_BYTES = { kept: 8192, temporary: 16_384 } as const;
const CACHE_KIB = 16_384;

export type JournalKind = "kept" | "temporary";

/**
 * What the tables of each generation are called, after their name; a kept journal has one. With four, to
 * empty the oldest takes about 7 ms for each 100 MB of the bound, and three quarters of the bound are always
 * in use.
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
    physics BLOB NOT NULL, vector BLOB, event_type TEXT, intent TEXT, provenance TEXT NOT NULL`;
  return `
    CREATE TABLE events${suffix}(seq INTEGER PRIMARY KEY AUTOINCREMENT, received_us INTEGER NOT NULL,
      id TEXT NOT NULL, type TEXT, message TEXT, conversation_id TEXT, timestamp_us INTEGER, fields TEXT,
      source TEXT NOT NULL, body BLOB NOT NULL);
    CREATE TABLE frames${suffix}(frame_id INTEGER PRIMARY KEY AUTOINCREMENT, ${decided(" UNIQUE")});
    CREATE TABLE answers${suffix}(answer_id INTEGER PRIMARY KEY AUTOINCREMENT, ${decided("")});
    CREATE INDEX answers_by_seq${suffix} ON answers${suffix}(seq);`;
}

/** Where there are generations, the names without suffix are views for readers. */
function viewsSql(suffixes: readonly string[]): string {
  if (suffixes.length === 1) return "";
  const views = ["events", "frames", "answers"].map((name) => {
    const parts = suffixes.map((suffix) => `SELECT * FROM ${name}${suffix}`);
    return `CREATE VIEW ${name} AS ${parts.join(" UNION ALL ")};`;
  });
  return views.join("\n");
}

/** SQLite's failures that are about the file and not about the row. */
export function isFileFailure(thrown: unknown): boolean {
  if (!(thrown instanceof SQLiteError)) return false;
  return !/^SQLITE_(CONSTRAINT|TOOBIG|MISMATCH|RANGE)/.test(thrown.code ?? "");
}

/** What went wrong as disk_full or journal_failed; what is a GatewayError already stays. */
export function journalError(operation: string, path: string, thrown: unknown): GatewayError {
  if (thrown instanceof GatewayError) return thrown;
  const code = thrown instanceof SQLiteError ? (thrown.code ?? "") : "";
  const errno = (thrown as { code?: unknown } | null)?.code;
  // SQLite reports by the second name that its index of the WAL does not fit the disk.
  const full = code === "SQLITE_FULL" || code === "SQLITE_IOERR_SHMSIZE" || errno === "ENOSPC";
  return new GatewayError({
    code: full ? "disk_full" : "journal_failed",
    operation: `journal: ${operation}`,
    object: path,
    detail: code === "" ? messageOf(thrown) : `${messageOf(thrown)} (${code})`,
    hint: full
      ? "make room on its disk; nothing that was acknowledged is lost"
      : "see what its disk and its folder say",
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
 * Looks at the header of an existing file without writing to it or to anything beside it.
 * @throws GatewayError foreign_journal
 */
function inspect(path: string, kind: JournalKind): void {
  if (statSync(path).size === 0)
    throw foreign(path, "the file is empty", "remove it if it is of no use to anybody");
  const { applicationId, version } = headerOf(path);
  if (applicationId !== APPLICATION_ID.kept && applicationId !== APPLICATION_ID.temporary) {
    throw foreign(path, "it is a SQLite file of another program");
  }
  if (applicationId !== APPLICATION_ID[kind] || kind === "temporary") {
    throw foreign(path, "it is or would be a temporary journal, which is never opened again");
  }
  checkVersion(path, version);
}

interface Header {
  readonly applicationId: number;
  readonly version: number;
}

/**
 * SQLite reads it, because closing any other descriptor of the file would drop SQLite's locks on it.
 * `immutable` means no locks, no WAL and no recovery; nobody else changes the file, which the lock of
 * PATH.lock holds. A journal's header is complete without the WAL, since it was made before WAL was on.
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
    if (code === "SQLITE_NOTADB") throw foreign(path, "it is not a SQLite file");
    if (code !== "SQLITE_CORRUPT") throw error;
  }
  // A kill inside a checkpoint leaves the file shorter than its header says. Only its WAL makes sense of it
  // then; reading that needs an index beside the file, and writes nothing else.
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
    `it is of version ${version}, this gateway knows ${SCHEMA_VERSION}`,
    "use the later gateway that wrote it",
  );
}

/** Makes a journal aside and renames it in, so that at its path there is nothing or a whole one. */
function create(
  path: string,
  kind: JournalKind,
  o: { schemaSql: string; meta: Readonly<Record<string, string>> },
): void {
  for (const left of [`${path}-wal`, `${path}-journal`]) {
    // SQLite would replay it into whatever file stands beside it.
    if (existsSync(left) && statSync(left).size > 0) {
      throw new GatewayError({
        code: "journal_missing",
        operation: "journal: create",
        object: path,
        detail: `there is no journal, but ${left} of an earlier one`,
        hint: "put the journal back beside it, or move it away",
      });
    }
    rmSync(left, { force: true });
  }
  rmSync(`${path}-shm`, { force: true });
  const aside = `${path}.new`;
  for (const suffix of ["", "-journal", "-wal", "-shm"]) rmSync(aside + suffix, { force: true });
  // SQLite gives its other files the mode of this one.
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
  if (kind === "temporary") return;
  const folder = openSync(dirname(path), "r");
  fsyncSync(folder);
  closeSync(folder);
}

/**
 * Opens the journal's file for writing, or makes it with `o.schemaSql` and `o.meta` where there is none.
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
    else create(path, kind, o);
    const database = new Database(path, { create: false, readwrite: true });
    configure(database, path, kind, o.walBytes);
    return database;
  } catch (error) {
    throw journalError("open", path, error);
  }
}

function configure(database: Database, path: string, kind: JournalKind, walBytes: number): void {
  try {
    // Again, because a later version may have left its number in the WAL.
    checkVersion(path, pragmaOf(database, "user_version"));
    for (const pragma of [
      // Only another process that recovers the WAL at its first read can hold the lock, for moments.
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

/** Tells how many bytes of the file's pages are in use. */
export function pagesInUse(database: Database): () => number {
  const statement = prepare(
    database,
    `SELECT (page_count - freelist_count) * page_size AS bytes
     FROM pragma_page_count, pragma_freelist_count, pragma_page_size`,
  );
  return () => statement.get()?.bytes as number;
}

/** INSERT of many rows by few statements: starting one costs as much as several rows. */
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

  /** `cells`: the values of all rows, one row after the other. */
  insert(cells: SQLQueryBindings[]): void {
    let from = 0;
    for (const { cells: width, statement } of this.#statements) {
      for (; from + width <= cells.length; from += width) statement.run(...cells.slice(from, from + width));
    }
  }
}
