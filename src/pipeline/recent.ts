/**
 * The newest decided frames, in memory: ascending without gaps, up to the newest. The ring and the store take them from
 * here; what is dropped here is read from the journal again.
 */
import type { Draft, Entry } from "./work.ts";

/** Decided frames with their vectors (4 KB each) kept for the ring and the store. */
const RECENT_FRAMES_MAX = 8192;

export interface RecentFramesOptions {
  readonly nextFrameId: number;
  /** Below this frame_id, the ring has every frame and the store has been offered every frame. */
  readonly takenBelow: () => number;
}

export class RecentFrames {
  readonly #o: RecentFramesOptions;
  #entries: Entry[] = [];
  #next: number;

  constructor(options: RecentFramesOptions) {
    this.#o = options;
    this.#next = options.nextFrameId;
  }

  get entries(): readonly Entry[] {
    return this.#entries;
  }

  /** The frame_id after the newest frame whose row is known to be committed. */
  get next(): number {
    return this.#next;
  }

  /** Takes frames whose rows have committed; `firstFrameId` is the one after those before. */
  add(firstFrameId: number, drafts: readonly Draft[]): void {
    this.#next = firstFrameId + drafts.length;
    drafts.forEach(({ decided, vector }, index) => {
      const { physics, eventType, intent } = decided;
      this.#entries.push({ frameId: firstFrameId + index, physics, vector, eventType, intent });
    });
    this.forget();
  }

  /** Drops what ring and store have, and the oldest beyond the bound. */
  forget(): void {
    const { length } = this.#entries;
    const taken = this.#o.takenBelow() - (this.#entries[0]?.frameId ?? 0);
    const count = Math.max(Math.min(taken, length), length - RECENT_FRAMES_MAX);
    if (count > 0) this.#entries.splice(0, count);
  }
}
