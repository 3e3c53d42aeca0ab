/**
 * The reader's side of a ring, by the rules of docs/FRAME.md: the file is opened and mapped read-only, without a lock,
 * whether or not a gateway writes it. A copied frame was whole before and after the copy.
 */
import { closeSync, constants, fstatSync, openSync, readSync, statSync } from "node:fs";
import { GatewayError, messageOf } from "../errors.ts";
import {
  FRAME_BYTES,
  frameChecksum,
  HEADER_BYTES,
  HEADER_OFFSET,
  MAGIC,
  OFFSET,
  PHYSICS_OFFSET,
  RING_VERSION,
  ringBytes,
  SEMANTIC_DIM_MAX,
  wholeSequence,
} from "../frame.ts";
import { Mapping, O_CLOEXEC } from "../native/libc.ts";
import { u64Is } from "./words.ts";

const FRAME_WORDS = FRAME_BYTES / 4;
const ATTEMPTS = 64;

/** A ring that cannot be read, with a hint. `missing`: there is no file (yet). */
export class RingUnreadable extends GatewayError {
  readonly missing: boolean;

  constructor(path: string, detail: string, hint?: string, o: { missing?: boolean; cause?: unknown } = {}) {
    const about = { code: "ring_failed", operation: "ring: read", object: path, detail } as const;
    super({ ...about, ...(hint === undefined ? {} : { hint }), cause: o.cause });
    this.missing = o.missing ?? false;
  }
}

/** A run of neighbouring frames that were whole: `count` × FRAME_BYTES from frame `first` on. */
export interface CopiedFrames {
  readonly first: number;
  readonly count: number;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** The frames that may be read: low ≤ frame_id < high. */
export interface FrameRange {
  readonly low: number;
  readonly high: number;
}

/** Frames low to high − 1 as they were copied, and which of them were whole all the while. */
interface CheckedFrames {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly whole: boolean[];
}

/** One mapped ring file. Nothing of it is ever written. */
export class RingReader implements Disposable {
  readonly path: string;
  /** Frames. */
  readonly capacity: number;
  readonly #device: bigint;
  readonly #inode: bigint;
  readonly #mapping: Mapping;
  readonly #checksums: boolean;
  #words: Int32Array;
  #longs: BigInt64Array;

  private constructor(path: string, fd: number, checksums: boolean) {
    this.path = path;
    this.#checksums = checksums;
    const { dev, ino } = fstatSync(fd, { bigint: true });
    this.#device = dev;
    this.#inode = ino;
    this.capacity = checkedCapacity(path, fd);
    this.#mapping = new Mapping(fd, ringBytes(this.capacity), "read");
    const header = this.#mapping.view(0, HEADER_BYTES);
    this.#words = new Int32Array(header);
    this.#longs = new BigInt64Array(header);
  }

  /**
   * @param checksums whether {@link copyFrom} believes sequences alone, or asks for frame_id and checksum, too, as it
   *   must if loads and stores may pass each other (docs/decisions/0006)
   * @throws RingUnreadable if there is no file, it is not a ring of this version, or it may not be read
   */
  static open(path: string, checksums = process.arch !== "x64"): RingReader {
    let fd: number;
    try {
      // Not blocking: a named pipe at the path must not hold the reader for ever.
      fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | O_CLOEXEC);
    } catch (error) {
      throw unopened(path, error);
    }
    try {
      return new RingReader(path, fd, checksums);
    } catch (error) {
      throw error instanceof GatewayError ? error : new RingUnreadable(path, messageOf(error));
    } finally {
      closeSync(fd);
    }
  }

  head(): number {
    return this.#long(HEADER_OFFSET.head);
  }

  /** The oldest frame_id that may be read, as the writer says. */
  tail(): number {
    return this.#long(HEADER_OFFSET.tail);
  }

  heartbeatUs(): number {
    return this.#long(HEADER_OFFSET.heartbeat_us);
  }

  epoch(): number {
    return this.#word(HEADER_OFFSET.epoch);
  }

  writerPid(): number {
    return this.#word(HEADER_OFFSET.writer_pid);
  }

  waiters(): number {
    return this.#word(HEADER_OFFSET.waiters);
  }

  state(): number {
    return this.#word(HEADER_OFFSET.state);
  }

