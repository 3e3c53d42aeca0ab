/** How batches share the thread, and the rows that may wait for a commit. */
import type { Clock } from "../clock.ts";

/**
 * Both bounds hold for all batches together. A commit of this much takes about 20 ms.
 * @bound events of batches that wait for a commit | the request waits
 */
const UNCOMMITTED_EVENTS_MAX = 2048;
/** @bound bodies and messages of batches that wait for a commit | the request waits */
const UNCOMMITTED_BYTES_MAX = 8 * 1024 * 1024;
/**
 * @bound work on batches before other requests have a turn | the batch waits
 */
const TURN_MS = 4;

/** Lets one batch work at a time, for TURN_MS per turn of the event loop. */
export class Turns {
  readonly #clock: Clock;
  #startedMs = 0;
  readonly #queue: (() => void)[] = [];

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Whether the batch that works now has used up its turn. */
  overdue(): boolean {
    return this.#clock.monotonicMs() - this.#startedMs > TURN_MS;
  }

  /** Settles in a later turn of the event loop, which belongs to the caller. */
  next(): Promise<void> {
    return new Promise((resolve) => {
      this.#queue.push(resolve);
      if (this.#queue.length === 1) void this.#clock.nextTurn().then(this.#turn);
    });
  }

  readonly #turn = (): void => {
    const resolve = this.#queue.shift();
    if (this.#queue.length > 0) void this.#clock.nextTurn().then(this.#turn);
    this.#startedMs = this.#clock.monotonicMs();
    resolve?.();
  };
}

/** Holds groups of events back, first come first served, while too many others wait for a commit. */
export class Gate {
  #events = 0;
  #bytes = 0;
  readonly #queue: { readonly events: number; readonly bytes: number; readonly enter: () => void }[] = [];

  /** @returns null if the group may go on at once. A group of any size may, if no other waits for a commit. */
  enter(events: number, bytes: number): Promise<void> | null {
    if (this.#queue.length === 0 && this.#fits(events, bytes)) {
      this.#add(events, bytes);
      return null;
    }
    return new Promise((enter) => this.#queue.push({ events, bytes, enter }));
  }

  leave(events: number, bytes: number): void {
    this.#add(-events, -bytes);
    for (let next = this.#queue[0]; next !== undefined; next = this.#queue[0]) {
      if (!this.#fits(next.events, next.bytes)) return;
      this.#queue.shift();
      this.#add(next.events, next.bytes);
      next.enter();
    }
  }

  #fits(events: number, bytes: number): boolean {
    if (this.#events === 0) return true;
    return this.#events + events <= UNCOMMITTED_EVENTS_MAX && this.#bytes + bytes <= UNCOMMITTED_BYTES_MAX;
  }

  #add(events: number, bytes: number): void {
    this.#events += events;
    this.#bytes += bytes;
  }
}
