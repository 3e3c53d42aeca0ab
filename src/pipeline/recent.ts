/**
 * Keeps the newest decided frames in memory, without gaps, for the ring and the store. Frames that it drops are read from
 * the journal again.
 */
import type { Draft, Entry } from "./work.ts";

/** @bound decided frames in memory (4 KB each, with their vectors) | they are read from the journal again */
const RECENT_FRAMES_MAX = 8192;

export interface RecentFramesOptions {
  readonly nextFrameId: number;
  /** The ring shows every frame below this frame_id, and every one was offered to the store. */
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

  /** The next frame_id: the rows of all frames below it have committed. */
  get next(): number {
    return this.#next;
  }

  /** Takes frames whose rows have committed. `firstFrameId` must be {@link next}. */
  add(firstFrameId: number, drafts: readonly Draft[]): void {
    this.#next = firstFrameId + drafts.length;
    drafts.forEach(({ decided, vector }, index) => {
      const { physics, eventType, intent } = decided;
      this.#entries.push({ frameId: firstFrameId + index, physics, vector, eventType, intent });
    });
    this.forget();
  }

  /** Drops the frames that ring and store have, and the oldest beyond the bound. */
  forget(): void {
    const { length } = this.#entries;
    const taken = this.#o.takenBelow() - (this.#entries[0]?.frameId ?? 0);
    const count = Math.max(Math.min(taken, length), length - RECENT_FRAMES_MAX);
    if (count > 0) this.#entries.splice(0, count);
  }
}