  /**
   * The frames that may be read now; low = high if there are none.
   * @throws RingUnreadable if head and tail cannot be those of a ring
   */
  range(): FrameRange {
    for (let attempt = 0; ; attempt++) {
      const high = this.head();
      const tail = this.tail();
      const sane = Number.isSafeInteger(high) && tail >= 1 && tail <= high && high - tail <= this.capacity;
      if (sane) return { low: tail, high };
      // A writer that laps the ring between the two loads leaves them apart; one that stands still does not.
      if (attempt < ATTEMPTS && this.head() !== high) continue;
      const detail = `its head ${high} and its tail ${tail} do not fit its ${this.capacity} frames: it is damaged`;
      throw new RingUnreadable(
        this.path,
        detail,
        "remove it: a gateway that runs makes another within a second",
      );
    }
  }

  /** Copies frames low to high − 1, at most the capacity, and says which were whole before and after. */
  copy(low: number, high: number): CheckedFrames {
    const bytes = new Uint8Array((high - low) * FRAME_BYTES);
    const whole = new Array<boolean>(high - low);
    for (let first = low; first < high; ) {
      const slot = first % this.capacity;
      const run = Math.min(high - first, this.capacity - slot);
      const view = this.#mapping.view(HEADER_BYTES + slot * FRAME_BYTES, run * FRAME_BYTES);
      const words = new Int32Array(view);
      const expected = wholeSequence(first, this.capacity);
      const at = first - low;
      inOrder();
      for (let n = 0; n < run; n++) whole[at + n] = u64Is(words, n * FRAME_WORDS, expected);
      inOrder();
      bytes.set(new Uint8Array(view), at * FRAME_BYTES);
      inOrder();
      for (let n = 0; n < run; n++) whole[at + n] &&= u64Is(words, n * FRAME_WORDS, expected);
      first += run;
    }
    // The writer raises tail before it touches a slot: what is still at or above it was not being replaced.
    const gone = Math.min(this.tail() - low, high - low);
    for (let n = 0; n < gone; n++) whole[n] = false;
    return { bytes, whole };
  }

  /** The model_id of each frame low to high − 1 that is whole, at most the capacity, without a copy of the frames. */
  modelIds(low: number, high: number): number[] {
    const found: number[] = [];
    for (let first = low; first < high; ) {
      const slot = first % this.capacity;
      const run = Math.min(high - first, this.capacity - slot);
      const view = this.#mapping.view(HEADER_BYTES + slot * FRAME_BYTES, run * FRAME_BYTES);
      const words = new Int32Array(view);
      const expected = wholeSequence(first, this.capacity);
      for (let at = 0; at < run * FRAME_WORDS; at += FRAME_WORDS) {
        inOrder();
        const before = u64Is(words, at, expected);
        inOrder();
        const modelId = (words[at + OFFSET.model_id / 4] as number) >>> 0;
        inOrder();
        if (before && u64Is(words, at, expected)) found.push(modelId);
      }
      first += run;
    }
    return found;
  }

  /**
   * Up to `count` neighbouring frames, from `first` or the oldest that is left after it.
   * @returns count 0 if there is nothing from `first` on
   */
  copyFrom(first: number, count: number): CopiedFrames {
    for (let attempt = 0, skip = 0; attempt < ATTEMPTS; attempt++) {
      const range = this.range();
      let low = Math.max(first, range.low);
      if (low >= range.high || count < 1) break;
      low = Math.min(low + skip, range.high - 1);
      const { bytes, whole } = this.copy(low, Math.min(low + count, range.high));
      if (this.#checksums) {
        const ids = new DataView(bytes.buffer);
        whole.forEach((is, n) => {
          const frame = bytes.subarray(n * FRAME_BYTES, (n + 1) * FRAME_BYTES);
          const frameId = ids.getBigUint64(n * FRAME_BYTES + OFFSET.frame_id, true);
          whole[n] = is && frameId === BigInt(low + n) && fitsChecksum(frame);
        });
      }
      const start = whole.indexOf(true);
      if (start >= 0) {
        const stop = whole.indexOf(false, start);
        const end = stop < 0 ? whole.length : stop;
        const run = bytes.subarray(start * FRAME_BYTES, end * FRAME_BYTES);
        return { first: low + start, count: end - start, bytes: run };
      }
      // The writer is at our heels: begin as much further on as it came on during this attempt.
      skip = this.head() - range.high;
    }
    return { first, count: 0, bytes: new Uint8Array(0) };
  }

  /** The newest frame that is whole; null if no frame is. */
  newest(): DataView | null {
    const { high } = this.range();
    const { bytes, count } = this.copyFrom(high - 1, 1);
    return count === 0 ? null : new DataView(bytes.buffer, bytes.byteOffset, FRAME_BYTES);
  }

