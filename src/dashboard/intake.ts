/**
 * What the pipeline reports, gathered until the dashboard looks at it. Gathering costs two additions and a push for each report, however
 * many events it has; what is more than a look can show is dropped, oldest first.
 */
import type { Clock } from "../clock.ts";
import type { JournalEvent } from "../journal/journal.ts";
import type { Watch } from "../pipeline/snapshot.ts";

/** More cannot be followed by eye. @bound events that the dashboard takes in at once | the list begins again with the newest */
export const LOOK_EVENTS_MAX = 512;
/** @bound decided frames that wait for the dashboard | the oldest rows stay without their frame */
const LOOK_FRAMES_MAX = 1024;
const LOOK_MS = 100;
/** The pause while more comes than a look can show: then acknowledgements need the thread more. */
const LOOK_MS_BUSY = 500;

/** Frames that were decided together: the first one's id, and all of them in order. */
export type Decision = Parameters<Watch["decided"]>;
export type Update = Parameters<Watch["updated"]>[1];

/** What came since the last look. */
export interface Look {
  /** The newest committed events, ascending, at most LOOK_EVENTS_MAX. */
  readonly events: readonly JournalEvent[];
  readonly decisions: readonly Decision[];
  /** The newest update of each event, by `seq`. */
  readonly updates: ReadonlyMap<number, Update>;
}

export class Intake implements Disposable {
  readonly #clock: Clock;
  readonly #look: (look: Look) => void;
  #batches: (readonly JournalEvent[])[] = [];
  #events = 0;
  #decisions: Decision[] = [];
  #frames = 0;
  #updates = new Map<number, Update>();
  /** Events were dropped since the last look; and before it. */
  #dropped = false;
  #droppedBefore = false;
  #due: Disposable | null = null;

  constructor(clock: Clock, look: (look: Look) => void) {
    this.#clock = clock;
    this.#look = look;
  }

  committed(events: readonly JournalEvent[]): void {
    this.#batches.push(events);
    this.#events += events.length;
    // Whole batches are dropped as long as the rest fills a look.
    for (let first = this.#batches[0]; first !== undefined; first = this.#batches[0]) {
      if (this.#events - first.length < LOOK_EVENTS_MAX) break;
      this.#dropped = true;
      this.#events -= first.length;
      this.#batches.shift();
    }
    this.#lookSoon();
  }

  decided(...decision: Decision): void {
    this.#decisions.push(decision);
    this.#frames += decision[1].length;
    for (let first = this.#decisions[0]; first !== undefined; first = this.#decisions[0]) {
      if (this.#frames - first[1].length < LOOK_FRAMES_MAX) break;
      this.#frames -= first[1].length;
      this.#decisions.shift();
    }
    this.#lookSoon();
  }

  /** Gathered and not shown at once: the event's frame may still wait for its look, and must not overwrite the update. */
  updated(seq: number, update: Update): void {
    this.#updates.delete(seq);
    this.#updates.set(seq, update);
    const oldest = this.#updates.size > LOOK_EVENTS_MAX ? this.#updates.keys().next().value : undefined;
    if (oldest !== undefined) this.#updates.delete(oldest);
    this.#lookSoon();
  }

  #lookSoon(): void {
    this.#due ??= this.#clock.after(this.#droppedBefore ? LOOK_MS_BUSY : LOOK_MS, () => this.#lookNow());
  }

  #lookNow(): void {
    const look = {
      events: newest(this.#batches, LOOK_EVENTS_MAX),
      decisions: this.#decisions,
      updates: this.#updates,
    };
    this.#due = null;
    this.#droppedBefore = this.#dropped;
    this.#dropped = false;
    this.#batches = [];
    this.#events = 0;
    this.#decisions = [];
    this.#frames = 0;
    this.#updates = new Map();
    this.#look(look);
  }

  [Symbol.dispose](): void {
    this.#due?.[Symbol.dispose]();
  }
}

/** The last `max` items of all lists together, in their order. */
export function newest<T>(lists: readonly (readonly T[])[], max: number): T[] {
  const parts: (readonly T[])[] = [];
  let count = 0;
  for (let at = lists.length - 1; at >= 0 && count < max; at--) {
    const list = lists[at] as readonly T[];
    const part = list.slice(Math.max(0, list.length - (max - count)));
    parts.unshift(part);
    count += part.length;
  }
  return parts.flat();
}
