/**
 * The ring in shared memory. src/ring/file.ts gets the file ready (lock, adopt, create); this is what writes
 * into it.
 *
 * The ring is only ever an output: whatever is in it is in the journal or in DuckDB too, so a file that does
 * not fit is replaced and never repaired beyond the one frame that was being written. The format is
 * src/frame.ts; the rules of start and of replacement are those of docs/FRAME.md.
 */

import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  lstatSync,
  openSync,
  renameSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import {
  FRAME_BYTES,
  HEADER_BYTES,
  HEADER_OFFSET,
  OFFSET,
  PHYSICS_BYTES,
  PHYSICS_OFFSET,
  RING_STATE,
  SEMANTIC_DIM_MAX,
  wholeSequence,
} from "./src/frame.ts";
import { type Mapping, O_CLOEXEC } from "./src/native/libc.ts";
import type { NewestFrames, RingFrame, RingLabels, RingOptions } from "./src/ring/contract.ts";
import {
  asFailure,
  asidePath,
  type MappedRing,
  NO_WINDOW,
  openWindow,
  prepareRingFile,
  setState,
} from "./src/ring/file.ts";

// The rest of what a writer needs before it has a ring.
export { RingLock, ringFits } from "./src/ring/file.ts";

const TWO_32 = 2 ** 32;
const FRAME_WORDS = FRAME_BYTES / 4;
const FRAME_ID_WORD = OFFSET.frame_id / 4;
const SEMANTIC_WORD = OFFSET.semantic / 4;
const HEAD_WORD = HEADER_OFFSET.head / 4;
const TAIL_WORD = HEADER_OFFSET.tail / 4;
const WAITERS_WORD = HEADER_OFFSET.waiters / 4;
const HEARTBEAT_LONG = HEADER_OFFSET.heartbeat_us / 8;
const PLAIN_LOADS_STAY = process.arch === "x64";
/** Frames that {@link Ring.publishBatch} makes visible at once: 15 µs of writing. */
const BATCH_FRAMES_MAX = 64;

/**
 * Opens the ring for its only writer, who holds its {@link RingLock}: adopts the file at the path where it
 * fits, else builds a new one aside, refills it and renames it in. Never blocks the event loop for more than
 * a few milliseconds.
 *
 * @throws GatewayError `ring_failed` for a path that is not ours (the file there is left untouched),
 *   `ring_no_space` where the ring cannot fit; nothing half-made is left behind
 */
