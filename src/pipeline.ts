/**
 * Moves events from the journal to the embedder, the ring and the store, and owns the Snapshot.
 *
 * One direction: committed event → vector → `frames` row → ring → DuckDB. Whatever is lost from memory
 * is read again from the journal (or, once a CHECKPOINT holds it, from DuckDB), so every queue
 * here may be bounded and dropped. The crash protocol is DESIGN.md's: a frame is published only after its
 * `frames` row is committed, and rows leave the journal only below a completed CHECKPOINT and
 * below the ring's head.
 */
import type { Kinetics, Ring } from "../collider.ts";
import type { Embedder } from "./embed.ts";
import { GatewayError, messageOf } from "./errors.ts";
import type { EventFields } from "./event.ts";
import {
  decodeFrame,
  decodePhysics,
  encodeFrame,
  encodePhysics,
  FLAG,
  FRAME_BYTES,
  labelId,
  OFFSET,
  PHYSICS_OFFSET,
  SEMANTIC_DIM_MAX,
  UNKNOWN_EVENT,
} from "./frame.ts";
import type { DecidedFrame, Journal, JournalEvent } from "./journal.ts";
import type { Store, StoreCursors } from "./store.ts";

/** Events that wait in memory for their frame; beyond, they are read from the journal again. */
const INTAKE_EVENTS_MAX = 8192;
const INTAKE_BYTES_MAX = 32 * 1024 * 1024;
/** Decided frames with their vectors (4 KB each) kept for the ring and the store. */
const RECENT_FRAMES_MAX = 8192;
/** Frames offered to the store and not yet committed by it. */
const OFFERED_FRAMES_MAX = 8192;
const OFFER_FRAMES_MAX = 1024;
const PUBLISH_SLICE_FRAMES = 512;
const PRUNE_STEP_EVENTS = 500;
/** How long frames wait for an embedder that fails before they go out without a vector. */
const EMBEDDER_PATIENCE_MS = 30_000;
const EMBEDDER_RETRY_MS_MAX = 5_000;
const HEARTBEAT_MS = 500;
/** How long a drain may go on framing what was received; the rest stays in the journal. */
const DRAIN_MS_MAX = 10_000;
const LABELS_PER_KIND_MAX = 10_000;

export type LogLevel = "debug" | "info" | "warn" | "error";
export type Log = (level: LogLevel, message: string) => void;

export interface PartState {
  readonly state: "ok" | "starting" | "degraded" | "down" | "off";
  /** What, since when, what to do; empty where all is well. */
  readonly detail: string;
}

export type PartName = "journal" | "store" | "ring" | "embedder";

/** What the gateway knows about itself at one instant. Counters only grow; gauges go both ways. */
export interface Snapshot {
  readonly version: string;
  readonly startedUs: number;
  readonly nowUs: number;
  readonly embedderName: string | null;
  readonly parts: Readonly<Record<PartName, PartState>>;
  readonly counters: Readonly<Record<string, number>>;
  readonly gauges: Readonly<Record<string, number>>;
}

/** What the brain said of one event; unknown values are null. */
export interface Enrichment {
  readonly frame_id: number;
  readonly event_type: string;
  readonly intent: string | null;
  readonly sentiment: number | null;
  readonly confidence: number | null;
  readonly provenance: unknown;
}

export interface Refusal {
  readonly code: "overloaded" | "disk_full" | "draining";
  readonly detail: string;
  readonly retryAfterSeconds: number;
}

export interface PipelineOptions {
  readonly version: string;
  readonly journal: Journal;
  readonly kinetics: Kinetics;
  readonly spin: (vector: Float32Array | null) => [number, number, number, number];
  /** What is embedded of an event: its message, else the string leaves of its body. */
  readonly textOf: (message: string | null, body: Uint8Array) => string;
  /** Embeds by the hashing embedder, whichever embedder is in use: old frames may be its. */
  readonly hashing: Embedder;
  readonly openStore: () => Promise<Store>;
  readonly openRing: (
    newest: (fromFrameId: number, limit: number) => Promise<{ bytes: Uint8Array; count: number }>,
  ) => Promise<Ring>;
  readonly openEmbedder: () => Promise<Embedder>;
  readonly maxBacklogEvents: number;
  /** Free bytes where the journal lives, and the least that ingest needs. */
  readonly freeDiskBytes: () => Promise<{ freeBytes: number; neededBytes: number }>;
  readonly nowUs: () => number;
  readonly log: Log;
  /** A failure after which the gateway must not go on. */
  readonly fatal: (error: GatewayError) => void;
  /** Deliberately wrong builds of the tests; empty in the product. */
  readonly mutation: string;
}

/** A frame whose row is committed: id and content are decided for ever. */
interface Entry {
  readonly frameId: number;
  readonly physics: Uint8Array;
  /** Leading floats of `semantic`; null where there is none. */
  readonly vector: Float32Array | null;
  readonly eventType: string | null;
  readonly intent: string | null;
}

