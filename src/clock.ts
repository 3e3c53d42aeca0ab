/**
 * Time as an argument: stamps, intervals, pauses and timers. The product uses {@link systemClock}; a test passes a
 * clock that it moves itself.
 */

export interface Clock {
  /** The wall clock, µs since 1970: for stamps. It may step in either direction, so no interval is measured by it. */
  nowUs(): number;
  /** A clock that never goes back, ms since some instant: for intervals. */
  monotonicMs(): number;
  sleep(ms: number): Promise<void>;
  /** Resolves after everything that is due in this turn of the event loop. */
  nextTurn(): Promise<void>;
  /** Calls once, after `ms`, unless the timer is disposed of first. */
  after(ms: number, callback: () => void): Disposable;
  /** Calls every `ms` until the timer is disposed of. */
  every(ms: number, callback: () => void): Disposable;
}

/** The wall clock less the monotonic clock, µs. */
let wallAheadUs = 0;

/** The system's wall clock with microseconds: its milliseconds by `Date`, the rest by the monotonic clock. */
function wallUs(): number {
  const msUs = Date.now() * 1000;
  const us = Math.floor(performance.now() * 1000) + wallAheadUs;
  if (us >= msUs && us < msUs + 1000) return us;
  // The wall clock was set, or runs at another pace.
  const nearest = us < msUs ? msUs : msUs + 999;
  wallAheadUs += nearest - us;
  return nearest;
}

export const systemClock: Clock = {
  nowUs: wallUs,
  monotonicMs: () => performance.now(),
  sleep: (ms) => Bun.sleep(ms),
  nextTurn: () => new Promise((resolve) => setImmediate(resolve)),
  after: (ms, callback) => {
    const timer = setTimeout(callback, ms);
    return { [Symbol.dispose]: () => clearTimeout(timer) };
  },
  every: (ms, callback) => {
    const timer = setInterval(callback, ms);
    return { [Symbol.dispose]: () => clearInterval(timer) };
  },
};
