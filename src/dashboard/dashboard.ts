/**
 * Collects what the dashboard shows, and does what it asks for. It stands beside the pipeline, which tells it what was committed and decided:
 * that costs two additions and an array's push, whatever comes. Ten times a second at most it looks at the newest of that, and once a
 * second at the gateway's figures. In a headless gateway there is none.
 */

import type { ChatPart } from "../brain/brain.ts";
import { messageOf } from "../errors.ts";
import { decodeFrame, decodePhysics, FLAG, FRAME_BYTES, OFFSET, PHYSICS_OFFSET } from "../frame.ts";
import type { HttpMetrics } from "../http/http.ts";
import type { JournalEvent } from "../journal/journal.ts";
import type { Enrichment, FramesRun, Snapshot, Watch } from "../pipeline/snapshot.ts";
import type {
  Action,
  ChatTurn,
  DashboardSnapshot,
  EventDetail,
  LlmView,
  LogLine,
  Particle,
  Series,
  SeriesName,
} from "../tui/model.ts";
import { memberText, prettyJson } from "./json.ts";
import { Projection } from "./projection.ts";
import { SchemaList, type SchemaSource } from "./schemas.ts";
import { quantileBetween, SeriesRing } from "./series.ts";
import { HISTORY_PAGE_ROWS, LOOK_EVENTS_MAX, rowOf, rowOfStored, type StoredEvent, Tail } from "./tail.ts";

/** How often what came is looked at. */
const LOOK_MS = 100;
const SAMPLE_MS = 1000;
/** How often, while more comes than is looked at: then the acknowledgements need the thread more. */
const LOOK_MS_BUSY = 500;
/** Frames that become particles in one look. */
const LOOK_PARTICLES_MAX = 64;
/** Decided frames that are remembered between two looks. */
const LOOK_FRAMES_MAX = 1024;
const PARTICLES_MAX = 512;
/** How often the plane of the particles is computed again while they are shown. */
const PROJECT_MS = 1000;
/** Events of before the start that are shown first. */
const BEGIN_EVENTS = 100;
const LOG_LINES_MAX = 500;
const LOG_CHARS_MAX = 2000;
const CHAT_TURNS_MAX = 200;
const CHAT_CHARS_MAX = 64_000;
const DETAIL_LINES_MAX = 5000;
/** How much of a payload is made pretty. */
const DETAIL_CHARS_MAX = 256 * 1024;

/** Says a message: the answer comes in parts. Throws where there is none, saying why. */
export type Chat = (message: string, signal: AbortSignal) => AsyncIterable<ChatPart>;

export interface DashboardOptions {
  readonly version: string;
  readonly database: string | null;
  readonly tokenSet: boolean;
  // The functions are called from the start on, not before: until then nothing may listen yet.
  readonly address: () => string;
  readonly snapshot: () => Snapshot;
  readonly metrics: () => Pick<HttpMetrics, "acceptedEvents" | "ackLatency" | "refusals">;
  readonly draining: () => boolean;
  /** The event where the journal still has it. */
  readonly journalEvent: (seq: number) => JournalEvent | null;
  readonly enrichment: (seq: number) => Promise<Enrichment | null>;
  /** The event as GET /api/events/SEQ gives it, from the store. */
  readonly storedEvent: (seq: number) => Promise<string | null>;
  /** A page as GET /api/events gives it, newest first; null while the store is not open. */
  readonly storedEvents: (query: { limit: number; before?: number; q?: string }) => Promise<string> | null;
  readonly frames: (after: number, limit: number) => Promise<FramesRun>;
  /** Null: this gateway learns no schemas. */
  readonly schemas: SchemaSource | null;
  /** Null: there is no brain. */
  readonly llm: (() => LlmView) | null;
  /** Null where nobody answers, with what to do about it in `chatAdvice`. */
  readonly chat: () => Chat | null;
  readonly chatAdvice: () => string;
  readonly nowUs: () => number;
}

