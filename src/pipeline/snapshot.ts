/** What the pipeline tells other rooms: its state, what is known of an event, and runs of frames. */
import type { ErrorCode } from "../errors.ts";
import type { JournalEvent } from "../journal/journal.ts";
import type { Drift } from "../schemas/schemas.ts";
import type { Draft } from "./work.ts";

export interface PartState {
  readonly state: "ok" | "starting" | "degraded" | "down" | "off";
  /** What is wrong, since when, and what to do; empty if nothing is wrong. */
  readonly detail: string;
}

export type PartName = "journal" | "store" | "ring" | "embedder" | "llm";

/** What the gateway knows about itself at one instant. Counters only grow; gauges go both ways. */
export interface Snapshot {
  readonly version: string;
  readonly startedUs: number;
  readonly nowUs: number;
  readonly embedderName: string | null;
  readonly parts: Readonly<Record<PartName, PartState>>;
  readonly counters: Readonly<Record<string, number>>;
  readonly gauges: Readonly<Record<string, number>>;
  /** The newest changes in what the traffic looks like, the newest last. */
  readonly drift: readonly Drift[];
}

/** Hears what happens, to show it. Its methods must return at once: they are on the path of every event. */
export interface Watch {
  committed(events: readonly JournalEvent[]): void;
  decided(firstFrameId: number, drafts: readonly Draft[]): void;
  /** An update of event `seq` has committed. */
  updated(
    seq: number,
    update: {
      readonly type: string | null;
      readonly intent: string | null;
      readonly sentiment: number | null;
    },
  ): void;
}

/** What is known of one event; unknown values are null. */
export interface Enrichment {
  readonly frame_id: number;
  readonly event_type: string;
  readonly intent: string | null;
  readonly sentiment: number | null;
  readonly confidence: number | null;
  readonly provenance: unknown;
}

export interface Refusal {
  readonly code: Extract<ErrorCode, "overloaded" | "disk_full" | "draining" | "journal_failed">;
  readonly detail: string;
  readonly retryAfterSeconds: number;
}

/** Neighbouring raw frames: `count` × FRAME_BYTES. */
export interface RawFrames {
  readonly bytes: Uint8Array;
  readonly count: number;
}

/** Frames `first` to `first + count - 1`. */
export interface FramesExtent {
  readonly first: number;
  readonly count: number;
}

/** Neighbouring raw frames in chunks of whole frames, in order. */
export interface FramesRun {
  readonly chunks: readonly Uint8Array[];
  readonly count: number;
}
