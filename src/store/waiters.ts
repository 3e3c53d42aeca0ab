/** Calls that wait until the database holds what they need. Part of the store's Worker. */

import type { GatewayError } from "../errors.ts";
import type { StoreCursors } from "./protocol.ts";

/** Whether cursors reach a target in all three ids. */
function reach(cursors: StoreCursors, target: StoreCursors): boolean {
  return (
    cursors.seq >= target.seq && cursors.frameId >= target.frameId && cursors.answerId >= target.answerId
  );
}

interface Waiter {
  readonly target: StoreCursors;
  readonly resolve: () => void;
  readonly reject: (error: GatewayError) => void;
}

export class Waiters {
  #waiting: Waiter[] = [];

  get count(): number {
    return this.#waiting.length;
  }

  /** Resolves when committed cursors reach `target`: at once, or at a later {@link wake}. Rejects at a failure. */
  reached(target: StoreCursors, cursors: StoreCursors): Promise<void> {
    if (reach(cursors, target)) return Promise.resolve();
    return new Promise((resolve, reject) => this.#waiting.push({ target, resolve, reject }));
  }

  /** Resolves all calls whose target these cursors reach. */
  wake(cursors: StoreCursors): void {
    this.#waiting = this.#waiting.filter(({ target, resolve }) => {
      if (!reach(cursors, target)) return true;
      resolve();
      return false;
    });
  }

  /** Rejects all calls that wait. */
  fail(error: GatewayError): void {
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }
}
