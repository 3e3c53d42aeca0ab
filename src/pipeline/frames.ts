/** Makes the frame of an event from its vector, what is known of it, and the motion of its conversation. */

import type { Understanding } from "../brain/brain.ts";
import type { Clock } from "../clock.ts";
import {
  decodePhysics,
  encodePhysics,
  FLAG,
  fillChecksum,
  labelId,
  OFFSET,
  PHYSICS_OFFSET,
  SEMANTIC_DIM_MAX,
  shortestOfF32,
  UNKNOWN_EVENT,
} from "../frame.ts";
import type { DecidedFrame } from "../journal/journal.ts";
import type { Kinetics } from "../physics.ts";
import type { Schemas } from "../schemas/schemas.ts";
import type { Enrichment } from "./snapshot.ts";
import type { Draft, Entry, EventVector, Item } from "./work.ts";

export interface FrameMakerOptions {
  readonly kinetics: Pick<Kinetics, "observe" | "decided">;
  readonly spin: (vector: Float32Array | null) => [number, number, number, number];
  readonly journalId: number;
  /** Whether frames carry a checksum: they do if readers on this machine need one. */
  readonly checksums: boolean;
  readonly clock: Clock;
  /** Learns from an event, and returns the share of its type's fields that it fills. */
  readonly schemas: Pick<Schemas, "observe">;
}

/** Makes the frame of an event. Call it once for each event, in order: conversations and schemas move on with it. */
export function makeFrame(
  { event, vector: embedded, known }: Item,
  decidedUs: number,
  o: FrameMakerOptions,
): Draft {
  const { understanding } = known;
  const { type, intent, sentiment, confidence } = understanding;
  const fillRate = o.schemas.observe(type, event.body, event.receivedUs).fillRate;
  const timestampUs = event.timestampUs ?? event.receivedUs;
  const { conversationId, receivedUs } = event;
  const motion = o.kinetics.observe({ conversationId, timestampUs, receivedUs });
  if (conversationId !== null) o.kinetics.decided(conversationId, decidedUs);
  const vector = embedded?.row ?? null;
  const given = event.fields ?? {};
  let flags = 0;
  if (vector !== null) flags |= FLAG.semantic;
  if (intent !== null) flags |= FLAG.intent;
  if (sentiment !== null) flags |= FLAG.sentiment;
  if (conversationId !== null) flags |= FLAG.conversation;
  if (motion.first) flags |= FLAG.first;
  const physics = encodePhysics({
    delta_time: motion.delta_time,
    duration_ms: Math.max(0, decidedUs - receivedUs) / 1000,
    velocity: motion.velocity,
    interrupt: motion.interrupt,
    timestamp_us: timestampUs,
    conversation_hash: motion.conversation_hash,
    workflow_node: given.workflow_node ?? -1,
    case_status: given.case_status ?? 0,
    lead_status: given.lead_status ?? 0,
    fill_rate: fillRate,
    actor_type: given.actor ?? (event.message === null ? 0 : 1),
    intent_id: intent === null ? -1 : labelId(intent),
    sentiment: sentiment ?? 0,
    confidence: intent === null ? 0 : confidence,
    spin: o.spin(vector),
    event_seq: event.seq,
    semantic_dim: vector?.length ?? 0,
    flags,
    model_id: embedded?.embedder.modelId ?? 0,
    type_id: typeId(type),
    journal_id: o.journalId,
    checksum: 0n,
  });
  if (o.checksums) fillChecksum(physics, vector);
  const kept = embedded === null || embedded.embedder.recomputed ? null : vector;
  const decided = {
    seq: event.seq,
    decidedUs,
    physics,
    vector: kept,
    eventType: type,
    intent,
    provenance: provenanceOf(understanding, embedded?.embedder.name ?? null),
  };
  return { event, decided, vector };
}

/** Moves conversation and schema on with an event whose frame was made from a preview of them. */
export function learnFrom({ event, known }: Item, decidedUs: number, o: FrameMakerOptions): void {
  const { conversationId, receivedUs } = event;
  o.schemas.observe(known.understanding.type, event.body, receivedUs);
  o.kinetics.observe({ conversationId, timestampUs: event.timestampUs ?? receivedUs, receivedUs });
  if (conversationId !== null) o.kinetics.decided(conversationId, decidedUs);
}

function typeId(type: string | null): number {
  return type === null || type === UNKNOWN_EVENT ? -1 : labelId(type);
}

