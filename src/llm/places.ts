/** Who talks to the model now, and who waits. */

/** Calls at once; local servers have 1 to 4 places, and a thread has better things to do than to fill them. */
const CALLS_AT_ONCE = 2;
/** Askers that wait for their turn; those beyond are refused. */
const QUEUE_MAX = 64;

/** CALLS_AT_ONCE have a place; others wait in order, or are refused. */
export class Places {
  #taken = 0;
  readonly #queue: (() => void)[] = [];

  get waiting(): number {
    return this.#queue.length;
  }

  /** False where too many wait, or the signal came first. */
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
