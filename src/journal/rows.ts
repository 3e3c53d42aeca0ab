/**
 * What stands in the journal, and how it is read from a row of SQLite. Part of the journal.
 */

import { GatewayError } from "../errors.ts";
import type { EventFields } from "../event/event.ts";
import type { Row } from "./file.ts";

/** An event as it stands in the journal. */
export interface JournalEvent {
  /** From 1, without gaps; never used again. */
  readonly seq: number;
  readonly receivedUs: number;
  /** The sender's, else a UUIDv7. */
  readonly id: string;
  readonly type: string | null;
  readonly message: string | null;
  readonly conversationId: string | null;
  readonly timestampUs: number | null;
  readonly fields: EventFields | null;
  /** The bytes that came. */
  readonly body: Uint8Array;
}

export interface AppendResult {
  /** Of a duplicate: the first one's. */
  readonly seq: number;
  readonly id: string;
  readonly duplicate: boolean;
}

/** What is decided about an event, once and for ever. */
export interface DecidedFrame {
  readonly seq: number;
  readonly decidedUs: number;
  /** PHYSICS_BYTES. */
  readonly physics: Uint8Array;
  /** The leading `semantic_dim` floats; null: none, or of an embedder whose vectors are computed again. */
  readonly vector: Float32Array | null;
  readonly eventType: string | null;
  readonly intent: string | null;
  /** JSON. */
  readonly provenance: string;
}

export interface StoredFrame extends DecidedFrame {
  /** From 1, without gaps; never used again. */
  readonly frameId: number;
}

/** What is said of an event after its frame; its physics are those of the frame but for what is said anew. */
export interface StoredAnswer extends DecidedFrame {
  /** From 1; never used again. */
  readonly answerId: number;
}

export interface Label {
  readonly kind: "intent" | "type" | "model";
  readonly id: number;
  readonly label: string;
  /** Of a model: the width of its vectors; else 0. */
  readonly dim: number;
}

/** Up to which row of each log something holds; 0: none. */
export interface JournalCursors {
  readonly seq: number;
  readonly frameId: number;
  readonly answerId: number;
}

/** The motion of a conversation, from an event that has its frame. */
export interface ConversationMotion {
  readonly frameId: number;
  readonly conversationId: string;
  /** The event's own timestamp, else its receipt. */
  readonly timestampUs: number;
  readonly decidedUs: number;
}

/**
 * What a `decide` rejects with when events are not in the journal (any more); nothing of that call was
 * stored.
 */
export class EventsGone extends GatewayError {
  readonly seqs: readonly number[];

  constructor(path: string, seqs: readonly number[]) {
    super({
      code: "not_found",
      operation: "journal: decide",
      object: path,
      detail: `${seqs.length} of the events are not there (any more), the first is ${seqs[0]}`,
      hint: "a temporary journal drops its oldest events at its bound; decide the others without them",
    });
    this.seqs = seqs;
  }
}

/** The first part of a UUIDv7, up to 14 bits of the journal; the same for all events of one receipt. */
export function idPrefix(receivedUs: number, journalId: number): string {
  const ms = Math.floor(receivedUs / 1000)
    .toString(16)
    .padStart(12, "0");
  const us = (receivedUs % 1000).toString(16).padStart(3, "0");
  const variant = (0x8000 | (journalId >>> 18)).toString(16);
  return `${ms.slice(0, 8)}-${ms.slice(8)}-7${us}-${variant}-`;
}

/** The rest: 18 bits of the journal, 30 of seq. */
export function idRest(journalId: number, seq: number): string {
  return ((journalId & 0x3ffff) * 2 ** 30 + (seq % 2 ** 30)).toString(16).padStart(12, "0");
}

/**
 * The id of an event whose sender gave none: a UUIDv7 (RFC 9562) of nothing but these three, so that a
 * repeat is told the same id when the event itself has left the journal. Its random bits are the µs
 * of the receipt (12 bits), the journal (32) and seq (30).
 */
export function eventId(receivedUs: number, journalId: number, seq: number): string {
  return idPrefix(receivedUs, journalId) + idRest(journalId, seq);
}

/** The columns of a stored event, in the order in which they are written. */
export const EVENT_COLUMNS =
  "seq, received_us, id, type, message, conversation_id, timestamp_us, fields, source, body";

/** The columns that {@link eventOf} reads. */
export const EVENT_READ = "seq, received_us, id, type, message, conversation_id, timestamp_us, fields, body";

export function eventOf(row: Row): JournalEvent {
  return {
    seq: row.seq as number,
    receivedUs: row.received_us as number,
    id: row.id as string,
    type: row.type as string | null,
    message: row.message as string | null,
    conversationId: row.conversation_id as string | null,
    timestampUs: row.timestamp_us as number | null,
    fields: row.fields === null ? null : (JSON.parse(row.fields as string) as EventFields),
    body: row.body as Uint8Array,
  };
}

/** The columns that {@link frameOf} reads: all of a frame. */
export const FRAME_READ = "frame_id, seq, decided_us, physics, vector, event_type, intent, provenance";

export function frameOf(row: Row): StoredFrame {
  return { frameId: row.frame_id as number, ...decidedOf(row) };
}

/** The columns that {@link answerOf} reads: all of an answer. */
export const ANSWER_READ = "answer_id, seq, decided_us, physics, vector, event_type, intent, provenance";

export function answerOf(row: Row): StoredAnswer {
  return { answerId: row.answer_id as number, ...decidedOf(row) };
}

function decidedOf(row: Row): DecidedFrame {
  const vector = row.vector as Uint8Array | null;
  return {
    seq: row.seq as number,
    decidedUs: row.decided_us as number,
    physics: row.physics as Uint8Array,
    vector: vector === null ? null : new Float32Array(vector.slice().buffer),
    eventType: row.event_type as string | null,
    intent: row.intent as string | null,
    provenance: row.provenance as string,
  };
}
