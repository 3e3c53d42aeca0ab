/**
 * Time as an argument: stamps, intervals, pauses and timers. The product uses {@link systemClock}; a test passes a
 * clock that it moves itself.
 */

export interface Clock {
  /** The wall clock, µs since 1970: for stamps. */
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

export const systemClock: Clock = {
  nowUs: () => Math.round((performance.timeOrigin + performance.now()) * 1000),
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
