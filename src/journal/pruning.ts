/**
 * Removes rows from the journal in small steps: frames with their events and updates, updates whose event was removed
 * before, and dedup keys past their window. Part of the journal.
 */

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
  readonly nowUs: () => number;
  /** Called after each step that removed events. */
  readonly onLeft: (leaving: readonly Leaving[]) => void;
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

  /** Removes the oldest frames with their events and updates, up to the first that is above one of the cursors. */
  events(to: JournalCursors, max = PRUNE_ROWS_MAX): number {
    const { transactions, logs } = this.#o;
    const leaving = transactions.reading(() => logs.leaving(to, limitOf(max)));
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
    transactions.change("prune updates", () => {
      logs.removeUpdates(ids);
      this.#put(pruned, this.#removed);
    });
    this.#pruned = pruned;
    return ids.length;
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
