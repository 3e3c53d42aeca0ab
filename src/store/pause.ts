/** The pause after a failed write. It doubles with each further failure, and a success resets it. Part of the store's Worker. */

import type { Clock } from "../clock.ts";

const PAUSE_MS_MIN = 100;
/** @bound the pause of writing after a failure of DuckDB | writing is tried again after each pause */
const PAUSE_MS_MAX = 10_000;

export class WritePause {
  readonly #clock: Clock;
  #untilMs = 0;
  #nextMs = PAUSE_MS_MIN;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Begins a pause at a failure. @returns its length. */
  begin(): number {
    const pauseMs = this.#nextMs;
    this.#nextMs = Math.min(2 * pauseMs, PAUSE_MS_MAX);
    this.#untilMs = this.#clock.monotonicMs() + pauseMs;
    return pauseMs;
  }

  /** How long writing must still wait; 0 or less: it need not. */
  remainingMs(): number {
    return this.#untilMs - this.#clock.monotonicMs();
  }

  /** Call after a successful write: the next pause is the shortest again. */
  succeeded(): void {
    this.#nextMs = PAUSE_MS_MIN;
  }
}
