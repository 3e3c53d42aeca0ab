/**
 * Group commit: calls of one turn of the event loop wait together and are stored as one group, in order, at the next
 * `setImmediate`. Part of the journal; it knows nothing of what a call stores.
 */

import { journalError } from "./file.ts";

/** What a call must have to wait in a group. */
export interface GroupCall {
  /** For the text of its error. */
  readonly kind: string;
  readonly rows: number;
  readonly bytes: number;
  /** Not undefined: nothing of this call was stored. */
  failure: unknown;
  /** Tells its caller what became of it. */
  settle(): void;
}

export interface GroupCommitOptions<Call extends GroupCall> {
  /** The journal's, for errors. */
  readonly path: string;
  /** Of one group; a single call may hold more. */
  readonly rowsMax: number;
  readonly bytesMax: number;
  /** Stores a group in one transaction and marks the calls that it refuses; what it throws fails all of them. */
  readonly store: (group: readonly Call[]) => void;
  /** Called after `store`, before the calls are settled. */
  readonly stored: (group: readonly Call[]) => void;
}

export class GroupCommit<Call extends GroupCall> implements Disposable {
  readonly #o: GroupCommitOptions<Call>;
  readonly #queue: Call[] = [];
  // Not through the clock: its `nextTurn` costs a promise for each group, and what a listener throws must stay an
  // exception and not become a rejection that nobody handles.
  #scheduled: ReturnType<typeof setImmediate> | null = null;
  #closed = false;

  constructor(options: GroupCommitOptions<Call>) {
    this.#o = options;
  }

  /** Lets a call wait for its group; after the end it is refused. */
  add(call: Call): void {
    if (this.#closed) {
      call.failure = journalError(call.kind, this.#o.path, new Error("the journal is closed"));
      call.settle();
      return;
    }
    this.#queue.push(call);
    this.#scheduled ??= setImmediate(() => this.#commit());
  }

  /** One group: as many calls as fit, in order, in one transaction; then everybody is told. */
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
      // What is committed is acknowledged, whatever the listener makes of it.
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

  /** Commits what waits; later calls are refused. A second time it does nothing. */
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
