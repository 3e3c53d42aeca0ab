/** The newest events without gaps, and older ones when they are asked for. Everything that is older than memory is read from the store. */

import type { JournalEvent } from "../journal/journal.ts";
import type { EventRow } from "../tui/model.ts";

/** Rows that follow the newest event. */
const ROWS_MAX = 4096;
/** Events that are looked at of what came since the last time; where more came, the rows begin again with these. */
export const LOOK_EVENTS_MAX = 512;
/** Older rows that are held while somebody looks at them. */
const HISTORY_ROWS_MAX = 8192;
export const HISTORY_PAGE_ROWS = 100;
/** What is kept of a message, a type, a conversation. */
const MESSAGE_CHARS_MAX = 400;
const LABEL_CHARS_MAX = 120;

export interface RowEnrichment {
  /** Null: as it was. */
  readonly frameId: number | null;
  readonly type: string | null;
  readonly intent: string | null;
  readonly sentiment: number | null;
}

const decoder = new TextDecoder();

const cutTo = (text: string, chars: number): string =>
  text.length <= chars ? text : text.slice(0, chars).toWellFormed();

const label = (text: string | null): string | null => (text === null ? null : cutTo(text, LABEL_CHARS_MAX));

function enriched(row: EventRow, { frameId, type, intent, sentiment }: RowEnrichment): EventRow {
  return {
    ...row,
    frameId: frameId ?? row.frameId,
    type: label(type) ?? row.type,
    intent: label(intent),
    sentiment,
  };
}

/** What is shown of an event before its frame is there. */
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

/** An event of a page of the store, as GET /api/events gives it. */
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

export function rowOfStored(event: StoredEvent): EventRow {
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

export type HistoryState = "idle" | "loading" | "end" | "bound" | "failed";

export class Tail {
  #rows: EventRow[] = [];
  #held: EventRow[] | null = null;
  history: EventRow[] = [];
  historyState: HistoryState = "idle";

  /** The newest rows, ascending and without gaps; while held, those that were there then. */
  get rows(): readonly EventRow[] {
    return this.#held ?? this.#rows;
  }

  get held(): boolean {
    return this.#held !== null;
  }

  get newestSeq(): number {
    return this.#rows.at(-1)?.seq ?? 0;
  }

  /** Adds what came, ascending. Where something is missing before it, the rows begin again. */
  add(rows: readonly EventRow[]): void {
    const first = rows[0];
    if (first === undefined) return;
    const last = this.#rows.at(-1);
    if (last !== undefined && first.seq !== last.seq + 1) this.#rows = [];
    for (const row of rows) this.#rows.push(row);
    // A slack, so that memory is not moved for each event.
    if (this.#rows.length > ROWS_MAX + LOOK_EVENTS_MAX) this.#rows = this.#rows.slice(-ROWS_MAX);
  }

  /** What was there before this process; only where nothing has come since that it would not lead up to. */
  begin(rows: readonly EventRow[]): void {
    const first = this.#rows[0];
    const last = rows.at(-1);
    if (last === undefined || (first !== undefined && first.seq !== last.seq + 1)) return;
    this.#rows = [...rows, ...this.#rows];
  }

  /** The frame, or a later answer, of an event that is shown. */
  enrich(seq: number, enrichment: RowEnrichment): void {
    this.#replace(this.#rows, seq, enrichment);
    if (this.#held !== null) this.#replace(this.#held, seq, enrichment);
    const older = this.history.findLastIndex((row) => row.seq === seq);
    if (older >= 0)
      this.history = this.history.with(older, enriched(this.history[older] as EventRow, enrichment));
  }

  #replace(rows: EventRow[], seq: number, enrichment: RowEnrichment): void {
    // Rows are without gaps, so that the place follows from the seq.
    const at = seq - (rows[0]?.seq ?? 0);
    const row = rows[at];
    if (row === undefined || row.seq !== seq) return;
    rows[at] = enriched(row, enrichment);
  }

  row(seq: number): EventRow | null {
    const row = this.#rows[seq - (this.#rows[0]?.seq ?? 0)];
    return row?.seq === seq ? row : null;
  }

  hold(): void {
    this.#held ??= [...this.#rows];
  }

  release(): void {
    this.#held = null;
    this.forgetHistory();
  }

  forgetHistory(): void {
    this.history = [];
    this.historyState = "idle";
  }

  /** Below which seq the next older rows are; null: none can be loaded now. */
  olderBefore(): number | null {
    if (this.#held === null || this.historyState !== "idle") return null;
    return (this.history[0] ?? this.#held[0])?.seq ?? null;
  }

  /** @param rows ascending, all older than what is there. */
  addHistory(rows: readonly EventRow[]): void {
    this.history = [...rows, ...this.history];
    if (rows.length < HISTORY_PAGE_ROWS) this.historyState = "end";
    else this.historyState = this.history.length >= HISTORY_ROWS_MAX ? "bound" : "idle";
  }
}