  /** Whose frames these are; null while there are none. */
  journalId(): number | null {
    return this.newest()?.getUint32(OFFSET.journal_id, true) ?? null;
  }

  /** What the path leads to: this very file, another one, or nothing. */
  atPath(): "this" | "another" | "nothing" {
    try {
      const { dev, ino } = statSync(this.path, { bigint: true });
      return dev === this.#device && ino === this.#inode ? "this" : "another";
    } catch {
      return "nothing";
    }
  }

  /** Unmaps it; any later use throws. */
  [Symbol.dispose](): void {
    this.#words = new Int32Array(0);
    this.#longs = new BigInt64Array(0);
    this.#mapping.unmap();
  }

  #word(offsetBytes: number): number {
    inOrder();
    return (this.#words[offsetBytes / 4] as number) >>> 0;
  }

  #long(offsetBytes: number): number {
    inOrder();
    return Number(this.#longs[offsetBytes / 8]);
  }
}

/** Whether the FRAME_BYTES of a frame, at an alignment of 4, have the checksum that they carry, or carry none. */
export function fitsChecksum(frame: Uint8Array): boolean {
  const view = new DataView(frame.buffer, frame.byteOffset, FRAME_BYTES);
  const checksum = view.getBigUint64(OFFSET.checksum, true);
  if (checksum === 0n) return true;
  const semantic = new Float32Array(frame.buffer, frame.byteOffset + OFFSET.semantic, SEMANTIC_DIM_MAX);
  return checksum === frameChecksum(frame.subarray(PHYSICS_OFFSET), semantic);
}

/** A word of our own. */
const OWN = new Int32Array(1);

/**
 * Loads of the ring before this call are made before it, loads after it are made anew, by the compiler as by the
 * processor. It is an atomic of our own memory because an atomic load of the ring itself is not possible: once it is
 * hot, JavaScriptCore compiles `Atomics.load` to an exchange-and-add of zero, and a store into a mapping that may only
 * be read ends the process, whatever it stores.
 */
function inOrder(): void {
  Atomics.add(OWN, 0, 0);
}

function unopened(path: string, error: unknown): RingUnreadable {
  const code = (error as { code?: string } | null)?.code;
  if (code === "ENOENT") {
    const hint = "start the gateway, or say where its ring is (--ring-path, CS_PHYSICS_PATH)";
    return new RingUnreadable(path, "there is no ring", hint, { missing: true, cause: error });
  }
  if (code === "EACCES" || code === "EPERM") {
    const hint = "run as the gateway's user, or start the gateway with another --ring-mode";
    return new RingUnreadable(path, "it may not be read by this user", hint, { cause: error });
  }
  return new RingUnreadable(path, messageOf(error), undefined, { cause: error });
}

/** The capacity of a file that is a ring and has room for it, so that mapping it is safe. */
function checkedCapacity(path: string, fd: number): number {
  const stat = fstatSync(fd);
  if (!stat.isFile())
    throw new RingUnreadable(path, "it is no regular file, so no ring", "choose another path");
  const header = new DataView(new ArrayBuffer(HEADER_BYTES));
  const got = readSync(fd, new Uint8Array(header.buffer), 0, HEADER_BYTES, 0);
  if (got < HEADER_BYTES) {
    throw new RingUnreadable(path, `it has ${got} bytes, a ring's header has ${HEADER_BYTES}`);
  }
  const magic = header.getBigUint64(HEADER_OFFSET.magic, true);
  if (magic !== MAGIC) {
    const begins = magic.toString(16).padStart(16, "0");
    throw new RingUnreadable(path, `it is no physics ring (it begins with 0x${begins})`);
  }
  const version = header.getUint32(HEADER_OFFSET.version, true);
  const frameBytes = header.getUint32(HEADER_OFFSET.frame_size, true);
  if (version !== RING_VERSION || frameBytes !== FRAME_BYTES) {
    const known = `version ${RING_VERSION} with ${FRAME_BYTES} is known here`;
    const detail = `it is of version ${version} with frames of ${frameBytes} bytes, ${known}`;
    throw new RingUnreadable(path, detail, "use the executable of the gateway that writes it");
  }
  const capacity = Number(header.getBigUint64(HEADER_OFFSET.capacity, true));
  if (capacity < 1 || !Number.isSafeInteger(ringBytes(capacity)) || stat.size < ringBytes(capacity)) {
    const detail = `it has ${stat.size} bytes, its ${capacity} frames take ${ringBytes(capacity)}: it is damaged`;
    throw new RingUnreadable(path, detail, "remove it: a gateway that runs makes another within a second");
  }
  return capacity;
}
