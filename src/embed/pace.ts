/** Says how long a request of an endpoint may take, judged by how long such requests took before. */

/**
 * @bound a request for embeddings, while nothing is known of the endpoint's pace | the request fails
 */
const PATIENCE_MS_MAX = 30_000;
/** @bound a request for embeddings beyond three times what its like took before | the request fails */
const PATIENCE_MS_MIN = 3000;
/** How fast a slow request is forgotten. */
const DECAY = 0.95;

/** A text on which an endpoint hangs must not delay the others by the whole patience that a first request deserves. */
export class Pace {
  /** The slowest request by the binary logarithm of its number of texts. */
  readonly #slowestMs: number[] = [];

  /**
   * How long a request with so many texts may take.
   * @param leastMs at least this long.
   */
  limitMs(texts: number, leastMs = 0): number {
    if (this.#slowestMs.length === 0) return PATIENCE_MS_MAX;
    const usualMs = PATIENCE_MS_MIN + Math.round(3 * this.#expectedMs(texts));
    return Math.min(PATIENCE_MS_MAX, Math.max(leastMs, usualMs));
  }

  succeeded(texts: number, tookMs: number): void {
    const size = sizeOf(texts);
    this.#slowestMs[size] = Math.max(tookMs, DECAY * (this.#slowestMs[size] ?? 0));
  }

  /** From requests of about this size, else from smaller ones, as if time grew with the number of texts. */
  #expectedMs(texts: number): number {
    for (let size = sizeOf(texts); size >= 0; size--) {
      const slowestMs = this.#slowestMs[size];
      if (slowestMs !== undefined) return slowestMs * 2 ** (sizeOf(texts) - size);
    }
    return 0;
  }
}

function sizeOf(texts: number): number {
  return Math.floor(Math.log2(Math.max(1, texts)));
}
