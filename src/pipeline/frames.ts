/** How a frame is made of an event, its vector and the motion of its conversation; and the labels that frames use. */

import type { Ring } from "../../collider.ts";
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
  UNKNOWN_EVENT,
} from "../frame.ts";
import type { DecidedFrame, Journal, Label } from "../journal/journal.ts";
import type { Kinetics } from "../physics.ts";
import type { RingLabels } from "../ring/contract.ts";
import type { Schemas } from "../schemas/schemas.ts";
import type { Enrichment } from "./snapshot.ts";
import type { Draft, Embedded, Entry, EventVector, Item } from "./work.ts";

const LABELS_PER_KIND_MAX = 10_000;

export interface FrameMakerOptions {
  readonly kinetics: Kinetics;
  readonly spin: (vector: Float32Array | null) => [number, number, number, number];
  readonly journalId: number;
  /** Whether frames carry a checksum: where readers on this machine need one. */
  readonly checksums: boolean;
  readonly clock: Clock;
  /** Learns from an event, and says how much of its type's fields it fills. */
  readonly schemas: Pick<Schemas, "observe">;
}

/** Makes the frame of an event. Conversations and schemas move on: call it once an event, in their order. */
export function makeFrame({ event, vector: embedded, known }: Item, o: FrameMakerOptions): Draft {
  const { understanding } = known;
  const { type, intent, sentiment, confidence } = understanding;
  const fillRate = o.schemas.observe(type, event.body, event.receivedUs).fillRate;
  const timestampUs = event.timestampUs ?? event.receivedUs;
  const { conversationId, receivedUs } = event;
  const motion = o.kinetics.observe({ conversationId, timestampUs, receivedUs });
  const decidedUs = o.clock.nowUs();
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

function typeId(type: string | null): number {
  return type === null || type === UNKNOWN_EVENT ? -1 : labelId(type);
}

function provenanceOf(
  { typeFrom, intentFrom, sentimentFrom }: Understanding,
  embedder: string | null,
): string {
  return JSON.stringify({ type: typeFrom, intent: intentFrom, sentiment: sentimentFrom, embedder });
}

/** What a row says is known of its event. */
export function understandingOf({ physics, eventType, intent, provenance }: DecidedFrame): Understanding {
  const { flags, sentiment, confidence } = decodePhysics(physics);
  // The JSON is this program's own.
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

/** Says anew what a row said: how the event moved stays, what is known of it changes. */
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

/** Says anew what a row said, with a vector of another embedder. */
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

/** What is said of an event by its frame; unknown values are null. */
export function enrichmentOf(frameId: number, decided: DecidedFrame): Enrichment {
  const physics = decodePhysics(decided.physics);
  return {
    frame_id: frameId,
    event_type: decided.eventType ?? UNKNOWN_EVENT,
    intent: decided.intent,
    sentiment: (physics.flags & FLAG.sentiment) === 0 ? null : physics.sentiment,
    confidence: (physics.flags & FLAG.intent) === 0 ? null : physics.confidence,
    provenance: JSON.parse(decided.provenance),
  };
}

/**
 * The vectors that travel to the store with these frames: those of the model `recomputed`, which the journal does not
 * keep. Null where there are none of it: the store finds all others in the journal.
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

/** The labels behind the ids in frames: kept in the journal, shown beside the ring before a frame uses them. */
export class Labels {
  readonly #journal: Journal;
  readonly #intents = new Map<number, string>();
  readonly #types = new Map<number, string>();
  readonly #models = new Map<number, { name: string; dim: number }>();
  #shownBeside: Ring | null = null;

  constructor(journal: Journal) {
    this.#journal = journal;
    for (const { kind, id, label, dim } of journal.labels()) {
      if (kind === "model") this.#models.set(id, { name: label, dim });
      else (kind === "intent" ? this.#intents : this.#types).set(id, label);
    }
  }

  noteModel({ embedder, dim }: Pick<Embedded, "embedder" | "dim">): void {
    if (this.#models.has(embedder.modelId)) return;
    this.#models.set(embedder.modelId, { name: embedder.name, dim });
    this.#journal.addLabels([{ kind: "model", id: embedder.modelId, label: embedder.name, dim }]);
    this.#shownBeside = null;
  }

  /** Call before these frames are published: a label stands in the file before the first frame that uses it. */
  show(entries: readonly Entry[], ring: Ring): void {
    const fresh: Label[] = [];
    for (const { eventType, intent } of entries) {
      if (eventType !== null && eventType !== UNKNOWN_EVENT) note(fresh, "type", this.#types, eventType);
      if (intent !== null) note(fresh, "intent", this.#intents, intent);
    }
    if (fresh.length > 0) {
      this.#journal.addLabels(fresh);
      this.#shownBeside = null;
    }
    if (this.#shownBeside === ring) return;
    ring.setLabels(this.all([]));
    this.#shownBeside = ring;
  }

  /** The labels shown so far, and those of `entries`, which may not have been shown yet. */
  all(entries: readonly Entry[]): RingLabels {
    const intents = new Map(this.#intents);
    const types = new Map(this.#types);
    // Many frames share few labels: an id, which is a hash, is made once a label.
    for (const label of new Set(entries.map(({ intent }) => intent))) {
      if (label !== null) note([], "intent", intents, label);
    }
    for (const label of new Set(entries.map(({ eventType }) => eventType))) {
      if (label !== null && label !== UNKNOWN_EVENT) note([], "type", types, label);
    }
    return {
      intents: Object.fromEntries(intents),
      types: Object.fromEntries(types),
      models: Object.fromEntries(this.#models),
    };
  }
}

/** Beyond the bound an id has no label; its frames are whole all the same. */
function note(fresh: Label[], kind: "type" | "intent", known: Map<number, string>, label: string): void {
  const id = labelId(label);
  if (known.has(id) || known.size >= LABELS_PER_KIND_MAX) return;
  known.set(id, label);
  fresh.push({ kind, id, label, dim: 0 });
}
