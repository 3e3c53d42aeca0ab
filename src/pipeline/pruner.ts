/** Removes rows from the journal, in small steps, once a completed CHECKPOINT holds them and the ring has shown their frames. */
import type { Clock } from "../clock.ts";
import { messageOf } from "../errors.ts";
import type { Journal, JournalCursors } from "../journal/journal.ts";
import type { Log } from "../log.ts";

const STEP_EVENTS = 500;
const PAUSE_MS = 5;

export interface PrunerOptions {
  readonly journal: Pick<Journal, "prune" | "pruneUpdates" | "pruneKeys">;
  /** The newest frame_id that the ring shows; 0 without a ring. */
  readonly published: () => number;
  readonly clock: Clock;
  readonly log: Log;
}

export class Pruner {
  readonly #o: PrunerOptions;
  readonly counters = { pruned_events_total: 0 };
  #checkpointed: JournalCursors = { seq: 0, frameId: 0, answerId: 0 };
  #pruning = false;
  #stopped = false;

  constructor(options: PrunerOptions) {
    this.#o = options;
  }

  /** Prunes up to these cursors. A CHECKPOINT that this process completed must hold everything up to them. */
  async prune(checkpointed: JournalCursors): Promise<void> {
    this.#checkpointed = checkpointed;
    if (this.#pruning) return;
    this.#pruning = true;
    const { journal, published, log } = this.#o;
    try {
      await this.#inSteps(() => {
        const { seq, frameId, answerId } = this.#checkpointed;
        const to = { seq, answerId, frameId: Math.min(frameId, published()) };
        const removed = journal.prune(to, STEP_EVENTS);
        this.counters.pruned_events_total += removed;
        return removed;
      });
      await this.#inSteps(() => journal.pruneUpdates(this.#checkpointed.answerId, STEP_EVENTS));
      await this.#inSteps(() => journal.pruneKeys(STEP_EVENTS));
    } catch (error) {
      log("warn", `journal: prune: ${messageOf(error)}; trying again after the next checkpoint`);
    } finally {
      this.#pruning = false;
    }
  }

  /** Repeats a step, with pauses for other work, until it has removed nothing. */
  async #inSteps(step: () => number): Promise<void> {
    while (!this.#stopped && step() > 0) await this.#o.clock.sleep(PAUSE_MS);
  }

  stop(): void {
    this.#stopped = true;
  }
}
