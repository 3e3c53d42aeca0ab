/** Learning from examples takes seconds, in slices of a few ms between which its thread does other work. Part of nearest. */
import type { Clock } from "../clock.ts";

const SLICE_MS = 5;

/** Called between steps of a few ms, so that texts to embed need not wait. */
export type Pause = () => Promise<void> | null;

/** Other examples have come: these are not learned any further. */
export class Outdated extends Error {}

/**
 * Gives the thread back whenever a slice of time is used up.
 * @param isWanted asked after each slice: the pause rejects with Outdated where it is not wanted any more.
 */
export function slices(isWanted: () => boolean, clock: Clock): Pause {
  let endMs = clock.monotonicMs() + SLICE_MS;
  return () => {
    if (clock.monotonicMs() < endMs) return null;
    return new Promise((resume, stop) =>
      clock.after(0, () => {
        endMs = clock.monotonicMs() + SLICE_MS;
        if (isWanted()) resume();
        else stop(new Outdated("embed: other examples have come"));
      }),
    );
  };
}