function provenanceOf(
  { typeFrom, intentFrom, sentimentFrom }: Understanding,
  embedder: string | null,
): string {
  return JSON.stringify({ type: typeFrom, intent: intentFrom, sentiment: sentimentFrom, embedder });
}

/** Reads from a row what is known of its event. */
export function understandingOf({ physics, eventType, intent, provenance }: DecidedFrame): Understanding {
  const { flags, sentiment, confidence } = decodePhysics(physics);
  // This program wrote the JSON.
  const from = JSON.parse(provenance) as Partial<
    Record<"type" | "intent" | "sentiment", Understanding["typeFrom"]>
  >;
  return {
    type: eventType,
    typeFrom: from.type ?? null,
    intent,
    intentFrom: from.intent ?? null,
    confidence,
    sentiment: (flags & FLAG.sentiment) === 0 ? null : sentiment,
    sentimentFrom: from.sentiment ?? null,
  };
}

/** Returns the row of an update: another understanding, the same motion and vector. */
export function withUnderstanding(
  row: DecidedFrame,
  understanding: Understanding,
  decidedUs: number,
): DecidedFrame {
  const before = decodePhysics(row.physics);
  const { type, intent, sentiment, confidence } = understanding;
  let flags = before.flags & ~(FLAG.intent | FLAG.sentiment);
  if (intent !== null) flags |= FLAG.intent;
  if (sentiment !== null) flags |= FLAG.sentiment;
  const physics = encodePhysics({
    ...before,
    flags,
    intent_id: intent === null ? -1 : labelId(intent),
    sentiment: sentiment ?? 0,
    confidence: intent === null ? 0 : confidence,
    type_id: typeId(type),
  });
  const { embedder } = JSON.parse(row.provenance) as { embedder?: string | null };
  const provenance = provenanceOf(understanding, embedder ?? null);
  return { ...row, decidedUs, physics, eventType: type, intent, provenance };
}

/** Returns the row of an update: a vector of another embedder, everything else the same. */
export function withVector(
  row: DecidedFrame,
  { embedder, row: vector }: EventVector,
  o: Pick<FrameMakerOptions, "spin" | "clock">,
): DecidedFrame {
  const before = decodePhysics(row.physics);
  const physics = encodePhysics({
    ...before,
    flags: before.flags | FLAG.semantic,
    spin: o.spin(vector),
    semantic_dim: vector.length,
    model_id: embedder.modelId,
  });
  const provenance = JSON.stringify({ ...JSON.parse(row.provenance), embedder: embedder.name });
  return { ...row, decidedUs: o.clock.nowUs(), physics, vector, provenance };
}

/** Returns what a row says of its event, for a response; unknown values are null. */
export function enrichmentOf(frameId: number, decided: DecidedFrame): Enrichment {
  const physics = decodePhysics(decided.physics);
  return {
    frame_id: frameId,
    event_type: decided.eventType ?? UNKNOWN_EVENT,
    intent: decided.intent,
    sentiment: (physics.flags & FLAG.sentiment) === 0 ? null : shortestOfF32(physics.sentiment),
    confidence: (physics.flags & FLAG.intent) === 0 ? null : shortestOfF32(physics.confidence),
    provenance: JSON.parse(decided.provenance),
  };
}

/**
 * Returns the vectors that travel to the store with these frames, 1,024 floats for each frame. Null if no frame has a vector of the
 * model `recomputed`, whose vectors the journal does not keep: the store reads all others from the journal.
 */
export function vectorsToOffer(entries: readonly Entry[], recomputed: number): Float32Array | null {
  const travels = ({ physics, vector }: Entry): boolean => vector !== null && modelOf(physics) === recomputed;
  if (!entries.some(travels)) return null;
  const rows = new Float32Array(entries.length * SEMANTIC_DIM_MAX);
  entries.forEach(({ vector }, index) => {
    if (vector !== null) rows.set(vector, index * SEMANTIC_DIM_MAX);
  });
  return rows;
}

export function physicsFlags(physics: Uint8Array): number {
  const at = OFFSET.flags - PHYSICS_OFFSET;
  return new DataView(physics.buffer, physics.byteOffset, physics.byteLength).getUint16(at, true);
}

function modelOf(physics: Uint8Array): number {
  const at = OFFSET.model_id - PHYSICS_OFFSET;
  return new DataView(physics.buffer, physics.byteOffset, physics.byteLength).getUint32(at, true);
}
