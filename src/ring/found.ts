/** The file at a ring's path before this process writes there, and the files beside it. */
import { randomBytes } from "node:crypto";
import {
  type BigIntStats,
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  openSync,
  readdirSync,
  readSync,
  type Stats,
  unlinkSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { GatewayError, messageOf } from "../errors.ts";
import { HEADER_BYTES, HEADER_OFFSET, MAGIC, RING_VERSION } from "../frame.ts";
import { Mapping, O_CLOEXEC } from "../native/libc.ts";
import { asFailure, errorCode, ringFailed } from "./failures.ts";
import { markState } from "./header.ts";

/** A ring file of this user at the path, with the fields of its header, which are not checked yet. */
export interface FoundRing {
  readonly fd: number;
  readonly stat: Stats;
  readonly version: number;
  readonly frameBytes: number;
  readonly capacity: number;
  readonly head: number;
  readonly tail: number;
  readonly epoch: number;
}

/**
 * Opens what is at the path, and changes nothing. The caller closes `fd`.
 * @returns null if there is nothing
 * @throws GatewayError `ring_failed` for anything that is not a ring file of this user
 */
export function openFound(path: string): FoundRing | null {
  const refuse = (detail: string, cause?: unknown): GatewayError =>
    ringFailed(
      "open",
      path,
      `${detail}; it is left untouched`,
      "remove it, or pass another --ring-path",
      cause,
    );
  let fd: number;
  try {
    const link = lstatSync(path);
    if (link.isSymbolicLink()) throw refuse("is a symbolic link");
    if (!link.isFile()) throw refuse("is not a regular file");
    const { O_RDWR, O_NOFOLLOW, O_NONBLOCK } = constants;
    fd = openSync(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  } catch (error) {
    if (errorCode(error) === "ENOENT") return null;
    throw error instanceof GatewayError ? error : refuse(messageOf(error), error);
  }
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw refuse("is not a regular file");
    const user = process.geteuid?.();
    // Its owner could truncate it under our mapping, which would end this process.
    if (user !== undefined && stat.uid !== user) throw refuse(`belongs to user ${stat.uid}`);
    const header = new DataView(new ArrayBuffer(HEADER_BYTES));
    const got = readSync(fd, new Uint8Array(header.buffer), 0, HEADER_BYTES, 0);
    if (got < HEADER_BYTES || header.getBigUint64(HEADER_OFFSET.magic, true) !== MAGIC) {
      throw refuse("is not a ring file");
    }
    return {
      fd,
      stat,
      version: header.getUint32(HEADER_OFFSET.version, true),
      frameBytes: header.getUint32(HEADER_OFFSET.frame_size, true),
      capacity: Number(header.getBigUint64(HEADER_OFFSET.capacity, true)),
      head: Number(header.getBigUint64(HEADER_OFFSET.head, true)),
      tail: Number(header.getBigUint64(HEADER_OFFSET.tail, true)),
      epoch: header.getUint32(HEADER_OFFSET.epoch, true),
    };
  } catch (error) {
    closeSync(fd);
    throw asFailure("open", path, error);
  }
}

/** Marks a ring as replaced and wakes the readers that sleep on it. The file itself stays. */
export function supersede({ fd, version }: FoundRing): void {
  // This version does not know another version's header. Readers notice the new inode.
  if (version !== RING_VERSION) return;
  const mapping = new Mapping(fd, HEADER_BYTES);
  markState(mapping, "superseded");
  mapping.unmap();
}

export function bytesOnDisk(found: FoundRing | null): number {
  return found === null ? 0 : found.stat.blocks * 512;
}

/**
 * The path at which a file is built that will replace `path`. It cannot be guessed, so in a folder that everybody may
 * write to, such as /dev/shm, nobody can have taken it.
 */
export function asidePath(path: string): string {
  return `${path}.new.${process.pid}.${randomBytes(8).toString("hex")}`;
}

/** Removes files that dead writers left beside the ring. The caller holds the lock. */
export function removeLeftovers(path: string): void {
  const folder = dirname(path);
  const name = basename(path);
  for (const entry of entriesOf(folder)) {
    if (!entry.startsWith(name) || !/^(\.json)?\.new\.\d+(\.[0-9a-f]+)?$/.test(entry.slice(name.length)))
      continue;
    try {
      unlinkSync(join(folder, entry));
    } catch {
      // Another user's file, in a folder where only owners may remove: it does no harm.
    }
  }
}

/** A folder that may be written to but not listed keeps its leftovers, which do no harm. */
function entriesOf(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

/** What is at the path, a link itself and not its target; null if nothing is, or it is out of reach. */
export function statOf(path: string): BigIntStats | null {
  try {
    return lstatSync(path, { bigint: true });
  } catch {
    return null;
  }
}

/** Whether the path leads to this very file. */
export function isAt(path: string, { dev, ino }: Pick<BigIntStats, "dev" | "ino">): boolean {
  const found = statOf(path);
  return found !== null && found.dev === dev && found.ino === ino;
}

/** Whether a file is this user's. */
export function isOurs({ uid }: BigIntStats): boolean {
  return uid === BigInt(process.geteuid?.() ?? uid);
}
