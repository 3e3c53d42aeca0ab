/**
 * Holds events back whose frames wait for the language model, and later events of the same conversation behind them. So the
 * frames of a conversation keep its order, and no other conversation waits.
 */
import type { Known } from "../brain/brain.ts";
import type { Clock } from "../clock.ts";
import type { Item } from "./work.ts";

/** @bound frames that wait for the model at once, each for `--frame-wait` | further frames go out at once, and their questions are asked later */
export const WAITING_FRAMES_MAX = 64;
/** @bound events that wait for the model, or behind one that does | none of them waits any longer */
const HELD_EVENTS_MAX = 1024;
/** @bound bodies of events that wait for the model, or behind one that does | none of them waits any longer */
const HELD_BYTES_MAX = 16 * 1024 * 1024;

/** Frames whose waits end within this time of each other go out together, in one commit. */
const GROUP_MS = 20;
/** Frames whose replies come within this time of each other go out together, unless other frames are made before. */
const READY_MS = 5;

interface Held {
  item: Item;
  /** It waits for the model. If false, it only stands behind others. */
  waits: boolean;
  readonly untilMs: number;
  /** The key of its line. */
  readonly line: string | number;
}

export interface HoldsOptions {
  readonly frameWaitMs: number;
  readonly clock: Clock;
  /** Called when there is something to take. */
  readonly onReady: () => void;
  /** Called when a frame's wait has ended without a reply. */
  readonly onVain: () => void;
}

export class Holds {
  readonly #o: HoldsOptions;
  /** By conversation, in order of receipt. An event without a conversation has a line of its own. */
  readonly #lines = new Map<string | number, Held[]>();
  readonly #bySeq = new Map<number, Held>();
  /** Events that wait, or did, in the order in which their waits end: all wait equally long. */
  #deadlines: Held[] = [];
  #timer: Disposable | null = null;
  #ready: Item[] = [];
  #announcing: Disposable | null = null;
  #frames = 0;
  #heldBytes = 0;

  constructor(options: HoldsOptions) {
    this.#o = options;
  }

  /** The number of frames that wait for the model. */
  get frames(): number {
    return this.#frames;
  }

  /** The number of events that cannot be decided yet, plus those that can and were not taken. */
  get held(): number {
    return this.#bySeq.size + this.#ready.length;
  }

  /**
   * Takes an event; call it in order of receipt. Holds it back if it waits for the model or if its conversation does.
   */
  admit(item: Item, waits: boolean): void {
    const key = item.event.conversationId ?? item.event.seq;
    const line = this.#lines.get(key);
    if (line === undefined && !waits) {
      this.#ready.push(item);
      return;
    }
    // A copy of the event's own vector: a view would keep the vectors of the whole batch in memory.
    const vector = item.vector === null ? null : { ...item.vector, row: item.vector.row.slice() };
    const untilMs = this.#o.clock.monotonicMs() + this.#o.frameWaitMs;
    const entry: Held = { item: { ...item, vector }, waits, untilMs, line: key };
    if (waits) {
      this.#frames++;
      // Events that wait no longer need no deadline. They are removed when there are many.
      if (this.#deadlines.length >= 4 * WAITING_FRAMES_MAX)
        this.#deadlines = this.#deadlines.filter((one) => one.waits);
      this.#deadlines.push(entry);
      this.#timer ??= this.#o.clock.after(this.#o.frameWaitMs, () => this.#tick());
    }
    if (line === undefined) this.#lines.set(key, [entry]);
    else line.push(entry);
    this.#bySeq.set(item.event.seq, entry);
    this.#heldBytes += item.event.body.byteLength;
    if (this.#bySeq.size > HELD_EVENTS_MAX || this.#heldBytes > HELD_BYTES_MAX) this.releaseAll();
  }

  /** Releases an event with what is known of it now. @returns false if it is not held any more: its frame does without. */
  replied(seq: number, known: Known): boolean {
    const entry = this.#bySeq.get(seq);
    if (entry === undefined) return false;
    entry.item = { ...entry.item, known };
    this.#release(entry);
    return true;
  }

  /** Releases an event whose question has failed. */
  release(seq: number): void {
    const entry = this.#bySeq.get(seq);
    if (entry !== undefined) this.#release(entry);
  }

  releaseAll(): void {
    for (const entry of [...this.#bySeq.values()]) this.#release(entry);
  }

  /** Releases the events whose waits have ended, or end within GROUP_MS. */
  #tick(): void {
    this.#timer = null;
    const upMs = this.#o.clock.monotonicMs() + Math.min(GROUP_MS, this.#o.frameWaitMs / 4);
    let up = this.#deadlines.findIndex(({ waits, untilMs }) => waits && untilMs > upMs);
    if (up < 0) up = this.#deadlines.length;
    for (const entry of this.#deadlines.splice(0, up)) {
      if (!entry.waits) continue;
      this.#o.onVain();
      this.#release(entry);
    }
    const [next] = this.#deadlines;
    if (next === undefined) return;
    const leftMs = Math.max(0, next.untilMs - this.#o.clock.monotonicMs());
    this.#timer = this.#o.clock.after(leftMs, () => this.#tick());
  }

  #release(entry: Held): void {
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

  /** Hands out the events that can be decided now, those of each conversation in order. */
  take(): Item[] {
    const ready = this.#ready;
    this.#ready = [];
    return ready;
  }
}
