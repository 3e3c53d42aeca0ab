/** How a frame is made of an event, its vector and the motion of its conversation; and the labels that frames use. */
import type { Ring } from "../collider.ts";
import {
  decodePhysics,
  encodePhysics,
  FLAG,
  labelId,
  OFFSET,
  PHYSICS_OFFSET,
  SEMANTIC_DIM_MAX,
  UNKNOWN_EVENT,
} from "./frame.ts";
import type { DecidedFrame, Journal, JournalEvent, Label } from "./journal.ts";
import type { Kinetics } from "./physics.ts";
import type { Enrichment } from "./pipeline.ts";
import type { Embedded } from "./pipeline-embedding.ts";

const LABELS_PER_KIND_MAX = 10_000;

/** A frame whose row is committed: id and content are decided for ever. */
export interface Entry {
  readonly frameId: number;
  readonly physics: Uint8Array;
  /** Leading floats of `semantic`; null where there is none. */
  readonly vector: Float32Array | null;
  readonly eventType: string | null;
  readonly intent: string | null;
}

/** A frame before its row is committed. */
export interface Draft {
  readonly event: JournalEvent;
  readonly decided: DecidedFrame;
  readonly vector: Float32Array | null;
}

export interface FrameMakerOptions {
  readonly kinetics: Kinetics;
  readonly spin: (vector: Float32Array | null) => [number, number, number, number];
  readonly journalId: number;
  readonly nowUs: () => number;
}

/** Makes the frame of event `index` of a batch. Conversations move on: call it once an event, in order of receipt. */
export function makeFrame(
  event: JournalEvent,
  embedded: Embedded | null,
  index: number,
  o: FrameMakerOptions,
): Draft {
  const timestampUs = event.timestampUs ?? event.receivedUs;
  const { conversationId, receivedUs } = event;
  const motion = o.kinetics.observe({ conversationId, timestampUs, receivedUs });
  const decidedUs = o.nowUs();
  if (conversationId !== null) o.kinetics.decided(conversationId, decidedUs);
  const has = embedded?.present[index] === true ? embedded : null;
  const vector = has === null ? null : has.rows.subarray(index * has.dim, (index + 1) * has.dim);
  const given = event.fields ?? {};
  const intent = given.intent ?? null;
  let flags = 0;
  if (has !== null) flags |= FLAG.semantic;
  if (intent !== null) flags |= FLAG.intent;
  if (given.sentiment !== undefined) flags |= FLAG.sentiment;
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
    fill_rate: 0,
    actor_type: given.actor ?? (event.message === null ? 0 : 1),
    intent_id: intent === null ? -1 : labelId(intent),
    sentiment: given.sentiment ?? 0,
    confidence: intent === null ? 0 : 1,
    spin: o.spin(vector),
    event_seq: event.seq,
    semantic_dim: has?.dim ?? 0,
    flags,
    model_id: has?.embedder.modelId ?? 0,
    type_id: event.type === null || event.type === UNKNOWN_EVENT ? -1 : labelId(event.type),
    journal_id: o.journalId,
    checksum: 0n,
  });
  const provenance = JSON.stringify({
    type: event.type === null ? null : "given",
    intent: intent === null ? null : "given",
    sentiment: given.sentiment === undefined ? null : "given",
    embedder: has?.embedder.name ?? null,
  });
  const kept = has === null || has.embedder.recomputed ? null : vector;
  const decided = {
    seq: event.seq,
    decidedUs,
    physics,
    vector: kept,
    eventType: event.type,
    intent,
    provenance,
  };
  return { event, decided, vector };
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

  noteModel({ embedder, dim }: Embedded): void {
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
    ring.setLabels({
      intents: Object.fromEntries(this.#intents),
      types: Object.fromEntries(this.#types),
      models: Object.fromEntries(this.#models),
    });
    this.#shownBeside = ring;
  }
}

/** Beyond the bound an id has no label; its frames are whole all the same. */
function note(fresh: Label[], kind: "type" | "intent", known: Map<number, string>, label: string): void {
  const id = labelId(label);
  if (known.has(id) || known.size >= LABELS_PER_KIND_MAX) return;
  known.set(id, label);
  fresh.push({ kind, id, label, dim: 0 });
}
