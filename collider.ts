/**
 * The ring in shared memory (lock, create, adopt, publish) and the physics of a frame (kinetics, spin).
 *
 * The ring is only ever an output: whatever is in it is in the journal or in DuckDB too, so a file that does not fit is
 * replaced and never repaired beyond the one frame that was being written. The format is src/frame.ts; the rules of
 * start and of replacement are those of docs/FRAME.md. A file under a live mapping is never truncated,
 * and no page is touched that does not exist: either would end a process by SIGBUS.
 */
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
import { GatewayError, messageOf } from "./src/errors.ts";
import {
  conversationHash,
  FLAG,
  FRAME_BYTES,
  HEADER_BYTES,
  HEADER_OFFSET,
  MAGIC,
  OFFSET,
  PHYSICS_BYTES,
  PHYSICS_OFFSET,
  RING_CAPACITY_DEFAULT,
  RING_STATE,
  RING_VERSION,
  ringBytes,
  SEMANTIC_DIM_MAX,
  wholeSequence,
} from "./src/frame.ts";
import { allocateFile, lockExclusive, Mapping, nextTurn, O_CLOEXEC } from "./src/native/libc.ts";

const TWO_32 = 2 ** 32;
/** Slots that are views at a time: 17 MB that the collector counts as heap, instead of the whole ring. */
const WINDOW_SLOTS = 4096;
const REFILL_FRAMES = 256;
/** A ring that had to shrink below this is of no use to a reader. */
const SHRUNK_CAPACITY_MIN = 16;

const FRAME_WORDS = FRAME_BYTES / 4;
const FRAME_ID_WORD = OFFSET.frame_id / 4;
const SEMANTIC_WORD = OFFSET.semantic / 4;
const HEAD_WORD = HEADER_OFFSET.head / 4;
const TAIL_WORD = HEADER_OFFSET.tail / 4;
const EPOCH_WORD = HEADER_OFFSET.epoch / 4;
const PID_WORD = HEADER_OFFSET.writer_pid / 4;
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
function asFailure(operation: string, object: string, thrown: unknown): GatewayError {
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
    hint: `make ${dirname(path)} larger (docker: --shm-size), or pass a smaller --ring-capacity or another --ring-path`,
  });
}

function errorCode(thrown: unknown): string | undefined {
  return (thrown as { code?: string } | null)?.code;
}

// -------------------------------------------------------------------------------------------------- lock

/** The right to write the ring at a path: an flock on `<path>.lock`, a file that is never removed or renamed. */
export class RingLock implements Disposable {
  #fd: number | null;

  private constructor(fd: number) {
    this.#fd = fd;
  }

