/** Events, frames and a gateway's state for the tests of the dashboard's parts. */
import { encodeFrame, encodePhysics, FLAG, FRAME_BYTES, type Physics } from "../../src/frame.ts";
import type { JournalEvent } from "../../src/journal/journal.ts";
import type { FramesRun, Snapshot, Watch } from "../../src/pipeline/snapshot.ts";

export const NOW_US = 1_789_000_000_000_000;

/** Lets promises that are already resolved run their callbacks. */
export const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

export function event(seq: number, over: Partial<JournalEvent> = {}): JournalEvent {
  const message = `mensagem ${seq}`;
  return {
    seq,
    receivedUs: NOW_US + seq,
    id: `id-${seq}`,
    type: "UserMessage",
    message,
    conversationId: "c-1",
    timestampUs: null,
    fields: null,
    body: new TextEncoder().encode(`{"message":"${message}","big":9007199254740993}`),
    ...over,
  };
}

/** Events with the seqs from `from` to `to`, both included. */
export const events = (from: number, to: number): JournalEvent[] =>
  Array.from({ length: to - from + 1 }, (_, index) => event(from + index));

export const PHYSICS: Physics = {
  delta_time: Math.log(2),
  duration_ms: 1,
  velocity: 3,
  interrupt: 0,
  timestamp_us: NOW_US,
  conversation_hash: 1n,
  workflow_node: -1,
  case_status: 0,
  lead_status: 0,
  fill_rate: 0,
  actor_type: 1,
  intent_id: -1,
  sentiment: Math.fround(-0.5),
  confidence: 1,
  spin: [1, 0, 0, 0],
  event_seq: 1,
  semantic_dim: 8,
  flags: FLAG.semantic | FLAG.sentiment,
  model_id: 7,
  type_id: -1,
  journal_id: 1,
  checksum: 0n,
};

type Draft = Parameters<Watch["decided"]>[1][number];

/** An event's frame as the pipeline decides it. */
export function draft(
  of: JournalEvent,
  {
    vector = null,
    intent = "cancelamento",
    model = 7,
  }: {
    vector?: Float32Array | null;
    intent?: string | null;
    model?: number;
  } = {},
): Draft {
  const flags = vector === null ? FLAG.sentiment : PHYSICS.flags;
  const physics = encodePhysics({ ...PHYSICS, event_seq: of.seq, model_id: model, flags });
  const decided = {
    seq: of.seq,
    decidedUs: NOW_US,
    physics,
    vector,
    eventType: of.type,
    intent,
    provenance: "{}",
  };
  return { event: of, decided, vector };
}

/** Frames as the ring has them, the first with frame id 1. */
export function framesOf(drafts: readonly Draft[]): FramesRun {
  const bytes = new Uint8Array(drafts.length * FRAME_BYTES);
  drafts.forEach(({ decided, vector }, index) => {
    const { physics } = decided;
    encodeFrame(bytes, index * FRAME_BYTES, { frameId: index + 1, capacity: 1000, physics, vector });
  });
  return { chunks: [bytes], count: drafts.length };
}

export function snapshotOf(over: Partial<Snapshot> = {}): Snapshot {
  const ok = { state: "ok", detail: "" } as const;
  return {
    version: "1",
    startedUs: NOW_US,
    nowUs: NOW_US,
    embedderName: "hashing",
    parts: { journal: ok, store: ok, ring: ok, embedder: ok, llm: ok },
    drift: [],
    counters: {},
    gauges: { head_seq: 0, next_frame_id: 1 },
    ...over,
  };
}

/** A page of `GET /api/events`: the newest `limit` events below `before`, newest first. */
export function pageBelow(before: number, limit: number): string {
  const count = Math.max(0, Math.min(limit, before - 1));
  const page = Array.from({ length: count }, (_, index) => ({
    seq: before - 1 - index,
    received_us: 1,
    event_type: "T",
    conversation_id: null,
    message: null,
    payload: { a: 1 },
    enrichment: { frame_id: 9, intent: "i", sentiment: null },
  }));
  return JSON.stringify({ events: page, next: null });
}

/** Vectors in clusters, as texts of a few intents are: one mean for each cluster, and noise around it. */
export function clusters(
  random: () => number,
  { dim, centres, count }: { dim: number; centres: number; count: number },
): Float32Array[] {
  const gauss = (): number => Math.sqrt(-2 * Math.log(random() || 1e-9)) * Math.cos(2 * Math.PI * random());
  const means = Array.from({ length: centres }, () => Float32Array.from({ length: dim }, gauss));
  return Array.from({ length: count }, (_, index) => {
    const mean = means[index % centres] as Float32Array;
    const vector = mean.map((value, at) => value * (at % 3 === 0 ? 1 : 0.6) + 0.4 * gauss());
    const length = Math.hypot(...vector);
    return vector.map((value) => value / length);
  });
}
