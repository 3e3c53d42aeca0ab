/** Opens and closes a gateway's home: the folder and files where its journal and its DuckDB live. */
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  statfsSync,
  statSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { RingLock } from "../../collider.ts";
import type { Config } from "../config/config.ts";
import { GatewayError, messageOf } from "../errors.ts";
import { Journal } from "../journal/journal.ts";
import { whyNotExecutable } from "../native/libc.ts";
import { isCompiled } from "../native/worker-url.ts";
import { checkDatabasePath, whyUnusable } from "./paths.ts";

const TEMP_PREFIX = "one_file_gateway-";
const TEMP_ELSEWHERE = "set TMPDIR to another folder";

/** Where journal and DuckDB live. Disposing of it releases the lock and removes a temporary folder. */
export interface Home extends Disposable {
  readonly databasePath: string;
  readonly journalPath: string;
  readonly tempFolder: string;
  /** The file that says how far the journal has acknowledged; null in a temporary folder, which is never opened again. */
  readonly headsPath: string | null;
  readonly lockPath: string;
}

/** Locks the files of `--db-path`, or makes a temporary folder if there is no `--db-path`. @throws GatewayError */
export function openHome(config: Pick<Config, "dbPath">): Home {
  return config.dbPath === null ? openTemporaryHome() : openPersistentHome(config.dbPath);
}

/** What a file is that does not begin like a DuckDB database; null if it does, is empty, or cannot be read as a file. */
function otherFormatOf(path: string): string | null {
  if (!statSync(path).isFile() || statSync(path).size === 0) return null;
  const head = Buffer.alloc(16);
  const file = openSync(path, "r");
  try {
    readSync(file, head, 0, head.byteLength, 0);
  } finally {
    closeSync(file);
  }
  if (head.toString("latin1", 0, 15) === "SQLite format 3") return "a SQLite file";
  return head.toString("latin1", 8, 12) === "DUCK" ? null : "another program's file";
}

function openPersistentHome(databasePath: string): Home {
  const journalPath = `${databasePath}.journal`;
  const operation = "start: database";
  checkDatabasePath(databasePath);
  const lock = RingLock.acquire(databasePath, "pass another --db-path");
  if (existsSync(databasePath) && !existsSync(journalPath)) {
    lock[Symbol.dispose]();
    const other = otherFormatOf(databasePath);
    if (other !== null) {
      throw new GatewayError({
        code: "foreign_store",
        operation,
        object: databasePath,
        detail: `it is ${other}, not a DuckDB database`,
        hint: "choose another --db-path; this file was left as it was",
      });
    }
    throw new GatewayError({
      code: "journal_missing",
      operation,
      object: databasePath,
      detail: `its journal ${basename(journalPath)} is missing, so events may be missing too`,
      hint: "put the journal back beside it, or choose another --db-path",
    });
  }
  return {
    databasePath,
    journalPath,
    tempFolder: `${databasePath}.tmp`,
    headsPath: `${databasePath}.heads`,
    lockPath: `${databasePath}.lock`,
    [Symbol.dispose]: () => lock[Symbol.dispose](),
  };
}

