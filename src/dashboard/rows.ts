/** Events as rows of the tail: from the journal, from a page of the store, and with what became known later. */

import { FLAG, OFFSET, PHYSICS_OFFSET } from "../frame.ts";
import type { JournalEvent } from "../journal/journal.ts";
import type { Watch } from "../pipeline/snapshot.ts";
import type { EventRow } from "../tui/model.ts";

/** @bound a message in a row | it is cut */
const MESSAGE_CHARS_MAX = 400;
/** @bound a type, an intent or a conversation id in a row | it is cut */
const LABEL_CHARS_MAX = 120;

/** What a frame or an update says about an event. */
export interface RowEnrichment {
  /** Null leaves the row's frame as it is. */
  readonly frameId: number | null;
  readonly type: string | null;
  readonly intent: string | null;
  readonly sentiment: number | null;
}

/** One event of a page of `GET /api/events`. */
export interface StoredEvent {
  readonly seq: number;
  readonly received_us: number;
  readonly event_type: string | null;
  readonly conversation_id: string | null;
  readonly message: string | null;
  readonly payload: unknown;
  readonly enrichment: {
    readonly frame_id: number;
    readonly intent: string | null;
    readonly sentiment: number | null;
  } | null;
}

type Decided = Parameters<Watch["decided"]>[1][number]["decided"];

const decoder = new TextDecoder();

const cutTo = (text: string, chars: number): string =>
  text.length <= chars ? text : text.slice(0, chars).toWellFormed();

const label = (text: string | null): string | null => (text === null ? null : cutTo(text, LABEL_CHARS_MAX));

/** The row of an event that has no frame yet. */
export function rowOf(event: JournalEvent): EventRow {
  const { seq, receivedUs, type, conversationId, message, fields, body } = event;
  return {
    seq,
    receivedUs,
    type: label(type),
    intent: label(fields?.intent ?? null),
    sentiment: fields?.sentiment ?? null,
    conversation: label(conversationId),
    message: cutTo(message ?? decoder.decode(body.subarray(0, 2 * MESSAGE_CHARS_MAX)), MESSAGE_CHARS_MAX),
    isMessage: message !== null,
    frameId: null,
  };
}

/** The rows of a page of `GET /api/events`, ascending. The page itself is newest first. */
export function rowsOfPage(page: string): EventRow[] {
  const { events } = JSON.parse(page) as { readonly events: readonly StoredEvent[] };
  return events.map(rowOfStored).reverse();
}

function rowOfStored(event: StoredEvent): EventRow {
  const { enrichment, message } = event;
  return {
    seq: event.seq,
    receivedUs: event.received_us,
    type: label(event.event_type),
    intent: label(enrichment?.intent ?? null),
    sentiment: enrichment?.sentiment ?? null,
    conversation: label(event.conversation_id),
    message: cutTo(message ?? JSON.stringify(event.payload), MESSAGE_CHARS_MAX),
    isMessage: message !== null,
    frameId: enrichment?.frame_id ?? null,
  };
}

/** The same row with an enrichment. Rows are replaced, never changed. */
export function enriched(row: EventRow, { frameId, type, intent, sentiment }: RowEnrichment): EventRow {
  return {
    ...row,
    frameId: frameId ?? row.frameId,
    type: label(type) ?? row.type,
    intent: label(intent),
    sentiment,
  };
}

export function enrichmentOfFrame(
  frameId: number,
  { physics, eventType, intent }: Pick<Decided, "physics" | "eventType" | "intent">,
): RowEnrichment {
  return { frameId, type: eventType, intent, sentiment: sentimentOf(physics) };
}

/** Reads one field instead of decoding all of PHYSICS_BYTES, because this runs for each frame. Null if unknown. */
function sentimentOf(physics: Uint8Array): number | null {
  const view = new DataView(physics.buffer, physics.byteOffset, physics.byteLength);
  if ((view.getUint16(OFFSET.flags - PHYSICS_OFFSET, true) & FLAG.sentiment) === 0) return null;
  return view.getFloat32(OFFSET.sentiment - PHYSICS_OFFSET, true);
}
