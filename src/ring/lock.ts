/** The lock that lets one gateway at a time write a ring or a database. */
import {
  type BigIntStats,
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  openSync,
  readSync,
  writeSync,
} from "node:fs";
import { GatewayError, messageOf } from "../errors.ts";
import { lockExclusive, O_CLOEXEC } from "../native/libc.ts";
import { isAt, isOurs, statOf } from "./found.ts";

/** A lock file has a process id and a line break. Anything longer is another program's file. */
const CONTENT_BYTES_MAX = 32;
/** How often the file is opened anew because somebody removed it between its opening and its lock. */
const ATTEMPTS = 8;

/**
 * The right to write the ring at a path: an flock on `<path>.lock`, a file that is never removed or renamed.
 */
export class RingLock implements Disposable {
  #fd: number | null;

  private constructor(fd: number) {
    this.#fd = fd;
  }

  /**
   * Takes the lock on `ownedPath.lock`, for a ring or a database at `ownedPath`. The lock ends with the process, however
   * that ends. A file at the lock's path that no gateway wrote is left as it is.
   * @param elsewhere how the user can choose another path, as the second half of a hint
   * @throws GatewayError `locked` if another process (or another lock of this one) holds it; `ring_failed`
   *   if the lock file cannot be opened, or if the file there is not a lock file
   */
  static acquire(ownedPath: string, elsewhere = "choose another path"): RingLock {
    for (let attempt = 1; ; attempt++) {
      const fd = openLock(ownedPath, elsewhere);
      try {
        const stat = fstatSync(fd, { bigint: true });
        const content = checkedContent(ownedPath, fd, stat, elsewhere);
        if (!lockExclusive(fd)) throw heldBy(ownedPath, elsewhere, isOurs(stat) ? content : "");
        if (isAt(`${ownedPath}.lock`, stat)) {
          if (isOurs(stat)) writePid(fd);
          return new RingLock(fd);
        }
        if (attempt === ATTEMPTS) throw refused(ownedPath, elsewhere, "another process keeps replacing it");
      } catch (error) {
        closeSync(fd);
        throw error instanceof GatewayError ? error : refused(ownedPath, elsewhere, messageOf(error), error);
      }
      // The lock is on a file that is no longer at the path, so it would keep nobody else out.
      closeSync(fd);
    }
  }

  [Symbol.dispose](): void {
    if (this.#fd !== null) closeSync(this.#fd);
    this.#fd = null;
  }
}

/** Opens the lock file, or makes it. Follows no link, truncates nothing and does not wait for the other end of a pipe. */
function openLock(ownedPath: string, elsewhere: string): number {
  const { O_RDWR, O_CREAT, O_NOFOLLOW, O_NONBLOCK } = constants;
  try {
    return openSync(`${ownedPath}.lock`, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0o600);
  } catch (error) {
    const found = statOf(`${ownedPath}.lock`);
    if (found === null)
      throw lockFailed(
        ownedPath,
        messageOf(error),
        `make its folder and let this user write to it, or ${elsewhere}`,
        error,
      );
    // The kernel may refuse another user's link or file in a folder such as /dev/shm before it looks at it.
    if (found.isSymbolicLink()) throw refused(ownedPath, elsewhere, "is a symbolic link", error);
    if (!found.isFile()) throw refused(ownedPath, elsewhere, "is not a regular file", error);
    const owner = isOurs(found) ? "" : `, it belongs to user ${found.uid}`;
    throw refused(ownedPath, elsewhere, `${messageOf(error)}${owner}`, error);
  }
}

/**
 * What the file contains: nothing, or what a gateway wrote.
 * @throws GatewayError if it is not a file that a gateway may write to
 */
function checkedContent(ownedPath: string, fd: number, stat: BigIntStats, elsewhere: string): string {
  if (!stat.isFile()) throw refused(ownedPath, elsewhere, "is not a regular file");
  // Under its other name it may be a file that matters.
  if (stat.nlink > 1n) throw refused(ownedPath, elsewhere, `has ${stat.nlink} names (hard links)`);
  const bytes = new Uint8Array(CONTENT_BYTES_MAX + 1);
  const content = new TextDecoder().decode(bytes.subarray(0, readSync(fd, bytes, 0, bytes.length, 0)));
  if (!/^(\d{1,10}\n?)?$/.test(content)) throw refused(ownedPath, elsewhere, "is another program's file");
  return content;
}

/** The process id is only for people to read. flock alone decides who holds the lock. */
function writePid(fd: number): void {
  ftruncateSync(fd, 0);
  writeSync(fd, `${process.pid}\n`, 0);
}

function refused(ownedPath: string, elsewhere: string, detail: string, cause?: unknown): GatewayError {
  return lockFailed(ownedPath, `${detail}; it is left untouched`, `remove it, or ${elsewhere}`, cause);
}

function lockFailed(ownedPath: string, detail: string, hint: string, cause: unknown): GatewayError {
  return new GatewayError({
    ...{ code: "ring_failed", operation: "lock:", object: `${ownedPath}.lock` },
    ...{ detail, hint, cause },
  });
}

function heldBy(ownedPath: string, elsewhere: string, content: string): GatewayError {
  const pid = content.trim();
  return new GatewayError({
    code: "locked",
    operation: "lock:",
    object: ownedPath,
    detail: pid === "" ? "another process holds its lock" : `another gateway (pid ${pid}) owns it`,
    hint: `stop it, or ${elsewhere}`,
  });
}
