/** Limits how many calls run at once, and how many wait for their turn. */

/**
 * Calls that run at once. Local servers handle 1 to 4 at a time.
 * @bound calls of the model at once (`--llm-budget` bounds them per day) | they queue
 */
const CALLS_AT_ONCE = 2;
/**
 * Callers that wait for their turn; further ones are refused.
 * @bound calls of the model that queue | refused, and asked later
 */
const QUEUE_MAX = 64;

/** CALLS_AT_ONCE callers have a place; the next QUEUE_MAX wait in order of arrival; further ones are refused. */
export class Places {
  #taken = 0;
  readonly #queue: (() => void)[] = [];

  get waiting(): number {
    return this.#queue.length;
  }

  /** Resolves to true once the caller has a place, which it must `leave`. False: the queue is full, or the signal aborted. */
  async enter(signal: AbortSignal): Promise<boolean> {
    if (this.#taken < CALLS_AT_ONCE) {
      this.#taken++;
      return true;
    }
    if (this.#queue.length >= QUEUE_MAX) return false;
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const enter = (): void => resolve(true);
    const leave = (): void => {
      const at = this.#queue.indexOf(enter);
      if (at < 0) return;
      this.#queue.splice(at, 1);
      resolve(false);
    };
    this.#queue.push(enter);
    signal.addEventListener("abort", leave, { once: true });
    const entered = await promise;
    signal.removeEventListener("abort", leave);
    return entered;
  }

  leave(): void {
    const next = this.#queue.shift();
    if (next === undefined) this.#taken--;
    else next();
  }
}
