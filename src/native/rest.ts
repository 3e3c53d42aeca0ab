/** Gives memory back to the system when work has come to rest. */
import type { Clock } from "../clock.ts";

const LOOK_MS = 10_000;

/**
 * JavaScriptCore collects garbage as more of it comes. After a burst nothing more comes, and tens of MB would stay until the
 * next one. A collection takes milliseconds then, because little is alive.
 */
export class Rest implements Disposable {
  readonly #timer: Disposable;

  /**
   * @param work a number that changes with all work of this thread.
   * @param collect collects this thread's garbage. It is called once after each burst.
   */
  constructor(clock: Clock, work: () => number, collect: () => void = () => Bun.gc(true)) {
    let before = work();
    let isBusy = false;
    this.#timer = clock.every(LOOK_MS, () => {
      const now = work();
      if (now === before && isBusy) collect();
      isBusy = now !== before;
      before = now;
    });
  }

  [Symbol.dispose](): void {
    this.#timer[Symbol.dispose]();
  }
}
