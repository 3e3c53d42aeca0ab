/**
 * Numbers that the journal must skip: its files were lost or an older copy was put back, and the store, the ring or a
 * sender already know higher ones. Part of the journal.
 */

import type { Logs } from "./logs.ts";
import type { Pruning } from "./pruning.ts";
import type { JournalCursors } from "./rows.ts";
import type { Settings } from "./settings.ts";
import type { Transactions } from "./transactions.ts";
import type { Writer } from "./writer.ts";

const GAPS = "journal.gaps";

/** What is known of all numbers that were skipped so far. */
export interface Gaps {
  /** How many times numbers were skipped. */
  readonly count: number;
  /** Acknowledged events that are known to be lost. */
  readonly lostEvents: number;
  /** No frame from here on was skipped. */
  readonly firstFrameId: number;
}

export interface NumbersOptions {
  readonly transactions: Transactions;
  readonly settings: Settings;
  readonly logs: Logs;
  readonly writer: Writer;
  readonly pruning: Pruning;
}

export class Numbers {
  readonly #o: NumbersOptions;
  #gaps: Gaps;
  /** Why numbers were skipped since the journal was opened; null: none were. */
  notice: string | null = null;

  constructor(options: NumbersOptions) {
    this.#o = options;
    const text = options.settings.get(GAPS) ?? '{"count":0,"lostEvents":0,"firstFrameId":1}';
    this.#gaps = JSON.parse(text) as Gaps;
  }

  get gaps(): Gaps {
    return this.#gaps;
  }

  /** Lets the next numbers begin above `to`, durably. A log that is already there keeps its numbers. */
  raise(to: JournalCursors, { lostEvents, why }: { lostEvents: number; why: string }): void {
    const { transactions, settings, logs, writer, pruning } = this.#o;
    const frames = to.frameId > writer.heads.headFrameId;
    const gaps: Gaps = {
      count: this.#gaps.count + 1,
      lostEvents: this.#gaps.lostEvents + lostEvents,
      firstFrameId: frames ? to.frameId + 1 : this.#gaps.firstFrameId,
    };
    transactions.change("raise the numbers", () => {
      logs.raise(to);
      settings.put(GAPS, JSON.stringify(gaps));
      pruning.recount();
    });
    writer.reload();
    this.#gaps = gaps;
    this.notice = why;
  }

  /** Removes events without a frame. */
  forget(seqs: readonly number[]): void {
    const { transactions, logs, pruning } = this.#o;
    transactions.change("forget stored events", () => {
      logs.removeEvents(seqs);
      pruning.recount();
    });
  }
}
