/**
 * Asks for each text in a request of its own, several at once. The texts on which an endpoint hangs then cost the others
 * one wait together, not one wait each.
 */
import type { Clock } from "../clock.ts";

/** @bound texts that are asked for alone at once, after a batch has brought no reply | the next ones wait */
const AT_ONCE_MAX = 16;
/** @bound the characters of texts that are asked for alone at once, so that long texts do not make each other late | the next ones wait */
const CHARS_AT_ONCE_MAX = 16_384;
/** So few texts cannot keep an endpoint so busy that it only seems to hang. */
const FEW = 4;

export interface AskAloneOptions<T> {
  /** The characters of each text of the batch. */
  readonly chars: readonly number[];
  readonly ask: (indices: readonly number[], patienceMs: number) => Promise<readonly T[]>;
  /** Embeds a text that every embedder can take. Rejects if that fails. */
  readonly probe: () => Promise<unknown>;
  /** How long the reply to each text is waited for, at least. */
  readonly patienceMs: number;
  readonly clock: Clock;
}

export interface AskedAlone<T> {
  readonly taken: ReadonlyMap<number, T>;
  /** The texts on which the embedder hangs, and how they failed. */
  readonly hung: readonly { readonly index: number; readonly error: unknown }[];
  /** The other texts: they failed soon, were not asked for, or failed while the embedder was slow. */
  readonly unknown: readonly number[];
  /**
   * Whether a text failed late and no probe that was sent after it was answered. The embedder may work in order of receipt,
   * so nothing can be told of texts that are asked for together.
   */
  readonly inTurn: boolean;
}

/**
 * Returns which texts the embedder took, and on which it hangs. A text counts as hanging only if all of this is true, so
 * that an endpoint that is merely slow loses no text:
 * - A probe was sent after half of the patience, and was answered before the text failed. An endpoint that works in order
 *   of receipt does not answer it.
 * - Each text that was taken was taken within half of the patience. An endpoint that works slowly at many texts at once
 *   takes longer.
 * - Other texts were taken, or there are only a few.
 */
export function askAlone<T>(indices: readonly number[], options: AskAloneOptions<T>): Promise<AskedAlone<T>> {
  return new Round(indices, options).run();
}

class Round<T> {
  readonly #o: AskAloneOptions<T>;
  readonly #indices: readonly number[];
  /** A reply or failure within this time comes soon; after it, late. */
  readonly #soonMs: number;
  readonly #waiting: number[];
  readonly #asked = new Set<Promise<void>>();
  #charsAtOnce = 0;
  readonly #taken = new Map<number, T>();
  readonly #failed = new Map<number, { error: unknown; overtaken: boolean }>();
  #quickFailures = 0;
  #lateReplies = 0;
  #inTurn = false;
  /** The newest probe. Texts share it. */
  #probed = { sentMs: Number.NEGATIVE_INFINITY, answered: Promise.resolve(false) };

  constructor(indices: readonly number[], options: AskAloneOptions<T>) {
    this.#o = options;
    this.#indices = indices;
    this.#soonMs = options.patienceMs / 2;
    this.#waiting = [...indices];
  }

  async run(): Promise<AskedAlone<T>> {
    // Several may end in one turn, and the next ones are asked for even if all have.
    for (this.#fill(); this.#asked.size > 0; this.#fill()) await Promise.race(this.#asked);
    const isQuick = this.#lateReplies === 0 && (this.#taken.size > 0 || this.#indices.length <= FEW);
    const hung = [...this.#failed].flatMap(([index, { error, overtaken }]) =>
      isQuick && overtaken ? [{ index, error }] : [],
    );
    const known = new Set([...this.#taken.keys(), ...hung.map(({ index }) => index)]);
    const unknown = this.#indices.filter((index) => !known.has(index));
    return { taken: this.#taken, hung, unknown, inTurn: this.#inTurn };
  }

  /** Asks for as many texts as there is room for. */
  #fill(): void {
    // If most fail soon, the reason is not a text.
    if (this.#inTurn || this.#quickFailures > this.#taken.size) return;
    while (this.#waiting.length > 0) {
      const index = this.#waiting[0] as number;
      const chars = this.#o.chars[index] ?? 0;
      const isFull = this.#asked.size >= AT_ONCE_MAX || this.#charsAtOnce + chars > CHARS_AT_ONCE_MAX;
      if (isFull && this.#asked.size > 0) return;
      this.#waiting.shift();
      this.#charsAtOnce += chars;
      const asked: Promise<void> = this.#ask(index).then(() => {
        this.#charsAtOnce -= chars;
        this.#asked.delete(asked);
      });
      this.#asked.add(asked);
    }
  }

  async #ask(index: number): Promise<void> {
    const { ask, patienceMs, clock } = this.#o;
    const sentMs = clock.monotonicMs();
    const isSoon = (): boolean => clock.monotonicMs() - sentMs < this.#soonMs;
    let overtaken = false;
    using _probe = clock.after(this.#soonMs, async () => {
      overtaken = await this.#answeredAfter(sentMs);
    });
    try {
      const [result] = await ask([index], patienceMs);
      this.#taken.set(index, result as T);
      if (!isSoon()) this.#lateReplies += 1;
    } catch (error) {
      this.#failed.set(index, { error, overtaken });
      if (isSoon()) this.#quickFailures += 1;
      else if (!overtaken) this.#inTurn = true;
    }
  }

  /** Resolves to whether a probe that was sent after `sentMs` is answered. */
  #answeredAfter(sentMs: number): Promise<boolean> {
    if (this.#probed.sentMs <= sentMs) {
      const answered = this.#o.probe().then(
        () => true,
        () => false,
      );
      this.#probed = { sentMs: this.#o.clock.monotonicMs(), answered };
    }
    return this.#probed.answered;
  }
}
