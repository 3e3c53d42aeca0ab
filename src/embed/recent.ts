/** Remembers the vectors of recent texts, because greetings, confirmations and messages of bots come again and again. */

/**
 * Texts that are remembered: 16 MiB at 1,024 floats each.
 * @bound recent texts whose vectors are remembered | embedded again
 */
const TEXTS_MAX = 4096;
/**
 * Longer texts seldom come twice and are not remembered.
 * @bound a text whose vector is remembered | embedded again
 */
const TEXT_CHARS_MAX = 512;
const NOTHING = new Float32Array(0);

export class RecentVectors {
  /** Least recently used first. */
  readonly #known = new Map<string, Float32Array>();
  hits = 0;

  get size(): number {
    return this.#known.size;
  }

  /**
   * Returns one vector per text. Calls `embed` at most once, with the distinct texts that are not remembered.
   * @param dim returns the floats in a vector; called after `embed`, whose reply may be the first to tell.
   * @returns texts.length × dim floats.
   */
  async fill(
    texts: readonly string[],
    dim: () => number,
    embed: (fresh: readonly string[]) => Promise<Float32Array<ArrayBuffer>>,
  ): Promise<Float32Array<ArrayBuffer>> {
    // Read before the first await, because other calls may displace it meanwhile.
    const known = texts.map((text) => this.#take(text));
    const fresh = [...new Set(texts.filter((_, index) => known[index] === undefined))];
    const made = fresh.length === 0 ? NOTHING : await embed(fresh);
    this.#keep(fresh, made, dim());
    if (fresh.length === texts.length) return made;
    const width = dim();
    const at = new Map(fresh.map((text, index) => [text, index * width]));
    const rows = new Float32Array(texts.length * width);
    texts.forEach((text, index) => {
      const from = at.get(text) ?? 0;
      rows.set(known[index] ?? made.subarray(from, from + width), index * width);
    });
    return rows;
  }

  #take(text: string): Float32Array | undefined {
    const vector = this.#known.get(text);
    if (vector === undefined) return undefined;
    this.hits += 1;
    this.#known.delete(text);
    this.#known.set(text, vector);
    return vector;
  }

  #keep(texts: readonly string[], rows: Float32Array, dim: number): void {
    texts.forEach((text, index) => {
      if (text.length > TEXT_CHARS_MAX) return;
      this.#known.set(text, rows.slice(index * dim, (index + 1) * dim));
      if (this.#known.size <= TEXTS_MAX) return;
      const oldest = this.#known.keys().next();
      if (oldest.done !== true) this.#known.delete(oldest.value);
    });
  }
}
