/** What moves through the pipeline: events with their vectors, drafts of frames, and decided frames. */
import type { Known } from "../brain/brain.ts";
import type { Embedder } from "../embed/embedder.ts";
import type { DecidedFrame, JournalEvent } from "../journal/journal.ts";
import type { Nearest } from "../nearest/nearest.ts";

/** The vectors of a batch of events. */
export interface Embedded {
  readonly embedder: Embedder;
  readonly dim: number;
  /** events × dim floats; zeros for an event without a vector. */
  readonly rows: Float32Array;
  /** For each event, whether it has a vector. */
  readonly present: readonly boolean[];
  /** For each event, the label of the nearest examples; null if it was not asked for (no message, or an intent is given) or there are no examples. */
  readonly nearest: readonly (Nearest | null)[];
}

/** The vector of one event. */
export interface EventVector {
  readonly embedder: Embedder;
  /** `dim` floats. */
  readonly row: Float32Array;
}

/** A frame whose row has committed: its id and its content are decided for ever. */
export interface Entry {
  readonly frameId: number;
  readonly physics: Uint8Array;
  /** The leading floats of `semantic`; null: no vector. */
  readonly vector: Float32Array | null;
  readonly eventType: string | null;
  readonly intent: string | null;
  /** Whether this only holds the place of a frame whose row was damaged. */
  readonly damaged?: true;
}

/** An event on its way to its frame. */
export interface Item {
  readonly event: JournalEvent;
  readonly vector: EventVector | null;
  readonly known: Known;
}

/** A frame before its row is committed. */
export interface Draft {
  readonly event: JournalEvent;
  readonly decided: DecidedFrame;
  readonly vector: Float32Array | null;
}
