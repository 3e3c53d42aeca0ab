/**
 * The writer of the ring in shared memory. `src/ring/file.ts` prepares the file: it adopts the one at the path or creates
 * another.
 *
 * The ring is only an output: all of its frames are in the journal or in DuckDB, too. So a file that does not fit is
 * replaced. The only repair is to clear the frame that was being written when its writer died. `src/frame.ts` has the
 * format, docs/FRAME.md the rules for start and replacement.
 */

import { closeSync, fstatSync, lstatSync } from "node:fs";
import { type Clock, systemClock } from "./src/clock.ts";
import { FRAME_BYTES, HEADER_BYTES, PHYSICS_BYTES, SEMANTIC_DIM_MAX } from "./src/frame.ts";
import type { Mapping } from "./src/native/libc.ts";
import type { MappedRing, NewestFrames, RingFrame, RingLabels, RingOptions } from "./src/ring/contract.ts";
import { prepareRingFile } from "./src/ring/file.ts";
import { RingHeader } from "./src/ring/header.ts";
import { type FileIdentity, isInPlace, writeLabels } from "./src/ring/labels.ts";
import { FrameWriter } from "./src/ring/slots.ts";

// A writer needs these before it opens the ring.
export { ringEnd } from "./src/ring/end.ts";
export { claimLabels } from "./src/ring/labels.ts";
export { RingLock } from "./src/ring/lock.ts";
export { ringFits } from "./src/ring/space.ts";

/**
 * Writing them takes 15 µs.
 * @bound frames of a batch that become readable at once, at most a quarter of the ring | the rest follows in the next step
 */
const BATCH_FRAMES_MAX = 64;

