/**
 * Makes a new journal of the rows of a damaged one that can still be read, because SQLite cannot write to a tree with a
 * damaged page. The damaged file is kept under another name. Part of the journal.
 */
import { Database, type SQLQueryBindings } from "bun:sqlite";
import { copyFileSync, existsSync, linkSync, renameSync, rmSync, statSync } from "node:fs";
import { GatewayError } from "../errors.ts";
import { isDamage, readAround } from "../row-damage.ts";
import { createFile, prepare, type Row, SCHEMA_VERSION, syncFolder, UNCHECKED_TO } from "./file.ts";

const LOGS = { events: "seq", frames: "frame_id", answers: "answer_id" } as const;
type LogName = keyof typeof LOGS;

/** @bound rows and unused numbers on damaged pages that a start passes over | it refuses, and changes nothing */
const LOST_MAX = 1_000_000;
/** @bound newest numbers of a damaged log that are looked up one by one | older rows are only found in order */
const SINGLE_LOOKUPS_MAX = 1_000_000;
/** @bound bytes of a journal whose structure each start checks (1 to 2 ms a MB) | in a larger one damage is found when it is met */
const CHECKED_BYTES_MAX = 32 * 2 ** 20;

/** The structure of a journal is damaged. */
export class Damaged extends Error {
  override name = "Damaged";
}

/** @throws Damaged, or what SQLite throws, if the tables and indexes of a journal that is not too large are not sound. */
export function checkStructure(database: Database): void {
  const [size] = prepare(
    database,
    "SELECT page_count * page_size AS bytes FROM pragma_page_count, pragma_page_size",
  ).all();
  if ((size?.bytes as number) > CHECKED_BYTES_MAX) return;
  const found = prepare(database, "PRAGMA quick_check(1)").get()?.quick_check;
  if (found !== "ok") throw new Damaged(String(found));
}

/** What was lost when a journal was rebuilt. */
export interface Rebuilt {
  /** Where the damaged file is kept. */
  readonly keptAs: string;
  /** Rows, or unused numbers, on damaged pages. */
  readonly lost: readonly { readonly log: LogName; readonly id: number; readonly why: string }[];
  /** Other tables of which not all rows could be read. */
  readonly partly: readonly string[];
}

/**
 * Replaces the kept journal at `path`, which nobody has open. A kill in between leaves the damaged one in its place.
 * @throws GatewayError journal_failed: its schema or its identity cannot be read; what SQLite or the file system throws
 */
export function rebuild(path: string, o: { readonly schemaSql: string; readonly stamp: string }): Rebuilt {
  const fresh = `${path}.rebuilt`;
  for (const suffix of ["", "-journal", "-wal", "-shm"]) rmSync(fresh + suffix, { force: true });
  createFile(fresh, "kept", { schemaSql: o.schemaSql, meta: {} });
  const database = new Database(fresh, { create: false, readwrite: true });
  let found: Pick<Rebuilt, "lost" | "partly">;
  try {
    database.run("ATTACH ? AS damaged", [path]);
    // Without a transaction around it all: after a damaged page SQLite would refuse to commit. The checkpoint at the end syncs.
    database.run("PRAGMA synchronous = OFF");
    found = new Copy(database).everything();
    database.run("PRAGMA synchronous = FULL");
    database.run("PRAGMA main.wal_checkpoint(TRUNCATE)");
    checkIdentity(database, path);
    // Later the name leads to another file, which must not meet this one's WAL.
    database.run("PRAGMA damaged.wal_checkpoint(TRUNCATE)");
    database.run("DETACH damaged");
  } finally {
    database.close(true);
  }
  for (const wal of [`${path}-wal`, `${fresh}-wal`]) checkEmpty(wal);
  rmSync(`${path}-shm`, { force: true });
  const keptAs = freeName(`${path}.damaged-${o.stamp}`);
  keep(path, keptAs);
  renameSync(fresh, path);
  syncFolder(path);
  rmSync(markOf(path), { force: true });
  return { ...found, keptAs };
}

/** A file that says that the journal must be rebuilt at the next start. */
export function markOf(path: string): string {
  return `${path}.rebuild`;
}

