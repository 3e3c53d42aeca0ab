/** The messages between the main thread and the store Worker, and the options and results that they carry. */
import type { SerialisedError } from "../errors.ts";
import type { Physics } from "../frame.ts";

/** How far something reaches in each of the three logs: up to and including these ids; 0: nothing yet. */
export interface StoreCursors {
  seq: number;
  frameId: number;
  answerId: number;
}

export interface StoreOptions {
  /** The DuckDB file; beside it, DuckDB keeps PATH.wal. */
  databasePath: string;
  journalPath: string;
  /** u32. A database that belongs to another journal is refused. */
  journalId: number;
  /** DuckDB's own limit. The process needs about 250 MB more. */
  memoryLimitBytes: number;
  tempFolder: string;
  /** The bound of the database file, kept by dropping the oldest rows; null: everything is kept. */
  ephemeral: null | { limitBytes: number };
  /** The Worker, compiled or as source. */
  workerUrl: string | URL;
  /** Rename the write-ahead log before opening, because opening has failed with it. */
  quarantine: boolean;
  /** What the journal has given up. A database that does not hold it is refused. */
  pruned: StoreCursors;
  /** Takes what the user must know although it is no failure, such as that a log was set aside. */
  onNotice?: (message: string) => void;
}

/** DuckDB's memory limit in force. */
export interface StoreMemory {
  readonly limitBytes: number;
  /** Why it is higher than the configured one; null: it is not. */
  readonly raisedBecause: string | null;
}

/** One page of events; filters left out do not filter. */
export interface EventsQuery {
  /** 1 to 1000. */
  limit: number;
  type?: string;
  intent?: string;
  conversationId?: string;
  /** Case-insensitive substring of the message, or of the payload if the event has no message. */
  q?: string;
  /** Newest first, below this seq. */
  before?: number;
  /** Ascending, above this seq. */
  after?: number;
  /** The page ends before its bodies have more bytes, but has at least one event. Without it, a bound of the store holds. */
  bodyBytesMax?: number;
}

export interface EventsPage {
  /** `{"events":[…],"next":…}`. */
  readonly json: string;
  readonly count: number;
  /** The seq of the last event, for use as `before` or `after`; null if no event follows. */
  readonly next: number | null;
}

export interface StoreStats {
  /** Database file and write-ahead log. */
  fileBytes: number;
  events: number;
  enrichments: number;
  /** Completed by this process. */
  checkpoints: number;
}

/** The events whose newest enrichment is wanted. */
export type DecidedQuery =
  | { readonly seqs: readonly number[] }
  /** At most `limit` events above `afterSeq` and up to `toSeq` that have no vector of the model `notModel`. */
  | {
      readonly afterSeq: number;
      readonly toSeq: number;
      readonly limit: number;
      readonly notModel: number;
    };

/** The newest enrichment of an event: its newest update or, if it has none, the enrichment of its frame. */
export interface DecidedRow {
  readonly seq: number;
  readonly message: string | null;
  /** The body as it came, as text; empty if the event has a message. */
  readonly payload: string;
  readonly eventType: string | null;
  readonly intent: string | null;
  readonly provenance: string;
  /** The frame's fields by name. A negative zero may have lost its sign. */
  readonly physics: Physics;
  /** The first `semantic_dim` floats; null: the event has no vector. */
  readonly vector: Float32Array | null;
}

export interface DecidedReply {
  /** Ascending by seq. */
  readonly rows: DecidedRow[];
  /** For a query with `afterSeq`: the seq up to which it has looked. */
  readonly reachedSeq: number;
}

/** The Worker's calls: what each takes and what it returns. {@link StoreCall} is derived from it. */
export interface StoreCalls {
  open: [StoreOpen, StoreCursors];
  events: [{ query: EventsQuery; headSeq: number }, EventsPage & { lag: number }];
  event: [{ seq: number; headSeq: number }, { json: string | null; lag: number }];
  frames: [
    { afterFrameId: number; limit: number; capacity: number },
    { bytes: ArrayBuffer; count: number; oldest: number },
  ];
  frameCount: [{ firstFrameId: number; limit: number }, number];
  decided: [DecidedQuery, DecidedReply];
  checkpoint: [Record<never, never>, null];
  stats: [Record<never, never>, StoreStats];
  flush: [{ headSeq: number }, null];
  close: [{ withinMs: number }, null];
}

export type StoreOpen = Omit<StoreOptions, "workerUrl" | "onNotice">;

export type StoreCall = {
  [K in keyof StoreCalls]: { call: K; id: number; args: StoreCalls[K][0] };
}[keyof StoreCalls];

export type ToWorker =
  | StoreCall
  | { call: "head"; seq: number }
  | { call: "updates"; answerId: number }
  | { call: "offer"; firstFrameId: number; count: number; vectors: Float32Array | null; absent?: boolean };

/** A row of the journal that is not stored, because it is damaged. */
export interface DamagedRow {
  readonly log: "events" | "frames" | "answers";
  readonly id: number;
  readonly why: string;
}

export type FromWorker =
  | { event: "reply"; id: number; value: unknown }
  | { event: "refusal"; id: number; error: SerialisedError }
  | { event: "cursors"; cursors: StoreCursors }
  | { event: "checkpoint"; cursors: StoreCursors }
  | { event: "reopened"; cursors: StoreCursors }
  | { event: "failure"; error: SerialisedError }
  | { event: "memory"; state: StoreMemory }
  | { event: "notice"; message: string }
  | { event: "damage"; damage: DamagedRow };
