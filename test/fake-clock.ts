/** A clock that a test moves by hand, so that minutes pass in microseconds and every run is the same. */
import type { Clock } from "../src/clock.ts";

/** Turns of the event loop in which nobody calls the clock, after which the work due now is taken to be done. */
const QUIET_TURNS = 3;
/** Beyond this many turns at one instant the code under test must be in a loop. */
const TURNS_MAX = 10_000;

interface FakeTimer {
  dueMs: number;
  /** Timers due at the same instant run in the order in which they were set. */
  readonly order: number;
  readonly everyMs: number | null;
  readonly callback: () => void;
}

/**
 * Time stands still until {@link advance}. Then due timers run in order, each at its own instant, and after each of
 * them everything that it set off runs: microtasks, and what waits for a turn of the real event loop (`setImmediate`).
 */
export class FakeClock implements Clock {
  #startUs: number;
  #nowMs = 0;
  #timers: FakeTimer[] = [];
  #order = 0;
  /** How often the code under test called the clock. */
  #calls = 0;

  /** @param startUs what {@link nowUs} says before the first advance. */
  constructor(startUs = 1_700_000_000_000_000) {
    this.#startUs = startUs;
  }

  nowUs(): number {
    this.#calls += 1;
    return this.#startUs + Math.round(this.#nowMs * 1000);
  }

  /** Sets the wall clock: no time passes, and no timer notices. */
  step(us: number): void {
    this.#startUs += us;
  }

  /** Milliseconds that were advanced so far. */
  monotonicMs(): number {
    this.#calls += 1;
    return this.#nowMs;
  }

  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => this.#add(ms, null, resolve));
  }

  nextTurn(): Promise<void> {
    this.#calls += 1;
    return turn();
  }

  after(ms: number, callback: () => void): Disposable {
    return this.#add(ms, null, callback);
  }

  every(ms: number, callback: () => void): Disposable {
    return this.#add(ms, ms, callback);
  }

  /** Timers and sleeps that have not run yet: none is left after everything was stopped. */
  get pending(): number {
    return this.#timers.length;
  }

  #add(ms: number, everyMs: number | null, callback: () => void): Disposable {
    this.#calls += 1;
    // As with the system's timers, 0 ms is never now.
    const timer = { dueMs: this.#nowMs + Math.max(ms, 0.001), order: this.#order++, everyMs, callback };
    this.#timers.push(timer);
    return {
      [Symbol.dispose]: () => {
        this.#timers = this.#timers.filter((other) => other !== timer);
      },
    };
  }

  /** Moves time on by `ms` and runs what becomes due on the way, and all that follows from it. */
  async advance(ms: number): Promise<void> {
    const untilMs = this.#nowMs + ms;
    await this.settle();
    for (let timer = this.#nextDue(untilMs); timer !== null; timer = this.#nextDue(untilMs)) {
      this.#nowMs = timer.dueMs;
      if (timer.everyMs === null) this.#timers = this.#timers.filter((other) => other !== timer);
      else timer.dueMs += timer.everyMs;
      timer.callback();
      await this.settle();
    }
    this.#nowMs = untilMs;
  }

  /**
   * Advances from one due timer to the next until `condition` holds, which is looked at first.
   * @throws Error if `limitMs` pass, or no timer is left, before it does.
   */
  async until(condition: () => boolean, limitMs = 3_600_000): Promise<void> {
    const startMs = this.#nowMs;
    await this.settle();
    while (!condition()) {
      const timer = this.#nextDue(startMs + limitMs);
      if (timer === null) throw new Error(`fake clock: not within ${limitMs} ms: ${condition}`);
      await this.advance(timer.dueMs - this.#nowMs);
    }
  }

  /** Runs everything that is due now: microtasks and turns of the real event loop, until nobody calls the clock. */
  async settle(): Promise<void> {
    for (let quiet = 0, turns = 0; quiet < QUIET_TURNS; turns++) {
      if (turns > TURNS_MAX)
        throw new Error(`fake clock: still busy after ${TURNS_MAX} turns without time passing`);
      const before = this.#calls;
      await turn();
      quiet = this.#calls === before ? quiet + 1 : 0;
    }
  }

  #nextDue(untilMs: number): FakeTimer | null {
    let next: FakeTimer | null = null;
    for (const timer of this.#timers) {
      const sooner = next === null || timer.dueMs < next.dueMs;
      if (timer.dueMs <= untilMs && (sooner || (timer.dueMs === next?.dueMs && timer.order < next.order)))
        next = timer;
    }
    return next;
  }
}

/** A turn of the real event loop. */
function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
