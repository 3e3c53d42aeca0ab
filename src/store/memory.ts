/**
 * What to do if DuckDB runs out of memory: first smaller transactions, then a higher limit, which is said loudly. Part of the store's
 * Worker.
 */

import { messageOf } from "../errors.ts";
import { boundsOf, type StoreBounds } from "./bounds.ts";
import type { StoreMemory } from "./protocol.ts";

/** @bound the memory limit to which DuckDB is raised if it runs out of memory (or twice `--memory-limit`) | it stays at it, and fails */
const RAISED_BYTES_MAX = 600_000_000;
/** The raised part takes at most this share of the machine's available memory. */
const AVAILABLE_SHARE = 1 / 2;
/** Transactions are halved so often. */
const HALVINGS_MAX = 3;

/** Whether DuckDB failed for lack of memory below its limit. */
export function isOutOfMemory(thrown: unknown): boolean {
  return /failed to (?:pin|allocate|reserve)|could not allocate|out of memory|OutOfMemory/i.test(
    messageOf(thrown),
  );
}

/** Does `work` on all items together or, if memory does not suffice, on ever smaller parts of them, in order. */
export async function inParts<Item, Result>(
  items: readonly Item[],
  work: (part: readonly Item[]) => Promise<readonly Result[]>,
): Promise<readonly Result[]> {
  try {
    return await work(items);
  } catch (thrown) {
    if (items.length < 2 || !isOutOfMemory(thrown)) throw thrown;
    const middle = items.length >> 1;
    const first = await inParts(items.slice(0, middle), work);
    return [...first, ...(await inParts(items.slice(middle), work))];
  }
}

function megabytes(bytes: number): string {
  return `${Math.round(bytes / 1e6)}MB`;
}

export class Memory {
  readonly #configuredBytes: number;
  readonly #ephemeralBytes: number | null;
  readonly #availableBytes: () => number;
  #limitBytes: number;
  #halvings = 0;
  #inTransaction = false;
  /** Failures since the last success. */
  #failures = 0;

  /** @param o `ephemeralBytes`: see {@link boundsOf}; `availableBytes`: the memory that this process could still take. */
  constructor(o: {
    readonly configuredBytes: number;
    readonly ephemeralBytes: number | null;
    readonly availableBytes: () => number;
  }) {
    this.#configuredBytes = o.configuredBytes;
    this.#limitBytes = o.configuredBytes;
    this.#ephemeralBytes = o.ephemeralBytes;
    this.#availableBytes = o.availableBytes;
  }

  get limitBytes(): number {
    return this.#limitBytes;
  }

  /** The bounds in force. They follow the configured limit, so that what is written under a raised limit fits the configured one. */
  get bounds(): StoreBounds {
    return boundsOf(this.#configuredBytes / 2 ** this.#halvings, this.#ephemeralBytes);
  }

  get state(): StoreMemory {
    const raised = this.#limitBytes > this.#configuredBytes;
    return {
      limitBytes: this.#limitBytes,
      raisedBecause: raised
        ? `DuckDB ran out of memory with ${megabytes(this.#configuredBytes)} and now has ${megabytes(this.#limitBytes)}; ` +
          `pass --memory-limit ${megabytes(this.#limitBytes)} or more to keep it`
        : null,
    };
  }

  /**
   * Call when DuckDB has run out of memory, before it is opened again.
   * @returns what was changed, for the user; null: nothing can be.
   */
  failed(): string | null {
    const inTransaction = this.#inTransaction;
    this.#inTransaction = false;
    this.#failures++;
    if (inTransaction && this.#failures === 1 && this.#halvings < HALVINGS_MAX) {
      this.#halvings++;
      return `DuckDB ran out of memory with ${megabytes(this.#limitBytes)}; its transactions are halved, and a checkpoint comes first`;
    }
    const affordable = this.#limitBytes + this.#availableBytes() * AVAILABLE_SHARE;
    const most = Math.min(Math.max(RAISED_BYTES_MAX, 2 * this.#configuredBytes), affordable);
    const raised = Math.floor(Math.min(2 * this.#limitBytes, most));
    if (raised <= this.#limitBytes) return null;
    this.#limitBytes = raised;
    return this.state.raisedBecause;
  }

  /** Call before a transaction. */
  begin(): void {
    this.#inTransaction = true;
  }

  /** Call when DuckDB has committed or checkpointed. */
  succeeded(): void {
    this.#inTransaction = false;
    this.#failures = 0;
  }
}
