/**
 * Group commit: the calls of one turn of the event loop wait together, and the next `setImmediate` stores them as one
 * group, in order. Part of the journal. It does not know what a call stores.
 */

import { journalError } from "./file.ts";

/** What a call must have to wait in a group. */
export interface GroupCall {
  /** Names the call in the text of an error. */
  readonly kind: string;
  readonly rows: number;
  readonly bytes: number;
  /** If not undefined, nothing of this call was stored. */
  failure: unknown;
  /** Gives the caller the result or the failure. */
  settle(): void;
}

export interface GroupCommitOptions<Call extends GroupCall> {
  /** The journal's path, for the text of an error. */
  readonly path: string;
  /** Bounds of one group; a single call may hold more. */
  readonly rowsMax: number;
  readonly bytesMax: number;
  /** Stores a group in one transaction and sets the failure of each call that it refuses. If it throws, all calls fail. */
  readonly store: (group: readonly Call[]) => void;
  /** Called after `store` and before the calls are settled. */
  readonly stored: (group: readonly Call[]) => void;
}

export class GroupCommit<Call extends GroupCall> implements Disposable {
  readonly #o: GroupCommitOptions<Call>;
  readonly #queue: Call[] = [];
  // Calls `setImmediate` directly: the clock's `nextTurn` would cost a promise for each group, and would turn what a
  // listener throws into an unhandled rejection.
  #scheduled: ReturnType<typeof setImmediate> | null = null;
  #closed = false;

  constructor(options: GroupCommitOptions<Call>) {
    this.#o = options;
  }

  /** Queues a call for the next group. After disposal the call is refused. */
  add(call: Call): void {
    if (this.#closed) {
      call.failure = journalError(call.kind, this.#o.path, new Error("the journal is closed"));
      call.settle();
      return;
    }
    this.#queue.push(call);
    this.#scheduled ??= setImmediate(() => this.#commit());
  }

  /** Stores one group, as many calls as fit, in order, and then settles its calls. */
  #commit(): void {
    const group = this.#next();
    this.#scheduled = this.#queue.length > 0 ? setImmediate(() => this.#commit()) : null;
    try {
      this.#o.store(group);
    } catch (error) {
      for (const call of group) call.failure ??= journalError(call.kind, this.#o.path, error);
    }
    try {
      this.#o.stored(group);
    } finally {
      // What is committed is acknowledged, even if the listener throws.
      for (const call of group) call.settle();
    }
  }

  #next(): Call[] {
    const { rowsMax, bytesMax } = this.#o;
    let [count, rows, bytes] = [0, 0, 0];
    for (const call of this.#queue) {
      rows += call.rows;
      bytes += call.bytes;
      if (count > 0 && (rows > rowsMax || bytes > bytesMax)) break;
      count += 1;
    }
    return this.#queue.splice(0, count);
  }

  /** Commits what waits and refuses later calls. A second call does nothing. */
  [Symbol.dispose](): void {
    this.#closed = true;
    try {
      while (this.#queue.length > 0) {
        if (this.#scheduled !== null) clearImmediate(this.#scheduled);
        this.#commit();
      }
    } finally {
      if (this.#scheduled !== null) clearImmediate(this.#scheduled);
      this.#scheduled = null;
    }
  }
}