  /**
   * The lock ends with the process, however it ends.
   * @throws GatewayError `locked` where another process (or another lock of this one) holds it; `ring_failed` where the
   *   lock file cannot be opened or is no regular file
   */
  static acquire(ringPath: string): RingLock {
    const path = `${ringPath}.lock`;
    let fd: number;
    try {
      const { O_RDWR, O_CREAT, O_NOFOLLOW, O_NONBLOCK } = constants;
      fd = openSync(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0o600);
    } catch (error) {
      const detail = errorCode(error) === "ELOOP" ? "is a symbolic link" : messageOf(error);
      throw failed("lock", path, detail, "remove it, or pass another --ring-path", error);
    }
    try {
      if (!fstatSync(fd).isFile()) throw failed("lock", path, "is not a regular file");
      if (!lockExclusive(fd)) throw heldBy(ringPath, fd);
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

function heldBy(ringPath: string, fd: number): GatewayError {
  const bytes = new Uint8Array(32);
  const pid = /^\d+/.exec(new TextDecoder().decode(bytes.subarray(0, readSync(fd, bytes, 0, 32, 0))))?.[0];
  return new GatewayError({
    code: "locked",
    operation: "ring: lock",
    object: ringPath,
    detail: `another gateway${pid === undefined ? "" : ` (pid ${pid})`} writes this ring`,
    hint: "stop it, or pass another --ring-path",
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

function setState(header: Int32Array, mapping: Mapping, state: number): void {
  Atomics.store(header, STATE_WORD, state);
  if (Atomics.exchange(header, WAITERS_WORD, 0) !== 0) mapping.wake(HEADER_OFFSET.head);
}

/** Files that writers which died left beside the ring. Whoever holds the lock may remove them. */
function removeLeftovers(path: string): void {
  const folder = dirname(path);
  const name = basename(path);
  for (const entry of readdirSync(folder)) {
    if (!entry.startsWith(name) || !/^(\.json)?\.new\.\d+$/.test(entry.slice(name.length))) continue;
    unlinkSync(join(folder, entry));
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
 * @throws GatewayError `ring_failed` for a path that is not ours to use, `ring_no_space` where the ring cannot fit
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
interface SlotWindow {
  readonly first: number;
  readonly end: number;
  readonly words: Int32Array;
  readonly floats: Float32Array;
  readonly bytes: Uint8Array;
}

function openWindow(mapping: Mapping, capacity: number, slot: number): SlotWindow {
  const first = slot - (slot % WINDOW_SLOTS);
  const end = Math.min(first + WINDOW_SLOTS, capacity);
  const buffer = mapping.view(HEADER_BYTES + first * FRAME_BYTES, (end - first) * FRAME_BYTES);
  const words = new Int32Array(buffer);
  return { first, end, words, floats: new Float32Array(buffer), bytes: new Uint8Array(buffer) };
}

/** No slots: what a ring looks at before its first frame and after its last. */
const NO_WINDOW: SlotWindow = {
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

// -------------------------------------------------------------------------------------------------- open

export type RingLog = (level: "debug" | "info" | "warn" | "error", message: string) => void;

export interface RingOptions {
  readonly path: string;
  /** Frames, at least 1; null: RING_CAPACITY_DEFAULT, or what fits half of the free space where that does not fit. */
  readonly capacity: number | null;
  /** Permission bits of the file, as 0o600. */
  readonly mode: number;
  readonly journalId: number;
  /** The journal's next frame_id: what is older is refilled, what is newer will be published. */
  readonly nextFrameId: number;
  /** Whether a file at the path may be gone on with: only where it was written in this boot. */
  readonly adopt: boolean;
  readonly nowUs: () => number;
  readonly log: RingLog;
}

/**
 * A contiguous run of raw frames for the refill: `count` × FRAME_BYTES, the first one `fromFrameId`, with any `sequence`.
 * Count 0 where that frame is kept nowhere any more. It rejects where it cannot know yet (DuckDB is not open): openRing then
 * rejects too, and leaves nothing behind.
 */
export type NewestFrames = (
  fromFrameId: number,
  limit: number,
) => Promise<{ bytes: Uint8Array; count: number }>;

/**
 * Opens the ring for its only writer, who holds its {@link RingLock}: adopts the file at the path where it fits, else builds a
 * new one aside, refills it and renames it in. Never blocks the event loop for more than a few milliseconds.
 *
 * @throws GatewayError `ring_failed` for a path that is not ours (the file there is left untouched),
 *   `ring_no_space` where the ring cannot fit; nothing half-made is left behind
 */
export async function openRing(o: RingOptions, newest: NewestFrames): Promise<Ring> {
  try {
    removeLeftovers(o.path);
    const found = openFound(o.path);
    if (found !== null && o.adopt) {
      const ring = await adoptRing(o, found);
      if (ring !== null) return ring;
    }
    if (found !== null) closeSync(found.fd);
    return await createRing(o, newest);
  } catch (error) {
    throw asFailure("open", o.path, error);
  }
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

/** Goes on with the file at the path, or returns null, with `found` still open and nothing in the file changed. */
async function adoptRing(o: RingOptions, found: FoundRing): Promise<Ring | null> {
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
        return new Ring({
          ...o,
          capacity,
          fd,
          mapping,
          head,
          tail,
          epoch: found.epoch + 1,
          refilled: 0,
          adopted: true,
        });
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

/** Why the frames of a ring cannot be trusted: each one that readers may read must be whole, the newest one this journal's. */
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
 * An odd sequence marks a frame whose writing was cut off. Its number is the head's, and its slot's former frame was below tail
 * before the slot went odd; so nobody may read it, and zero says so to everybody until it is published again.
 */
function clearOddSlots({ first, end, words }: SlotWindow): void {
  for (let at = 0; at < (end - first) * FRAME_WORDS; at += FRAME_WORDS) {
    if (((words[at] as number) & 1) === 0) continue;
    Atomics.store(words, at, 0);
    Atomics.store(words, at + 1, 0);
  }
}

/** Builds a new file aside and renames it in. At the default capacity it yields to others that took the space meanwhile. */
async function createRing(o: RingOptions, newest: NewestFrames): Promise<Ring> {
  const aside = `${o.path}.new.${process.pid}`;
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
      return takePlace(o, { aside, fd, mapping, capacity, ...filled });
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
 * Copies the newest frames before `nextFrameId` into an empty ring, ascending. What is kept nowhere any more is left out, and
 * tail stands behind it.
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
      // With frames before it, the gap is for the publisher to fill or to stumble over: none is skipped in silence.
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

/** Finishes the header, marks the file that is replaced and renames the new one over it: readers of the old find it there. */
function takePlace(
  o: RingOptions,
  built: Refilled & { aside: string; fd: number; mapping: Mapping; capacity: number },
): Ring {
  const { aside, fd, mapping, capacity, head, tail, refilled } = built;
  const old = openFound(o.path);
  try {
    const header = new DataView(mapping.view(0, HEADER_BYTES));
    header.setUint32(HEADER_OFFSET.version, RING_VERSION, true);
    header.setUint32(HEADER_OFFSET.frame_size, FRAME_BYTES, true);
    header.setBigUint64(HEADER_OFFSET.capacity, BigInt(capacity), true);
    header.setBigUint64(HEADER_OFFSET.head, BigInt(head), true);
    header.setBigUint64(HEADER_OFFSET.tail, BigInt(tail), true);
    const epoch = (old?.epoch ?? 0) + 1;
    const ring = new Ring({ ...o, capacity, fd, mapping, head, tail, epoch, refilled, adopted: false });
    header.setBigUint64(HEADER_OFFSET.magic, MAGIC, true);
    if (old !== null) supersede(old);
    renameSync(aside, o.path);
    return ring;
  } finally {
    if (old !== null) closeSync(old.fd);
  }
}

// -------------------------------------------------------------------------------------------------- ring

export interface RingLabels {
  readonly intents: Readonly<Record<string, string>>;
  readonly types: Readonly<Record<string, string>>;
  readonly models: Readonly<Record<string, { readonly name: string; readonly dim: number }>>;
}

interface RingParts {
  readonly path: string;
  readonly mode: number;
  readonly nowUs: () => number;
  readonly capacity: number;
  readonly fd: number;
  readonly mapping: Mapping;
  readonly head: number;
  readonly tail: number;
  readonly epoch: number;
  readonly refilled: number;
  readonly adopted: boolean;
}

/** The writer's side of a mapped ring. One instance, one thread. Made by {@link openRing}. */
export class Ring {
  readonly path: string;
  /** Frames. */
  readonly capacity: number;
  readonly mappedBytes: number;
  /** Frames that were copied in when it was made. */
  readonly refilled: number;
  /** The file was there before this process. */
  readonly adopted: boolean;

  readonly #fd: number;
  readonly #mode: number;
  readonly #nowUs: () => number;
  readonly #mapping: Mapping;
  readonly #device: bigint;
  readonly #inode: bigint;
  #header: Int32Array;
  #header64: BigInt64Array;
  #window = NO_WINDOW;

  #head: number;
  #tail: number;
  /** High word of head and tail, and the first value that has another one. */
  #headHigh: number;
  #headLimit: number;
  #tailLimit: number;
  /** The slot of frame `head`, and the sequence of its whole frame. */
  #slot: number;
  #whole: number;
  /** High word of the sequence, odd and even; −1 where the two differ. */
  #wholeHigh: number;
  /** High word of the sequence that stands in the slot. */
  #slotHigh = 0;
  #closed = false;

  constructor(parts: RingParts) {
    this.path = parts.path;
    this.capacity = parts.capacity;
    this.mappedBytes = parts.mapping.bytes;
    this.refilled = parts.refilled;
    this.adopted = parts.adopted;
    this.#fd = parts.fd;
    this.#mode = parts.mode;
    this.#nowUs = parts.nowUs;
    this.#mapping = parts.mapping;
    const { dev, ino } = fstatSync(parts.fd, { bigint: true });
    this.#device = dev;
    this.#inode = ino;
    const buffer = parts.mapping.view(0, HEADER_BYTES);
    this.#header = new Int32Array(buffer);
    this.#header64 = new BigInt64Array(buffer);
    this.#head = parts.head;
    this.#tail = parts.tail;
    this.#headHigh = Math.floor(parts.head / TWO_32);
    this.#headLimit = nextHighWord(parts.head);
    this.#tailLimit = nextHighWord(parts.tail);
    this.#slot = parts.head % parts.capacity;
    this.#whole = wholeSequence(parts.head, parts.capacity);
    this.#wholeHigh = highWordOf(this.#whole);
    Atomics.store(this.#header, EPOCH_WORD, parts.epoch | 0);
    Atomics.store(this.#header, PID_WORD, process.pid);
    Atomics.store(this.#header64, HEADER_OFFSET.heartbeat_us / 8, BigInt(Math.floor(parts.nowUs())));
    setState(this.#header, parts.mapping, RING_STATE.running);
  }

  /** The next frame_id. */
  head(): number {
    return this.#head;
  }

  /** The oldest frame_id that may be read. */
  tail(): number {
    return this.#tail;
  }

  /**
   * Writes frame `frameId`, which must be {@link head}, and makes it visible. Allocates nothing but the views of the next
   * WINDOW_SLOTS slots, once in so many frames.
   *
   * Why no reader takes a wrong frame (x86-64). Stores become visible in the order they are made, loads are made in order, and
   * neither JavaScriptCore nor the processor moves anything across an `Atomics.store`. So whoever sees any byte of the new
   * frame sees tail beyond the slot's former frame and the odd sequence, when it looks at them after its copy; whoever sees the even
   * sequence sees all of the frame; whoever sees head sees that sequence. A writer killed between any two of these stores
   * leaves an odd slot at most, which is frame `head`'s own. The load of `waiters` comes after the store of head, and a
   * reader's sleep is refused by the kernel once head has changed: one of the two sees the other, so no wake-up is lost.
   *
   * On arm64 the plain stores of the frame may become visible before the odd sequence that precedes them, since a store-release
   * holds back only what comes before it: there `checksum` has to be filled and checked.
   *
   * @param physics PHYSICS_BYTES, at any alignment
   * @param vector the leading floats of `semantic`, at most SEMANTIC_DIM_MAX, each finite; null: none. The rest becomes zero
   */
  publish(frameId: number, physics: Uint8Array, vector: Float32Array | null): void {
    if (this.#closed || frameId !== this.#head || physics.length !== PHYSICS_BYTES)
      throw this.#misuse(frameId, physics);
    const dim = vector === null ? 0 : vector.length;
    if (dim > SEMANTIC_DIM_MAX) throw new RangeError(`ring: frame ${frameId} has ${dim} floats`);
    const slot = this.#slot;
    const header = this.#header;
    let window = this.#window;
    if (slot < window.first || slot >= window.end) {
      window = openWindow(this.#mapping, this.capacity, slot);
      this.#window = window;
      this.#slotHigh = window.words[(slot - window.first) * FRAME_WORDS + 1] as number;
    }
    const { words, floats } = window;
    const at = (slot - window.first) * FRAME_WORDS;
    const nextAt = slot + 1 < window.end ? at + FRAME_WORDS : 0;

    const tail = frameId - this.capacity + 1;
    if (tail > this.#tail) {
      this.#tail = tail;
      if (tail < this.#tailLimit) Atomics.store(header, TAIL_WORD, tail | 0);
      else this.#storeTailWide(tail);
    }
    const whole = this.#whole;
    // The high word is the same in all but one of 2³¹ laps; a low word is a much cheaper store.
    const narrow = this.#slotHigh === this.#wholeHigh;
    if (narrow) Atomics.store(words, at, (whole - 1) | 0);
    else storeWide(words, at, whole - 1);
    // Read a frame ahead, so that the next slot's first line comes from memory while this frame is copied: a tenth of the time
    // on a ring that exceeds the cache.
    this.#slotHigh = words[nextAt + 1] as number;

    words[at + FRAME_ID_WORD] = frameId | 0;
    words[at + FRAME_ID_WORD + 1] = this.#headHigh;
    const semanticAt = at + SEMANTIC_WORD;
    if (vector !== null) floats.set(vector, semanticAt);
    if (dim < SEMANTIC_DIM_MAX) floats.fill(0, semanticAt + dim, semanticAt + SEMANTIC_DIM_MAX);
    window.bytes.set(physics, at * 4 + PHYSICS_OFFSET);

    if (narrow) Atomics.store(words, at, whole | 0);
    else {
      storeWide(words, at, whole);
      this.#slotHigh = words[nextAt + 1] as number;
    }

    const head = frameId + 1;
    this.#head = head;
    if (head < this.#headLimit) Atomics.store(header, HEAD_WORD, head | 0);
    else this.#storeHeadWide(head);
    if (slot + 1 < this.capacity) this.#slot = slot + 1;
    else this.#nextLap();
    if (Atomics.load(header, WAITERS_WORD) !== 0) this.#wakeReaders();
  }

  /**
   * Copies raw frames from the ring, in order, wherever it wraps.
   * @returns n × FRAME_BYTES from frame `fromFrameId`, n at most `limit` and no further than the newest; null where `fromFrameId` is not in
   *   [tail, head)
   */
  read(fromFrameId: number, limit: number): Uint8Array<ArrayBuffer> | null {
    this.#open();
    if (fromFrameId < this.#tail || fromFrameId >= this.#head) return null;
    const count = Math.max(0, Math.min(limit, this.#head - fromFrameId));
    const frames = new Uint8Array(count * FRAME_BYTES);
    for (let done = 0; done < count; ) {
      const slot = (fromFrameId + done) % this.capacity;
      const run = Math.min(count - done, this.capacity - slot);
      const view = this.#mapping.view(HEADER_BYTES + slot * FRAME_BYTES, run * FRAME_BYTES);
      frames.set(new Uint8Array(view), done * FRAME_BYTES);
      done += run;
    }
    return frames;
  }

  /**
   * Says to readers that the writer lives; to be called at least once a second.
   * @returns "superseded" where the path does not lead to this file any more: it is then marked so, its readers are woken, and
   *   the caller closes it and opens a new ring
   */
  heartbeat(): "ok" | "superseded" {
    this.#open();
    Atomics.store(this.#header64, HEADER_OFFSET.heartbeat_us / 8, BigInt(Math.floor(this.#nowUs())));
    let ours = false;
    try {
      const { dev, ino } = lstatSync(this.path, { bigint: true });
      ours = dev === this.#device && ino === this.#inode;
    } catch {
      // Gone, or out of reach, which is the same to a reader that comes now.
    }
    if (ours) return "ok";
    setState(this.#header, this.#mapping, RING_STATE.superseded);
    return "superseded";
  }

  /**
   * Replaces `<path>.json`. A label must stand there before the first frame that uses it.
   * @throws GatewayError `ring_failed`
   */
  setLabels(labels: RingLabels): void {
    this.#open();
    const path = `${this.path}.json`;
    const aside = `${path}.new.${process.pid}`;
    const { intents, types, models } = labels;
    try {
      const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
      const fd = openSync(aside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600);
      try {
        fchmodSync(fd, this.#mode);
        const bytes = new TextEncoder().encode(`${JSON.stringify({ intents, types, models })}\n`);
        for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done);
        renameSync(aside, path);
      } catch (error) {
        unlinkSync(aside);
        throw error;
      } finally {
        closeSync(fd);
      }
    } catch (error) {
      throw asFailure("write labels", path, error);
    }
  }

  /** Says why it ends, wakes the readers and unmaps. The file stays. Any later use throws; closing again does nothing. */
  close(state: "closed" | "superseded"): void {
    if (this.#closed) return;
    this.#closed = true;
    setState(this.#header, this.#mapping, RING_STATE[state]);
    this.#window = NO_WINDOW;
    this.#header = new Int32Array(HEADER_BYTES / 4);
    this.#header64 = new BigInt64Array(HEADER_BYTES / 8);
    this.#mapping.unmap();
    closeSync(this.#fd);
  }

  #open(): void {
    if (this.#closed) throw new Error(`ring ${this.path}: used after close`);
  }

  #misuse(frameId: number, physics: Uint8Array): Error {
    this.#open();
    if (frameId !== this.#head)
      return new Error(`ring: frame ${frameId} was published, frame ${this.#head} is next`);
    return new RangeError(`ring: ${physics.length} bytes of physics, the format has ${PHYSICS_BYTES}`);
  }

  #nextLap(): void {
    this.#slot = 0;
    this.#whole += 2;
    this.#wholeHigh = highWordOf(this.#whole);
  }

  #wakeReaders(): void {
    Atomics.store(this.#header, WAITERS_WORD, 0);
    this.#mapping.wake(HEADER_OFFSET.head);
  }

  #storeHeadWide(head: number): void {
    Atomics.store(this.#header64, HEAD_WORD / 2, BigInt(head));
    this.#headHigh = Math.floor(head / TWO_32);
    this.#headLimit = nextHighWord(head);
  }

  #storeTailWide(tail: number): void {
    Atomics.store(this.#header64, TAIL_WORD / 2, BigInt(tail));
    this.#tailLimit = nextHighWord(tail);
  }
}

/** The first number above `value` with another high word. */
function nextHighWord(value: number): number {
  return (Math.floor(value / TWO_32) + 1) * TWO_32;
}

/** The high word of a whole sequence and of the odd one before it; −1, which no slot holds, where they differ. */
function highWordOf(whole: number): number {
  return whole % TWO_32 === 0 ? -1 : Math.floor(whole / TWO_32);
}

function storeWide(words: Int32Array, word: number, value: number): void {
  const longs = new BigInt64Array(words.buffer, words.byteOffset + word * 4, 1);
  Atomics.store(longs, 0, BigInt(value));
}

// ---------------------------------------------------------------------------------------------- kinetics

const CONVERSATIONS_MAX = 100_000;
/** Timestamps remembered of one conversation: where it has more within the minute, velocity saturates at this number. */
const TIMES_PER_CONVERSATION_MAX = 1024;
/** Timestamps remembered in all, 32 MB; beyond, whole conversations are forgotten, the least recently seen first. */
const TIMES_MAX = 4_194_304;
const VELOCITY_WINDOW_US = 60_000_000;
const DELTA_SECONDS_MIN = 0.001;

/** How an event moves in its conversation; fields of the frame by their names. */
export interface Motion {
  /** ln(max(dt, 0.001)), dt in seconds by the events' own clocks; 0 with `first` and without a conversation. */
  readonly delta_time: number;
  /** Events of the conversation in the 60 s up to this one, itself included, 1 to 1,024; 0 without a conversation. */
  readonly velocity: number;
  /** 1 where it was received before the conversation's previous event was decided, else 0. */
  readonly interrupt: number;
  /** Flag bit 5; false without a conversation, which has no first event. */
  readonly first: boolean;
  /** 0n without a conversation. */
  readonly conversation_hash: bigint;
}

interface Conversation {
  readonly id: string;
  readonly hash: bigint;
  /** Neighbours in the order in which conversations were last seen. */
  older: Conversation | null;
  newer: Conversation | null;
  /** Of the event before the next one, in order of receipt. */
  previousUs: number;
  /** When that one was decided; infinite while it is not. */
  decidedUs: number;
  /** Timestamps in order of receipt; those before `start` are forgotten. */
  times: number[];
  start: number;
}

const NO_CONVERSATION: Motion = {
  delta_time: 0,
  velocity: 0,
  interrupt: 0,
  first: false,
  conversation_hash: 0n,
};

/**
 * The motion of events within their conversations. Remembers at most `conversationsMax` conversations (default 100,000) and
 * 4,194,304 timestamps in all, 1,024 of one conversation; the least recently seen conversation is forgotten first, and
 * its next event counts as its first.
 */
export class Kinetics {
  readonly #conversationsMax: number;
  readonly #timesMax: number;
  readonly #conversations = new Map<string, Conversation>();
  // The order is a list of its own: the first entry of a Map is behind all that were deleted before it.
  #oldest: Conversation | null = null;
  #newest: Conversation | null = null;
  #times = 0;

  constructor(o: { conversationsMax?: number; timesMax?: number }) {
    this.#conversationsMax = o.conversationsMax ?? CONVERSATIONS_MAX;
    this.#timesMax = o.timesMax ?? TIMES_MAX;
  }

  /** Conversations remembered. */
  get size(): number {
    return this.#conversations.size;
  }

  /**
   * Takes the next event, in order of receipt. An event whose own clock runs backwards has the shortest delta_time, and
   * its velocity counts what is remembered of the 60 s before it.
   * @param o.timestampUs the event's own clock, or its receipt
   */
  observe(o: { conversationId: string | null; timestampUs: number; receivedUs: number }): Motion {
    const { conversationId, timestampUs } = o;
    if (conversationId === null) return NO_CONVERSATION;
    const known = this.#conversations.get(conversationId);
    const conversation = known ?? newConversation(conversationId);
    const seconds = (timestampUs - conversation.previousUs) / 1e6;
    const motion = {
      delta_time: known === undefined ? 0 : Math.log(Math.max(seconds, DELTA_SECONDS_MIN)),
      velocity: this.#count(conversation, timestampUs),
      interrupt: known !== undefined && o.receivedUs < known.decidedUs ? 1 : 0,
      first: known === undefined,
      conversation_hash: conversation.hash,
    };
    conversation.previousUs = timestampUs;
    conversation.decidedUs = Number.POSITIVE_INFINITY;
    if (known === undefined) this.#conversations.set(conversationId, conversation);
    else this.#unlink(conversation);
    this.#linkNewest(conversation);
    this.#forget();
    return motion;
  }

  /** The newest event of the conversation was decided. */
  decided(conversationId: string, decidedUs: number): void {
    const conversation = this.#conversations.get(conversationId);
    if (conversation !== undefined) conversation.decidedUs = decidedUs;
  }

  /** Takes decided events again, after a restart, ascending; what was observed before stays. */
  restore(
    rows: readonly {
      readonly conversationId: string;
      readonly timestampUs: number;
      readonly decidedUs: number;
    }[],
  ): void {
    for (const { conversationId, timestampUs, decidedUs } of rows) {
      this.observe({ conversationId, timestampUs, receivedUs: timestampUs });
      this.decided(conversationId, decidedUs);
    }
  }

  /** Adds a timestamp and counts those of the window that ends with it. */
  #count(conversation: Conversation, timestampUs: number): number {
    const { times } = conversation;
    const fromUs = timestampUs - VELOCITY_WINDOW_US;
    times.push(timestampUs);
    this.#times += 1;
    while (
      (times[conversation.start] as number) < fromUs ||
      times.length - conversation.start > TIMES_PER_CONVERSATION_MAX
    ) {
      conversation.start += 1;
      this.#times -= 1;
    }
    if (conversation.start > 32 && conversation.start * 2 > times.length) {
      conversation.times = times.slice(conversation.start);
      conversation.start = 0;
    }
    let count = 0;
    for (let index = conversation.start; index < conversation.times.length; index++) {
      const timeUs = conversation.times[index] as number;
      if (timeUs >= fromUs && timeUs <= timestampUs) count += 1;
    }
    return count;
  }

  #forget(): void {
    while (this.#conversations.size > this.#conversationsMax || this.#times > this.#timesMax) {
      const oldest = this.#oldest;
      if (oldest === null) return;
      this.#unlink(oldest);
      this.#conversations.delete(oldest.id);
      this.#times -= oldest.times.length - oldest.start;
    }
  }

  #linkNewest(conversation: Conversation): void {
    conversation.older = this.#newest;
    if (this.#newest === null) this.#oldest = conversation;
    else this.#newest.newer = conversation;
    this.#newest = conversation;
  }

  #unlink(conversation: Conversation): void {
    const { older, newer } = conversation;
    if (older === null) this.#oldest = newer;
    else older.newer = newer;
    if (newer === null) this.#newest = older;
    else newer.older = older;
    conversation.older = null;
    conversation.newer = null;
  }
}

function newConversation(conversationId: string): Conversation {
  return {
    id: conversationId,
    hash: conversationHash(conversationId),
    older: null,
    newer: null,
    previousUs: 0,
    decidedUs: Number.NEGATIVE_INFINITY,
    times: [],
    start: 0,
  };
}

// -------------------------------------------------------------------------------------------------- spin

const SPIN_ROWS = 4;
/** "PHYS" as a big-endian number. */
const SPIN_SEED = 0x50485953;

let spinSigns: Float64Array | null = null;

/**
 * Signs of the projection, +1 or −1, interleaved: the four rows' sign of float 0, of float 1, … Drawn row by row (w, x, y, z), float by
 * float, from Marsaglia's xorshift32 (shifts 13, 17, 5; J. Stat. Softw. 8(14), 2003) that starts with SPIN_SEED; each
 * draw is taken after the step, and its highest bit set means −1.
 */
function drawSigns(): Float64Array {
  const signs = new Float64Array(SPIN_ROWS * SEMANTIC_DIM_MAX);
  let state = SPIN_SEED;
  for (let row = 0; row < SPIN_ROWS; row++) {
    for (let column = 0; column < SEMANTIC_DIM_MAX; column++) {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      signs[column * SPIN_ROWS + row] = state < 0 ? -1 : 1;
    }
  }
  return signs;
}

/**
 * The orientation of an embedding: four sums of its floats with fixed random signs (a Rademacher projection), scaled to length 1.
 * Near embeddings have near spins. Summed in float64, float by float.
 * @param vector at most SEMANTIC_DIM_MAX finite floats; missing ones count as zero
 * @returns a unit quaternion (w, x, y, z); identity (1, 0, 0, 0) for null and where all four sums are zero
 */
export function spin(vector: Float32Array | null): [number, number, number, number] {
  if (vector === null) return [1, 0, 0, 0];
  spinSigns ??= drawSigns();
  const signs = spinSigns;
  let w = 0;
  let x = 0;
  let y = 0;
  let z = 0;
  for (let column = 0, at = 0; column < vector.length; column++, at += SPIN_ROWS) {
    const value = vector[column] as number;
    w += value * (signs[at] as number);
    x += value * (signs[at + 1] as number);
    y += value * (signs[at + 2] as number);
    z += value * (signs[at + 3] as number);
  }
  const length = Math.sqrt(w * w + x * x + y * y + z * z);
  if (!(length > 0 && length < Number.POSITIVE_INFINITY)) return [1, 0, 0, 0];
  return [w / length, x / length, y / length, z / length];
}
