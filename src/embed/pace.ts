/** Says how long a request of an endpoint may take, judged by how long such requests took before. */

/**
 * @bound a request for embeddings, while nothing is known of the endpoint's pace | the request fails
 */
const PATIENCE_MS_MAX = 30_000;
/** @bound a request for embeddings beyond three times what its like took before | the request fails */
const PATIENCE_MS_MIN = 3000;
/** How fast a slow request is forgotten: the first one, which loads the model, after a dozen others. */
const DECAY = 0.8;
/** A text costs as much as one of this length, and a request as much as one with this many characters, at least. */
const TEXT_CHARS_MIN = 64;
const REQUEST_CHARS_MIN = 512;

/** A text on which an endpoint hangs must not delay the others by the whole patience that a first request deserves. */
export class Pace {
  /** The slowest request by the binary logarithm of its number of characters. */
  readonly #slowestMs: number[] = [];

  /**
   * How long a request with these texts may take.
   * @param leastMs at least this long.
   */
  limitMs(texts: readonly string[], leastMs = 0): number {
    if (this.#slowestMs.length === 0) return PATIENCE_MS_MAX;
    const usualMs = PATIENCE_MS_MIN + Math.round(3 * this.#expectedMs(sizeOf(texts)));
    return Math.min(PATIENCE_MS_MAX, Math.max(leastMs, usualMs));
  }

  succeeded(texts: readonly string[], tookMs: number): void {
    const size = sizeOf(texts);
    this.#slowestMs[size] = Math.max(tookMs, DECAY * (this.#slowestMs[size] ?? 0));
  }

  /** From requests of about this size, else from smaller ones, as if time grew with the number of characters. */
  #expectedMs(size: number): number {
    for (let known = size; known >= 0; known--) {
      const slowestMs = this.#slowestMs[known];
      if (slowestMs !== undefined) return slowestMs * 2 ** (size - known);
    }
    return 0;
  }
}

function sizeOf(texts: readonly string[]): number {
  let chars = 0;
  for (const text of texts) chars += Math.max(TEXT_CHARS_MIN, text.length);
  return Math.floor(Math.log2(Math.max(REQUEST_CHARS_MIN, chars)));
}
