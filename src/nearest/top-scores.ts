/** Chosen on banking77 and credsystem-pt, where 2 to 5 give about the same accuracy. */
const TOP_K = 3;

/** The score of a label: the mean of the TOP_K highest cosines that were added; −∞ if there are none. */
export class TopScores {
  readonly #highest = new Float64Array(TOP_K);
  #count = 0;

  clear(): void {
    this.#count = 0;
  }

  add(score: number): void {
    const highest = this.#highest;
    let at = this.#count;
    if (at === TOP_K) {
      if (score <= (highest[TOP_K - 1] as number)) return;
      at -= 1;
    } else this.#count += 1;
    for (; at > 0 && (highest[at - 1] as number) < score; at--) highest[at] = highest[at - 1] as number;
    highest[at] = score;
  }

  get mean(): number {
    if (this.#count === 0) return Number.NEGATIVE_INFINITY;
    let sum = 0;
    for (let at = 0; at < this.#count; at++) sum += this.#highest[at] as number;
    return sum / this.#count;
  }
}
