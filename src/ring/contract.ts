/** What the ring's writer needs from its surroundings, and the frames and labels that it returns. */
import type { Clock } from "../clock.ts";
import type { Log } from "../log.ts";
import type { Mapping } from "../native/libc.ts";

export interface RingOptions {
  readonly path: string;
  /**
   * Frames, at least 1. null: RING_CAPACITY_DEFAULT or, if that does not fit, as many as fit into half of the free
   * space.
   */
  readonly capacity: number | null;
  /** Permission bits of the file, as 0o600. */
  readonly mode: number;
  readonly journalId: number;
  /** The journal's next frame_id: older frames are refilled, newer ones will be published. */
  readonly nextFrameId: number;
  /** The first frame after the newest gap in the ids; older ones are not shown. Without it, there is no gap. */
  readonly firstFrameId?: number;
  /** Whether a file at the path may be adopted: only if it was written since the machine booted. */
  readonly adopt: boolean;
  /** For the heartbeat, and for letting other work run in between. */
  readonly clock?: Clock;
  readonly log: Log;
}

/**
 * A contiguous run of raw frames for the refill: `count` × FRAME_BYTES, the first one `fromFrameId`, with any
 * `sequence`. Count 0 if that frame is no longer kept anywhere. It rejects if it cannot know yet (DuckDB
 * is not open); then openRing rejects, too, and leaves nothing behind.
 */
export type NewestFrames = (
  fromFrameId: number,
  limit: number,
) => Promise<{ bytes: Uint8Array; count: number }>;

/** What {@link Ring.publishBatch} takes of a frame; see {@link Ring.publish}. */
export interface RingFrame {
  readonly frameId: number;
  readonly physics: Uint8Array;
  readonly vector: Float32Array | null;
}

export interface RingLabels {
  readonly intents: Readonly<Record<string, string>>;
  readonly types: Readonly<Record<string, string>>;
  readonly models: Readonly<Record<string, { readonly name: string; readonly dim: number }>>;
}

/** A ring file that is mapped, at its path, and marked as written by this process. */
export interface MappedRing {
  readonly fd: number;
  readonly mapping: Mapping;
  /** Frames. */
  readonly capacity: number;
  readonly head: number;
  readonly tail: number;
  /** Frames that were copied into it when it was created. */
  readonly refilled: number;
  /** Whether the file existed before this process. */
  readonly adopted: boolean;
}
