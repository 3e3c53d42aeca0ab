/** Measures how busy ingest is, and decides how long framing makes way for it. */
import type { Clock } from "../clock.ts";

/** From this rate on, framing pauses after each batch: for YIELD_MS_MAX, less with a backlog, not at all from YIELD_BACKLOG_EVENTS on. */
const BURST_EVENTS_PER_SECOND = 3000;
const YIELD_MS_MAX = 100;
const YIELD_BACKLOG_EVENTS = 500_000;
const WINDOW_MS = 100;

export class Arrivals {
  readonly #clock: Clock;
  /** Events since the window began at `sinceMs`, and the rate in the window before. */
  #events = 0;
  #sinceMs = 0;
  #perSecond = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  count(events: number): void {
    this.#events += events;
    this.#measure();
  }

  /** Whether ingest was in a burst when the rate was last measured. */
  get bursting(): boolean {
    return this.#perSecond >= BURST_EVENTS_PER_SECOND;
  }

  /**
   * Returns how long framing should pause after a batch. In a burst the journal takes the events first, and frames follow. The
   * larger the backlog, the shorter the pause, so that a lasting load balances far below the bound that refuses events.
   */
  pauseMs(unframedEvents: number): number {
    this.#measure();
    if (!this.bursting) return 0;
    return Math.max(0, 1 - unframedEvents / YIELD_BACKLOG_EVENTS) * YIELD_MS_MAX;
  }

  /** Measures the rate once a window has passed. */
  #measure(): void {
    const nowMs = this.#clock.monotonicMs();
    const elapsedMs = nowMs - this.#sinceMs;
    if (elapsedMs < WINDOW_MS) return;
    this.#perSecond = (1000 * this.#events) / elapsedMs;
    this.#events = 0;
    this.#sinceMs = nowMs;
  }
}
