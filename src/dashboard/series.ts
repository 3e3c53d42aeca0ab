/** Figures of the last hour, one a second. */

export const SECONDS_MAX = 3600;

export class SeriesRing {
  readonly #values = new Float32Array(SECONDS_MAX).fill(Number.NaN);
  #next = 0;

  /** One second more. */
  push(value: number): void {
    this.#values[this.#next] = value;
    this.#next = (this.#next + 1) % SECONDS_MAX;
  }

  /** The newest so many seconds (at most an hour), the newest last; NaN where nothing was counted. */
  newest(seconds: number): number[] {
    const length = Math.min(seconds, SECONDS_MAX);
    const from = this.#next - length + SECONDS_MAX;
    return Array.from({ length }, (_, index) => this.#values[(from + index) % SECONDS_MAX] as number);
  }
}

/**
 * The value under which a share of the observations lies that were made between two readings of a histogram of buckets that
 * double (metrics.ts); NaN where there were none.
 */
export function quantileBetween(
  before: Float64Array,
  now: Float64Array,
  share: number,
  boundMs: (bucket: number) => number,
): number {
  let total = 0;
  for (let bucket = 0; bucket < now.length; bucket++)
    total += (now[bucket] as number) - (before[bucket] ?? 0);
  if (total <= 0) return Number.NaN;
  let seen = 0;
  for (let bucket = 0; bucket < now.length; bucket++) {
    seen += (now[bucket] as number) - (before[bucket] ?? 0);
    if (seen >= total * share) return boundMs(bucket);
  }
  return Number.NaN;
}
