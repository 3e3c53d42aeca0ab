/** The values of one figure in the last hour, one a second; and quantiles of histograms. */

/** @bound a series of one figure | the oldest values are dropped */
export const SECONDS_MAX = 3600;

export class SeriesRing {
  readonly #values = new Float32Array(SECONDS_MAX).fill(Number.NaN);
  #next = 0;

  /** Adds the value of the next second. */
  push(value: number): void {
    this.#values[this.#next] = value;
    this.#next = (this.#next + 1) % SECONDS_MAX;
  }

  /** The values of the last `seconds` (at most an hour), the newest last; NaN if a second has none. */
  newest(seconds: number): number[] {
    const length = Math.min(seconds, SECONDS_MAX);
    const from = this.#next - length + SECONDS_MAX;
    return Array.from({ length }, (_, index) => this.#values[(from + index) % SECONDS_MAX] as number);
  }
}

/**
 * A quantile of the observations between two readings of a histogram.
 * @param share 0 to 1: this share of the observations lies at or below the result
 * @param boundMs the upper bound of a bucket
 * @returns the upper bound of the bucket that holds the quantile; NaN if there were no observations
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
