/** What can be said of a database's path before anything is opened. */
import { accessSync, constants, type Stats, statSync } from "node:fs";
import { basename, dirname } from "node:path";
import { GatewayError, messageOf } from "../errors.ts";

/** The longest name of a file in common file systems. */
const NAME_BYTES_MAX = 255;
/** The longest that gateway, SQLite and DuckDB append to the database's name. */
const LONGEST_SUFFIX = ".wal.checkpoint.set-aside-1700000000";

/** The files beside the database. Its folder of temporary files is not among them. */
const SUFFIXES = ["", ".wal", ".journal", ".journal-wal", ".journal-shm"];

/** What stands at a path; null: nothing, or nothing that this user may see. */
function found(path: string): Stats | null {
  try {
    return statSync(path, { throwIfNoEntry: false }) ?? null;
  } catch {
    return null;
  }
}

/** Why this user cannot do something with a path; null: it can. */
function whyNot(path: string, mode: number): string | null {
  try {
    accessSync(path, mode);
    return null;
  } catch (error) {
    return messageOf(error);
  }
}

/** Why DuckDB cannot use a path, whatever stands there; null: it can. */
export function whyUnusable(path: string): string | null {
  // DuckDB puts the name of its log before the first "?".
  if (path.includes("?")) return 'DuckDB cannot use a path with "?"';
  if (path.includes("\0")) return "a path cannot contain a zero byte";
  if (Buffer.byteLength(basename(path) + LONGEST_SUFFIX) > NAME_BYTES_MAX)
    return `the file's name is longer than ${NAME_BYTES_MAX - LONGEST_SUFFIX.length} bytes, so that files beside it cannot be named`;
  return null;
}

/**
 * Refuses a `--db-path` that DuckDB or SQLite could not open later, after events were acknowledged. Opens no file.
 * @throws GatewayError usage, store_failed
 */
export function checkDatabasePath(path: string): void {
  const refuse = (object: string, detail: string, hint: string, code: "usage" | "store_failed"): never => {
    throw new GatewayError({ code, operation: "start: database", object, detail, hint });
  };
  const unusable = whyUnusable(path);
  if (unusable !== null) refuse(path, unusable, "choose another --db-path", "usage");
  const folder = dirname(path);
  if (found(folder) === null)
    refuse(path, `the folder ${folder} does not exist`, "create it first", "store_failed");
  const closed = whyNot(folder, constants.R_OK | constants.W_OK | constants.X_OK);
  if (closed !== null)
    refuse(path, closed, "let this user write to its folder, or choose another --db-path", "store_failed");
  for (const suffix of SUFFIXES) {
    const file = `${path}${suffix}`;
    const stat = found(file);
    if (stat === null) continue;
    if (!stat.isFile()) refuse(file, "it is not a regular file", "choose another --db-path", "store_failed");
    const why = whyNot(file, constants.R_OK | constants.W_OK);
    if (why !== null) refuse(file, why, "let this user read and write it", "store_failed");
  }
  const temporary = `${path}.tmp`;
  const stat = found(temporary);
  if (stat !== null && !stat.isDirectory())
    refuse(temporary, "DuckDB needs a folder of this name", "move the file away", "store_failed");
}
