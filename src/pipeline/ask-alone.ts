/** Asks for texts one by one, several at once, so that the texts on which an endpoint hangs cost the others one wait and not one each. */
import type { Clock } from "../clock.ts";

/** @bound texts that are asked for alone at once, after a batch has brought no reply | the next ones wait */
const AT_ONCE_MAX = 16;
/** @bound the characters of texts that are asked for alone at once, so that long texts do not make each other late | the next ones wait */
const CHARS_AT_ONCE_MAX = 16_384;
/** So few texts do not keep an endpoint so busy that it only seems to hang. */
const FEW = 4;

export interface AskAloneOptions<T> {
  /** The characters of each text of the batch. */
  readonly chars: readonly number[];
  readonly ask: (indices: readonly number[], patienceMs: number) => Promise<readonly T[]>;
  /** Embeds a text that every embedder can take. Rejects if that fails. */
  readonly probe: () => Promise<unknown>;
  /** How long each text is waited for, at least. */
  readonly patienceMs: number;
  readonly clock: Clock;
}

export interface AskedAlone<T> {
  readonly taken: ReadonlyMap<number, T>;
  /** The texts that failed late, while the embedder took others that were sent after them. */
  readonly hung: readonly { readonly index: number; readonly error: unknown }[];
  /** The texts that failed at once, were not asked for, or failed while the embedder was slow in all. */
  readonly unknown: readonly number[];
  /** Whether a probe had to wait for a text that failed, so that nothing can be told of texts that are asked for together. */
  readonly inTurn: boolean;
}

/**
 * An endpoint that is slow loses nothing here. A text is found to hang only if
 * - a probe that is sent after half of the patience is answered: an endpoint that works in order of receipt does not do that;
 * - all texts that were taken were taken before that: an endpoint that works at many at once, and slowly, does not do that;
 * - others were taken at all, or the texts are few.
 */
export function askAlone<T>(indices: readonly number[], options: AskAloneOptions<T>): Promise<AskedAlone<T>> {
  return new Round(indices, options).run();
}

class Round<T> {
  readonly #o: AskAloneOptions<T>;
  readonly #indices: readonly number[];
  /** A reply or failure before this comes soon. */
  readonly #soonMs: number;
  readonly #waiting: number[];
  readonly #asked = new Set<Promise<void>>();
  #charsAtOnce = 0;
  readonly #taken = new Map<number, T>();
  readonly #failed = new Map<number, { error: unknown; overtaken: boolean }>();
  #quickFailures = 0;
  #lateReplies = 0;
  #inTurn = false;
  /** The newest probe. */
  #probed = { sentMs: Number.NEGATIVE_INFINITY, answered: Promise.resolve(false) };

  constructor(indices: readonly number[], options: AskAloneOptions<T>) {
    this.#o = options;
    this.#indices = indices;
    this.#soonMs = options.patienceMs / 2;
    this.#waiting = [...indices];
  }

  async run(): Promise<AskedAlone<T>> {
    do {
      this.#fill();
      await Promise.race(this.#asked);
    } while (this.#asked.size > 0);
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
    // If most fail at once, there is another reason than a text.
    if (this.#inTurn || this.#quickFailures > this.#taken.size) return;
    for (let [index] = this.#waiting; index !== undefined; [index] = this.#waiting) {
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

  /** Resolves to whether a probe is answered that is sent after this. */
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
