/** What moves through the pipeline: events with their vectors, drafts of frames, and decided frames. */
import type { Known } from "../brain/brain.ts";
import type { Embedder } from "../embed/embedder.ts";
import type { DecidedFrame, JournalEvent } from "../journal/journal.ts";
import type { Nearest } from "../nearest/nearest.ts";

/** The vectors of a batch of events. */
export interface Embedded {
  readonly embedder: Embedder;
  readonly dim: number;
  /** events × dim floats; zeros where an event has no vector. */
  readonly rows: Float32Array;
  /** Whether the event has a vector. */
  readonly present: readonly boolean[];
  /** The nearest labelled examples; null where it was not asked (no message, or an intent given), or there are none. */
  readonly nearest: readonly (Nearest | null)[];
}

/** The vector of one event. */
export interface EventVector {
  readonly embedder: Embedder;
  /** `dim` floats. */
  readonly row: Float32Array;
}

/** A frame whose row is committed: id and content are decided for ever. */
export interface Entry {
  readonly frameId: number;
  readonly physics: Uint8Array;
  /** Leading floats of `semantic`; null where there is none. */
  readonly vector: Float32Array | null;
  readonly eventType: string | null;
  readonly intent: string | null;
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
