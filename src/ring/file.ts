/**
 * The ring's file before there is a {@link Ring}: who may write it (lock), what is at the path, whether it
 * fits (space), and how it comes to be one that can be published into: the file that is there is adopted, or
 * a new one is built aside, refilled and renamed in.
 *
 * A file under a live mapping is never truncated, and no page is touched that does not exist: either would
 * end a process by SIGBUS.
 */
import { randomBytes } from "node:crypto";
import {
  accessSync,
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  ftruncateSync,
  lstatSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  type Stats,
  statfsSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { GatewayError, messageOf } from "../errors.ts";
import {
  FLAG,
  FRAME_BYTES,
  HEADER_BYTES,
  HEADER_OFFSET,
  MAGIC,
  OFFSET,
  RING_CAPACITY_DEFAULT,
  RING_STATE,
  RING_VERSION,
  ringBytes,
  wholeSequence,
} from "../frame.ts";
import { allocateFile, lockExclusive, Mapping, nextTurn, O_CLOEXEC } from "../native/libc.ts";
import type { NewestFrames, RingOptions } from "./contract.ts";

const TWO_32 = 2 ** 32;
/** Slots that are views at a time: 17 MB that the collector counts as heap, instead of the whole ring. */
const WINDOW_SLOTS = 4096;
const REFILL_FRAMES = 256;
/** A ring that had to shrink below this is of no use to a reader. */
const SHRUNK_CAPACITY_MIN = 16;

const FRAME_WORDS = FRAME_BYTES / 4;
const FRAME_ID_WORD = OFFSET.frame_id / 4;
const EPOCH_WORD = HEADER_OFFSET.epoch / 4;
const PID_WORD = HEADER_OFFSET.writer_pid / 4;
const HEARTBEAT_LONG = HEADER_OFFSET.heartbeat_us / 8;
const WAITERS_WORD = HEADER_OFFSET.waiters / 4;
const STATE_WORD = HEADER_OFFSET.state / 4;

function failed(
  operation: string,
  object: string,
  detail: string,
  hint?: string,
  cause?: unknown,
): GatewayError {
  const options = { code: "ring_failed", operation: `ring: ${operation}`, object, detail, cause } as const;
  return new GatewayError(hint === undefined ? options : { ...options, hint });
}

/** A GatewayError as it is; anything else that was thrown as one. */
export function asFailure(operation: string, object: string, thrown: unknown): GatewayError {
  return thrown instanceof GatewayError
    ? thrown
    : failed(operation, object, messageOf(thrown), undefined, thrown);
}

function noSpace(path: string, detail: string): GatewayError {
  return new GatewayError({
    code: "ring_no_space",
    operation: "ring: create",
    object: path,
    detail,
    hint: `make ${dirname(path)} larger (docker: --shm-size), or pass a smaller --ring-capacity`,
  });
}

function errorCode(thrown: unknown): string | undefined {
  return (thrown as { code?: string } | null)?.code;
}

// -------------------------------------------------------------------------------------------------- lock

/**
 * The right to write the ring at a path: an flock on `<path>.lock`, a file that is never removed or renamed.
 */
export class RingLock implements Disposable {
  #fd: number | null;

  private constructor(fd: number) {
    this.#fd = fd;
  }

  /**
   * Owns `ownedPath` (a ring, a database) by a lock on `ownedPath.lock`, which ends with the process, however it ends.
   * @param hint what to do where another gateway owns it
   * @throws GatewayError `locked` where another process (or another lock of this one) holds it; `ring_failed`
   *   where the lock file cannot be opened or is no regular file
   */
  static acquire(ownedPath: string, hint = "stop it, or choose another path"): RingLock {
    const path = `${ownedPath}.lock`;
    let fd: number;
    try {
      const { O_RDWR, O_CREAT, O_NOFOLLOW, O_NONBLOCK } = constants;
      fd = openSync(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0o600);
    } catch (error) {
      const detail = errorCode(error) === "ELOOP" ? "is a symbolic link" : messageOf(error);
      throw failed("lock", path, detail, `remove it; or ${hint}`, error);
    }
    try {
      if (!fstatSync(fd).isFile()) throw failed("lock", path, "is not a regular file");
      if (!lockExclusive(fd)) throw heldBy(ownedPath, hint, fd);
      // The pid is for people; who holds the lock is decided by flock alone.
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

// ------------------------------------------------------------------------------------- what is at the path

/** A ring file of ours that is at the path; what it says of itself, not yet believed. */
interface FoundRing {
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
 * @returns null where there is nothing
 * @throws GatewayError `ring_failed` for anything that is not a ring file of this user
 */
function openFound(path: string): FoundRing | null {
  const refuse = (detail: string, cause?: unknown): GatewayError =>
    failed("open", path, `${detail}; it is left untouched`, "remove it, or pass another --ring-path", cause);
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
    // Its owner could truncate it under our mapping, which nobody survives.
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

/** Marks a ring that is being replaced and wakes whoever sleeps on it. The file itself stays. */
function supersede({ fd, version }: FoundRing): void {
  // Another version's header is not ours to write: its readers see that the inode changed.
  if (version !== RING_VERSION) return;
  const mapping = new Mapping(fd, HEADER_BYTES);
  const header = new Int32Array(mapping.view(0, HEADER_BYTES));
  setState(header, mapping, RING_STATE.superseded);
  mapping.unmap();
}

/** Says in which state the ring is, and wakes whoever sleeps on it. */
export function setState(header: Int32Array, mapping: Mapping, state: number): void {
  Atomics.store(header, STATE_WORD, state);
  if (Atomics.exchange(header, WAITERS_WORD, 0) !== 0) mapping.wake(HEADER_OFFSET.head);
}

/**
 * Where a file is made that will take the place of `path`. In a folder that everybody may write into, such as /dev/shm,
 * nobody else can have taken a name that cannot be guessed.
 */
export function asidePath(path: string): string {
  return `${path}.new.${process.pid}.${randomBytes(8).toString("hex")}`;
}

/** Files that writers which died left beside the ring. Whoever holds the lock may remove them. */
function removeLeftovers(path: string): void {
  const folder = dirname(path);
  const name = basename(path);
  for (const entry of readdirSync(folder)) {
    if (!entry.startsWith(name) || !/^(\.json)?\.new\.\d+(\.[0-9a-f]+)?$/.test(entry.slice(name.length)))
      continue;
    try {
      unlinkSync(join(folder, entry));
    } catch {
      // Another user's, in a folder where only owners remove: it is in nobody's way.
    }
  }
}

// ------------------------------------------------------------------------------------------------- space

/** What a new ring may take: the file it replaces counts as free, since it goes. */
function planRing(o: { path: string; asked: number | null; oldBytes: number }): {
  capacity: number;
  /** There is room only once the old file is gone. */
  retireFirst: boolean;
  roomBytes: number;
} {
  const { bavail, bsize, blocks } = statfsSync(dirname(o.path));
  // A tmpfs without a limit has no blocks.
  const freeBytes = blocks === 0 ? Number.POSITIVE_INFINITY : bavail * bsize;
  const roomBytes = freeBytes + o.oldBytes;
  let capacity = o.asked ?? RING_CAPACITY_DEFAULT;
  if (pagesOf(ringBytes(capacity)) > roomBytes) {
    const half = Math.floor((Math.floor(roomBytes / 2 / 4096) * 4096 - HEADER_BYTES) / FRAME_BYTES);
    if (o.asked !== null || half < SHRUNK_CAPACITY_MIN) {
      const needed = ringBytes(o.asked ?? SHRUNK_CAPACITY_MIN);
      throw noSpace(
        o.path,
        `${o.asked ?? SHRUNK_CAPACITY_MIN} frames need ${needed} bytes, ${roomBytes} are free`,
      );
    }
    capacity = half;
  }
  return { capacity, retireFirst: pagesOf(ringBytes(capacity)) > freeBytes, roomBytes };
}

function pagesOf(bytes: number): number {
  return Math.ceil(bytes / 4096) * 4096;
}

/**
 * Finds out before anything is started whether {@link openRing} can work. Changes nothing.
 * @throws GatewayError `ring_failed` for a path that is not ours to use, `ring_no_space` where the ring
 *   cannot fit
 */
export function ringFits(o: { path: string; capacity: number | null }): void {
  const found = openFound(o.path);
  try {
    accessSync(dirname(o.path), constants.W_OK | constants.X_OK);
    const fits = found !== null && found.stat.size === ringBytes(o.capacity ?? found.capacity);
    if (!fits) planRing({ path: o.path, asked: o.capacity, oldBytes: bytesOnDisk(found) });
  } catch (error) {
    throw asFailure("create", o.path, error);
  } finally {
    if (found !== null) closeSync(found.fd);
  }
}

function bytesOnDisk(found: FoundRing | null): number {
  return found === null ? 0 : found.stat.blocks * 512;
}

// ------------------------------------------------------------------------------------------------- slots

/** Views over a run of slots, `first` included, `end` excluded. */
export interface SlotWindow {
  readonly first: number;
  readonly end: number;
  readonly words: Int32Array;
  readonly floats: Float32Array;
  readonly bytes: Uint8Array;
}

/** The window that slot `slot` is in. */
export function openWindow(mapping: Mapping, capacity: number, slot: number): SlotWindow {
  const first = slot - (slot % WINDOW_SLOTS);
  const end = Math.min(first + WINDOW_SLOTS, capacity);
  const buffer = mapping.view(HEADER_BYTES + first * FRAME_BYTES, (end - first) * FRAME_BYTES);
  const words = new Int32Array(buffer);
  return { first, end, words, floats: new Float32Array(buffer), bytes: new Uint8Array(buffer) };
}

/** No slots: what a ring looks at before its first frame and after its last. */
export const NO_WINDOW: SlotWindow = {
  first: 0,
  end: 0,
  words: new Int32Array(0),
  floats: new Float32Array(0),
  bytes: new Uint8Array(0),
};

/** Calls `visit` for every slot, window by window, with other work let in between. */
async function forEachWindow(
  mapping: Mapping,
  capacity: number,
  visit: (window: SlotWindow) => void,
): Promise<void> {
  for (let slot = 0; slot < capacity; slot += WINDOW_SLOTS) {
    visit(openWindow(mapping, capacity, slot));
    await nextTurn();
  }
}

/** An unsigned 64-bit number of two words; exact up to 2⁵³. */
function readU64(words: Int32Array, word: number): number {
  return ((words[word + 1] as number) >>> 0) * TWO_32 + ((words[word] as number) >>> 0);
}

// -------------------------------------------------------------------------------------- adopt and create

/** A ring file that is mapped, at its path, and marked as written by this process. */
export interface MappedRing {
  readonly fd: number;
  readonly mapping: Mapping;
  /** Frames. */
  readonly capacity: number;
  readonly head: number;
  readonly tail: number;
  /** Frames that were copied in. */
  readonly refilled: number;
  /** The file was there before this process. */
  readonly adopted: boolean;
}

/** What {@link openRing} does but for the Ring itself; same errors. The caller owns `fd` and `mapping`. */
export async function prepareRingFile(o: RingOptions, newest: NewestFrames): Promise<MappedRing> {
  try {
    removeLeftovers(o.path);
    const found = openFound(o.path);
    if (found !== null && o.adopt) {
      const adopted = await adoptFile(o, found);
      if (adopted !== null) return adopted;
    }
    if (found !== null) closeSync(found.fd);
    return await createFile(o, newest);
  } catch (error) {
    throw asFailure("open", o.path, error);
  }
}

/** Says in the header that this process writes the ring, from the next epoch on. */
function claim(mapping: Mapping, o: { epoch: number; nowUs: () => number }): void {
  const buffer = mapping.view(0, HEADER_BYTES);
  const header = new Int32Array(buffer);
  Atomics.store(header, EPOCH_WORD, o.epoch | 0);
  Atomics.store(header, PID_WORD, process.pid);
  Atomics.store(new BigInt64Array(buffer), HEARTBEAT_LONG, BigInt(Math.floor(o.nowUs())));
  setState(header, mapping, RING_STATE.running);
}

/** Why a file cannot be gone on with, by its header alone; null where it can. */
function unfit(
  o: RingOptions,
  { stat, version, frameBytes, capacity, head, tail }: FoundRing,
): string | null {
  if (version !== RING_VERSION) return `it is of version ${version}`;
  if (frameBytes !== FRAME_BYTES) return `its frames have ${frameBytes} bytes`;
  if (o.capacity !== null && capacity !== o.capacity) return `its capacity is ${capacity}, not ${o.capacity}`;
  if (!Number.isSafeInteger(capacity) || capacity < 1 || stat.size !== ringBytes(capacity)) {
    return `its size is ${stat.size} bytes, which is not that of ${capacity} frames`;
  }
  if (stat.blocks * 512 < stat.size) return "some of its pages do not exist";
  if (!Number.isSafeInteger(head) || head < 1 || tail < 1 || tail > head || head - tail > capacity) {
    return `its head is ${head} and its tail ${tail}`;
  }
  if (head > o.nextFrameId) return `its head ${head} is beyond the journal's next frame ${o.nextFrameId}`;
  // Every frame in it would be overwritten at once: a refill is quicker.
  if (o.nextFrameId - head > capacity) return `it ends at frame ${head - 1}, more than a lap ago`;
  // An empty ring does not say whose it was, unless nothing was ever in it.
  if (tail === head && head !== 1) return "it holds no frame that says whose it is";
  return null;
}

/**
 * Goes on with the file at the path, or returns null, with `found` still open and nothing in the file
 * changed.
 */
async function adoptFile(o: RingOptions, found: FoundRing): Promise<MappedRing | null> {
  const { fd, capacity, head, tail } = found;
  let why = unfit(o, found);
  if (why === null) {
    const mapping = new Mapping(fd, found.stat.size);
    try {
      await mapping.populate();
      why = await damage(mapping, o, found);
      if (why === null) {
        await forEachWindow(mapping, capacity, clearOddSlots);
        const mode = found.stat.mode & 0o7777;
        if (mode !== o.mode) fchmodSync(fd, o.mode);
        claim(mapping, { epoch: found.epoch + 1, nowUs: o.nowUs });
        return { fd, mapping, capacity, head, tail, refilled: 0, adopted: true };
      }
    } catch (error) {
      mapping.unmap();
      closeSync(fd);
      throw error;
    }
    mapping.unmap();
  }
  o.log("info", `ring ${o.path}: not adopted, ${why}`);
  return null;
}

/**
 * Why the frames of a ring cannot be trusted: each one that readers may read must be whole, the newest one
 * this journal's.
 */
async function damage(
  mapping: Mapping,
  o: RingOptions,
  { capacity, head, tail }: FoundRing,
): Promise<string | null> {
  let why: string | null = null;
  await forEachWindow(mapping, capacity, ({ first, end, words }) => {
    for (let slot = first; slot < end && why === null; slot++) {
      // The newest frame that this slot has held; it is readable from tail on.
      const frameId = head - 1 - ((((head - 1 - slot) % capacity) + capacity) % capacity);
      if (frameId < tail || frameId < 1) continue;
      const at = (slot - first) * FRAME_WORDS;
      const whole = readU64(words, at) === wholeSequence(frameId, capacity);
      if (!whole || readU64(words, at + FRAME_ID_WORD) !== frameId)
        why = `frame ${frameId} in it is not whole`;
      const journalId = (words[at + OFFSET.journal_id / 4] as number) >>> 0;
      if (frameId === head - 1 && journalId !== o.journalId) why = `it belongs to journal ${journalId}`;
    }
  });
  return why;
}

/**
 * An odd sequence marks a frame whose writing was cut off. Its number is the head's, and its slot's former
 * frame was below tail before the slot went odd; so nobody may read it, and zero says so to everybody until
 * it is published again.
 */
function clearOddSlots({ first, end, words }: SlotWindow): void {
  for (let at = 0; at < (end - first) * FRAME_WORDS; at += FRAME_WORDS) {
    if (((words[at] as number) & 1) === 0) continue;
    Atomics.store(words, at, 0);
    Atomics.store(words, at + 1, 0);
  }
}

/**
 * Builds a new file aside and renames it in. At the default capacity it yields to others that took the space
 * meanwhile.
 */
async function createFile(o: RingOptions, newest: NewestFrames): Promise<MappedRing> {
  const aside = asidePath(o.path);
  for (let attempt = 1; ; attempt++) {
    const capacity = makeRoom(o);
    const { O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
    const fd = openSync(aside, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600);
    let mapping: Mapping | null = null;
    try {
      fchmodSync(fd, o.mode);
      if (!(await allocateFile(fd, ringBytes(capacity)))) {
        if (o.capacity !== null || attempt === 3) throw noSpace(o.path, `no room for ${capacity} frames`);
        closeSync(fd);
        unlinkSync(aside);
        continue;
      }
      mapping = new Mapping(fd, ringBytes(capacity));
      await mapping.populate();
      const filled = await refill(mapping, capacity, o.nextFrameId, newest);
      const built: MappedRing = { fd, mapping, capacity, ...filled, adopted: false };
      takePlace(o, aside, built);
      return built;
    } catch (error) {
      mapping?.unmap();
      closeSync(fd);
      unlinkSync(aside);
      throw error;
    }
  }
}

/** The new ring's capacity. Where there is room only without the old file, that one goes now. */
function makeRoom(o: RingOptions): number {
  const old = openFound(o.path);
  try {
    const plan = planRing({ path: o.path, asked: o.capacity, oldBytes: bytesOnDisk(old) });
    const { capacity, roomBytes } = plan;
    if (o.capacity === null && capacity !== RING_CAPACITY_DEFAULT) {
      const shrunk = `${capacity} frames instead of ${RING_CAPACITY_DEFAULT}`;
      o.log(
        "warn",
        `ring ${o.path}: ${shrunk}, half of the ${roomBytes} bytes that are free in ${dirname(o.path)}`,
      );
    }
    if (old !== null && plan.retireFirst) {
      supersede(old);
      unlinkSync(o.path);
    }
    return capacity;
  } finally {
    if (old !== null) closeSync(old.fd);
  }
}

interface Refilled {
  readonly head: number;
  readonly tail: number;
  readonly refilled: number;
}

/**
 * Copies the newest frames before `nextFrameId` into an empty ring, ascending. What is kept nowhere any more
 * is left out, and tail stands behind it.
 */
async function refill(
  mapping: Mapping,
  capacity: number,
  nextFrameId: number,
  newest: NewestFrames,
): Promise<Refilled> {
  let window = NO_WINDOW;
  let tail = Math.max(1, nextFrameId - capacity);
  let head = tail;
  while (head < nextFrameId) {
    const { bytes, count } = await newest(head, Math.min(REFILL_FRAMES, nextFrameId - head));
    if (count === 0) {
      const next = await oldestAfter(head, nextFrameId, newest);
      // With frames before it, the gap is for the publisher to fill or to stumble over: none is skipped in
      // silence.
      if (next === null && head > tail) break;
      head = tail = next ?? nextFrameId;
      continue;
    }
    const source = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let from = 0; from < count * FRAME_BYTES; from += FRAME_BYTES) {
      const frameId = Number(source.getBigUint64(from + OFFSET.frame_id, true));
      if (frameId !== head) throw new Error(`the refill was given frame ${frameId} instead of ${head}`);
      const slot = frameId % capacity;
      if (slot < window.first || slot >= window.end) window = openWindow(mapping, capacity, slot);
      const at = (slot - window.first) * FRAME_BYTES;
      window.bytes.set(bytes.subarray(from, from + FRAME_BYTES), at);
      window.bytes[at + OFFSET.flags] = (window.bytes[at + OFFSET.flags] as number) | FLAG.refilled;
      const sequence = wholeSequence(frameId, capacity);
      window.words[at / 4] = sequence | 0;
      window.words[at / 4 + 1] = Math.floor(sequence / TWO_32) | 0;
      head += 1;
    }
    await nextTurn();
  }
  return { head, tail, refilled: head - tail };
}

/** The oldest frame after `missing` that is still kept; what is newer than a kept frame is kept, too. */
async function oldestAfter(
  missing: number,
  nextFrameId: number,
  newest: NewestFrames,
): Promise<number | null> {
  let absent = missing;
  let present = nextFrameId;
  while (present - absent > 1) {
    const middle = absent + Math.floor((present - absent) / 2);
    if ((await newest(middle, 1)).count > 0) present = middle;
    else absent = middle;
  }
  return present === nextFrameId ? null : present;
}

/**
 * Finishes the header, marks the file that is replaced and renames the new one over it: readers of the old
 * find it there.
 */
function takePlace(o: RingOptions, aside: string, { mapping, capacity, head, tail }: MappedRing): void {
  const old = openFound(o.path);
  try {
    const header = new DataView(mapping.view(0, HEADER_BYTES));
    header.setUint32(HEADER_OFFSET.version, RING_VERSION, true);
    header.setUint32(HEADER_OFFSET.frame_size, FRAME_BYTES, true);
    header.setBigUint64(HEADER_OFFSET.capacity, BigInt(capacity), true);
    header.setBigUint64(HEADER_OFFSET.head, BigInt(head), true);
    header.setBigUint64(HEADER_OFFSET.tail, BigInt(tail), true);
    claim(mapping, { epoch: (old?.epoch ?? 0) + 1, nowUs: o.nowUs });
    header.setBigUint64(HEADER_OFFSET.magic, MAGIC, true);
    if (old !== null) supersede(old);
    renameSync(aside, o.path);
  } finally {
    if (old !== null) closeSync(old.fd);
  }
}
