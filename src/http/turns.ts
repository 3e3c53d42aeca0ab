/** How batches share the thread and the room before a commit. */
import type { Clock } from "../clock.ts";

/**
 * Rows and bytes of all batches on their way to a commit: about 20 ms of one.
 * @bound events of batches that wait for a commit | the request waits
 */
const UNCOMMITTED_EVENTS_MAX = 2048;
/** @bound events of batches that wait for a commit | the request waits */
const UNCOMMITTED_BYTES_MAX = 8 * 1024 * 1024;
/**
 * How long batches may hold the thread before everybody else has a turn.
 * @bound work on batches before other requests have a turn | the batch waits
 */
const TURN_MS = 4;

/** Only one batch works at a time, and each for at most TURN_MS before the event loop goes round. */
export class Turns {
  readonly #clock: Clock;
  #startedMs = 0;
  readonly #queue: (() => void)[] = [];

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  overdue(): boolean {
    return this.#clock.monotonicMs() - this.#startedMs > TURN_MS;
  }

  /** Settles in a later turn of the event loop, which then belongs to the caller. */
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

/** Lets batches wait, first come first served, until there is room before the next commit. */
export class Gate {
  #events = 0;
  #bytes = 0;
  readonly #queue: { readonly events: number; readonly bytes: number; readonly enter: () => void }[] = [];

  /** null: entered at once. Whatever its size, a group enters an empty room. */
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
