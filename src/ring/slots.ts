/** The slots behind the header: views over runs of them, and the writer of frames. */
import {
  FRAME_BYTES,
  HEADER_BYTES,
  OFFSET,
  PHYSICS_OFFSET,
  SEMANTIC_DIM_MAX,
  wholeSequence,
} from "../frame.ts";
import type { Mapping } from "../native/libc.ts";
import { highWord, nextHighWord, storeU64 } from "./words.ts";

/** Slots that have views at the same time. The collector counts their 17 MB as heap; it would count the whole ring. */
const WINDOW_SLOTS = 4096;

export const FRAME_WORDS = FRAME_BYTES / 4;
export const FRAME_ID_WORD = OFFSET.frame_id / 4;
const SEMANTIC_WORD = OFFSET.semantic / 4;

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

/** A window without slots, for before the first frame and after the last. */
export const NO_WINDOW: SlotWindow = {
  first: 0,
  end: 0,
  words: new Int32Array(0),
  floats: new Float32Array(0),
  bytes: new Uint8Array(0),
};

/** Calls `visit` for every window of slots, and lets other work run in between. */
export async function forEachWindow(
  mapping: Mapping,
  capacity: number,
  nextTurn: () => Promise<void>,
  visit: (window: SlotWindow) => void,
): Promise<void> {
  for (let slot = 0; slot < capacity; slot += WINDOW_SLOTS) {
    visit(openWindow(mapping, capacity, slot));
    await nextTurn();
  }
}

/** Writes frames into the slots, one after the other. Withdrawing old frames and showing new ones is up to the caller. */
export class FrameWriter {
  readonly #mapping: Mapping;
  readonly #capacity: number;
  #window = NO_WINDOW;
  /** The slot of the next frame, and the sequence of that frame when it is whole. */
  #slot: number;
  #whole: number;
  /** High word of the sequence, odd and even; −1 if the two differ. */
  #wholeHigh: number;
  /** High word of the sequence that is in the slot now. */
  #slotHigh = 0;
  /** The high word of the frame ids now, and the first frame_id that has another one. */
  #idLimit: number;
  #idHigh: number;

  /** @param head the first frame to be written */
  constructor(mapping: Mapping, capacity: number, head: number) {
    this.#mapping = mapping;
    this.#capacity = capacity;
    this.#slot = head % capacity;
    this.#whole = wholeSequence(head, capacity);
    this.#wholeHigh = highWordOf(this.#whole);
    this.#idLimit = nextHighWord(head);
    this.#idHigh = highWord(head);
  }

  /**
   * Writes a frame into its slot, odd before and even after, and steps to the next slot.
   * @param frameId the one after the frame that was written last
   */
  write(frameId: number, physics: Uint8Array, vector: Float32Array | null): void {
    const slot = this.#slot;
    let window = this.#window;
    if (slot < window.first || slot >= window.end) {
      window = openWindow(this.#mapping, this.#capacity, slot);
      this.#window = window;
      this.#slotHigh = window.words[(slot - window.first) * FRAME_WORDS + 1] as number;
    }
    const { words, floats } = window;
    const at = (slot - window.first) * FRAME_WORDS;
    const nextAt = slot + 1 < window.end ? at + FRAME_WORDS : 0;

    const whole = this.#whole;
    // The high word changes in one of 2³¹ laps only, and storing a low word is much cheaper.
    const narrow = this.#slotHigh === this.#wholeHigh;
    if (narrow) Atomics.store(words, at, (whole - 1) | 0);
    else storeU64(words, at, whole - 1);
    // Reading this one frame ahead loads the next slot's first cache line while this frame is copied, which saves a tenth
    // of the time on a ring that exceeds the cache.
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
      storeU64(words, at, whole);
      this.#slotHigh = words[nextAt + 1] as number;
    }
    if (slot + 1 < this.#capacity) this.#slot = slot + 1;
    else this.#nextLap();
  }

  /** Call it before the file is unmapped. */
  release(): void {
    this.#window = NO_WINDOW;
  }

  #nextIdHigh(frameId: number): number {
    this.#idLimit = nextHighWord(frameId);
    this.#idHigh = highWord(frameId);
    return this.#idHigh;
  }

  #nextLap(): void {
    this.#slot = 0;
    this.#whole += 2;
    this.#wholeHigh = highWordOf(this.#whole);
  }
}

/**
 * The high word of a whole sequence and of the odd one before it; −1, which no slot has, if they differ.
 */
function highWordOf(whole: number): number {
  return highWord(whole - 1) === highWord(whole) ? highWord(whole) : -1;
}
