/**
 * Removes rows from the journal in small steps: frames with their events and updates, updates whose event was removed
 * before, and dedup keys past their window. Part of the journal.
 */

import { GatewayError } from "../errors.ts";
import { isDamage } from "../row-damage.ts";
import type { Damage } from "./damage.ts";
import { DEDUP_WINDOW_US, type Keys } from "./keys.ts";
import type { Leaving, Logs } from "./logs.ts";
import type { JournalCursors } from "./rows.ts";
import type { Settings } from "./settings.ts";
import type { Transactions } from "./transactions.ts";

/** Rows that are removed in one transaction, at most. */
const PRUNE_ROWS_MAX = 1000;
const PRUNED = "journal.pruned";

export interface PruningOptions {
  readonly transactions: Transactions;
  readonly settings: Settings;
  readonly logs: Logs;
  readonly keys: Keys;
  readonly damage: Damage;
  readonly nowUs: () => number;
  /** Called after each step that removed events. */
  readonly onLeft: (leaving: readonly Leaving[]) => void;
}

/** Whether a failure of the journal is that of a damaged page. */
function isOfDamage(error: unknown): error is GatewayError {
  return error instanceof GatewayError && isDamage(error.cause);
}

function limitOf(max: number): number {
  return Math.min(Math.max(1, max), PRUNE_ROWS_MAX);
}

export class Pruning {
  readonly #o: PruningOptions;
  #pruned: JournalCursors;
  /** Events that left the journal, pruned or dropped. Because seq has no gaps, all others are in it. */
  #removed: number;

  constructor(options: PruningOptions) {
    this.#o = options;
    const text = options.settings.get(PRUNED) ?? '{"seq":0,"frameId":0,"answerId":0,"events":0}';
    const { seq, frameId, answerId, events } = JSON.parse(text);
    this.#pruned = { seq, frameId, answerId };
    this.#removed = events;
  }

  get pruned(): JournalCursors {
    return this.#pruned;
  }

  /** How many events left the journal, pruned or dropped. */
  get removedEvents(): number {
    return this.#removed;
  }

  /** Counts again, inside the open transaction, after numbers were skipped or events were removed without their frame. */
  recount(): void {
    this.#removed = this.#o.logs.heads().headSeq - this.#o.logs.count();
    this.#put(this.#pruned, this.#removed);
  }

  /** Counts events that a temporary journal dropped at its bound. */
  dropped(events: number): void {
    this.#removed += events;
  }

  /**
   * Removes the oldest frames with their events and updates, up to the first that is above one of the cursors. A frame on a
   * damaged page cannot be removed: it stays in the file and counts as removed.
   */
  events(to: JournalCursors, max = PRUNE_ROWS_MAX): number {
    for (let limit = limitOf(max); ; limit = Math.floor(limit / 2)) {
      try {
        return this.#oldest(to, limit);
      } catch (error) {
        if (!isOfDamage(error)) throw error;
        if (limit === 1) return this.#passOver(to, error.message);
      }
    }
  }

  /** Passes over the next frame, which is on a damaged page. */
  #passOver(to: JournalCursors, why: string): number {
    const { transactions, damage } = this.#o;
    const frameId = this.#pruned.frameId + 1;
    if (frameId > to.frameId) return 0;
    damage.note("frames", frameId, `it cannot be removed: ${why}`);
    const pruned = { ...this.#pruned, frameId };
    transactions.change("prune", () => this.#put(pruned, this.#removed + 1));
    this.#pruned = pruned;
    this.#removed += 1;
    return 1;
  }

  #oldest(to: JournalCursors, limit: number): number {
    const { transactions, logs } = this.#o;
    const leaving = transactions.reading(() => logs.leaving(this.#pruned.frameId, to, limit));
    if (leaving.length === 0) return 0;
    const pruned = leaving.reduce(
      (sum, { frameId, seq, answerId }) => ({
        seq: Math.max(sum.seq, seq),
        frameId: Math.max(sum.frameId, frameId),
        answerId: Math.max(sum.answerId, answerId),
      }),
      this.#pruned,
    );
    const removed = this.#removed + leaving.length;
    transactions.change("prune", () => {
      logs.remove(leaving);
      this.#put(pruned, removed);
    });
    this.#o.onLeft(leaving);
    this.#removed = removed;
    this.#pruned = pruned;
    return leaving.length;
  }

  /** Removes updates up to `answerId` whose event and frame were removed before. */
  updates(answerId: number, max = PRUNE_ROWS_MAX): number {
    const { transactions, logs } = this.#o;
    const ids = transactions.reading(() => logs.lonelyUpdates(this.#pruned.seq, answerId, limitOf(max)));
    const newest = ids.at(-1);
    if (newest === undefined) return 0;
    const pruned = { ...this.#pruned, answerId: Math.max(this.#pruned.answerId, newest) };
    const remove = (some: readonly number[]): number => {
      transactions.change("prune updates", () => {
        logs.removeUpdates(some);
        this.#put(pruned, this.#removed);
      });
      return some.length;
    };
    let removed = 0;
    try {
      removed = remove(ids);
    } catch (error) {
      if (!isOfDamage(error)) throw error;
      // One by one, so that only those on a damaged page stay.
      for (const id of ids) removed += this.#removable(id, () => remove([id]));
    }
    if (removed > 0) this.#pruned = pruned;
    return removed;
  }

  /** What `remove` returns; 0 if update `id` is on a damaged page. */
  #removable(id: number, remove: () => number): number {
    try {
      return remove();
    } catch (error) {
      if (!isOfDamage(error)) throw error;
      this.#o.damage.note("answers", id, `it cannot be removed: ${error.message}`);
      return 0;
    }
  }

  /** Removes dedup keys past their window, once all keys of their generation are. */
  keys(max = PRUNE_ROWS_MAX): number {
    const { transactions, keys, nowUs } = this.#o;
    const olderThanUs = nowUs() - DEDUP_WINDOW_US;
    if (!keys.hasOlder(olderThanUs)) return 0;
    const { removed, done } = transactions.change("forget keys", () => keys.prune(olderThanUs, max));
    done();
    return removed;
  }

  #put(pruned: JournalCursors, events: number): void {
    this.#o.settings.put(PRUNED, JSON.stringify({ ...pruned, events }));
  }
}
