/** The types of what the journal stores, and how they are read from rows of SQLite. Part of the journal. */

import { GatewayError } from "../errors.ts";
import type { EventFields } from "../event/event.ts";
import { decidedChecksum, eventChecksum } from "../row-damage.ts";
import type { Row } from "./file.ts";

/** An event as the journal stores it. */
export interface JournalEvent {
  /** From 1, without gaps; never reused. */
  readonly seq: number;
  readonly receivedUs: number;
  /** The sender's id, else a UUIDv7. */
  readonly id: string;
  readonly type: string | null;
  readonly message: string | null;
  readonly conversationId: string | null;
  readonly timestampUs: number | null;
  readonly fields: EventFields | null;
  /** The bytes as they were received. */
  readonly body: Uint8Array;
}

export interface AppendResult {
  /** The event's number; for a duplicate, the number of the first event with its key. */
  readonly seq: number;
  readonly id: string;
  readonly duplicate: boolean;
}

/** What a frame says about its event, decided once and never changed; an update has the same form. */
export interface DecidedFrame {
  readonly seq: number;
  readonly decidedUs: number;
  /** PHYSICS_BYTES bytes. */
  readonly physics: Uint8Array;
  /** The first `semantic_dim` floats; null if there is no vector, or if the embedder computes it again from the text. */
  readonly vector: Float32Array | null;
  readonly eventType: string | null;
  readonly intent: string | null;
  /** JSON. */
  readonly provenance: string;
}

export interface StoredFrame extends DecidedFrame {
  /** From 1, without gaps; never reused. */
  readonly frameId: number;
}

/** An update: what is known of an event after its frame. Its physics repeat the frame's, except for what has changed. */
export interface StoredUpdate extends DecidedFrame {
  /** From 1; never reused. */
  readonly answerId: number;
}

export interface Label {
  readonly kind: "intent" | "type" | "model";
  readonly id: number;
  readonly label: string;
  /** The width of a model's vectors; 0 for other kinds. */
  readonly dim: number;
}

/** A position in each log: the highest row that is meant; 0 if none is. */
export interface JournalCursors {
  readonly seq: number;
  readonly frameId: number;
  readonly answerId: number;
}

/** One step in the motion of a conversation, from an event that has a frame. */
export interface ConversationMotion {
  readonly frameId: number;
  readonly conversationId: string;
  /** The event's own timestamp, else the time of its receipt. */
  readonly timestampUs: number;
  readonly decidedUs: number;
}

/** `decide` rejects with this if events are not in the journal (any more). Nothing of that call is stored. */
export class EventsGone extends GatewayError {
  readonly seqs: readonly number[];

  constructor(path: string, seqs: readonly number[]) {
    super({
      code: "not_found",
      operation: "journal: decide",
      object: path,
      detail: `${seqs.length} of the events are not in the journal (any more), the first is ${seqs[0]}`,
      hint: "a temporary journal drops its oldest events at its bound; decide the other frames without them",
    });
    this.seqs = seqs;
  }
}

/** The first part of an event's UUIDv7: the receipt and 14 bits of the journal's id. All events of one receipt share it. */
export function idPrefix(receivedUs: number, journalId: number): string {
  const ms = Math.floor(receivedUs / 1000)
    .toString(16)
    .padStart(12, "0");
  const us = (receivedUs % 1000).toString(16).padStart(3, "0");
  const variant = (0x8000 | (journalId >>> 18)).toString(16);
  return `${ms.slice(0, 8)}-${ms.slice(8)}-7${us}-${variant}-`;
}

/** The rest of an event's UUIDv7: 18 bits of the journal's id and 30 bits of seq. */
export function idRest(journalId: number, seq: number): string {
  return ((journalId & 0x3ffff) * 2 ** 30 + (seq % 2 ** 30)).toString(16).padStart(12, "0");
}

/**
 * The id of an event whose sender gave none: a UUIDv7 (RFC 9562) that is a function of these three values, so that a
 * repeat gets the same id even after the event has left the journal. In place of random bits it has the µs of the
 * receipt (12 bits), the journal's id (32) and seq (30).
 */
export function eventId(receivedUs: number, journalId: number, seq: number): string {
  return idPrefix(receivedUs, journalId) + idRest(journalId, seq);
}

/** All columns of a stored event, in the order in which they are written. */
export const EVENT_COLUMNS =
  "seq, received_us, id, type, message, conversation_id, timestamp_us, fields, source, body, checksum";

/** Whether a row is as it was written, by its checksum. */
export function isWhole(row: Row): boolean {
  const { seq, checksum } = row;
  if ("body" in row) {
    const { id, type, message, fields, source, body } = row;
    const times = { receivedUs: row.received_us, timestampUs: row.timestamp_us };
    const conversationId = row.conversation_id;
    const cells = { seq, ...times, id, type, message, conversationId, fields, source, body };
    return checksum === eventChecksum(cells);
  }
  const { physics, vector, intent, provenance, decided_us: decidedUs, event_type: eventType } = row;
  const id = row.frame_id ?? row.answer_id;
  return checksum === decidedChecksum({ id, seq, decidedUs, physics, vector, eventType, intent, provenance });
}

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

/** The columns that {@link frameOf} reads, which are all columns of a frame. */
export const FRAME_READ =
  "frame_id, seq, decided_us, physics, vector, event_type, intent, provenance, checksum";

export function frameOf(row: Row): StoredFrame {
  return { frameId: row.frame_id as number, ...decidedOf(row) };
}

/** The columns that {@link updateOf} reads, which are all columns of an update. */
export const UPDATE_READ =
  "answer_id, seq, decided_us, physics, vector, event_type, intent, provenance, checksum";

export function updateOf(row: Row): StoredUpdate {
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