class Copy {
  readonly #database: Database;
  readonly #lost: { log: LogName; id: number; why: string }[] = [];
  readonly #partly: string[] = [];

  constructor(database: Database) {
    this.#database = database;
  }

  everything(): Pick<Rebuilt, "lost" | "partly"> {
    const logs = Object.keys(LOGS) as LogName[];
    const schema = prepare(
      this.#database,
      "SELECT name, sql FROM damaged.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
    ).all() as unknown as { name: string; sql: string }[];
    for (const { name, sql } of schema) {
      if (logs.some((log) => log === name)) continue;
      if (this.#columns(name, "main") === "") this.#database.run(sql);
      this.#table(name);
    }
    for (const log of logs) this.#log(log);
    this.#table("sqlite_sequence");
    const [version] = prepare(this.#database, "PRAGMA damaged.user_version").all();
    if ((version?.user_version as number) < SCHEMA_VERSION)
      this.#database.run(
        `INSERT OR REPLACE INTO meta SELECT '${UNCHECKED_TO}', coalesce(max(seq), 0) FROM sqlite_sequence`,
      );
    return { lost: this.#lost, partly: this.#partly };
  }

  #columns(table: string, schema: "main" | "damaged" = "damaged"): string {
    return prepare(this.#database, "SELECT name FROM pragma_table_info(?, ?)")
      .all(table, schema)
      .map(({ name }) => String(name))
      .join(", ");
  }

  /** Copies a log by ranges of its numbers, around damaged pages. */
  #log(log: LogName): void {
    const id = LOGS[log];
    const columns = this.#columns(log);
    const copy = prepare(
      this.#database,
      `INSERT OR IGNORE INTO main.${log}(${columns}) SELECT ${columns} FROM damaged.${log} WHERE ${id} >= ? AND ${id} <= ?`,
    );
    const lost = new Map<number, string>();
    readAround(this.#bound(log, "min"), this.#bound(log, "max"), {
      read: (low, high) => {
        copy.run(low, high);
        return [];
      },
      lost: (number, why) => {
        if (lost.size >= LOST_MAX) throw tooMuchLost(this.#database.filename, log);
        lost.set(number, why);
      },
    });
    this.#singly(log, lost);
    for (const [number, why] of lost) this.#lost.push({ log, id: number, why });
    if (log === "frames" && lost.size > 0) this.#holdPlaces(lost);
  }

  /** Looks up each number that is missing by itself, because a range can pass over rows on a page whose order is damaged. */
  #singly(log: LogName, lost: Map<number, string>): void {
    const id = LOGS[log];
    const columns = this.#columns(log);
    const copy = prepare(
      this.#database,
      `INSERT OR IGNORE INTO main.${log}(${columns}) SELECT ${columns} FROM damaged.${log} WHERE ${id} = ?`,
    );
    const there = prepare(this.#database, `SELECT ${id} AS id FROM main.${log} ORDER BY ${id}`).all();
    const present = new Set(there.map((row) => row.id as number));
    const high = this.#bound(log, "max");
    const low = Math.max(this.#bound(log, "min"), high - SINGLE_LOOKUPS_MAX);
    for (let number = low; number <= high; number++) {
      if (present.has(number)) continue;
      try {
        if (copy.run(number).changes > 0) lost.delete(number);
      } catch (error) {
        if (!isDamage(error)) throw error;
      }
    }
  }

  /** The lowest or highest number that a log can have: above what was pruned, and up to SQLite's sequence. */
  #bound(log: LogName, which: "min" | "max"): number {
    const rows = `SELECT coalesce(${which}(${LOGS[log]}), 0) AS id FROM damaged.${log}`;
    const cursor = { events: "seq", frames: "frameId", answers: "answerId" }[log];
    const pruned = `SELECT coalesce(max(value ->> '${cursor}'), 0) + 1 AS id FROM main.meta WHERE key = 'journal.pruned'`;
    const sequence = `SELECT max(seq) AS id FROM damaged.sqlite_sequence WHERE name = '${log}'`;
    // The highest row may have any number, if its page is damaged.
    for (const query of which === "min" ? [rows, pruned] : [sequence, rows]) {
      try {
        const id = prepare(this.#database, query).get()?.id;
        if (typeof id === "number" && id > 0) return id;
      } catch (error) {
        if (!isDamage(error)) throw error;
      }
    }
    return which === "min" ? 1 : 0;
  }

  /**
   * Puts rows in the place of lost frames whose event is known, by the index that still has it. Their checksum is wrong,
   * so they read as damaged, and their events do not get a second frame.
   */
  #holdPlaces(lost: ReadonlyMap<number, string>): void {
    const insert = prepare(
      this.#database,
      "INSERT OR IGNORE INTO main.frames(frame_id, seq, decided_us, physics, provenance, checksum) VALUES (?, ?, 0, x'', '', -1)",
    );
    this.#fromBothEnds(
      "SELECT seq, frame_id FROM damaged.frames INDEXED BY sqlite_autoindex_frames_1",
      "seq",
      (row) => {
        if (lost.has(row.frame_id as number)) insert.run(row.frame_id as number, row.seq as number);
      },
    );
  }