/** Makes a private folder (0700), and first removes the folders that killed gateways left behind. */
function openTemporaryHome(): Home {
  const root = process.env.TMPDIR ?? tmpdir();
  let folder: string;
  try {
    const unusable = whyUnusable(join(root, TEMP_PREFIX));
    if (unusable !== null) throw new Error(unusable);
    removeLeftOver(root);
    folder = mkdtempSync(join(root, TEMP_PREFIX));
  } catch (error) {
    throw new GatewayError({
      code: "temp_folder",
      operation: "start: temporary folder",
      object: root,
      detail: messageOf(error),
      hint: "set TMPDIR to a writable folder, or pass --db-path",
      cause: error,
    });
  }
  const lock = RingLock.acquire(join(folder, "gateway"), TEMP_ELSEWHERE);
  return {
    databasePath: join(folder, "events.duckdb"),
    journalPath: join(folder, "events.duckdb.journal"),
    tempFolder: join(folder, "duckdb"),
    headsPath: null,
    lockPath: join(folder, "gateway.lock"),
    [Symbol.dispose]: () => {
      lock[Symbol.dispose]();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** Removes temporary folders whose gateway no longer runs: they contain a gateway's lock file that nobody holds. */
function removeLeftOver(root: string): void {
  for (const name of readdirSync(root)) {
    const stale = join(root, name);
    if (!name.startsWith(TEMP_PREFIX) || !existsSync(join(stale, "gateway.lock"))) continue;
    try {
      using _lock = RingLock.acquire(join(stale, "gateway"), TEMP_ELSEWHERE);
      rmSync(stale, { recursive: true, force: true });
    } catch {
      // Its gateway still runs, or the folder belongs to another user.
    }
  }
}

/**
 * Refuses to start if the executable cannot unpack its native libraries into the temporary folder. Otherwise DuckDB
 * would fail later, after events were acknowledged.
 */
export function checkUnpackFolder(): void {
  if (!isCompiled()) return;
  const folder = process.env.BUN_TMPDIR ?? process.env.TMPDIR ?? tmpdir();
  const why = whyNotExecutable(folder);
  if (why === null) return;
  throw new GatewayError({
    code: "temp_folder",
    operation: "start: unpack libraries into",
    object: folder,
    detail: why,
    hint: "set BUN_TMPDIR (or TMPDIR) to a folder that is writable, has 100 MB free and is not mounted noexec",
  });
}

/** Opens the home's journal. @throws GatewayError store_missing if the database that the journal filled is missing. */
export function openJournal(
  config: Pick<Config, "dbPath" | "tempLimitBytes">,
  home: Home,
  nowUs: () => number,
): Journal {
  const journal = Journal.open({
    path: home.journalPath,
    ephemeral: temporaryShare(config),
    nowUs,
    randomU32: () => crypto.getRandomValues(new Uint32Array(1))[0] ?? 1,
    bootId: bootId(),
    headsPath: home.headsPath,
    needs: [home.databasePath, home.lockPath],
  });
  if (journal.pruned().seq > 0 && !existsSync(home.databasePath)) {
    journal[Symbol.dispose]();
    throw new GatewayError({
      code: "store_missing",
      operation: "start: database",
      object: home.databasePath,
      detail: "the journal has handed events over to this database, and it is missing",
      hint: "put the database back beside its journal, or choose another --db-path",
    });
  }
  return journal;
}

/** The half of `--temp-limit` that journal and DuckDB get each; null if a database is kept. */
export function temporaryShare(
  config: Pick<Config, "dbPath" | "tempLimitBytes">,
): { readonly limitBytes: number } | null {
  return config.dbPath === null ? { limitBytes: Math.floor(config.tempLimitBytes / 2) } : null;
}

/** Identifies this boot: a ring file that survived a power loss may hold any mix of pages and must not be adopted. */
function bootId(): string {
  try {
    return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  } catch {
    const kernel = Bun.spawnSync(["sysctl", "-n", "kern.boottime"]);
    return kernel.stdout.toString().trim();
  }
}

/** Free bytes beside the journal, and how many ingest needs: a twentieth of the disk, at most 256 MB. */
export function freeDiskBytes(path: string): { freeBytes: number; neededBytes: number } {
  // Synchronous, because it takes microseconds and the asynchronous form would wake a pool thread.
  const { bavail, blocks, bsize } = statfsSync(dirname(path));
  return { freeBytes: bavail * bsize, neededBytes: Math.min(256_000_000, (blocks * bsize) / 20) };
}

/** Names the file if SQLite cannot read or write the journal: that can happen wherever a start looks into it. Other errors stay. */
export function nameJournalFailure(error: unknown, { dbPath }: Pick<Config, "dbPath">): unknown {
  if (!(error instanceof Error) || error.name !== "SQLiteError") return error;
  return new GatewayError({
    code: "journal_failed",
    operation: "start: journal",
    object: dbPath === null ? "in the temporary folder" : `${dbPath}.journal`,
    detail: `${error.message} (${(error as { code?: string }).code})`,
    hint: "the file is damaged or its disk fails: put a copy of it and of its -wal back, and start again",
    cause: error,
  });
}
