/**
 * Events that wait for the language model before their frame, and those of the same conversation behind them: frames
 * of a conversation keep its order, and nobody else is held up.
 */
import type { Known } from "../brain/brain.ts";
import type { Clock } from "../clock.ts";
import type { Item } from "./work.ts";

/** Frames that wait for the model at once; with more, an event does not wait at all. */
export const WAITING_FRAMES_MAX = 64;
/** Events that wait, or stand behind one that does; beyond, nothing waits any more. */
const HELD_EVENTS_MAX = 1024;
const HELD_BYTES_MAX = 16 * 1024 * 1024;

/** Frames whose time is up within so much of each other go out together, in one commit. */
const GROUP_MS = 20;
/** The same for those whose answers come so close together, unless other frames are made before. */
const READY_MS = 5;

interface Entry {
  item: Item;
  /** It waits for its answer; else it only stands behind others. */
  waits: boolean;
  readonly untilMs: number;
  readonly line: string | number;
}

export interface HoldsOptions {
  readonly frameWaitMs: number;
  readonly clock: Clock;
  /** Something can be taken. */
  readonly onReady: () => void;
  /** A frame's time was up before an answer came. */
  readonly onVain: () => void;
}

export class Holds {
  readonly #o: HoldsOptions;
  readonly #lines = new Map<string | number, Entry[]>();
  readonly #bySeq = new Map<number, Entry>();
  /** Those that wait, or did, in the order in which their time is up: all wait equally long. */
  #clock: Entry[] = [];
  #timer: Disposable | null = null;
  #ready: Item[] = [];
  #announcing: Disposable | null = null;
  #frames = 0;
  #heldBytes = 0;

  constructor(options: HoldsOptions) {
    this.#o = options;
  }

  /** Frames that wait for the model. */
  get frames(): number {
    return this.#frames;
  }

  /** Events that cannot be decided yet, and those that can and were not taken. */
  get held(): number {
    return this.#bySeq.size + this.#ready.length;
  }

  /** Takes events in order of receipt, and holds one back where it waits or its conversation does. */
  admit(item: Item, waits: boolean): void {
    // An event without a conversation stands in a line of its own.
    const key = item.event.conversationId ?? item.event.seq;
    const line = this.#lines.get(key);
    if (line === undefined && !waits) {
      this.#ready.push(item);
      return;
    }
    // Only the event's own vector: a view would keep those of its whole batch in memory.
    const vector = item.vector === null ? null : { ...item.vector, row: item.vector.row.slice() };
    const untilMs = this.#o.clock.monotonicMs() + this.#o.frameWaitMs;
    const entry: Entry = { item: { ...item, vector }, waits, untilMs, line: key };
    if (waits) {
      this.#frames++;
      // Those that were answered need no clock; a few are not worth the trouble.
      if (this.#clock.length >= 4 * WAITING_FRAMES_MAX) this.#clock = this.#clock.filter((one) => one.waits);
      this.#clock.push(entry);
      this.#timer ??= this.#o.clock.after(this.#o.frameWaitMs, () => this.#tick());
    }
    if (line === undefined) this.#lines.set(key, [entry]);
    else line.push(entry);
    this.#bySeq.set(item.event.seq, entry);
    this.#heldBytes += item.event.body.byteLength;
    if (this.#bySeq.size > HELD_EVENTS_MAX || this.#heldBytes > HELD_BYTES_MAX) this.releaseAll();
  }

  /** What is known of an event now. False: it is not held any more, so that its frame is made without. */
  answered(seq: number, known: Known): boolean {
    const entry = this.#bySeq.get(seq);
    if (entry === undefined) return false;
    entry.item = { ...entry.item, known };
    this.#release(entry);
    return true;
  }

  /** Its question has failed: it waits no longer. */
  release(seq: number): void {
    const entry = this.#bySeq.get(seq);
    if (entry !== undefined) this.#release(entry);
  }

  releaseAll(): void {
    for (const entry of [...this.#bySeq.values()]) this.#release(entry);
  }

  /** Releases whose time is up, or is so within GROUP_MS. */
  #tick(): void {
    this.#timer = null;
    const upMs = this.#o.clock.monotonicMs() + Math.min(GROUP_MS, this.#o.frameWaitMs / 4);
    let up = this.#clock.findIndex(({ waits, untilMs }) => waits && untilMs > upMs);
    if (up < 0) up = this.#clock.length;
    for (const entry of this.#clock.splice(0, up)) {
      if (!entry.waits) continue;
      this.#o.onVain();
      this.#release(entry);
    }
    const [next] = this.#clock;
    if (next === undefined) return;
    const leftMs = Math.max(0, next.untilMs - this.#o.clock.monotonicMs());
    this.#timer = this.#o.clock.after(leftMs, () => this.#tick());
  }

  #release(entry: Entry): void {
    if (entry.waits) {
      entry.waits = false;
      this.#frames--;
    }
    const line = this.#lines.get(entry.line);
    if (line === undefined || line[0]?.waits !== false) return;
    let free = line.findIndex(({ waits }) => waits);
    if (free < 0) free = line.length;
    for (const { item } of line.splice(0, free)) {
      this.#bySeq.delete(item.event.seq);
      this.#heldBytes -= item.event.body.byteLength;
      this.#ready.push(item);
    }
    if (line.length === 0) this.#lines.delete(entry.line);
    this.#announcing ??= this.#o.clock.after(READY_MS, () => {
      this.#announcing = null;
      this.#o.onReady();
    });
  }

  /** Those that can be decided now, each conversation's in order. */
  take(): Item[] {
    const ready = this.#ready;
    this.#ready = [];
    return ready;
  }
}
