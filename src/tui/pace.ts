/**
 * When the next screen is drawn: soon after a change, fifteen times a second at most, and more rarely if drawing is slow or the thread
 * is busy with what matters more.
 */
import type { Clock } from "../clock.ts";

const PAUSE_MS_MIN = 1000 / 15;
/** The share of the thread's time that drawing may take. */
const SHARE_MAX = 0.05;
/** A timer that comes this late shows that the thread is busy. */
const LATE_MS = 8;
const PAUSE_MS_BUSY = 500;

export class Pace implements Disposable {
  readonly #clock: Clock;
  readonly #draw: () => void;
  #due: Disposable | null = null;
  #dueMs = 0;
  #busy = false;
  #drawnMs = Number.NEGATIVE_INFINITY;
  /** What the newest screen has cost so far. */
  #costMs = 0;

  constructor(clock: Clock, draw: () => void) {
    this.#clock = clock;
    this.#draw = draw;
  }

  /** Calls `draw` as soon as the pace allows; once, however many requests come until then. */
  request(): void {
    if (this.#due !== null) return;
    const nowMs = this.#clock.monotonicMs();
    const pauseMs = Math.max(this.#busy ? PAUSE_MS_BUSY : PAUSE_MS_MIN, this.#costMs / SHARE_MAX);
    const waitMs = Math.max(0, this.#drawnMs + pauseMs - nowMs);
    this.#dueMs = nowMs + waitMs;
    this.#due = this.#clock.after(waitMs, () => this.#run());
  }

  #run(): void {
    this.#due = null;
    this.#drawnMs = this.#clock.monotonicMs();
    this.#busy = this.#drawnMs - this.#dueMs > LATE_MS;
    this.#costMs = 0;
    this.measure(this.#draw);
  }

  /** Runs `work` and counts it as part of drawing the newest screen. */
  measure(work: () => void): void {
    const startedMs = this.#clock.monotonicMs();
    work();
    this.#costMs += this.#clock.monotonicMs() - startedMs;
  }

  /** Takes back a request that has not been served. */
  [Symbol.dispose](): void {
    this.#due?.[Symbol.dispose]();
    this.#due = null;
  }
}