type LaterWords = Parameters<Watch["answered"]>[1];

/** A frame with its vector, as long as it is among the newest. */
interface Held extends Omit<Particle, "x" | "y" | "intent" | "sentiment"> {
  readonly vector: Float32Array;
  readonly modelId: number;
  intent: string | null;
  sentiment: number | null;
  x: number;
  y: number;
  /** Version of the projection that x and y are of. */
  placed: number;
}

export class Dashboard implements Watch, Disposable {
  readonly #o: DashboardOptions;
  readonly #tail = new Tail();
  readonly #projection = new Projection();
  readonly #schemas: SchemaList | null;
  readonly #series: Readonly<Record<SeriesName, SeriesRing>>;
  #particles: Held[] = [];
  #batches: (readonly JournalEvent[])[] = [];
  #batchedEvents = 0;
  #decisions: Parameters<Watch["decided"]>[] = [];
  #decidedFrames = 0;
  /** By seq. */
  readonly #answers = new Map<number, LaterWords>();
  /** More has come since the last look than it will look at; and before it. */
  #busy = false;
  #wasBusy = false;
  #looking: Timer | null = null;
  #sampling: Timer | null = null;
  #begun = false;
  #projectedMs = 0;
  #particlesShown = false;
  #particlesChanged = false;
  #sample: Snapshot;
  #before: {
    events: number;
    frames: number;
    batches: number;
    refusals: number;
    llm: number;
    acks: Float64Array;
  };
  #detail: EventDetail | null = null;
  #historyTurn = 0;
  #turns: ChatTurn[] = [];
  #answering: AbortController | null = null;
  #log: LogLine[] = [];
  #unseen = 0;
  /** Called when something that is shown has changed. */
  onChange: () => void = () => {};

  constructor(options: DashboardOptions) {
    this.#o = options;
    this.#schemas = options.schemas === null ? null : new SchemaList(options.schemas);
    const ring = (): SeriesRing => new SeriesRing();
    this.#series = {
      ingest_rate: ring(),
      ack_p50_ms: ring(),
      ack_p99_ms: ring(),
      backlog_events: ring(),
      store_lag_events: ring(),
      frames_rate: ring(),
      ring_fill: ring(),
      embed_batch: ring(),
      embed_ms: ring(),
      llm_rate: ring(),
      refusals_rate: ring(),
      resident_bytes: ring(),
    };
    this.#sample = STARTING;
    this.#before = { events: 0, frames: 0, batches: 0, refusals: 0, llm: 0, acks: new Float64Array(0) };
  }

  /** Begins to count, once a second. */
  start(): void {
    this.#takeSample();
    this.#sampling = setInterval(() => this.#takeSample(), SAMPLE_MS);
  }

  [Symbol.dispose](): void {
    if (this.#looking !== null) clearTimeout(this.#looking);
    if (this.#sampling !== null) clearInterval(this.#sampling);
    this.#answering?.abort();
    this.onChange = () => {};
  }

  // -------------------------------------------------------------------------------- what the pipeline tells

  committed(events: readonly JournalEvent[]): void {
    this.#batches.push(events);
    this.#batchedEvents += events.length;
    // Whole batches go while what is left is enough to look at.
    for (let first = this.#batches[0]; first !== undefined; first = this.#batches[0]) {
      if (this.#batchedEvents - first.length < LOOK_EVENTS_MAX) break;
      this.#busy = true;
      this.#batchedEvents -= first.length;
      this.#batches.shift();
    }
    this.#lookSoon();
  }

  decided(...decision: Parameters<Watch["decided"]>): void {
    this.#decisions.push(decision);
    this.#decidedFrames += decision[1].length;
    for (let first = this.#decisions[0]; first !== undefined; first = this.#decisions[0]) {
      if (this.#decidedFrames - first[1].length < LOOK_FRAMES_MAX) break;
      this.#decidedFrames -= first[1].length;
      this.#decisions.shift();
    }
    this.#lookSoon();
  }

  /** What the brain said of an event after its frame. */
  answered(seq: number, words: LaterWords): void {
    // Kept until the look: what the frame said may not have been looked at yet, and must not stand over it.
    this.#answers.delete(seq);
    this.#answers.set(seq, words);
    const oldest = this.#answers.size > LOOK_EVENTS_MAX ? this.#answers.keys().next().value : undefined;
    if (oldest !== undefined) this.#answers.delete(oldest);
    this.#lookSoon();
  }

  #lookSoon(): void {
    this.#looking ??= setTimeout(() => this.#look(), this.#wasBusy ? LOOK_MS_BUSY : LOOK_MS);
  }

  #look(): void {
    this.#looking = null;
    this.#wasBusy = this.#busy;
    this.#busy = false;
    const batches = this.#batches;
    const decisions = this.#decisions;
    this.#batches = [];
    this.#batchedEvents = 0;
    this.#decisions = [];
    this.#decidedFrames = 0;
    this.#tail.add(newest(batches, LOOK_EVENTS_MAX).map(rowOf));
    const oldestSeq = this.#tail.rows[0]?.seq ?? this.#tail.newestSeq;
    for (const [firstFrameId, drafts] of decisions) {
      drafts.forEach(({ decided }, index) => {
        const { seq, physics, eventType, intent } = decided;
        if (seq < oldestSeq) return;
        const sentiment = sentimentOf(physics);
        this.#tail.enrich(seq, { frameId: firstFrameId + index, type: eventType, intent, sentiment });
      });
    }
    if (this.#particlesShown) this.#lookAtVectors(decisions);
    this.#lookAtAnswers();
    this.onChange();
  }

  #lookAtAnswers(): void {
    if (this.#answers.size === 0) return;
    for (const [seq, { type, intent, sentiment }] of this.#answers)
      this.#tail.enrich(seq, { frameId: null, type, intent, sentiment });
    for (const particle of this.#particles) {
      const words = this.#answers.get(particle.seq);
      if (words === undefined) continue;
      particle.intent = words.intent;
      particle.sentiment = words.sentiment;
    }
    const seq = this.#detail?.state === "ready" ? this.#detail.seq : null;
    if (seq !== null && this.#answers.has(seq)) void this.#loadDetail(seq, true);
    this.#answers.clear();
  }

  /** The newest frames with a vector, no more than an eye can follow. */
  #lookAtVectors(decisions: readonly Parameters<Watch["decided"]>[]): void {
    const drafts = decisions.map(([firstFrameId, all]) =>
      all.slice(-LOOK_PARTICLES_MAX).map((draft, index, { length }) => ({
        frameId: firstFrameId + all.length - length + index,
        draft,
      })),
    );
    for (const { frameId, draft } of newest(drafts, LOOK_PARTICLES_MAX)) {
      if (draft.vector === null || frameId <= (this.#particles.at(-1)?.frameId ?? 0)) continue;
      const { event, decided } = draft;
      this.#addParticle(frameId, decided.physics, draft.vector, {
        intent: decided.intent,
        conversation: event.conversationId,
        message: rowOf(event).message,
      });
    }
  }

  #addParticle(
    frameId: number,
    physics: Uint8Array,
    vector: Float32Array,
    of: Pick<Particle, "intent" | "conversation" | "message">,
  ): void {
    const p = decodePhysics(physics);
    const spare = this.#particles.length < PARTICLES_MAX ? null : (this.#particles.shift()?.vector ?? null);
    this.#particles.push({
      frameId,
      seq: Number(p.event_seq),
      timeUs: Number(p.timestamp_us),
      ...of,
      sentiment: (p.flags & FLAG.sentiment) === 0 ? null : p.sentiment,
      velocity: p.velocity,
      deltaSeconds: (p.flags & FLAG.first) === 0 ? Math.exp(p.delta_time) : null,
      interrupt: p.interrupt !== 0,
      // A copy, as the vector is a part of its whole batch; into memory of one that has gone, where there is one.
      vector: copyInto(spare, vector),
      modelId: p.model_id,
      x: 0,
      y: 0,
      placed: -1,
    });
    this.#particlesChanged = true;
  }

  // --------------------------------------------------------------------------------------------- figures

  #takeSample(): void {
    const { snapshot, metrics, llm, nowUs } = this.#o;
    const sample = snapshot();
    const http = metrics();
    const { gauges, counters } = sample;
    const seconds = Math.max(0.001, (sample.nowUs - this.#sample.nowUs) / 1e6);
    const first = this.#sample === STARTING;
    const now = {
      events: http.acceptedEvents,
      frames: counters.frames_total ?? 0,
      batches: counters.embed_batches_total ?? 0,
      refusals: http.refusals().reduce((sum, { count }) => sum + count, 0),
      llm: llm?.().calls ?? 0,
      acks: http.ackLatency.counts(),
    };
    const before = this.#before;
    const rate = (of: "events" | "frames" | "refusals" | "llm"): number =>
      first ? Number.NaN : Math.max(0, (now[of] - before[of]) / seconds);
    const batches = now.batches - before.batches;
    const capacity = gauges.ring_capacity_frames ?? 0;
    const held = (gauges.ring_head_frame_id ?? 0) - (gauges.ring_tail_frame_id ?? 0);
    const ack = (share: number): number =>
      quantileBetween(before.acks, now.acks, share, (bucket) => 0.1 * 2 ** bucket);
    const values: Record<SeriesName, number> = {
      ingest_rate: rate("events"),
      ack_p50_ms: ack(0.5),
      ack_p99_ms: ack(0.99),
      backlog_events: gauges.journal_backlog_events ?? Number.NaN,
      store_lag_events: gauges.store_lag_events ?? Number.NaN,
      frames_rate: rate("frames"),
      ring_fill: capacity === 0 ? Number.NaN : (100 * Math.max(0, held)) / capacity,
      embed_batch: first || batches <= 0 ? Number.NaN : (now.frames - before.frames) / batches,
      embed_ms: batches <= 0 ? Number.NaN : (gauges.embed_batch_ms ?? Number.NaN),
      llm_rate: llm === null ? Number.NaN : rate("llm"),
      refusals_rate: rate("refusals"),
      resident_bytes: gauges.resident_bytes ?? Number.NaN,
    };
    // Seconds in which nothing was counted (the process was stopped, or far too busy) are gaps, so that time keeps its place.
    const missed = first ? 0 : Math.min(3600, Math.round(seconds) - 1);
    for (const [name, ring] of Object.entries(this.#series)) {
      for (let gap = 0; gap < missed; gap++) ring.push(Number.NaN);
      ring.push(values[name as SeriesName]);
    }
    this.#before = now;
    this.#sample = { ...sample, nowUs: nowUs() };
    if (!this.#begun) void this.#begin();
    this.onChange();
  }

  /** The newest of what was there before this process, so that a restart does not begin with an empty screen. */
  async #begin(): Promise<void> {
    const headSeq = this.#sample.gauges.head_seq ?? 0;
    const page = headSeq === 0 ? null : this.#o.storedEvents({ limit: BEGIN_EVENTS });
    if (headSeq > 0 && page === null) return;
    this.#begun = true;
    if (page === null) return;
    try {
      this.#tail.begin(
        eventsOf(await page)
          .map(rowOfStored)
          .reverse(),
      );
    } catch (error) {
      this.note("warn", `dashboard: what was there before could not be read: ${messageOf(error)}`);
    }
    this.onChange();
  }

  /** The newest frames there are, when somebody begins to look at particles: vectors are not kept for nobody. */
  async #loadParticles(): Promise<void> {
    const next = this.#o.snapshot().gauges.next_frame_id ?? 1;
    try {
      const { chunks, count } = await this.#o.frames(Math.max(0, next - 1 - PARTICLES_MAX), PARTICLES_MAX);
      const bytes = new Uint8Array(Buffer.concat(chunks));
      const came = this.#particles;
      this.#particles = [];
      for (let index = 0; index < count; index++) {
        const at = index * FRAME_BYTES;
        const { frame_id, flags, semantic, semantic_dim, event_seq } = decodeFrame(bytes, at);
        const known = frame_id >= (came[0]?.frameId ?? Number.POSITIVE_INFINITY);
        if ((flags & FLAG.semantic) === 0 || known) continue;
        const seq = Number(event_seq);
        const event = this.#tail.row(seq) === null ? this.#o.journalEvent(seq) : null;
        const row = this.#tail.row(seq) ?? (event === null ? null : rowOf(event));
        this.#addParticle(
          frame_id,
          bytes.subarray(at + PHYSICS_OFFSET, at + FRAME_BYTES),
          semantic.subarray(0, semantic_dim),
          {
            intent: row?.intent ?? null,
            conversation: row?.conversation ?? null,
            message: row?.message ?? "(its message is in the store: Enter)",
          },
        );
      }
      this.#particles.push(...came);
      this.#particles.splice(0, this.#particles.length - PARTICLES_MAX);
    } catch (error) {
      this.note("warn", `dashboard: the newest frames could not be read: ${messageOf(error)}`);
    }
    this.onChange();
  }

  // ------------------------------------------------------------------------------------------------- log

  note(level: LogLine["level"], message: string): void {
    this.#log.push({ timeUs: this.#o.nowUs(), level, message: message.slice(0, LOG_CHARS_MAX) });
    if (this.#log.length > LOG_LINES_MAX) this.#log = this.#log.slice(-LOG_LINES_MAX / 2);
    if (level === "warn" || level === "error") this.#unseen += 1;
    this.onChange();
  }

  // --------------------------------------------------------------------------------------------- actions

  act(action: Action): void {
    switch (action.kind) {
      case "show":
        this.#show(action.tab === "particles");
        break;
      case "hold":
        this.#tail.hold();
        break;
      case "release":
        this.#historyTurn += 1;
        this.#tail.release();
        break;
      case "forget-history":
        this.#historyTurn += 1;
        this.#tail.forgetHistory();
        break;
      case "older":
        void this.#loadOlder(action.filter.trim());
        break;
      case "detail":
        void this.#loadDetail(action.seq);
        break;
      case "log-seen":
        this.#unseen = 0;
        break;
      case "chat":
        void this.#ask(action.text);
        break;
      case "chat-stop":
        this.#answering?.abort();
        break;
      case "quit":
      case "suspend":
      case "redraw":
      case "mouse":
        // The terminal's own affairs.
        break;
    }
    this.onChange();
  }

  #show(particles: boolean): void {
    if (particles && !this.#particlesShown) void this.#loadParticles();
    if (!particles) this.#particles = [];
    this.#particlesShown = particles;
  }

  async #loadOlder(filter: string): Promise<void> {
    const before = this.#tail.olderBefore();
    if (before === null) return;
    const turn = this.#historyTurn;
    this.#tail.historyState = "loading";
    try {
      const page = this.#o.storedEvents({
        limit: HISTORY_PAGE_ROWS,
        before,
        ...(filter === "" ? {} : { q: filter }),
      });
      if (page === null) throw new Error("DuckDB is not open yet");
      const rows = eventsOf(await page)
        .map(rowOfStored)
        .reverse();
      // Another filter, or the newest events again: nobody waits for these any more.
      if (turn === this.#historyTurn) this.#tail.addHistory(rows);
    } catch (error) {
      if (turn === this.#historyTurn) this.#tail.historyState = "failed";
      this.note("warn", `dashboard: older events could not be read: ${messageOf(error)}`);
    }
    this.onChange();
  }

  /** @param again what is shown of it stays until it is read. */
  async #loadDetail(seq: number, again = false): Promise<void> {
    if (!again) this.#detail = { seq, state: "loading", facts: [], lines: [] };
    let detail: EventDetail;
    try {
      detail = await this.#readDetail(seq);
    } catch (error) {
      detail = { seq, state: "ready", facts: [["not read", messageOf(error)]], lines: [] };
    }
    // A later one may have been asked for meanwhile.
    if (this.#detail?.seq === seq) this.#detail = detail;
    this.onChange();
  }

  async #readDetail(seq: number): Promise<EventDetail> {
    const event = this.#o.journalEvent(seq);
    if (event !== null) {
      const enrichment = await this.#o.enrichment(seq);
      const facts = [
        ...eventFacts({ ...event, type: enrichment?.event_type ?? event.type }),
        ...enrichmentFacts(enrichment),
      ];
      return { seq, state: "ready", facts, lines: payloadLines(new TextDecoder().decode(event.body)) };
    }
    const json = await this.#o.storedEvent(seq);
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

  async #ask(text: string): Promise<void> {
    if (this.#answering !== null) return;
    const controller = new AbortController();
    this.#answering = controller;
    let turn: ChatTurn = {
      from: "brain",
      text: "",
      state: "streaming",
      intent: null,
      slots: {},
      missing: [],
    };
    this.#turns.push({ ...turn, from: "you", text, state: "done" }, turn);
    this.#turns = this.#turns.slice(-CHAT_TURNS_MAX);
    const say = (more: Partial<ChatTurn>): void => {
      turn = { ...turn, ...more, text: (more.text ?? turn.text).slice(0, CHAT_CHARS_MAX) };
      this.#turns[this.#turns.length - 1] = turn;
      this.onChange();
    };
    try {
      const chat = this.#o.chat();
      if (chat === null) throw new Error(this.#o.chatAdvice());
      for await (const part of chat(text, controller.signal)) {
        if (part.kind === "text") say({ text: turn.text + part.text });
        else {
          const { intent, slots, missing } = part.state;
          say({ intent, slots, missing });
        }
      }
      say({ state: "done" });
    } catch (error) {
      const why = controller.signal.aborted ? "stopped" : messageOf(error);
      say({ text: turn.text === "" ? why : `${turn.text}\n(${why})`, state: "failed" });
    } finally {
      this.#answering = null;
      this.onChange();
    }
  }

  // -------------------------------------------------------------------------------------------- snapshot

  #points(): readonly Held[] {
    const model = this.#particles.at(-1)?.modelId;
    // Vectors of different models have nothing to do with each other.
    const held = this.#particles.filter(({ modelId }) => modelId === model).slice(-PARTICLES_MAX);
    const nowMs = performance.now();
    if (this.#particlesChanged && nowMs - this.#projectedMs >= PROJECT_MS) {
      this.#projection.update(held.map(({ vector }) => vector));
      this.#projectedMs = nowMs;
      this.#particlesChanged = false;
    }
    const { version } = this.#projection;
    for (const particle of held) {
      if (particle.placed === version) continue;
      [particle.x, particle.y] = this.#projection.place(particle.vector);
      particle.placed = version;
    }
    return held;
  }

  snapshot(): DashboardSnapshot {
    const { version, database, tokenSet, address, draining, llm, chat, chatAdvice, metrics, nowUs } = this.#o;
    const sample = this.#sample;
    const { gauges, counters, embedderName } = sample;
    // The model is shown by itself.
    const { llm: _, ...parts } = sample.parts;
    const { rows, history, historyState, newestSeq } = this.#tail;
    const total = Math.max(gauges.head_seq ?? 0, newestSeq);
    const last = rows.at(-1);
    const series = Object.fromEntries(
      Object.entries(this.#series).map(([name, ring]): [string, Series] => [
        name,
        (seconds) => ring.newest(seconds),
      ]),
    ) as Record<SeriesName, Series>;
    return {
      version,
      nowUs: nowUs(),
      startedUs: sample.startedUs,
      sampledUs: sample.nowUs,
      address: address(),
      database,
      tokenSet,
      draining: draining(),
      embedder: embedderName,
      parts,
      llm: llm?.() ?? null,
      events: {
        rows,
        history,
        historyState,
        newer: this.#tail.held ? Math.max(0, total - (last?.seq ?? 0)) : 0,
        total,
        lastUs: this.#tail.row(newestSeq)?.receivedUs ?? null,
      },
      detail: this.#detail,
      particles: {
        points: this.#particlesShown ? this.#points() : [],
        none: noParticles(parts.embedder?.state ?? "starting", gauges.next_frame_id ?? 1),
        explained: this.#projection.explained,
      },
      schemas: this.#schemas?.views(nowUs()) ?? null,
      chat: {
        available: chat() !== null,
        advice: chatAdvice(),
        answering: this.#answering !== null,
        turns: this.#turns,
      },
      metrics: { series, counters, gauges, refusals: metrics().refusals() },
      log: this.#log,
      unseen: this.#unseen,
    };
  }
}

