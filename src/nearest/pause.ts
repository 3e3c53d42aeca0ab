/** Pauses for a computation of seconds, so that its thread can do other work every few ms. Part of nearest. */
import type { Clock } from "../clock.ts";

const SLICE_MS = 5;

/** Must be called between short steps. @returns null: the slice is not used up, so go on at once. */
export type Pause = () => Promise<void> | null;

/** Newer examples have arrived, so learning from these has ended. */
export class Outdated extends Error {}

/**
 * A pause that lets other work run after every SLICE_MS.
 * @param isWanted called after each slice; if it returns false, the pause rejects with Outdated.
 */
export function slices(isWanted: () => boolean, clock: Clock): Pause {
  let endMs = clock.monotonicMs() + SLICE_MS;
  return () => {
    if (clock.monotonicMs() < endMs) return null;
    return new Promise((resume, stop) =>
      clock.after(0, () => {
        endMs = clock.monotonicMs() + SLICE_MS;
        if (isWanted()) resume();
        else stop(new Outdated("nearest: newer examples have arrived"));
      }),
    );
  };
}