/**
 * Opens the ring for its only writer, who holds its {@link RingLock}: adopts the file at the path if it
 * fits; otherwise builds a new one beside it, refills that with the newest frames and renames it to the path. Never blocks
 * the event loop for more than a few milliseconds.
 *
 * @throws GatewayError `ring_failed` for a path that is not ours (the file there is left untouched),
 *   `ring_no_space` if the ring does not fit; no unfinished file is left behind
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
  /** Frames that were copied into the ring when it was created. */
  readonly refilled: number;
  /** Whether the file existed before this process. */
  readonly adopted: boolean;

  readonly #fd: number;
  readonly #mode: number;
  readonly #clock: Clock;
  readonly #mapping: Mapping;
  readonly #device: bigint;
  readonly #inode: bigint;
  readonly #header: RingHeader;
  readonly #writer: FrameWriter;
  /** The most frames that become readable together. */
  readonly #batchFrames: number;
  /** The file beside the ring as this process wrote it last; null before that. */
  #labels: FileIdentity | null = null;
  #closed = false;

  constructor(o: RingOptions, file: MappedRing) {
    const { mapping, capacity } = file;
    this.path = o.path;
    this.capacity = capacity;
    this.mappedBytes = mapping.bytes;
    this.refilled = file.refilled;
    this.adopted = file.adopted;
    this.#fd = file.fd;
    this.#mode = o.mode;
    this.#clock = o.clock ?? systemClock;
    this.#mapping = mapping;
    const { dev, ino } = fstatSync(file.fd, { bigint: true });
    this.#device = dev;
    this.#inode = ino;
    this.#header = new RingHeader(mapping, file);
    this.#writer = new FrameWriter(mapping, capacity, file.head);
    // A batch withdraws as many old frames as it has before its own can be read. In a small ring that is at most a quarter.
    this.#batchFrames = Math.max(1, Math.min(BATCH_FRAMES_MAX, capacity >> 2));
  }

  /** The next frame_id. */
  head(): number {
    return this.#header.head();
  }

  /** Whether a reader sleeps until the next frame comes. */
  readerWaits(): boolean {
    return this.#header.readerWaits();
  }

  /** The oldest frame_id that may be read. */
  tail(): number {
    return this.#header.tail();
  }

  /**
   * Writes frame `frameId`, which must be {@link head}, and makes it readable. Allocates nothing, except
   * the views of the next window of slots every 4,096 frames.
   *
   * The order of the stores, here and in {@link publishBatch}: tail, odd sequence, frame, even sequence, head.
   *
   * Why no reader accepts a wrong frame (x86-64). Stores become visible in the order in which they are made, loads are made
   * in order, and neither JavaScriptCore nor the processor moves anything across an `Atomics.store`. Hence:
   * - A reader that has copied any byte of the new frame, and then looks at tail and sequence, finds tail beyond the slot's
   *   former frame and the sequence odd.
   * - A reader that sees the even sequence sees all of the frame.
   * - A reader that sees head sees that sequence.
   * A writer that is killed between two of these stores leaves at most one odd slot. That slot, and the frames of a batch
   * that are already whole, are at or beyond head, so nobody reads them, and the next writer publishes those frames again. The load of `waiters` comes after the store of head, and a
   * reader's sleep is refused by the kernel once head has changed: one of the two sees the other, so no wake-up
   * is lost.
   *
   * On arm64 the plain stores of the frame may become visible before the odd sequence that precedes them, because a
   * store-release only holds back what comes before it. A reader's plain loads may be made in any order. There the frame's
   * `checksum` decides ({@link frameChecksum}, docs/decisions/0006).
   *
   * @param physics PHYSICS_BYTES, at any alignment
   * @param vector the leading floats of `semantic`, at most SEMANTIC_DIM_MAX, each finite; null: none. The
   *   other floats become zero
   */
  publish(frameId: number, physics: Uint8Array, vector: Float32Array | null): void {
    const header = this.#header;
    this.#check(frameId, header.head(), physics, vector);
    header.raiseTail(frameId - this.capacity + 1);
    this.#writer.write(frameId, physics, vector);
    header.show(frameId + 1);
  }

  /**
   * {@link publish} for neighbouring frames, the first of them {@link head}: tail, head and the look at
   * `waiters` once for BATCH_FRAMES_MAX frames, so that the header's cache line, which every reader polls,
   * moves between processors once instead of once a frame. Readers see a batch when its last frame is whole.
   *
   * If one frame is refused, no frame is written.
   */
  publishBatch(frames: readonly RingFrame[]): void {
    const header = this.#header;
    const writer = this.#writer;
    let next = header.head();
    for (const { frameId, physics, vector } of frames) this.#check(frameId, next++, physics, vector);
    for (let from = 0; from < frames.length; from += this.#batchFrames) {
      const end = Math.min(from + this.#batchFrames, frames.length);
      const lastFrameId = (frames[end - 1] as RingFrame).frameId;
      header.raiseTail(lastFrameId - this.capacity + 1);
      for (let index = from; index < end; index++) {
        const { frameId, physics, vector } = frames[index] as RingFrame;
        writer.write(frameId, physics, vector);
      }
      header.show(lastFrameId + 1);
    }
  }

  #check(frameId: number, next: number, physics: Uint8Array, vector: Float32Array | null): void {
    if (this.#closed || frameId !== next || physics.length !== PHYSICS_BYTES)
      throw this.#misuse(frameId, next, physics);
    if (vector !== null && vector.length > SEMANTIC_DIM_MAX)
      throw new RangeError(`ring: frame ${frameId} has ${vector.length} floats`);
  }

  /**
   * Copies raw frames from the ring, in order, also across its end.
   * @returns n × FRAME_BYTES from frame `fromFrameId`, n at most `limit` and no further than the newest; null
   *   if `fromFrameId` is not in [tail, head)
   */
  read(fromFrameId: number, limit: number): Uint8Array<ArrayBuffer> | null {
    this.#open();
    const head = this.head();
    if (fromFrameId < this.tail() || fromFrameId >= head) return null;
    const count = Math.max(0, Math.min(limit, head - fromFrameId));
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
   * Tells readers that the writer is alive. Call it at least once a second.
   * @returns "superseded" if the path no longer leads to this file. The file is then marked so, its readers are woken, and
   *   the caller closes it and opens a new ring.
   */
  heartbeat(): "ok" | "superseded" {
    this.#open();
    this.#header.beat(this.#clock.nowUs());
    let ours = false;
    try {
      const { dev, ino } = lstatSync(this.path, { bigint: true });
      ours = dev === this.#device && ino === this.#inode;
    } catch {
      // Removed or out of reach. Both are the same to a reader that opens the path now.
    }
    if (ours) return "ok";
    this.#header.setState("superseded");
    return "superseded";
  }

  /**
   * Replaces `<path>.json`. A label must be in it before the first frame with its id is published.
   * @throws GatewayError `ring_failed`
   */
  setLabels(labels: RingLabels): void {
    this.#open();
    this.#labels = writeLabels(this.path, this.#mode, labels);
  }

  /** Whether `<path>.json` is the file that {@link setLabels} wrote last, and not removed or replaced since. */
  labelsInPlace(): boolean {
    return this.#labels !== null && isInPlace(this.path, this.#labels);
  }

  /**
   * Writes the final state, wakes the readers and unmaps the file, which stays. Any later use throws; a second call does
   * nothing.
   */
  close(state: "closed" | "superseded"): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#header.setState(state);
    this.#header.release();
    this.#writer.release();
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
}