const STARTING: Snapshot = {
  version: "",
  startedUs: 0,
  nowUs: 0,
  embedderName: null,
  parts: {
    journal: { state: "ok", detail: "" },
    store: { state: "starting", detail: "" },
    ring: { state: "starting", detail: "" },
    embedder: { state: "starting", detail: "" },
    llm: { state: "starting", detail: "" },
  },
  counters: {},
  gauges: {},
  drift: [],
};

function noParticles(embedder: string, nextFrameId: number): string {
  if (embedder === "off") return "No embeddings: the gateway runs with --embedder off";
  if (nextFrameId <= 1) return "No frames yet";
  return embedder === "ok" ? "No frame with an embedding yet" : `No embeddings: the embedder is ${embedder}`;
}

/** Of PHYSICS_BYTES; null where it is unknown. Read by itself: this is done for each frame that comes. */
function sentimentOf(physics: Uint8Array): number | null {
  const view = new DataView(physics.buffer, physics.byteOffset, physics.byteLength);
  if ((view.getUint16(OFFSET.flags - PHYSICS_OFFSET, true) & FLAG.sentiment) === 0) return null;
  return view.getFloat32(OFFSET.sentiment - PHYSICS_OFFSET, true);
}

function copyInto(spare: Float32Array | null, vector: Float32Array): Float32Array {
  if (spare?.length !== vector.length) return vector.slice();
  spare.set(vector);
  return spare;
}

/** The last so many of lists, in their order. */
function newest<T>(lists: readonly (readonly T[])[], max: number): T[] {
  const all: (readonly T[])[] = [];
  let count = 0;
  for (let at = lists.length - 1; at >= 0 && count < max; at--) {
    const list = lists[at] as readonly T[];
    const part = list.slice(Math.max(0, list.length - (max - count)));
    all.unshift(part);
    count += part.length;
  }
  return all.flat();
}

function eventsOf(page: string): StoredEvent[] {
  return (JSON.parse(page) as { events: StoredEvent[] }).events;
}

type Fact = readonly [string, string];

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
    ["type from", provenance.type ?? "nobody"],
    ["embedder", provenance.embedder ?? "no embedding"],
  ];
}

function payloadLines(payload: string): string[] {
  const lines = prettyJson(payload.slice(0, DETAIL_CHARS_MAX), DETAIL_LINES_MAX);
  const left = payload.length - DETAIL_CHARS_MAX;
  if (left > 0)
    lines.push(`… and ${left.toLocaleString("en-US")} characters more: GET /api/events/SEQ has all of it`);
  return lines;
}
