/** Vectors of texts that were embedded a moment ago: greetings, confirmations and what bots say come again and again. */

/** Texts remembered; at 1,024 floats each, 16 MiB. */
const TEXTS_MAX = 4096;
/** Longer ones seldom come twice. */
const TEXT_CHARS_MAX = 512;
const NOTHING = new Float32Array(0);

export class RecentVectors {
  /** The least recently used first. */
  readonly #known = new Map<string, Float32Array>();
  hits = 0;

  get size(): number {
    return this.#known.size;
  }

  /**
   * Rows of `texts`, of which `embed` gets those that are not known, each once.
   * @param dim floats of a vector, asked after `embed` has answered.
   * @returns texts.length × dim floats.
   */
  async fill(
    texts: readonly string[],
    dim: () => number,
    embed: (fresh: readonly string[]) => Promise<Float32Array<ArrayBuffer>>,
  ): Promise<Float32Array<ArrayBuffer>> {
    // Taken before anything is awaited: what happens meanwhile may push it out.
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
