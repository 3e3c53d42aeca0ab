/** Finds the texts of a batch that an embedder cannot take, so that all others get their vectors. */
import type { Clock } from "../clock.ts";

/** How long the last request for a text may take, at least. */
export const LAST_PATIENCE_MS = 6000;
/** How long a probe may take, at least: the model may have to be loaded. */
export const PROBE_PATIENCE_MS = 30_000;
/** A failing group is asked again in so many parts. For one bad text, that takes as many requests as halving, in half the steps. */
const PARTS = 4;
/** A failure that took this long is not repeated with the same group. */
const SLOW_MS = 1000;
/** After this long, a single text is refused at its first slow failure: the frames of the others wait for it. */
const HURRY_AFTER_MS = 15_000;

export interface IsolateOptions<T> {
  /**
   * Returns one result for each of these indices. Rejects if the embedder fails, in whatever way.
   * @param isLast whether a failure condemns the one text that is asked for: it may take longer.
   */
  readonly ask: (indices: readonly number[], isLast: boolean) => Promise<readonly T[]>;
  /**
   * Called after each failure. True: the embedder works by now, so the failure is to be blamed on the texts. False: it does
   * not, and nobody waits for it any longer.
   */
  readonly works: (error: unknown) => Promise<boolean>;
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
 */
export async function isolate<T>(
  count: number,
  { ask, works, clock }: IsolateOptions<T>,
): Promise<Isolated<T>> {
  const results = new Array<T | null>(count).fill(null);
  const refused: { index: number; error: unknown }[] = [];
  const begunMs = clock.monotonicMs();
  let largest = 0;
  const groups: Group[] = [{ indices: Array.from({ length: count }, (_, index) => index), failures: 0 }];
  const ended = (givenUp: boolean): Isolated<T> => {
    return { results, refused, givenUp, largestTaken: largest === count ? null : largest };
  };
  for (let group = groups.shift(); group !== undefined; group = groups.shift()) {
    const { indices, failures } = group;
    const startedMs = clock.monotonicMs();
    try {
      const taken = await ask(indices, indices.length === 1 && failures > 0);
      for (const [at, index] of indices.entries()) results[index] = taken[at] as T;
      largest = Math.max(largest, indices.length);
    } catch (error) {
      const failedMs = clock.monotonicMs();
      const slow = failedMs - startedMs >= SLOW_MS;
      if (!(await works(error))) return ended(true);
      const hurried = slow && failedMs - begunMs >= HURRY_AFTER_MS;
      const next = hurried && indices.length === 1 ? [] : nextGroups(group, slow);
      if (next.length === 0) refused.push({ index: indices[0] as number, error });
      groups.unshift(...next);
    }
  }
  return ended(false);
}

/** What to ask after a group has failed; nothing: its one text is refused. */
function nextGroups({ indices, failures }: Group, slow: boolean): Group[] {
  const again = failures > 0 || (slow && indices.length > 1);
  if (!again) return [{ indices, failures: failures + 1 }];
  if (indices.length === 1) return [];
  const size = Math.ceil(indices.length / PARTS);
  const parts: Group[] = [];
  for (let from = 0; from < indices.length; from += size) {
    const part = indices.slice(from, from + size);
    // Its texts have failed together already. A single text is not condemned for the company that it was in.
    parts.push({ indices: part, failures: part.length > 1 ? 1 : 0 });
  }
  return parts;
}
