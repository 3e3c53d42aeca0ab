/** One event in full, as the user opened it: what is known about it, and its payload. */
import { messageOf } from "../errors.ts";
import type { JournalEvent } from "../journal/journal.ts";
import type { Enrichment } from "../pipeline/snapshot.ts";
import type { EventDetail } from "../tui/model.ts";
import type { Update } from "./intake.ts";
import { memberText, prettyJson } from "./json.ts";
import type { StoredEvent } from "./rows.ts";

/** @bound a payload shown in full | it is cut */
const LINES_MAX = 5000;
/** @bound a payload shown in full | it is cut, and the rest is counted */
const CHARS_MAX = 256 * 1024;

export interface DetailSources {
  /** The event, if the journal still has it. */
  readonly journalEvent: (seq: number) => JournalEvent | null;
  readonly enrichment: (seq: number) => Promise<Enrichment | null>;
  /** The event from the store, as `GET /api/events/SEQ` gives it. */
  readonly storedEvent: (seq: number) => Promise<string | null>;
}

export class Detail {
  readonly #sources: DetailSources;
  readonly #changed: () => void;
  /** The event that was opened last; null before the first. */
  shown: EventDetail | null = null;

  constructor(sources: DetailSources, changed: () => void) {
    this.#sources = sources;
    this.#changed = changed;
  }

  async open(seq: number): Promise<void> {
    this.shown = { seq, state: "loading", facts: [], lines: [] };
    await this.#load(seq);
  }

  /** Reads the shown event again if it has an update; what is shown of it stays until then. */
  updated(updates: ReadonlyMap<number, Update>): void {
    const seq = this.shown?.state === "ready" ? this.shown.seq : null;
    if (seq !== null && updates.has(seq)) void this.#load(seq);
  }

  async #load(seq: number): Promise<void> {
    let detail: EventDetail;
    try {
      detail = await readDetail(this.#sources, seq);
    } catch (error) {
      detail = { seq, state: "ready", facts: [["error", messageOf(error)]], lines: [] };
    }
    // The user may have opened another event meanwhile.
    if (this.shown?.seq === seq) this.shown = detail;
    this.#changed();
  }
}

async function readDetail(sources: DetailSources, seq: number): Promise<EventDetail> {
  const event = sources.journalEvent(seq);
  if (event !== null) {
    const enrichment = await sources.enrichment(seq);
    const facts = [
      ...eventFacts({ ...event, type: enrichment?.event_type ?? event.type }),
      ...enrichmentFacts(enrichment),
    ];
    return { seq, state: "ready", facts, lines: payloadLines(new TextDecoder().decode(event.body)) };
  }
  const json = await sources.storedEvent(seq);
  if (json === null) return { seq, state: "gone", facts: [], lines: [] };
  const stored = JSON.parse(json) as StoredEvent & {
    readonly id: string;
    readonly timestamp_us: number | null;
    readonly enrichment: Enrichment | null;
  };
  const facts = eventFacts({
    seq,
    id: stored.id,
    receivedUs: stored.received_us,
    timestampUs: stored.timestamp_us,
    type: stored.event_type,
    conversationId: stored.conversation_id,
  });
  return {
    seq,
    state: "ready",
    facts: [...facts, ...enrichmentFacts(stored.enrichment)],
    lines: payloadLines(memberText(json, "payload") ?? ""),
  };
}

type Fact = EventDetail["facts"][number];

function eventFacts(event: {
  readonly seq: number;
  readonly id: string;
  readonly receivedUs: number;
  readonly timestampUs: number | null;
  readonly type: string | null;
  readonly conversationId: string | null;
}): Fact[] {
  const time = (us: number): string => new Date(us / 1000).toISOString();
  return [
    ["seq", String(event.seq)],
    ["id", event.id],
    ["received", time(event.receivedUs)],
    ...(event.timestampUs === null ? [] : [["timestamp", time(event.timestampUs)] as const]),
    ["type", event.type ?? "unknown"],
    ["conversation", event.conversationId ?? "none"],
  ];
}

function enrichmentFacts(enrichment: Omit<Enrichment, "event_type"> | null): Fact[] {
  if (enrichment === null) return [["frame", "none yet"]];
  const { frame_id, intent, sentiment, confidence } = enrichment;
  const provenance = (enrichment.provenance ?? {}) as Record<string, string | null>;
  const from = (name: string): string => {
    const source = provenance[name];
    return source == null ? "" : `  (${source})`;
  };
  const sure = confidence === null ? "" : `, confidence ${confidence.toFixed(2)}`;
  return [
    ["frame", String(frame_id)],
    ["intent", intent === null ? "unknown" : `${intent}${sure}${from("intent")}`],
    ["sentiment", sentiment === null ? "unknown" : `${sentiment.toFixed(2)}${from("sentiment")}`],
    ["type from", provenance.type ?? "unknown"],
    ["embedder", provenance.embedder ?? "no embedding"],
  ];
}

function payloadLines(payload: string): string[] {
  const lines = prettyJson(payload.slice(0, CHARS_MAX), LINES_MAX);
  const left = payload.length - CHARS_MAX;
  if (left > 0)
    lines.push(
      `… and ${left.toLocaleString("en-US")} more characters: GET /api/events/SEQ returns all of them`,
    );
  return lines;
}