interface Batch {
  readonly events: readonly JournalEvent[];
  /** Settles with one row a text, or null where the frames go out without vectors. */
  readonly vectors: Promise<EmbeddedBatch | null>;
}

interface EmbeddedBatch {
  readonly embedder: Embedder;
  readonly dim: number;
  /** events × dim floats; rows of events without a text are zeros. */
  readonly rows: Float32Array;
  readonly present: readonly boolean[];
}

const sleep = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

export class Pipeline {
  readonly #o: PipelineOptions;
  readonly #startedUs: number;
  #store: Store | null = null;
  #ring: Ring | null = null;
  #embedder: Embedder | null = null;
  #parts: Record<PartName, PartState> = {
    journal: { state: "ok", detail: "" },
    store: { state: "starting", detail: "DuckDB is being opened" },
    ring: { state: "starting", detail: "the ring is being prepared" },
    embedder: { state: "starting", detail: "the embedder is being chosen" },
  };
  readonly #counters = {
    frames_total: 0,
    frames_without_vector_total: 0,
    embed_batches_total: 0,
    embed_failures_total: 0,
    published_total: 0,
    refilled_frames_total: 0,
    pruned_events_total: 0,
    ring_replaced_total: 0,
    store_failures_total: 0,
    ignored_fields_total: 0,
  };
  #embedMs = 0;

  // Intake: what is to be framed, in order of receipt.
  #intake: JournalEvent[] = [];
  #intakeBytes = 0;
  /** All events up to this seq are framed, in the intake or under way. */
  #taken = 0;
  #inFlightEvents = 0;

  // Decided frames, ascending without gaps; the newest is the journal's newest.
  #recent: Entry[] = [];
  /** The frame_id after the newest frame whose row is known to be committed. */
  #next: number;
  #publishing = false;
  #feeding = false;
  #offered = 0;
  #pruning = false;
  #checkpointed: StoreCursors = { seq: 0, frameId: 0, answerId: 0 };
  #checkpointAsked = false;

  #labels = {
    intent: new Map<number, string>(),
    type: new Map<number, string>(),
    model: new Map<number, { name: string; dim: number }>(),
  };
  #labelsDirty = true;

  #draining = false;
  #stopped = false;
  #disk: Refusal | null = null;
  #embedFailingSinceMs: number | null = null;
  #embedNextTryMs = 0;
  #wake: (() => void) | null = null;
  readonly #waiters = new Map<number, Set<(enrichment: Enrichment) => void>>();
  #timers: Timer[] = [];
  #loops: Promise<void>[] = [];
  /** Events appended in the current and the last 100 ms: how busy ingest is. */
  #arrivals = { windowMs: 0, current: 0, last: 0 };

  constructor(options: PipelineOptions) {
    this.#o = options;
    this.#startedUs = options.nowUs();
    for (const label of options.journal.labels()) {
      if (label.kind === "model") this.#labels.model.set(label.id, { name: label.label, dim: label.dim });
      else this.#labels[label.kind].set(label.id, label.label);
    }
    this.#next = options.journal.nextFrameId();
    options.journal.onCommitted = (batch) => this.#onCommitted(batch.events);
  }

  /** Starts everything that works behind the acknowledgement. Returns at once. */
  start(): void {
    this.#loops.push(this.#openStore(), this.#openRing(), this.#frameLoop());
    this.#timers.push(
      setInterval(() => this.#beat(), HEARTBEAT_MS),
      setInterval(() => void this.#lookAtDisk(), 1000),
    );
    void this.#lookAtDisk();
  }

  // ------------------------------------------------------------------------------------------ intake

  #onCommitted(events: readonly JournalEvent[]): void {
    this.#arrivals.current += events.length;
    const first = events[0];
    // A gap means that earlier events are still only in the journal: these are read from there too, in order.
    if (first === undefined || first.seq !== this.#taken + 1) return this.#wakeUp();
    for (const event of events) {
      if (this.#intake.length >= INTAKE_EVENTS_MAX || this.#intakeBytes >= INTAKE_BYTES_MAX) break;
      this.#intake.push(event);
      this.#intakeBytes += event.body.byteLength;
      this.#taken = event.seq;
    }
    const newest = events[events.length - 1];
    if (newest !== undefined) this.#store?.head(newest.seq);
    this.#wakeUp();
  }

  #wakeUp(): void {
    this.#wake?.();
    this.#wake = null;
  }

  /** Fills the intake from the journal where memory was too small or the process is new. */
  #readIntake(): void {
    const { journal } = this.#o;
    if (this.#intake.length > 0 || this.#taken >= journal.headSeq()) return;
    const events = journal.unframedAfter(this.#taken, 256);
    for (const event of events) {
      this.#intake.push(event);
      this.#intakeBytes += event.body.byteLength;
    }
    this.#taken = events.at(-1)?.seq ?? journal.headSeq();
  }

  // ----------------------------------------------------------------------------------------- framing

  /** Embeds up to two batches ahead and decides them in order of receipt. */
  async #frameLoop(): Promise<void> {
    await this.#restoreKinetics();
    await this.#openEmbedder();
    const ahead: Batch[] = [];
    while (!this.#stopped) {
      while (ahead.length < 2) {
        const batch = this.#nextBatch();
        if (batch === null) break;
        ahead.push(batch);
      }
      const batch = ahead.shift();
      if (batch === undefined) {
        if (this.#draining) return;
        await new Promise<void>((wake) => {
          this.#wake = wake;
        });
        continue;
      }
      const startedMs = performance.now();
      const vectors = await batch.vectors;
      if (this.#stopped) return;
      await this.#decide(batch.events, vectors);
      this.#inFlightEvents -= batch.events.length;
      await this.#yieldToIngest(performance.now() - startedMs);
    }
  }

  #nextBatch(): Batch | null {
    const embedder = this.#embedder;
    if (embedder === null) return null;
    this.#readIntake();
    if (this.#intake.length === 0) return null;
    const events = this.#intake.splice(0, Math.max(1, Math.min(embedder.maxBatch, 256)));
    for (const event of events) this.#intakeBytes -= event.body.byteLength;
    this.#inFlightEvents += events.length;
    return { events, vectors: this.#embedPatiently(embedder, events) };
  }

  /**
   * Under a burst the acknowledgement comes first: the journal takes the burst, frames follow.
   * Framing then gets about a fifth of the thread.
   */
  async #yieldToIngest(workedMs: number): Promise<void> {
    const nowMs = performance.now();
    const arrivals = this.#arrivals;
    if (nowMs - arrivals.windowMs >= 100) {
      arrivals.last = nowMs - arrivals.windowMs < 200 ? arrivals.current : 0;
      arrivals.current = 0;
      arrivals.windowMs = nowMs;
    }
    const busy = Math.max(arrivals.last, arrivals.current) > 800;
    if (busy && !this.#draining) await sleep(Math.min(50, Math.max(4, 4 * workedMs)));
  }

  /** Retries a failing embedder with backoff; after 30 s of failure it says null, and tries on every few seconds. */
  async #embedPatiently(embedder: Embedder, events: readonly JournalEvent[]): Promise<EmbeddedBatch | null> {
    if (embedder.kind === "off") return null;
    const texts: string[] = [];
    const present = events.map((event) => {
      const text = this.#o.textOf(event.message, event.body);
      if (text !== "") texts.push(text);
      return text !== "";
    });
    let waitMs = 100;
    while (!this.#stopped) {
      const failingMs = this.#embedFailingSinceMs === null ? 0 : performance.now() - this.#embedFailingSinceMs;
      const givenUp = failingMs >= EMBEDDER_PATIENCE_MS || (this.#draining && failingMs > 0);
      if (givenUp && performance.now() < this.#embedNextTryMs) return null;
      try {
        if (texts.length === 0) return { embedder, dim: embedder.dim, rows: new Float32Array(0), present };
        const startedMs = performance.now();
        const packed = await embedder.embed(texts);
        this.#embedMs = performance.now() - startedMs;
        this.#counters.embed_batches_total += 1;
        this.#embedderWorks(embedder);
        return spread(embedder, packed, present);
      } catch (error) {
        this.#embedderFails(embedder, error);
        this.#embedNextTryMs = performance.now() + EMBEDDER_RETRY_MS_MAX;
        if (givenUp) return null;
        await sleep(waitMs);
        waitMs = Math.min(2 * waitMs, EMBEDDER_RETRY_MS_MAX);
      }
    }
    return null;
  }

  #embedderWorks(embedder: Embedder): void {
    if (this.#embedFailingSinceMs !== null) this.#o.log("info", `embedder ${embedder.name}: works again`);
    this.#embedFailingSinceMs = null;
    this.#parts.embedder = { state: "ok", detail: "" };
  }

  #embedderFails(embedder: Embedder, error: unknown): void {
    this.#counters.embed_failures_total += 1;
    if (this.#embedFailingSinceMs === null) {
      this.#embedFailingSinceMs = performance.now();
      this.#o.log("warn", `${messageOf(error)}; frames wait up to 30 s, then go out without a vector`);
    }
    const forS = Math.round((performance.now() - this.#embedFailingSinceMs) / 1000);
    this.#parts.embedder = { state: "degraded", detail: `${embedder.name}: failing for ${forS} s: ${messageOf(error)}` };
  }

  /** Commits the frames of a batch, then publishes and offers them. Retries for as long as the journal cannot write. */
  async #decide(events: readonly JournalEvent[], embedded: EmbeddedBatch | null): Promise<void> {
    const frames = events.map((event, index) => this.#frameOf(event, embedded, index));
    if (this.#o.mutation === "publish-before-row") {
      this.#publishEarly(frames);
      await sleep(50);
    }
    for (let waitMs = 50; !this.#stopped; waitMs = Math.min(2 * waitMs, 2000)) {
      try {
        const firstFrameId = await this.#o.journal.decide(frames.map((frame) => frame.decided));
        this.#decided(firstFrameId, frames);
        return;
      } catch (error) {
        this.#parts.journal = { state: "degraded", detail: messageOf(error) };
        this.#o.log("warn", `frames wait: ${messageOf(error)}`);
        await sleep(waitMs);
      }
    }
  }

  #frameOf(event: JournalEvent, embedded: EmbeddedBatch | null, index: number): FramedEvent {
    const { kinetics, nowUs, journal } = this.#o;
    const timestampUs = event.timestampUs ?? event.receivedUs;
    const motion = kinetics.observe({
      conversationId: event.conversationId,
      timestampUs,
      receivedUs: event.receivedUs,
    });
    const decidedUs = nowUs();
    if (event.conversationId !== null) kinetics.decided(event.conversationId, decidedUs);
    const vector =
      embedded !== null && embedded.present[index] === true
        ? embedded.rows.subarray(index * embedded.dim, (index + 1) * embedded.dim)
        : null;
    const has = vector !== null && embedded !== null;
    if (!has) this.#counters.frames_without_vector_total += 1;
    const fields: EventFields = event.fields ?? {};
    const intent = fields.intent ?? null;
    let flags = 0;
    if (has) flags |= FLAG.semantic;
    if (intent !== null) flags |= FLAG.intent;
    if (fields.sentiment !== undefined) flags |= FLAG.sentiment;
    if (event.conversationId !== null) flags |= FLAG.conversation;
    if (motion.first) flags |= FLAG.first;
    const physics = encodePhysics({
      delta_time: motion.delta_time,
      duration_ms: Math.max(0, decidedUs - event.receivedUs) / 1000,
      velocity: motion.velocity,
      interrupt: motion.interrupt,
      timestamp_us: timestampUs,
      conversation_hash: motion.conversation_hash,
      workflow_node: fields.workflow_node ?? -1,
      case_status: fields.case_status ?? 0,
      lead_status: fields.lead_status ?? 0,
      fill_rate: 0,
      actor_type: fields.actor ?? (event.message === null ? 0 : 1),
      intent_id: intent === null ? -1 : labelId(intent),
      sentiment: fields.sentiment ?? 0,
      confidence: intent === null ? 0 : 1,
      spin: this.#o.spin(vector),
      event_seq: event.seq,
      semantic_dim: has ? embedded.dim : 0,
      flags,
      model_id: has ? embedded.embedder.modelId : 0,
      type_id: event.type === null || event.type === UNKNOWN_EVENT ? -1 : labelId(event.type),
      journal_id: journal.journalId,
      checksum: 0n,
    });
    const provenance = JSON.stringify({
      type: event.type === null ? null : "given",
      intent: intent === null ? null : "given",
      sentiment: fields.sentiment === undefined ? null : "given",
      embedder: has ? embedded.embedder.name : null,
    });
    const decided: DecidedFrame = {
      seq: event.seq,
      decidedUs,
      physics,
      vector: has && !embedded.embedder.recomputed ? vector : null,
      eventType: event.type,
      intent,
      provenance,
    };
    if (has) this.#noteModel(embedded);
    return { decided, vector };
  }

  #decided(firstFrameId: number, frames: readonly FramedEvent[]): void {
    this.#parts.journal = { state: "ok", detail: "" };
    this.#counters.frames_total += frames.length;
    this.#next = firstFrameId + frames.length;
    frames.forEach(({ decided, vector }, index) => {
      const frameId = firstFrameId + index;
      this.#recent.push({
        frameId,
        physics: decided.physics,
        vector,
        eventType: decided.eventType,
        intent: decided.intent,
      });
      const waiters = this.#waiters.get(decided.seq);
      if (waiters !== undefined) {
        const enrichment = enrichmentOf(frameId, decided);
        for (const tell of waiters) tell(enrichment);
      }
    });
    this.#forget();
    void this.#publish();
    void this.#feed();
  }

  /** Drops what ring and store have, and the oldest beyond the bound: the journal has those. */
  #forget(): void {
    const published = this.#ring?.head() ?? Number.POSITIVE_INFINITY;
    const done = Math.min(published, this.#offered + 1);
    const first = this.#recent[0]?.frameId ?? 0;
    const count = Math.max(Math.min(done - first, this.#recent.length), this.#recent.length - RECENT_FRAMES_MAX);
    if (count > 0) this.#recent.splice(0, count);
  }

  /** A deliberately wrong build: readers see ids that no row backs yet. */
  #publishEarly(frames: readonly FramedEvent[]): void {
    for (const { decided, vector } of frames) {
      const ring = this.#ring;
      if (ring !== null) ring.publish(ring.head(), decided.physics, vector);
    }
  }

  /** The motion of conversations, from what the journal still has of them. */
  async #restoreKinetics(): Promise<void> {
    const step = 5000;
    for (let after = 0; !this.#stopped; ) {
      const rows = this.#o.journal.recentConversations(step, after);
      this.#o.kinetics.restore(rows.map(({ frameId: _, ...row }) => row));
      after = rows.at(-1)?.frameId ?? after;
      if (rows.length < step) return;
      await new Promise((done) => setImmediate(done));
    }
  }

  async #openEmbedder(): Promise<void> {
    try {
      this.#embedder = await this.#o.openEmbedder();
    } catch (error) {
      return this.#fail(error, "embedder_unavailable", "embed: open");
    }
    const off = this.#embedder.kind === "off";
    this.#parts.embedder = off ? { state: "off", detail: "--embedder off" } : { state: "ok", detail: "" };
  }

  #fail(error: unknown, code: "embedder_unavailable" | "store_failed" | "ring_failed", operation: string): void {
    const known = error instanceof GatewayError;
    this.#o.fatal(
      known ? error : new GatewayError({ code, operation, object: "", detail: messageOf(error), cause: error }),
    );
  }

  // ---------------------------------------------------------------------------------- decided frames

  /**
   * A contiguous run of decided frames from `start`, at most `limit`: from memory, else the journal,
   * else DuckDB. Empty where there is none, or where the store lags.
   */
  async #entriesFrom(start: number, limit: number): Promise<Entry[]> {
    const first = this.#recent[0]?.frameId;
    if (first !== undefined && start >= first) return this.#recent.slice(start - first, start - first + limit);
    if (start > this.#o.journal.pruned().frameId) return this.#entriesOfJournal(start, limit);
    const store = await this.#storeOpen(2000);
    if (store === null) return [];
    const { bytes, count } = await store.frames(start - 1, limit, this.#ring?.capacity ?? 1);
    const raw = new Uint8Array(bytes);
    const entries: Entry[] = [];
    for (let index = 0; index < count; index++) {
      const frame = decodeFrame(raw, index * FRAME_BYTES);
      if (frame.frame_id !== start + index) break;
      const at = index * FRAME_BYTES + PHYSICS_OFFSET;
      const vector = (frame.flags & FLAG.semantic) === 0 ? null : frame.semantic.subarray(0, frame.semantic_dim);
      const physics = raw.subarray(at, at + FRAME_BYTES - PHYSICS_OFFSET);
      entries.push({ frameId: frame.frame_id, physics, vector, eventType: null, intent: null });
    }
    return entries;
  }

  async #entriesOfJournal(start: number, limit: number): Promise<Entry[]> {
    const rows = this.#o.journal.framesFrom(start, limit);
    const run = rows.filter((stored, index) => stored.frameId === start + index);
    const missing: { index: number; seq: number }[] = [];
    const vectors = run.map((stored, index) => {
      const { flags } = decodePhysics(stored.physics);
      if ((flags & FLAG.semantic) !== 0 && stored.vector === null) missing.push({ index, seq: stored.seq });
      return stored.vector;
    });
    const events = this.#o.journal.eventsAt(missing.map(({ seq }) => seq));
    const texts = events.map((event) => (event === null ? "" : this.#o.textOf(event.message, event.body)));
    const { hashing } = this.#o;
    for (let from = 0; from < missing.length; from += hashing.maxBatch) {
      const part = missing.slice(from, from + hashing.maxBatch);
      const rowsOfPart = await hashing.embed(texts.slice(from, from + part.length));
      part.forEach(({ index }, row) => {
        vectors[index] = rowsOfPart.subarray(row * hashing.dim, (row + 1) * hashing.dim);
      });
    }
    return run.map(({ frameId, physics, eventType, intent }, index) => ({
      frameId,
      physics,
      vector: vectors[index] ?? null,
      eventType,
      intent,
    }));
  }

  /** Raw frames as in a ring of this capacity: n × FRAME_BYTES, a contiguous run from `start`. */
  async #rawFrom(start: number, limit: number): Promise<{ bytes: Uint8Array; count: number }> {
    const entries = await this.#entriesFrom(start, limit);
    const capacity = this.#ring?.capacity ?? Number.MAX_SAFE_INTEGER;
    const bytes = new Uint8Array(entries.length * FRAME_BYTES);
    entries.forEach(({ frameId, physics, vector }, index) => {
      encodeFrame(bytes, index * FRAME_BYTES, { frameId, capacity, physics, vector });
    });
    return { bytes, count: entries.length };
  }

  /**
   * Frames in order for /api/frames: a contiguous run of at most `limit` after frame `after`
   * (null: from the oldest that is kept).
   */
  async frames(after: number | null, limit: number): Promise<{ bytes: Uint8Array; count: number }> {
    const ring = this.#ring;
    if (after !== null && ring !== null) {
      const inRing = ring.read(after + 1, limit);
      if (inRing !== null) return { bytes: inRing, count: inRing.byteLength / FRAME_BYTES };
    }
    if (after !== null && after >= this.#next - 1) return { bytes: new Uint8Array(0), count: 0 };
    const start = after === null ? 1 : after + 1;
    const oldestRow = this.#o.journal.framesFrom(start, 1)[0]?.frameId;
    if (start > this.#o.journal.pruned().frameId) {
      return this.#rawFrom(oldestRow ?? start, limit);
    }
    const store = await this.#storeOpen(2000);
    if (store === null) return { bytes: new Uint8Array(0), count: 0 };
    const { bytes, count } = await store.frames(start - 1, limit, ring?.capacity ?? Number.MAX_SAFE_INTEGER);
    return { bytes: new Uint8Array(bytes), count };
  }

  // -------------------------------------------------------------------------------------------- ring

  async #openRing(): Promise<void> {
    for (let waitMs = 500; !this.#stopped; waitMs = Math.min(2 * waitMs, 5000)) {
      try {
        const ring = await this.#o.openRing(async (from, limit) => this.#rawFrom(from, limit));
        this.#counters.refilled_frames_total += ring.refilled;
        this.#labelsDirty = true;
        this.#ring = ring;
        this.#parts.ring = { state: "ok", detail: "" };
        const how = ring.adopted ? "adopted" : `new, ${ring.refilled} frames refilled`;
        this.#o.log("info", `ring ${ring.path}: ${ring.capacity} frames, ${how}, next frame ${ring.head()}`);
        void this.#publish();
        return;
      } catch (error) {
        this.#parts.ring = { state: "down", detail: messageOf(error) };
        this.#o.log("error", `${messageOf(error)}; frames wait in the journal, trying again`);
        await sleep(waitMs);
      }
    }
  }

  /** Publishes everything decided that the ring does not have yet, in slices between other work. */
  async #publish(): Promise<void> {
    if (this.#publishing) return;
    this.#publishing = true;
    try {
      for (;;) {
        const ring = this.#ring;
        if (ring === null || ring.head() >= this.#next) return;
        const entries = await this.#entriesFrom(ring.head(), PUBLISH_SLICE_FRAMES);
        if (entries.length === 0) {
          await sleep(100);
          if (this.#stopped) return;
          continue;
        }
        if (ring !== this.#ring) continue;
        this.#noteLabels(entries);
        for (const { frameId, physics, vector } of entries) ring.publish(frameId, physics, vector);
        this.#counters.published_total += entries.length;
        this.#forget();
        if (entries.length === PUBLISH_SLICE_FRAMES) await new Promise((done) => setImmediate(done));
      }
    } catch (error) {
      this.#o.log("error", `ring: publish: ${messageOf(error)}`);
      this.#parts.ring = { state: "degraded", detail: messageOf(error) };
    } finally {
      this.#publishing = false;
    }
  }

  #noteModel({ embedder, dim }: EmbeddedBatch): void {
    if (this.#labels.model.has(embedder.modelId)) return;
    this.#labels.model.set(embedder.modelId, { name: embedder.name, dim });
    this.#o.journal.addLabels([{ kind: "model", id: embedder.modelId, label: embedder.name, dim }]);
    this.#labelsDirty = true;
  }

  /** A label stands in the sidecar file before the first frame that uses it. */
  #noteLabels(entries: readonly Entry[]): void {
    const fresh: { kind: "intent" | "type"; id: number; label: string; dim: number }[] = [];
    const note = (kind: "intent" | "type", label: string | null): void => {
      if (label === null || (kind === "type" && label === UNKNOWN_EVENT)) return;
      const id = labelId(label);
      const known = this.#labels[kind];
      if (known.has(id) || known.size >= LABELS_PER_KIND_MAX) return;
      known.set(id, label);
      fresh.push({ kind, id, label, dim: 0 });
    };
    for (const { eventType, intent } of entries) {
      note("type", eventType);
      note("intent", intent);
    }
    if (fresh.length > 0) this.#o.journal.addLabels(fresh);
    if (fresh.length === 0 && !this.#labelsDirty) return;
    this.#ring?.setLabels({
      intents: Object.fromEntries(this.#labels.intent),
      types: Object.fromEntries(this.#labels.type),
      models: Object.fromEntries(this.#labels.model),
    });
    this.#labelsDirty = false;
  }

  #beat(): void {
    const ring = this.#ring;
    if (ring === null || this.#publishing) {
      ring?.heartbeat();
      return;
    }
    if (ring.heartbeat() !== "superseded") return;
    this.#o.log("warn", `ring ${ring.path}: the file was removed or replaced; making a new one`);
    this.#counters.ring_replaced_total += 1;
    this.#ring = null;
    ring.close("superseded");
    this.#parts.ring = { state: "starting", detail: "the file was removed or replaced; a new one is being made" };
    this.#loops.push(this.#openRing());
  }

  // ------------------------------------------------------------------------------------------- store

  async #openStore(): Promise<void> {
    try {
      const store = await this.#o.openStore();
      this.#offered = store.cursors.frameId;
      store.onCursors = () => {
        this.#parts.store = { state: "ok", detail: "" };
        void this.#feed();
      };
      store.onReopened = (cursors) => {
        this.#offered = cursors.frameId;
        void this.#feed();
      };
      store.onCheckpoint = (cursors) => {
        this.#checkpointed = cursors;
        this.#checkpointAsked = false;
        void this.#prune();
      };
      store.onFailure = (error) => {
        this.#counters.store_failures_total += 1;
        this.#parts.store = { state: "degraded", detail: messageOf(error) };
        this.#o.log("warn", messageOf(error));
      };
      this.#store = store;
      this.#parts.store = { state: "ok", detail: "" };
      store.head(this.#o.journal.headSeq());
      void this.#feed();
    } catch (error) {
      this.#fail(error, "store_failed", "store: open");
    }
  }

  async #storeOpen(withinMs: number): Promise<Store | null> {
    const untilMs = performance.now() + withinMs;
    while (this.#store === null && !this.#stopped && performance.now() < untilMs) await sleep(10);
    return this.#store;
  }

  /** The store once DuckDB is open. */
  store(): Store | null {
    return this.#store;
  }

  /** Offers decided frames to the store in order, at most OFFERED_FRAMES_MAX on their way. */
  async #feed(): Promise<void> {
    if (this.#feeding) return;
    this.#feeding = true;
    try {
      for (;;) {
        const store = this.#store;
        if (store === null || this.#stopped) return;
        const room = OFFERED_FRAMES_MAX - (this.#offered - store.cursors.frameId);
        if (room < 1) return;
        const start = this.#offered + 1;
        if (start >= this.#next) return;
        const entries = await this.#entriesFrom(start, Math.min(room, OFFER_FRAMES_MAX));
        if (store !== this.#store || this.#offered + 1 !== start) continue;
        if (entries.length === 0) {
          // Frames that the temporary journal dropped at its bound are passed over.
          const next = this.#o.journal.framesFrom(start, 1)[0]?.frameId ?? this.#next;
          if (next > start) this.#offered = next - 1;
          else await sleep(50);
          continue;
        }
        const vectors = this.#vectorsFor(entries);
        store.offer({ firstFrameId: start, count: entries.length, vectors });
        this.#offered = start + entries.length - 1;
        this.#forget();
      }
    } catch (error) {
      this.#o.log("error", `store: offer: ${messageOf(error)}`);
    } finally {
      this.#feeding = false;
    }
  }

  /** Vectors that the journal does not keep travel along; null where the store finds all of them in the journal. */
  #vectorsFor(entries: readonly Entry[]): Float32Array | null {
    const recomputed = this.#o.hashing.modelId;
    const needed = entries.some(({ physics, vector }) => vector !== null && modelOf(physics) === recomputed);
    if (!needed) return null;
    const rows = new Float32Array(entries.length * SEMANTIC_DIM_MAX);
    entries.forEach(({ vector }, index) => {
      if (vector !== null) rows.set(vector, index * SEMANTIC_DIM_MAX);
    });
    return rows;
  }

  /** Takes what a completed CHECKPOINT holds, and the ring has shown, out of the journal in small steps. */
  async #prune(): Promise<void> {
    if (this.#pruning) return;
    this.#pruning = true;
    try {
      while (!this.#stopped) {
        const published = (this.#ring?.head() ?? 0) - 1;
        const early = this.#o.mutation === "prune-before-checkpoint" ? this.#store?.cursors : undefined;
        const held = early ?? this.#checkpointed;
        const removed = this.#o.journal.prune(
          { ...held, frameId: Math.min(held.frameId, published) },
          PRUNE_STEP_EVENTS,
        );
        this.#counters.pruned_events_total += removed;
        if (removed === 0) break;
        await sleep(5);
      }
      const windowUs = 8 * 24 * 3600 * 1e6;
      while (!this.#stopped && this.#o.journal.pruneDedup(this.#o.nowUs() - windowUs, 1000) > 0) await sleep(5);
    } catch (error) {
      this.#o.log("warn", `journal: prune: ${messageOf(error)}`);
    } finally {
      this.#pruning = false;
    }
  }

  // --------------------------------------------------------------------------------------- admission

  async #lookAtDisk(): Promise<void> {
    const { freeBytes, neededBytes } = await this.#o.freeDiskBytes();
    this.#disk =
      freeBytes >= neededBytes
        ? null
        : {
            code: "disk_full",
            detail: `${Math.floor(freeBytes / 1e6)} MB free where the journal lives, ${Math.ceil(neededBytes / 1e6)} MB needed`,
            retryAfterSeconds: 5,
          };
    const backlog = this.#o.journal.backlog().events;
    if (backlog > this.#o.maxBacklogEvents / 2 && !this.#checkpointAsked && this.#store !== null) {
      this.#checkpointAsked = true;
      this.#store.checkpoint().catch((error) => {
        this.#checkpointAsked = false;
        this.#o.log("warn", messageOf(error));
      });
    }
  }

  /** Why an ingest cannot be taken now; null: it can. Costs nothing. */
  admission(): Refusal | null {
    if (this.#draining) {
      return { code: "draining", detail: "the gateway is shutting down", retryAfterSeconds: 5 };
    }
    if (this.#disk !== null) return this.#disk;
    const backlog = this.#o.journal.backlog().events;
    if (backlog < this.#o.maxBacklogEvents) return null;
    return {
      code: "overloaded",
      detail: `${backlog} events wait in the journal, ${this.#o.maxBacklogEvents} are allowed (--max-backlog)`,
      retryAfterSeconds: 2,
    };
  }

  /** Readiness goes red and ingest is refused from here on. */
  beginDrain(): void {
    this.#draining = true;
    this.#wakeUp();
  }

  /** Waits until what was received is framed and stored (bounded), then closes ring and store. */
  async close(): Promise<void> {
    this.beginDrain();
    const untilMs = performance.now() + DRAIN_MS_MAX;
    const behind = (): boolean =>
      this.#intake.length + this.#inFlightEvents > 0 ||
      this.#taken < this.#o.journal.headSeq() ||
      (this.#ring !== null && this.#ring.head() < this.#next);
    while (behind() && this.#embedder !== null && performance.now() < untilMs) {
      this.#wakeUp();
      await sleep(5);
    }
    while (
      this.#store !== null &&
      this.#offered + 1 < this.#next &&
      performance.now() < untilMs
    ) {
      void this.#feed();
      await sleep(5);
    }
    this.#stopped = true;
    this.#wakeUp();
    for (const timer of this.#timers) clearInterval(timer);
    await this.#store?.[Symbol.asyncDispose]();
    this.#ring?.close("closed");
    this.#ring = null;
    await this.#embedder?.[Symbol.asyncDispose]();
  }

  // ---------------------------------------------------------------------------------------- answers

  /** The brain's last word on event `seq`; null where it is not known within `timeoutMs`. */
  async enrichedWithin(seq: number, timeoutMs: number): Promise<Enrichment | null> {
    const stored = this.#o.journal.frameOf(seq);
    if (stored !== null) return enrichmentOf(stored.frameId, stored);
    if (seq <= this.#o.journal.pruned().seq && this.#o.journal.eventsAt([seq])[0] === null) return null;
    return new Promise((resolve) => {
      const waiters = this.#waiters.get(seq) ?? new Set();
      this.#waiters.set(seq, waiters);
      const settle = (enrichment: Enrichment | null): void => {
        clearTimeout(timer);
        waiters.delete(settle);
        if (waiters.size === 0) this.#waiters.delete(seq);
        resolve(enrichment);
      };
      const timer = setTimeout(() => settle(null), timeoutMs);
      waiters.add(settle);
    });
  }

  snapshot(): Snapshot {
    const { journal, version, nowUs } = this.#o;
    const backlog = journal.backlog();
    const ring = this.#ring;
    const headSeq = journal.headSeq();
    return {
      version,
      startedUs: this.#startedUs,
      nowUs: nowUs(),
      embedderName: this.#embedder?.name ?? null,
      parts: { ...this.#parts },
      counters: { ...this.#counters, dropped_events_total: journal.dropped() },
      gauges: {
        journal_backlog_events: backlog.events,
        journal_bytes: backlog.bytes,
        head_seq: headSeq,
        next_frame_id: journal.nextFrameId(),
        unframed_events: Math.max(0, headSeq - this.#taken) + this.#intake.length + this.#inFlightEvents,
        store_lag_events: this.#store === null ? headSeq : Math.max(0, headSeq - this.#store.cursors.seq),
        store_lag_frames: Math.max(0, journal.nextFrameId() - 1 - (this.#store?.cursors.frameId ?? 0)),
        ring_capacity_frames: ring?.capacity ?? 0,
        ring_head_frame_id: ring?.head() ?? 0,
        ring_tail_frame_id: ring?.tail() ?? 0,
        embed_batch_ms: this.#embedMs,
        conversations: this.#o.kinetics.size,
        resident_bytes: process.memoryUsage.rss(),
      },
    };
  }
}

interface FramedEvent {
  readonly decided: DecidedFrame;
  readonly vector: Float32Array | null;
}

function modelOf(physics: Uint8Array): number {
  const at = OFFSET.model_id - PHYSICS_OFFSET;
  return new DataView(physics.buffer, physics.byteOffset, physics.byteLength).getUint32(at, true);
}

/** Puts the rows of the texts back where their events stand. */
function spread(embedder: Embedder, packed: Float32Array, present: readonly boolean[]): EmbeddedBatch {
  const dim = embedder.dim;
  const known = [...present];
  const rows = new Float32Array(present.length * dim);
  let from = 0;
  present.forEach((has, index) => {
    if (!has) return;
    const row = packed.subarray(from * dim, (from + 1) * dim);
    from += 1;
    // A text without any feature has no direction: that is no vector, not a vector of zeros.
    if (row.every((value) => value === 0)) known[index] = false;
    else rows.set(row, index * dim);
  });
  return { embedder, dim, rows, present: known };
}

function enrichmentOf(frameId: number, decided: DecidedFrame): Enrichment {
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
