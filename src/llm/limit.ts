/** The deadline of a call as an AbortSignal. */
import type { Clock } from "../clock.ts";
import type { Limit } from "./endpoint-contract.ts";

/**
 * Lets go of everything when it is disposed of. AbortSignal.any and AbortSignal.timeout would hold on to every call
 * until its deadline, which means thousands of calls if replies come quickly.
 */
export class Deadline implements Limit {
  readonly ms: number;
  readonly signal: AbortSignal;
  readonly #others: readonly AbortSignal[];
  readonly #timer: Disposable;
  readonly #abort: () => void;

  constructor(clock: Clock, ms: number, others: readonly AbortSignal[]) {
    const controller = new AbortController();
    this.ms = ms;
    this.signal = controller.signal;
    this.#others = others;
    this.#abort = () => controller.abort(others.find(({ aborted }) => aborted)?.reason);
    this.#timer = clock.after(ms, () => {
      controller.abort(new DOMException("the deadline has passed", "TimeoutError"));
    });
    for (const other of others) other.addEventListener("abort", this.#abort, { once: true });
    if (others.some(({ aborted }) => aborted)) this.#abort();
  }

  [Symbol.dispose](): void {
    this.#timer[Symbol.dispose]();
    for (const other of this.#others) other.removeEventListener("abort", this.#abort);
  }
}

/** Whether the deadline, not another signal, aborted the limit. */
export function isPast({ signal }: Limit): boolean {
  return signal.aborted && (signal.reason as { name?: unknown } | undefined)?.name === "TimeoutError";
}

/** Resolves when the signal is aborted. */
export function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((done) => signal.addEventListener("abort", () => done(), { once: true }));
}
