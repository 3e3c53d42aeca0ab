/**
 * What the journal holds and the database does not: events and updates up to the heads that the main thread has told, and the runs of
 * frames that it has offered. It keeps only numbers and vectors; the rows stay in the journal. Part of the store's Worker.
 */

import type { StoreCursors } from "./protocol.ts";

/** Consecutive frames that the main thread has offered. */
export interface Run {
  readonly firstFrameId: number;
  readonly count: number;
  /** count × SEMANTIC_DIM_MAX floats; null: the journal's rows have the vectors. */
  readonly vectors: Float32Array | null;
  /** Whether the journal has no row of these frames, because it skipped their numbers. */
  readonly absent?: boolean;
}

/** The rest of a run from `frameId` on, without copying its vectors. */
function skipUntil(run: Run, frameId: number): Run {
  const skipped = frameId - run.firstFrameId;
  if (skipped <= 0) return run;
  return {
    ...run,
    firstFrameId: frameId,
    count: run.count - skipped,
    vectors: run.vectors?.subarray((skipped * run.vectors.length) / run.count) ?? null,
  };
}

export class Backlog {
  /** Whether frame ids may be missing: an ephemeral journal drops frames that nobody has read. */
  readonly #gapsAllowed: boolean;
  #headSeq = 0;
  #headAnswerId = 0;
  #runs: Run[] = [];
  /** The main thread has been asked to begin again, and no run that fits has come since. */
  #askedAgain = false;

  constructor(o: { gapsAllowed: boolean }) {
    this.#gapsAllowed = o.gapsAllowed;
  }

  /** The journal has committed events up to this seq, as far as is known. */
  get headSeq(): number {
    return this.#headSeq;
  }

  /** The journal has committed updates up to this answer_id, as far as is known. */
  get headAnswerId(): number {
    return this.#headAnswerId;
  }

  /** Offered and not yet stored, in order of frame_id. */
  get runs(): readonly Run[] {
    return this.#runs;
  }

  raiseSeq(seq: number): void {
    this.#headSeq = Math.max(this.#headSeq, seq);
  }

  raiseAnswerId(answerId: number): void {
    this.#headAnswerId = Math.max(this.#headAnswerId, answerId);
  }

  /** The last frame_id of the offered runs; if there is no run, that of the cursors. */
  lastFrameId(cursors: StoreCursors): number {
    const last = this.#runs.at(-1);
    return last === undefined ? cursors.frameId : last.firstFrameId + last.count - 1;
  }

  /**
   * Takes the part of a run that is new.
   * @returns `missing`: frames before the run are missing, so ask the main thread to begin again; `ignored`: the run holds nothing new,
   *   or the main thread has been asked already.
   */
  offer(run: Run, cursors: StoreCursors): "taken" | "ignored" | "missing" {
    const expected = this.lastFrameId(cursors) + 1;
    if (run.firstFrameId + run.count <= expected) return "ignored";
    if (run.firstFrameId > expected && !this.#gapsAllowed) return this.#askedAgain ? "ignored" : "missing";
    this.#askedAgain = false;
    this.#runs.push(skipUntil(run, expected));
    return "taken";
  }

  /** Drops every run. Call when asking the main thread to offer them again. */
  beginAgain(): void {
    this.#runs = [];
    this.#askedAgain = true;
  }

  /** How many rows are due: events, updates and offered frames above the cursors. */
  rows(cursors: StoreCursors): number {
    const events = Math.max(0, this.#headSeq - cursors.seq);
    const updates = Math.max(0, this.#headAnswerId - cursors.answerId);
    return events + updates + (this.lastFrameId(cursors) - cursors.frameId);
  }

  /** Drops the runs that the committed cursors cover. */
  stored(cursors: StoreCursors): void {
    let covered = 0;
    for (const { firstFrameId, count } of this.#runs) {
      if (firstFrameId + count - 1 > cursors.frameId) break;
      covered++;
    }
    this.#runs.splice(0, covered);
  }
}
