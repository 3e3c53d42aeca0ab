/**
 * The ring in shared memory. src/ring/file.ts gets the file ready (lock, adopt, create); this is what writes
 * into it.
 *
 * The ring is only ever an output: whatever is in it is in the journal or in DuckDB too, so a file that does
 * not fit is replaced and never repaired beyond the one frame that was being written. The format is
 * src/frame.ts; the rules of start and of replacement are those of docs/FRAME.md.
 */

import { closeSync, fstatSync, lstatSync } from "node:fs";
import { type Clock, systemClock } from "./src/clock.ts";
import { FRAME_BYTES, HEADER_BYTES, PHYSICS_BYTES, SEMANTIC_DIM_MAX } from "./src/frame.ts";
import type { Mapping } from "./src/native/libc.ts";
import type { MappedRing, NewestFrames, RingFrame, RingLabels, RingOptions } from "./src/ring/contract.ts";
import { prepareRingFile } from "./src/ring/file.ts";
import { RingHeader } from "./src/ring/header.ts";
import { writeLabels } from "./src/ring/labels.ts";
import { FrameWriter } from "./src/ring/slots.ts";

// The rest of what a writer needs before it has a ring.
export { RingLock } from "./src/ring/lock.ts";
export { ringFits } from "./src/ring/space.ts";

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
  readonly #clock: Clock;
  readonly #mapping: Mapping;
  readonly #device: bigint;
  readonly #inode: bigint;
  readonly #header: RingHeader;
  readonly #writer: FrameWriter;
  /** Frames that become visible together at most. */
  readonly #batchFrames: number;
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
    // A batch withdraws as many old frames before its own can be read: of a small ring never more than a quarter.
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
    const header = this.#header;
    this.#check(frameId, header.head(), physics, vector);
    header.raiseTail(frameId - this.capacity + 1);
    this.#writer.write(frameId, physics, vector);
    header.show(frameId + 1);
  }

  /**
   * {@link publish} for neighbouring frames, the first of them {@link head}: tail, head and the look at
   * `waiters` once for BATCH_FRAMES_MAX frames, so that the header's line, which every reader polls, changes
   * hands once instead of once a frame. Readers see a batch when its last frame is whole.
   *
   * Where a frame is refused, none of them has been written.
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
   * Copies raw frames from the ring, in order, wherever it wraps.
   * @returns n × FRAME_BYTES from frame `fromFrameId`, n at most `limit` and no further than the newest; null
   *   where `fromFrameId` is not in [tail, head)
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
   * Says to readers that the writer lives; to be called at least once a second.
   * @returns "superseded" where the path does not lead to this file any more: it is then marked so, its
   *   readers are woken, and the caller closes it and opens a new ring
   */
  heartbeat(): "ok" | "superseded" {
    this.#open();
    this.#header.beat(this.#clock.nowUs());
    let ours = false;
    try {
      const { dev, ino } = lstatSync(this.path, { bigint: true });
      ours = dev === this.#device && ino === this.#inode;
    } catch {
      // Gone, or out of reach, which is the same to a reader that comes now.
    }
    if (ours) return "ok";
    this.#header.setState("superseded");
    return "superseded";
  }

  /**
   * Replaces `<path>.json`. A label must stand there before the first frame that uses it.
   * @throws GatewayError `ring_failed`
   */
  setLabels(labels: RingLabels): void {
    this.#open();
    writeLabels(this.path, this.#mode, labels);
  }

  /**
   * Says why it ends, wakes the readers and unmaps. The file stays. Any later use throws; closing again does
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