  /** Copies a small table at once; if a page is damaged, from its beginning and from its end up to the damage. */
  #table(name: string): void {
    const columns = this.#columns(name);
    const into = `INSERT OR REPLACE INTO main.${name}(${columns})`;
    try {
      this.#database.run(`DELETE FROM main.${name}`);
      this.#database.run(`${into} SELECT ${columns} FROM damaged.${name}`);
      return;
    } catch (error) {
      if (!isDamage(error)) throw error;
    }
    this.#partly.push(name);
    const keys = prepare(
      this.#database,
      "SELECT name FROM pragma_table_info(?, 'damaged') WHERE pk > 0 ORDER BY pk",
    )
      .all(name)
      .map((row) => String(row.name));
    const order = keys.length === 0 ? ["rowid"] : keys;
    const names = columns.split(", ");
    const insert = prepare(this.#database, `${into} VALUES (${names.map(() => "?").join(", ")})`);
    this.#fromBothEnds(`SELECT ${columns} FROM damaged.${name}`, order.join(" ?, "), (row) => {
      insert.run(...names.map((column) => row[column] as SQLQueryBindings));
    });
  }

  #fromBothEnds(select: string, order: string, take: (row: Row) => void): void {
    for (const direction of ["ASC", "DESC"]) {
      const sql = `${select} ORDER BY ${order.replaceAll("?", direction)} ${direction}`;
      try {
        for (const row of prepare(this.#database, sql).iterate()) take(row);
        return;
      } catch (error) {
        if (!isDamage(error)) throw error;
      }
    }
  }
}

function checkIdentity(database: Database, path: string): void {
  if (prepare(database, "SELECT 1 FROM meta WHERE key = 'journal.id'").get() !== null) return;
  throw new GatewayError({
    code: "journal_failed",
    operation: "journal: rebuild",
    object: path,
    detail: "the file is damaged, and the id of the journal cannot be read",
    hint: "put back a copy of the journal with its -wal, and of its database; this file was left as it is",
  });
}

function tooMuchLost(path: string, log: LogName): GatewayError {
  return new GatewayError({
    code: "journal_failed",
    operation: "journal: rebuild",
    object: path,
    detail: `more than ${LOST_MAX} numbers of ${log} are on damaged pages`,
    hint: "put back a copy of the journal with its -wal, and of its database; the damaged file was left as it is",
  });
}

function checkEmpty(wal: string): void {
  if ((statSync(wal, { throwIfNoEntry: false })?.size ?? 0) === 0) {
    rmSync(wal, { force: true });
    return;
  }
  throw new GatewayError({
    code: "journal_failed",
    operation: "journal: rebuild",
    object: wal,
    detail: "the write-ahead log could not be moved into its file",
    hint: "end other programs that have the journal open, and start again",
  });
}

function freeName(name: string): string {
  let free = name;
  for (let turn = 2; existsSync(free); turn++) free = `${name}-${turn}`;
  return free;
}

/** Gives the file a second name, so that the first is never without a file. */
function keep(path: string, keptAs: string): void {
  try {
    linkSync(path, keptAs);
  } catch {
    // A file system without hard links.
    copyFileSync(path, keptAs);
  }
}
