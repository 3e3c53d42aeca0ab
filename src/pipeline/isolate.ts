/** Finds the texts of a batch that an embedder cannot take, so that all others get their vectors. */
import type { Clock } from "../clock.ts";
import { askAlone } from "./ask-alone.ts";

/** @bound the last request for a text of a batch that failed, if the embedder takes other texts | the text gets no vector */
const LAST_PATIENCE_MS = 5000;
/** How long a probe may take, at least: the model may have to be loaded. */
export const PROBE_PATIENCE_MS = 30_000;
/** A failing group is asked again in so many parts. For one bad text, that takes as many requests as halving, in half the steps. */
const PARTS = 4;
/** A failure that took this long is not repeated with the same group. */
const SLOW_MS = 1000;
/** After this long, a single text is refused at its first slow failure: the frames of the others wait for it. */
const HURRY_AFTER_MS = 15_000;
/** @bound the search for texts of a batch that the embedder takes, while it takes none but a probe | the batch gets no vectors */
const FRUITLESS_MS = 60_000;

export interface IsolateOptions<T> {
  /**
   * Returns one result for each of these indices. Rejects if the embedder fails, in whatever way.
   * @param patienceMs they may take at least this long: a failure may condemn the one text that is asked for.
   */
  readonly ask: (indices: readonly number[], patienceMs: number) => Promise<readonly T[]>;
  /**
   * Called after each failure. True: the embedder works by now, so the failure is to be blamed on the texts. False: it does
   * not, and nobody waits for it any longer.
   */
  readonly works: (error: unknown) => Promise<boolean>;
  /** Embeds a text that every embedder can take. Rejects if that fails. */
  readonly probe: () => Promise<unknown>;
  readonly clock: Clock;
}

export interface Isolated<T> {
  /** One for each text; null: it was refused, or the embedder was given up before its turn. */
  readonly results: (T | null)[];
  /** The texts that failed repeatedly while the embedder worked, and how. */
  readonly refused: readonly { readonly index: number; readonly error: unknown }[];
  /** Whether the embedder was given up. */
  readonly givenUp: boolean;
  /** The size of the largest group that was taken, if the whole was not; null if the whole was taken. */
  readonly largestTaken: number | null;
}

interface Group {
  readonly indices: readonly number[];
  readonly failures: number;
}

/**
 * Asks for all texts at once. A group that fails twice is split, and a single text that fails twice is refused, each time
 * only if the embedder was seen to work in between. While it does not work, nothing is split.
 *
 * A group that fails slowly may hold texts on which the endpoint hangs. Its texts are asked for alone, several at once,
 * and only what this leaves open is split.
 * @param chars the length of each text.
 */
export async function isolate<T>(chars: readonly number[], options: IsolateOptions<T>): Promise<Isolated<T>> {
  const search = new Search(chars, options);
  const givenUp = await search.run();
  const { results, refused, largest } = search;
  return { results, refused, givenUp, largestTaken: largest === chars.length ? null : largest };
}

class Search<T> {
  readonly #o: IsolateOptions<T>;
  readonly #chars: readonly number[];
  readonly results: (T | null)[];
  readonly refused: { index: number; error: unknown }[] = [];
  largest = 0;
  #groups: Group[];
  /** The largest group whose texts are asked for alone. */
  #aloneMax = Number.POSITIVE_INFINITY;
  readonly #begunMs: number;
  /** How long it was asked in vain since it took a text, without the first time and the time in which it did not work. */
  #fruitlessMs = 0;

  constructor(chars: readonly number[], options: IsolateOptions<T>) {
    this.#o = options;
    this.#chars = chars;
    this.results = chars.map(() => null);
    this.#groups = [{ indices: chars.map((_, index) => index), failures: 0 }];
    this.#begunMs = options.clock.monotonicMs();
  }

  /** @returns whether the embedder was given up. */
  async run(): Promise<boolean> {
    const { ask, works, clock } = this.#o;
    for (let group = this.#groups.shift(); group !== undefined; group = this.#groups.shift()) {
      const { indices, failures } = group;
      const startedMs = clock.monotonicMs();
      try {
        const taken = await ask(indices, indices.length === 1 && failures > 0 ? LAST_PATIENCE_MS : 0);
        this.#take(indices.map((index, at) => [index, taken[at] as T]));
        this.largest = Math.max(this.largest, indices.length);
      } catch (error) {
        const failedMs = clock.monotonicMs();
        if (!(await works(error))) return true;
        await this.#failed(group, error, { failedMs, tookMs: failedMs - startedMs });
      }
    }
    return false;
  }

  #take(taken: readonly (readonly [number, T])[]): void {
    for (const [index, result] of taken) this.results[index] = result;
    if (taken.length > 0) this.#fruitlessMs = 0;
  }

  /** Decides what to ask next, after the group has failed and the embedder has taken a probe. */
  async #failed(
    group: Group,
    error: unknown,
    { failedMs, tookMs }: { failedMs: number; tookMs: number },
  ): Promise<void> {
    const { indices } = group;
    if (indices.length < this.#chars.length) this.#fruitlessMs += tookMs;
    if (this.#fruitlessMs >= FRUITLESS_MS) {
      const left = [group, ...this.#groups.splice(0)].flatMap((one) => one.indices);
      this.refused.push(...left.map((index) => ({ index, error })));
      return;
    }
    const slow = tookMs >= SLOW_MS;
    if (slow && indices.length > 1 && indices.length <= this.#aloneMax) {
      // Together they had as long as the endpoint usually takes for them, and more. Half of it is ample for one.
      await this.#askAlone(indices, Math.max(LAST_PATIENCE_MS, tookMs / 2));
      return;
    }
    const hurried = slow && failedMs - this.#begunMs >= HURRY_AFTER_MS;
    const next = hurried && indices.length === 1 ? [] : nextGroups(group, slow);
    if (next.length === 0) this.refused.push({ index: indices[0] as number, error });
    this.#groups.unshift(...next);
  }

  async #askAlone(indices: readonly number[], patienceMs: number): Promise<void> {
    const { ask, probe, clock } = this.#o;
    const startedMs = clock.monotonicMs();
    const alone = await askAlone(indices, { chars: this.#chars, ask, probe, patienceMs, clock });
    this.#fruitlessMs += clock.monotonicMs() - startedMs;
    this.#take([...alone.taken]);
    this.refused.push(...alone.hung);
    // How many it takes at once is not known. A fourth is tried next.
    if (alone.taken.size > 0) this.largest = Math.max(this.largest, Math.ceil(indices.length / PARTS));
    if (alone.inTurn) this.#aloneMax = 1;
    else this.#aloneMax = alone.hung.length > 0 ? Number.POSITIVE_INFINITY : PARTS;
    this.#groups.unshift(...partsOf(alone.unknown));
  }
}

/** What to ask after a group has failed; nothing: its one text is refused. */
function nextGroups({ indices, failures }: Group, slow: boolean): Group[] {
  const again = failures > 0 || (slow && indices.length > 1);
  if (!again) return [{ indices, failures: failures + 1 }];
  return indices.length === 1 ? [] : partsOf(indices);
}

/** Smaller groups of texts that have failed together. */
function partsOf(indices: readonly number[]): Group[] {
  const size = Math.ceil(indices.length / PARTS);
  const parts: Group[] = [];
  for (let from = 0; from < indices.length; from += size) {
    const part = indices.slice(from, from + size);
    // A single text is not condemned for the company that it was in.
    parts.push({ indices: part, failures: part.length > 1 ? 1 : 0 });
  }
  return parts;
}
