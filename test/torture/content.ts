/**
 * The content of the frames in the torture tests. Every byte is a function of the frame's id, so a frame that mixes two
 * frames is recognised. reader.c and reader.py implement the same function, and all three use only the numbers of
 * docs/FRAME.md.
 */
import { readFileSync } from "node:fs";

export const HEADER_BYTES = 64;
export const FRAME_BYTES = 4224;
const SEMANTIC_AT = 16;
const PHYSICS_AT = 4112;
const PHYSICS_BYTES = 112;
export const JOURNAL_ID = 0x70bed7;

const TWO_32 = 2 ** 32;
/** A prime below 2²⁴, because float32 represents such values exactly. */
const VALUES = 1_000_003;

/** The content of one frame, in buffers that the next frame reuses. */
export class Content {
  readonly vector = new Float32Array(1024);
  readonly physics = new Uint8Array(PHYSICS_BYTES);
  readonly #words = new Int32Array(this.physics.buffer);
  readonly #floats = new Float32Array(this.physics.buffer);

  of(id: number): this {
    const value = id % VALUES;
    const low = id | 0;
    const words = this.#words;
    const floats = this.#floats;
    this.vector.fill(value);
    // Each float combines the frame's value and its own position, so a float at a wrong position is recognised, too.
    for (let k = 0; k < 4; k++) floats[k] = value + k;
    const timestampUs = id * 1000;
    words[4] = timestampUs | 0;
    words[5] = Math.floor(timestampUs / TWO_32);
    words[6] = Math.imul(low, 0x9e3779b1);
    words[7] = Math.imul(low, 0x85ebca6b);
    words[8] = low;
    words[9] = id % 5;
    words[10] = id % 3;
    floats[11] = value + 11;
    words[12] = id % 4;
    words[13] = low & 0x7fffffff;
    for (let k = 14; k < 20; k++) floats[k] = value + k;
    const eventSeq = id + 5;
    words[20] = eventSeq | 0;
    words[21] = Math.floor(eventSeq / TWO_32);
    words[22] = 1024 | (15 << 16);
    words[23] = Math.imul(low, 0xc2b2ae35);
    words[24] = low >>> 1;
    words[25] = JOURNAL_ID;
    return this;
  }
}

export interface RingLook {
  readonly capacity: number;
  readonly head: number;
  readonly tail: number;
  readonly epoch: number;
  /** The faults of the frames from tail to head; empty if every byte of each is right. */
  readonly damaged: readonly string[];
  /** Slots whose frame was being written. */
  readonly oddSlots: number;
  /** Whole frames at or beyond head, from a batch that was cut off. */
  readonly unshown: number;
}

/** Checks every byte of a ring that no process writes. */
export function lookAt(path: string): RingLook {
  const file = readFileSync(path);
  const u64 = (at: number): number => Number(file.readBigUInt64LE(at));
  const [capacity, head, tail] = [u64(16), u64(24), u64(32)];
  const slotAt = (id: number): number => HEADER_BYTES + (id % capacity) * FRAME_BYTES;
  const isWhole = (id: number): boolean => u64(slotAt(id)) === 2 * (Math.floor(id / capacity) + 1);
  const damaged: string[] = [];
  const content = new Content();
  const expected = Buffer.alloc(FRAME_BYTES);
  for (let id = tail; id < head; id++) {
    const at = slotAt(id);
    const { vector, physics } = content.of(id);
    expected.writeBigUInt64LE(BigInt(id), 8);
    expected.set(new Uint8Array(vector.buffer), SEMANTIC_AT);
    expected.set(physics, PHYSICS_AT);
    // The writer fills the checksum only if readers need it.
    file.copy(expected, FRAME_BYTES - 8, at + FRAME_BYTES - 8, at + FRAME_BYTES);
    if (!isWhole(id)) damaged.push(`frame ${id}: sequence ${u64(at)}`);
    else if (expected.compare(file, at + 8, at + FRAME_BYTES, 8) !== 0) damaged.push(`frame ${id}: content`);
  }
  let oddSlots = 0;
  for (let slot = 0; slot < capacity; slot++) oddSlots += u64(HEADER_BYTES + slot * FRAME_BYTES) % 2;
  let unshown = 0;
  for (let id = head; id < head + capacity; id++) unshown += isWhole(id) ? 1 : 0;
  return { capacity, head, tail, epoch: file.readUInt32LE(40), damaged, oddSlots, unshown };
}
