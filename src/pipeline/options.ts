/** What the pipeline needs from its surroundings. */
import type { Ring } from "../../collider.ts";
import type { Brain } from "../brain/brain.ts";
import type { Clock } from "../clock.ts";
import type { Embedder } from "../embed/embedder.ts";
import type { GatewayError } from "../errors.ts";
import type { Journal } from "../journal/journal.ts";
import type { Log } from "../log.ts";
import type { Kinetics } from "../physics.ts";
import type { Schemas } from "../schemas/schemas.ts";
import type { Store } from "../store/store.ts";
import type { RawFrames, Snapshot, Watch } from "./snapshot.ts";

export interface PipelineOptions {
  readonly version: string;
  readonly journal: Journal;
  readonly kinetics: Kinetics;
  readonly spin: (vector: Float32Array | null) => [number, number, number, number];
  /** Whether frames carry a checksum: they do if a reader on this machine may need one. */
  readonly checksums: boolean;
  readonly schemas: Pick<Schemas, "observe" | "preview" | "counters" | "gauges" | "drift">;
  /** Gives the text of an event that is embedded: its message, else the string leaves of its body. */
  readonly textOf: (message: string | null, body: Uint8Array) => string;
  /** The hashing embedder, whichever one is in use: old frames may have its vectors, which the journal does not keep. */
  readonly hashing: Embedder;
  readonly openStore: () => Promise<Store>;
  readonly openRing: (newest: (fromFrameId: number, limit: number) => Promise<RawFrames>) => Promise<Ring>;
  readonly openEmbedder: () => Promise<Embedder>;
  readonly brain: Brain;
  /** How long a frame waits for the language model. */
  readonly frameWaitMs: number;
  /** Whether older events get vectors of the embedder in use. */
  readonly reembed: boolean;
  /** Counters and gauges of parts outside the pipeline, for the Snapshot. */
  readonly otherMetrics: () => Pick<Snapshot, "counters" | "gauges">;
  readonly maxBacklogEvents: number;
  /** Gives the free bytes on the journal's disk, and how many ingest needs. */
  readonly freeDiskBytes: () => { freeBytes: number; neededBytes: number };
  readonly clock: Clock;
  readonly log: Log;
  /** Called with a failure after which the gateway must not go on. */
  readonly fatal: (error: GatewayError) => void;
  readonly watch?: Watch | null;
}