export async function openRing(o: RingOptions, newest: NewestFrames): Promise<Ring> {
  return new Ring(o, await prepareRingFile(o, newest));
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
  /** The first head, tail and frame_id that have another high word than the one before; and that of frame_ids. */
  #headLimit: number;
  #tailLimit: number;
  #idLimit: number;
  #idHigh: number;
  /** Frames that become visible together at most. */
  readonly #batchFrames: number;
  /** The slot of frame `head`, and the sequence of its whole frame. */
  #slot: number;
  #whole: number;
  /** High word of the sequence, odd and even; −1 where the two differ. */
  #wholeHigh: number;
  /** High word of the sequence that stands in the slot. */
  #slotHigh = 0;
  #closed = false;

  constructor(o: RingOptions, file: MappedRing) {
    this.path = o.path;
    this.capacity = file.capacity;
    this.mappedBytes = file.mapping.bytes;
    this.refilled = file.refilled;
    this.adopted = file.adopted;
    this.#fd = file.fd;
    this.#mode = o.mode;
    this.#nowUs = o.nowUs;
    this.#mapping = file.mapping;
    const { dev, ino } = fstatSync(file.fd, { bigint: true });
    this.#device = dev;
    this.#inode = ino;
    const buffer = file.mapping.view(0, HEADER_BYTES);
    this.#header = new Int32Array(buffer);
    this.#header64 = new BigInt64Array(buffer);
    this.#head = file.head;
    this.#tail = file.tail;
    this.#headLimit = nextHighWord(file.head);
    this.#idLimit = nextHighWord(file.head);
    this.#idHigh = Math.floor(file.head / TWO_32);
    // A batch withdraws as many old frames before its own can be read: of a small ring never more than a quarter.
    this.#batchFrames = Math.max(1, Math.min(BATCH_FRAMES_MAX, file.capacity >> 2));
    this.#tailLimit = nextHighWord(file.tail);
    this.#slot = file.head % file.capacity;
    this.#whole = wholeSequence(file.head, file.capacity);
    this.#wholeHigh = highWordOf(this.#whole);
  }

  /** The next frame_id. */
  head(): number {
    return this.#head;
  }

  /** Whether a reader sleeps until the next frame comes. */
  readerWaits(): boolean {
    return Atomics.load(this.#header, WAITERS_WORD) !== 0;
  }

  /** The oldest frame_id that may be read. */
  tail(): number {
    return this.#tail;
  }

  /**
   * Writes frame `frameId`, which must be {@link head}, and makes it visible. Allocates nothing but the views
   * of the next WINDOW_SLOTS slots, once in so many frames.
   *
   * The order of the stores, here and in {@link publishBatch}: tail, odd sequence, frame, even sequence, head.
   *
   * Why no reader takes a wrong frame (x86-64). Stores become visible in the order they are made, loads are
   * made in order, and neither JavaScriptCore nor the processor moves anything across an `Atomics.store`. So
   * whoever sees any byte of the new frame sees tail beyond the slot's former frame and the odd sequence,
   * when it looks at them after its copy; whoever sees the even sequence sees all of the frame; whoever sees
   * head sees that sequence. A writer killed between any two of these stores leaves one odd slot at most, and
   * that one, like whatever else of a batch already stands whole, is at or beyond head: nobody reads there, and
   * the next writer publishes those frames again. The load of `waiters` comes after the store of head, and a
   * reader's sleep is refused by the kernel once head has changed: one of the two sees the other, so no wake-up
   * is lost.
   *
   * On arm64 the plain stores of the frame may become visible before the odd sequence that precedes them,
   * since a store-release holds back only what comes before it, and a reader's plain loads may be made in any
   * order: there the frame's `checksum` decides ({@link frameChecksum}, docs/decisions/0006).
   *
   * @param physics PHYSICS_BYTES, at any alignment
   * @param vector the leading floats of `semantic`, at most SEMANTIC_DIM_MAX, each finite; null: none. The
   *   rest becomes zero
   */
  publish(frameId: number, physics: Uint8Array, vector: Float32Array | null): void {
    this.#check(frameId, this.#head, physics, vector);
    this.#raiseTail(frameId);
    this.#write(frameId, physics, vector);
    this.#show(frameId + 1);
  }

  /**
   * {@link publish} for neighbouring frames, the first of them {@link head}: tail, head and the look at
   * `waiters` once for BATCH_FRAMES_MAX frames, so that the header's line, which every reader polls, changes
   * hands once instead of once a frame. Readers see a batch when its last frame is whole.
   *
   * Where a frame is refused, none of them has been written.
   */
  publishBatch(frames: readonly RingFrame[]): void {
    let next = this.#head;
    for (const { frameId, physics, vector } of frames) this.#check(frameId, next++, physics, vector);
    for (let from = 0; from < frames.length; from += this.#batchFrames) {
      const end = Math.min(from + this.#batchFrames, frames.length);
      this.#raiseTail((frames[end - 1] as RingFrame).frameId);
      for (let index = from; index < end; index++) {
        const { frameId, physics, vector } = frames[index] as RingFrame;
        this.#write(frameId, physics, vector);
      }
      this.#show((frames[end - 1] as RingFrame).frameId + 1);
    }
  }

  #check(frameId: number, next: number, physics: Uint8Array, vector: Float32Array | null): void {
    if (this.#closed || frameId !== next || physics.length !== PHYSICS_BYTES)
      throw this.#misuse(frameId, next, physics);
    if (vector !== null && vector.length > SEMANTIC_DIM_MAX)
      throw new RangeError(`ring: frame ${frameId} has ${vector.length} floats`);
  }

  /** Before the slots of the frames up to `lastFrameId` are written: their former frames may not be read any more. */
  #raiseTail(lastFrameId: number): void {
    const tail = lastFrameId - this.capacity + 1;
    if (tail <= this.#tail) return;
    this.#tail = tail;
    if (tail < this.#tailLimit) Atomics.store(this.#header, TAIL_WORD, tail | 0);
    else this.#storeTailWide(tail);
  }

  /** Writes a frame into its slot, odd before and even after, and steps to the next slot. */
  #write(frameId: number, physics: Uint8Array, vector: Float32Array | null): void {
    const slot = this.#slot;
    let window = this.#window;
    if (slot < window.first || slot >= window.end) {
      window = openWindow(this.#mapping, this.capacity, slot);
      this.#window = window;
      this.#slotHigh = window.words[(slot - window.first) * FRAME_WORDS + 1] as number;
    }
    const { words, floats } = window;
    const at = (slot - window.first) * FRAME_WORDS;
    const nextAt = slot + 1 < window.end ? at + FRAME_WORDS : 0;

    const whole = this.#whole;
    // The high word is the same in all but one of 2³¹ laps; a low word is a much cheaper store.
    const narrow = this.#slotHigh === this.#wholeHigh;
    if (narrow) Atomics.store(words, at, (whole - 1) | 0);
    else storeWide(words, at, whole - 1);
    // Read a frame ahead, so that the next slot's first line comes from memory while this frame is copied: a
    // tenth of the time on a ring that exceeds the cache.
    this.#slotHigh = words[nextAt + 1] as number;

    words[at + FRAME_ID_WORD] = frameId | 0;
    words[at + FRAME_ID_WORD + 1] = frameId < this.#idLimit ? this.#idHigh : this.#nextIdHigh(frameId);
    const semanticAt = at + SEMANTIC_WORD;
    const dim = vector === null ? 0 : vector.length;
    if (vector !== null) floats.set(vector, semanticAt);
    if (dim < SEMANTIC_DIM_MAX) floats.fill(0, semanticAt + dim, semanticAt + SEMANTIC_DIM_MAX);
    window.bytes.set(physics, at * 4 + PHYSICS_OFFSET);

    if (narrow) Atomics.store(words, at, whole | 0);
    else {
      storeWide(words, at, whole);
      this.#slotHigh = words[nextAt + 1] as number;
    }
    if (slot + 1 < this.capacity) this.#slot = slot + 1;
    else this.#nextLap();
  }

  /** Makes every frame below `head` readable, and wakes who sleeps. */
  #show(head: number): void {
    const header = this.#header;
    this.#head = head;
    if (head < this.#headLimit) Atomics.store(header, HEAD_WORD, head | 0);
    else this.#storeHeadWide(head);
    // On x86-64 nothing passes the store of head, and a plain load is enough: JavaScriptCore's `Atomics.load` is a
    // locked instruction there, which would take the line from the readers a second time.
    const waiters = PLAIN_LOADS_STAY ? header[WAITERS_WORD] : Atomics.load(header, WAITERS_WORD);
    if (waiters !== 0) this.#wakeReaders();
  }

  /**
   * Copies raw frames from the ring, in order, wherever it wraps.
   * @returns n × FRAME_BYTES from frame `fromFrameId`, n at most `limit` and no further than the newest; null
   *   where `fromFrameId` is not in [tail, head)
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
   * @returns "superseded" where the path does not lead to this file any more: it is then marked so, its
   *   readers are woken, and the caller closes it and opens a new ring
   */
  heartbeat(): "ok" | "superseded" {
    this.#open();
    Atomics.store(this.#header64, HEARTBEAT_LONG, BigInt(Math.floor(this.#nowUs())));
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
    const aside = asidePath(path);
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

  /**
   * Says why it ends, wakes the readers and unmaps. The file stays. Any later use throws; closing again does
   * nothing.
   */
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

  #misuse(frameId: number, next: number, physics: Uint8Array): Error {
    this.#open();
    if (frameId !== next) return new Error(`ring: frame ${frameId} was published, frame ${next} is next`);
    return new RangeError(`ring: ${physics.length} bytes of physics, the format has ${PHYSICS_BYTES}`);
  }

  #nextIdHigh(frameId: number): number {
    this.#idLimit = nextHighWord(frameId);
    this.#idHigh = Math.floor(frameId / TWO_32);
    return this.#idHigh;
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

/**
 * The high word of a whole sequence and of the odd one before it; −1, which no slot holds, where they differ.
 */
function highWordOf(whole: number): number {
  return whole % TWO_32 === 0 ? -1 : Math.floor(whole / TWO_32);
}

function storeWide(words: Int32Array, word: number, value: number): void {
  const longs = new BigInt64Array(words.buffer, words.byteOffset + word * 4, 1);
  Atomics.store(longs, 0, BigInt(value));
}
