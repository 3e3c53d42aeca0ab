/** The messages between the main thread and the store Worker, and the options and results that they carry. */
import type { SerialisedError } from "../errors.ts";
import type { Physics } from "../frame.ts";

/** Up to which seq, frame_id and answer_id something reaches, each included; 0: nothing yet. */
export interface StoreCursors {
  seq: number;
  frameId: number;
  answerId: number;
}

export interface StoreOptions {
  /** The DuckDB file; beside it, DuckDB keeps PATH.wal. */
  databasePath: string;
  journalPath: string;
  /** u32; a database of another journal is refused. */
  journalId: number;
  /** DuckDB's own limit, such as "150MB". The process needs about 250 MB more. */
  memoryLimit: string;
  tempFolder: string;
  /** A bound in bytes for the database file, kept by dropping the oldest rows; null: keeps everything. */
  ephemeral: null | { limitBytes: number };
  /** Where the compiled or source worker is. */
  workerUrl: string | URL;
  /** Set PATH.wal aside before opening: it has made opening fail before. */
  quarantine: boolean;
  /** What the journal no longer has; a database whose cursors are below is refused. */
  pruned: StoreCursors;
  /** Told what the user must know and what is no failure, such as a log that was set aside. */
  onNotice?: (message: string) => void;
}

/** One page of events; filters left out do not filter. */
export interface EventsQuery {
  /** 1 to 1000. */
  limit: number;
  type?: string;
  intent?: string;
  conversationId?: string;
  /** Case-insensitive substring of the message, or of the payload where there is no message. */
  q?: string;
  /** Newest first, below this seq. */
  before?: number;
  /** Ascending, above this seq. */
  after?: number;
}

export interface StoreStats {
  /** Database file and write-ahead log. */
  fileBytes: number;
  events: number;
  enrichments: number;
  /** Completed by this process. */
  checkpoints: number;
}

/** Which events' newest words are asked for. */
export type DecidedQuery =
  | { readonly seqs: readonly number[] }
  /** Some above `afterSeq`, up to `toSeq` and `limit` of them, whose vector is of another model than `notModel`, or none. */
  | {
      readonly afterSeq: number;
      readonly toSeq: number;
      readonly limit: number;
      readonly notModel: number;
    };

/** What was last said of an event, by its newest answer, else by its frame. */
export interface DecidedRow {
  readonly seq: number;
  readonly message: string | null;
  /** The body as it came, as text; empty where there is a message. */
  readonly payload: string;
  readonly eventType: string | null;
  readonly intent: string | null;
  readonly provenance: string;
  /** Its fields by their names; a negative zero may have lost its sign. */
  readonly physics: Physics;
  /** The leading `semantic_dim` floats; null: none. */
  readonly vector: Float32Array | null;
}

export interface DecidedReply {
  /** Ascending by seq. */
  readonly rows: DecidedRow[];
  /** Of a query from `afterSeq` on: up to where it has looked. */
  readonly reachedSeq: number;
}

/** What the worker's calls take and give; {@link StoreCall} is derived from it. */
export interface StoreCalls {
  open: [StoreOpen, StoreCursors];
  events: [{ query: EventsQuery; headSeq: number }, { json: string; lag: number }];
  event: [{ seq: number; headSeq: number }, { json: string | null; lag: number }];
  frames: [
    { afterFrameId: number; limit: number; capacity: number },
    { bytes: ArrayBuffer; count: number; oldest: number },
  ];
  decided: [DecidedQuery, DecidedReply];
  checkpoint: [Record<never, never>, null];
  stats: [Record<never, never>, StoreStats];
  flush: [{ headSeq: number }, null];
  close: [Record<never, never>, null];
}

export type StoreOpen = Omit<StoreOptions, "workerUrl" | "onNotice">;

export type StoreCall = {
  [K in keyof StoreCalls]: { call: K; id: number; args: StoreCalls[K][0] };
}[keyof StoreCalls];

export type ToWorker =
  | StoreCall
  | { call: "head"; seq: number }
  | { call: "updates"; answerId: number }
  | { call: "offer"; firstFrameId: number; count: number; vectors: Float32Array | null };

export type FromWorker =
  | { event: "reply"; id: number; value: unknown }
  | { event: "refusal"; id: number; error: SerialisedError }
  | { event: "cursors"; cursors: StoreCursors }
  | { event: "checkpoint"; cursors: StoreCursors }
  | { event: "reopened"; cursors: StoreCursors }
  | { event: "failure"; error: SerialisedError }
  | { event: "notice"; message: string };
