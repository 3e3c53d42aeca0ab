/** The pause after a failed write: it doubles with each failure and starts over at a success. Part of the store's worker. */

import type { Clock } from "../clock.ts";

const PAUSE_MS_MIN = 100;
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

  /** How long nothing may be written yet; 0 or less: it may. */
  remainingMs(): number {
    return this.#untilMs - this.#clock.monotonicMs();
  }

  /** A write has succeeded: the next failure pauses for the shortest time again. */
  succeeded(): void {
    this.#nextMs = PAUSE_MS_MIN;
  }
}
