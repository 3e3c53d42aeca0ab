/** The lock that lets one gateway at a time write a ring or a database. */
import { closeSync, constants, fstatSync, ftruncateSync, openSync, readSync, writeSync } from "node:fs";
import { GatewayError, messageOf } from "../errors.ts";
import { lockExclusive, O_CLOEXEC } from "../native/libc.ts";
import { asFailure, errorCode, ringFailed } from "./failures.ts";

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
   * that ends.
   * @param hint what the user can do if another gateway holds it
   * @throws GatewayError `locked` if another process (or another lock of this one) holds it; `ring_failed`
   *   if the lock file cannot be opened or is not a regular file
   */
  static acquire(ownedPath: string, hint = "stop it, or choose another path"): RingLock {
    const path = `${ownedPath}.lock`;
    let fd: number;
    try {
      const { O_RDWR, O_CREAT, O_NOFOLLOW, O_NONBLOCK } = constants;
      fd = openSync(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0o600);
    } catch (error) {
      const detail = errorCode(error) === "ELOOP" ? "is a symbolic link" : messageOf(error);
      throw ringFailed("lock", path, detail, `remove it; or ${hint}`, error);
    }
    try {
      if (!fstatSync(fd).isFile()) throw ringFailed("lock", path, "is not a regular file");
      if (!lockExclusive(fd)) throw heldBy(ownedPath, hint, fd);
      // The pid is only for people to read. flock alone decides who holds the lock.
      ftruncateSync(fd, 0);
      writeSync(fd, `${process.pid}\n`, 0);
      return new RingLock(fd);
    } catch (error) {
      closeSync(fd);
      throw asFailure("lock", path, error);
    }
  }

  [Symbol.dispose](): void {
    if (this.#fd !== null) closeSync(this.#fd);
    this.#fd = null;
  }
}

function heldBy(ownedPath: string, hint: string, fd: number): GatewayError {
  const bytes = new Uint8Array(32);
  const pid = /^\d+/.exec(new TextDecoder().decode(bytes.subarray(0, readSync(fd, bytes, 0, 32, 0))))?.[0];
  return new GatewayError({
    code: "locked",
    operation: "lock:",
    object: ownedPath,
    detail: `another gateway${pid === undefined ? "" : ` (pid ${pid})`} owns it`,
    hint,
  });
}
