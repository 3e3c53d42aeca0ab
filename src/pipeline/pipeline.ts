/**
 * Moves events from the journal to the embedder, the ring and the store, and owns the Snapshot.
 *
 * One direction: committed event → vector → `frames` row → ring → DuckDB. Whatever is lost from memory
 * is read again from the journal (or, once a CHECKPOINT holds it, from DuckDB), so every queue
 * here may be bounded and dropped. The crash protocol (docs/ARCHITECTURE.md): a frame is published only after its
 * `frames` row is committed, and rows leave the journal only below a completed CHECKPOINT and
 * below the ring's head.
 */

import type { Ring } from "../../collider.ts";
import type { Brain } from "../brain/brain.ts";
import type { Clock } from "../clock.ts";
import type { Embedder } from "../embed/embedder.ts";
import { type ErrorCode, GatewayError, messageOf } from "../errors.ts";
import type { DecidedFrame, EventsGone, Journal, JournalCursors, JournalEvent } from "../journal/journal.ts";
import type { LlmState } from "../llm/contract.ts";
import type { Log } from "../log.ts";
import type { Kinetics } from "../physics.ts";
import type { RingLabels } from "../ring/contract.ts";
import type { Schemas } from "../schemas/schemas.ts";
import type { Store } from "../store/store.ts";
import { PatientEmbedder, vectorOf } from "./embedding.ts";
import { DecidedFrames } from "./frame-reader.ts";
import { Labels, makeFrame, understandingOf, vectorsToOffer } from "./frames.ts";
import { Questions } from "./questions.ts";
import { Reembed } from "./reembed.ts";
import type {
  Enrichment,
  FramesRun,
  PartName,
  PartState,
  RawFrames,
  Refusal,
  Snapshot,
  Watch,
} from "./snapshot.ts";
import { Updates } from "./updates.ts";
import type { Draft, Embedded, Entry, Item } from "./work.ts";

/** Events that wait in memory for their frame; beyond, they are read from the journal again. */
const INTAKE_EVENTS_MAX = 4096;
const INTAKE_BYTES_MAX = 16 * 1024 * 1024;
const INTAKE_READ_EVENTS = 256;
/** Batches that are embedded ahead of the one that is being decided. */
const BATCHES_AHEAD = 2;
/** From this rate on, framing yields to ingest: up to YIELD_MS_MAX after a batch, nothing at YIELD_BACKLOG_EVENTS. */
const BURST_EVENTS_PER_SECOND = 3000;
const YIELD_MS_MAX = 100;
const YIELD_BACKLOG_EVENTS = 500_000;
const ARRIVALS_WINDOW_MS = 100;
/** Decided frames with their vectors (4 KB each) kept for the ring and the store. */
const RECENT_FRAMES_MAX = 8192;
/** Frames offered to the store and not yet committed by it. */
const OFFERED_FRAMES_MAX = 8192;
const OFFER_FRAMES_MAX = 1024;
const PUBLISH_SLICE_FRAMES = 256;
const PRUNE_STEP_EVENTS = 500;
const PRUNE_PAUSE_MS = 5;
/** A repeat of a key is known for so long. */
const DEDUP_WINDOW_US = 8 * 24 * 3600 * 1e6;
/** Conversations are rebuilt at start from so many of the newest frames. */
const RESTORE_FRAMES_MAX = 200_000;
const RESTORE_STEP_FRAMES = 2000;
const HEARTBEAT_MS = 500;
const DISK_LOOK_MS = 1000;
const STORE_WAIT_MS = 2000;
/** How long the end waits for DuckDB to have opened; a log that takes longer to replay is replayed again at the next start. */
const STORE_OPENING_MS_MAX = 2000;
/** How long a drain may go on framing what was received; the rest stays in the journal. */
const DRAIN_MS_MAX = 10_000;

export interface PipelineOptions {
  readonly version: string;
  readonly journal: Journal;
  readonly kinetics: Kinetics;
  readonly spin: (vector: Float32Array | null) => [number, number, number, number];
  /** Whether frames carry a checksum: where a reader on this machine may need one. */
  readonly checksums: boolean;
  readonly schemas: Pick<Schemas, "observe" | "counters" | "gauges" | "drift">;
  /** What is embedded of an event: its message, else the string leaves of its body. */
  readonly textOf: (message: string | null, body: Uint8Array) => string;
  /** Embeds by the hashing embedder, whichever embedder is in use: old frames may be its. */
  readonly hashing: Embedder;
  readonly openStore: () => Promise<Store>;
  readonly openRing: (newest: (fromFrameId: number, limit: number) => Promise<RawFrames>) => Promise<Ring>;
  readonly openEmbedder: () => Promise<Embedder>;
  readonly brain: Brain;
  /** How long a frame waits for the language model. */
  readonly frameWaitMs: number;
  /** Older events are to have vectors of the embedder in use. */
  readonly reembed: boolean;
  /** What parts count that the pipeline does not know, for the Snapshot. */
  readonly otherMetrics: () => Pick<Snapshot, "counters" | "gauges">;
  readonly maxBacklogEvents: number;
  /** Free bytes where the journal lives, and the least that ingest needs. */
  readonly freeDiskBytes: () => { freeBytes: number; neededBytes: number };
  readonly clock: Clock;
  readonly log: Log;
  /** A failure after which the gateway must not go on. */
  readonly fatal: (error: GatewayError) => void;
  readonly watch?: Watch | null;
}

interface Batch {
  readonly events: readonly JournalEvent[];
  /** undefined: not yet. */
  embedded: Embedded | null | undefined;
}

export class Pipeline {
  readonly #o: PipelineOptions;
  readonly #startedUs: number;
  readonly #labels: Labels;
  #store: Store | null = null;
  #storeOpening: Promise<void> = Promise.resolve();
  #ring: Ring | null = null;
  #embedder: PatientEmbedder | null = null;
  #openedEmbedder: Embedder | null = null;
  readonly #updates: Updates;
  readonly #frames: DecidedFrames;
  readonly #questions: Questions;
  #reembed: Reembed | null = null;
  #states: Record<Exclude<PartName, "embedder" | "llm">, PartState> = {
    journal: { state: "ok", detail: "" },
    store: { state: "starting", detail: "DuckDB is being opened" },
    ring: { state: "starting", detail: "the ring is being prepared" },
  };
  readonly #counters = {
    frames_total: 0,
    frames_without_vector_total: 0,
    published_frames_total: 0,
    refilled_frames_total: 0,
    pruned_events_total: 0,
    rings_replaced_total: 0,
    store_failures_total: 0,
  };

  // Intake: what is to be framed, in order of receipt.
  #intake: JournalEvent[] = [];
  #intakeBytes = 0;
  /** All events up to this seq are framed, in the intake or under way. */
  #taken = 0;
  /** Being embedded. */
  #underWay = 0;
  #deciding = 0;
  #wake: (() => void) | null = null;
  /** How busy ingest is: events since a moment, and the rate of the window before. */
  readonly #arrivals = { events: 0, sinceMs: 0, perSecond: 0 };

  // Decided frames, ascending without gaps, up to the newest.
  #recent: Entry[] = [];
  /** The frame_id after the newest frame whose row is known to be committed. */
  #next: number;
  #publishing = false;
  #feeding = false;
  /** The newest frame_id that was offered to the store. */
  #offered = 0;
  #pruning = false;
  #checkpointed: JournalCursors = { seq: 0, frameId: 0, answerId: 0 };
  #checkpointAsked = false;

  #draining = false;
  #stopped = false;
  #disk: Refusal | null = null;
  #timers: Disposable[] = [];

  constructor(options: PipelineOptions) {
    const { journal } = options;
    this.#o = options;
    this.#startedUs = options.clock.nowUs();
    this.#labels = new Labels(journal);
    this.#next = journal.nextFrameId();
    journal.onCommitted = (batch) => this.#onCommitted(batch.events);
    const { hashing, textOf, log, brain, frameWaitMs, clock } = options;
    const store = (): Store | null => this.#store;
    const stopped = (): boolean => this.#stopped;
    const onWritten = (row: DecidedFrame): void => options.watch?.answered(row.seq, understandingOf(row));
    this.#updates = new Updates({ journal, store, hashing, textOf, log, clock, stopped, onWritten });
    this.#frames = new DecidedFrames({
      ...{ journal, hashing, textOf, clock },
      ring: () => this.#ring,
      recent: () => this.#recent,
      nextFrameId: () => this.#next,
      storeOpen: () => this.#storeOpen(),
    });
    const onReady = (): void => this.#wakeUp();
    this.#questions = new Questions({
      brain,
      journal,
      updates: this.#updates,
      frameWaitMs,
      clock,
      log,
      onReady,
    });
  }

  /** Starts everything that works behind the acknowledgement. Returns at once. */
  start(): void {
    const { clock } = this.#o;
    this.#storeOpening = this.#openStore();
    void this.#openRing();
    void this.#frameAll();
    void this.#questions.restore().catch((error) => this.#fail(error, "journal_failed", "brain: restore"));
    this.#lookAtDisk();
    this.#timers = [
      clock.every(HEARTBEAT_MS, () => this.#beat()),
      clock.every(DISK_LOOK_MS, () => this.#lookAtDisk()),
    ];
  }

  #fail(error: unknown, code: ErrorCode, operation: string): void {
    const known = error instanceof GatewayError;
    const detail = messageOf(error);
    this.#o.fatal(known ? error : new GatewayError({ code, operation, object: "", detail, cause: error }));
  }

  // ------------------------------------------------------------------------------------------ intake

  #onCommitted(events: readonly JournalEvent[]): void {
    this.#arrivals.events += events.length;
    this.#o.watch?.committed(events);
    if (!this.#bursting()) this.#store?.head(this.#o.journal.headSeq());
    // A gap means that earlier events are still only in the journal: these are read from there too, in order.
    for (const event of events) {
      const full = this.#intake.length >= INTAKE_EVENTS_MAX || this.#intakeBytes >= INTAKE_BYTES_MAX;
      if (full || event.seq !== this.#taken + 1) break;
      this.#take(event);
    }
    this.#wakeUp();
  }

  #take(event: JournalEvent): void {
    this.#intake.push(event);
    this.#intakeBytes += event.body.byteLength;
    this.#taken = event.seq;
  }

  #wakeUp(): void {
    this.#wake?.();
    this.#wake = null;
  }

  /** Fills the intake from the journal where memory was too small or the process is new. */
  #readIntake(): void {
    const { journal } = this.#o;
    const headSeq = journal.headSeq();
    if (this.#intake.length > 0 || this.#taken >= headSeq) return;
    const events = journal.unframedAfter(this.#taken, INTAKE_READ_EVENTS);
    for (const event of events) this.#take(event);
    if (events.length === 0) this.#taken = headSeq;
  }

  #nextBatch(embedder: PatientEmbedder): Batch | null {
    this.#readIntake();
    if (this.#intake.length === 0) return null;
    const events = this.#intake.splice(0, embedder.maxBatch);
    for (const event of events) this.#intakeBytes -= event.body.byteLength;
    this.#underWay += events.length;
    const batch: Batch = { events, embedded: undefined };
    void embedder.embed(events).then((embedded) => {
      batch.embedded = embedded;
      this.#wakeUp();
    });
    return batch;
  }

  // ----------------------------------------------------------------------------------------- framing

  /** Embeds ahead, and decides in order of receipt what does not wait for the language model. */
  async #frameAll(): Promise<void> {
    await this.#restoreKinetics();
    const embedder = await this.#openEmbedder();
    const ahead: Batch[] = [];
    if (embedder !== null && this.#o.reembed) this.#beginReembed();
    while (embedder !== null && !this.#stopped) {
      while (ahead.length < BATCHES_AHEAD) {
        const batch = this.#nextBatch(embedder);
        if (batch === null) break;
        ahead.push(batch);
      }
      const [batch] = ahead;
      if (batch?.embedded !== undefined) {
        ahead.shift();
        this.#understand(batch.events, batch.embedded);
      }
      const items = this.#questions.holds.take();
      if (items.length === 0 && ahead[0]?.embedded === undefined) {
        await new Promise<void>((wake) => {
          this.#wake = wake;
        });
        continue;
      }
      await this.#decide(items);
      if (batch?.embedded !== undefined) await this.#yieldToIngest();
    }
  }

  /** Takes what is known of each event, and asks for the rest. */
  #understand(events: readonly JournalEvent[], embedded: Embedded | null): void {
    if (embedded !== null) this.#labels.noteModel(embedded);
    events.forEach((event, index) => {
      const known = this.#o.brain.known(event, embedded?.nearest[index] ?? null);
      this.#questions.admit({ event, vector: vectorOf(embedded, index), known });
    });
    this.#underWay -= events.length;
  }

  /**
   * In a burst the acknowledgement comes first: the journal takes the burst, frames follow. The larger the backlog,
   * the less framing yields, so that a lasting load finds its balance far below the bound that refuses events.
   */
  async #yieldToIngest(): Promise<void> {
    const arrivals = this.#arrivals;
    const nowMs = this.#o.clock.monotonicMs();
    const elapsedMs = nowMs - arrivals.sinceMs;
    if (elapsedMs >= ARRIVALS_WINDOW_MS) {
      arrivals.perSecond = (1000 * arrivals.events) / elapsedMs;
      arrivals.events = 0;
      arrivals.sinceMs = nowMs;
    }
    if (!this.#bursting() || this.#draining) return;
    const share = 1 - this.#unframed() / YIELD_BACKLOG_EVENTS;
    if (share > 0) await this.#o.clock.sleep(share * YIELD_MS_MAX);
  }

  #bursting(): boolean {
    return this.#arrivals.perSecond >= BURST_EVENTS_PER_SECOND;
  }

  /** The motion of conversations, from the newest frames that the journal still has. */
  async #restoreKinetics(): Promise<void> {
    const { journal, kinetics } = this.#o;
    let after = Math.max(0, this.#next - 1 - RESTORE_FRAMES_MAX);
    while (!this.#stopped) {
      const rows = journal.recentConversations(RESTORE_STEP_FRAMES, after);
      kinetics.restore(rows);
      after = rows.at(-1)?.frameId ?? after;
      if (rows.length < RESTORE_STEP_FRAMES) return;
      await this.#o.clock.nextTurn();
    }
  }

  async #openEmbedder(): Promise<PatientEmbedder | null> {
    const { textOf, clock, log } = this.#o;
    try {
      this.#openedEmbedder = await this.#o.openEmbedder();
      this.#embedder = new PatientEmbedder(this.#openedEmbedder, { textOf, clock, log });
    } catch (error) {
      this.#fail(error, "embedder_unavailable", "embed: open");
    }
    return this.#embedder;
  }

  #beginReembed(): void {
    const { journal, textOf, spin, clock, log } = this.#o;
    const embedder = this.#openedEmbedder;
    if (embedder === null) return;
    this.#reembed = new Reembed({
      ...{ journal, embedder, updates: this.#updates, textOf, spin, clock, log },
      store: () => this.#store,
      busy: () => this.#unframed() > 0,
      onVectors: () => this.#labels.noteModel({ embedder, dim: embedder.dim }),
      stopped: () => this.#stopped || this.#draining,
    });
    void this.#reembed.run();
  }

  /** Commits frames, then publishes and offers them. Retries for as long as the journal cannot write. */
  async #decide(items: readonly Item[]): Promise<void> {
    const { journal, kinetics, spin, clock, schemas, checksums } = this.#o;
    const o = { kinetics, spin, clock, schemas, checksums, journalId: journal.journalId };
    let decided = items;
    let drafts = items.map((item) => makeFrame(item, o));
    this.#deciding = items.length;
    for (let waitMs = 50; !this.#stopped && drafts.length > 0; ) {
      try {
        const firstFrameId = await journal.decide(drafts.map((draft) => draft.decided));
        this.#states.journal = { state: "ok", detail: "" };
        this.#deciding = 0;
        this.#decided(firstFrameId, drafts);
        for (const item of decided) if (!this.#questions.framed(item)) this.#updates.tell(item.event.seq);
        return;
      } catch (error) {
        if (isEventsGone(error)) {
          // A temporary journal dropped them at its bound: their frames have nothing to stand for any more.
          const gone = new Set(error.seqs);
          for (const seq of error.seqs) this.#questions.gone(seq);
          decided = decided.filter(({ event }) => !gone.has(event.seq));
          drafts = drafts.filter((draft) => !gone.has(draft.decided.seq));
          continue;
        }
        this.#states.journal = { state: "degraded", detail: messageOf(error) };
        this.#o.log("warn", `frames wait: ${messageOf(error)}`);
        await clock.sleep(waitMs);
        waitMs = Math.min(2 * waitMs, 2000);
      }
    }
    this.#deciding = 0;
  }

  #decided(firstFrameId: number, drafts: readonly Draft[]): void {
    this.#next = firstFrameId + drafts.length;
    this.#counters.frames_total += drafts.length;
    this.#o.watch?.decided(firstFrameId, drafts);
    drafts.forEach(({ decided, vector }, index) => {
      const { physics, eventType, intent } = decided;
      const frameId = firstFrameId + index;
      this.#recent.push({ frameId, physics, vector, eventType, intent });
      if (vector === null) this.#counters.frames_without_vector_total += 1;
    });
    this.#forget();
    void this.#publish();
    void this.#feed();
  }

  /** Drops what ring and store have, and the oldest beyond the bound: the journal has those. */
  #forget(): void {
    const published = this.#ring?.head() ?? 0;
    const first = this.#recent[0]?.frameId ?? 0;
    const done = Math.min(published, this.#offered + 1) - first;
    const count = Math.max(Math.min(done, this.#recent.length), this.#recent.length - RECENT_FRAMES_MAX);
    if (count > 0) this.#recent.splice(0, count);
  }

  /** Frames in order for /api/frames; see {@link DecidedFrames.run}. */
  frames(after: number | null, limit: number): Promise<FramesRun> {
    return this.#frames.run(after, limit);
  }

  /** The frame_id that is decided next: every frame below it is decided, and its row committed. */
  nextFrameId(): number {
    return this.#next;
  }

  /** The labels of all decided frames: what stands beside the ring, and of frames that are still on their way there. */
  labels(): RingLabels {
    return this.#labels.all(this.#recent);
  }

  // -------------------------------------------------------------------------------------------- ring

  async #openRing(): Promise<void> {
    for (let waitMs = 500; !this.#stopped; waitMs = Math.min(2 * waitMs, 5000)) {
      try {
        const ring = await this.#o.openRing((from, limit) => this.#frames.rawFrom(from, limit));
        this.#ring = ring;
        this.#states.ring = { state: "ok", detail: "" };
        this.#counters.refilled_frames_total += ring.refilled;
        const how = ring.adopted ? "adopted" : `new, ${ring.refilled} frames refilled`;
        this.#o.log("info", `ring ${ring.path}: ${ring.capacity} frames, ${how}, next frame ${ring.head()}`);
        void this.#publish();
        return;
      } catch (error) {
        this.#states.ring = { state: "down", detail: `${messageOf(error)}; frames wait in the journal` };
        this.#o.log("error", `${messageOf(error)}; frames wait in the journal, trying again`);
        await this.#o.clock.sleep(waitMs);
      }
    }
  }

  /** Publishes everything decided that the ring does not have yet, in slices between other work. */
  async #publish(): Promise<void> {
    if (this.#publishing) return;
    this.#publishing = true;
    try {
      for (let ring = this.#ring; ring !== null && !this.#stopped; ring = this.#ring) {
        if (ring.head() >= this.#next) return;
        const entries = await this.#frames.entriesFrom(ring.head(), PUBLISH_SLICE_FRAMES);
        if (ring !== this.#ring) continue;
        if (entries.length === 0) return this.#replaceRing("the next frame was dropped at the bound");
        this.#labels.show(entries, ring);
        ring.publishBatch(entries);
        this.#counters.published_frames_total += entries.length;
        this.#forget();
        if (entries.length === PUBLISH_SLICE_FRAMES) await this.#o.clock.nextTurn();
      }
    } catch (error) {
      this.#states.ring = { state: "degraded", detail: messageOf(error) };
      this.#o.log("error", `ring: publish: ${messageOf(error)}; trying again`);
      this.#o.clock.after(500, () => void this.#publish());
    } finally {
      this.#publishing = false;
    }
  }

  #beat(): void {
    this.#store?.head(this.#o.journal.headSeq());
    if (this.#ring?.heartbeat() === "superseded") this.#replaceRing("the file was removed or replaced");
  }

  #replaceRing(why: string): void {
    const ring = this.#ring;
    if (ring === null) return;
    this.#o.log("warn", `ring ${ring.path}: ${why}; making a new one`);
    this.#counters.rings_replaced_total += 1;
    this.#states.ring = { state: "starting", detail: `${why}; a new one is being made` };
    this.#ring = null;
    ring.close("superseded");
    void this.#openRing();
  }

  // ------------------------------------------------------------------------------------------- store

  async #openStore(): Promise<void> {
    try {
      const store = await this.#o.openStore();
      this.#offered = store.cursors.frameId;
      store.onCursors = () => {
        this.#states.store = { state: "ok", detail: "" };
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
        this.#states.store = { state: "degraded", detail: messageOf(error) };
        this.#o.log("warn", messageOf(error));
      };
      this.#store = store;
      this.#states.store = { state: "ok", detail: "" };
      store.head(this.#o.journal.headSeq());
      store.answers(this.#o.journal.headAnswerId());
      void this.#feed();
      this.#lookAtDisk();
    } catch (error) {
      this.#fail(error, "store_failed", "store: open");
    }
  }

  /** The store once DuckDB is open; null before. */
  store(): Store | null {
    return this.#store;
  }

  async #storeOpen(): Promise<Store> {
    const { clock } = this.#o;
    const untilMs = clock.monotonicMs() + STORE_WAIT_MS;
    while (this.#store === null && !this.#stopped && clock.monotonicMs() < untilMs) await clock.sleep(10);
    if (this.#store !== null) return this.#store;
    throw new GatewayError({
      code: "store_unavailable",
      operation: "store: read",
      object: "frames",
      detail: "DuckDB is not open yet",
      hint: "try again in a moment",
    });
  }

  /** Offers decided frames to the store in order, at most OFFERED_FRAMES_MAX on their way. */
  async #feed(): Promise<void> {
    if (this.#feeding) return;
    this.#feeding = true;
    try {
      for (let store = this.#store; store !== null && !this.#stopped; store = this.#store) {
        const start = this.#offered + 1;
        const room = OFFERED_FRAMES_MAX - (this.#offered - store.cursors.frameId);
        if (room < 1 || start >= this.#next) return;
        const entries = await this.#frames.entriesFrom(start, Math.min(room, OFFER_FRAMES_MAX));
        if (this.#offered + 1 !== start) continue;
        if (entries.length === 0) {
          // Frames that a temporary journal dropped at its bound are passed over.
          const kept = this.#o.journal.framesFrom(start, 1)[0]?.frameId ?? this.#next;
          this.#offered = Math.min(kept, this.#recent[0]?.frameId ?? this.#next) - 1;
          continue;
        }
        const vectors = vectorsToOffer(entries, this.#o.hashing.modelId);
        store.offer({ firstFrameId: start, count: entries.length, vectors });
        this.#offered = start + entries.length - 1;
        this.#forget();
      }
    } catch (error) {
      this.#o.log("error", `store: offer: ${messageOf(error)}; trying again`);
      this.#o.clock.after(500, () => void this.#feed());
    } finally {
      this.#feeding = false;
    }
  }

  /** Takes what a completed CHECKPOINT holds, and the ring has shown, out of the journal in small steps. */
  async #prune(): Promise<void> {
    if (this.#pruning) return;
    this.#pruning = true;
    const { journal, clock, log } = this.#o;
    try {
      for (let removed = 1; removed > 0 && !this.#stopped; ) {
        const published = (this.#ring?.head() ?? 1) - 1;
        const { seq, frameId, answerId } = this.#checkpointed;
        removed = journal.prune({ seq, answerId, frameId: Math.min(frameId, published) }, PRUNE_STEP_EVENTS);
        this.#counters.pruned_events_total += removed;
        await clock.sleep(PRUNE_PAUSE_MS);
      }
      while (!this.#stopped && journal.pruneAnswers(this.#checkpointed.answerId, PRUNE_STEP_EVENTS) > 0)
        await clock.sleep(PRUNE_PAUSE_MS);
      const before = clock.nowUs() - DEDUP_WINDOW_US;
      while (!this.#stopped && journal.pruneDedup(before, PRUNE_STEP_EVENTS) > 0)
        await clock.sleep(PRUNE_PAUSE_MS);
    } catch (error) {
      log("warn", `journal: prune: ${messageOf(error)}; trying again after the next checkpoint`);
    } finally {
      this.#pruning = false;
    }
  }

  // --------------------------------------------------------------------------------------- admission

  #lookAtDisk(): void {
    const { journal, maxBacklogEvents, freeDiskBytes, log } = this.#o;
    const { freeBytes, neededBytes } = freeDiskBytes();
    const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(1);
    const detail = `${megabytes(freeBytes)} MB free where the journal lives, ${megabytes(neededBytes)} MB needed`;
    this.#disk = freeBytes < neededBytes ? { code: "disk_full", detail, retryAfterSeconds: 5 } : null;
    const store = this.#store;
    if (store === null || this.#checkpointAsked || journal.backlog().events <= maxBacklogEvents / 2) return;
    // Only a checkpoint lets rows leave the journal: asked for before the backlog would refuse events.
    this.#checkpointAsked = true;
    store.checkpoint().catch((error) => {
      this.#checkpointAsked = false;
      log("warn", messageOf(error));
    });
  }

  /** Why an ingest cannot be taken now; null: it can. Costs nothing. */
  admission(): Refusal | null {
    if (this.#draining) return DRAINING;
    if (this.#disk !== null) return this.#disk;
    const backlog = this.#o.journal.backlog().events;
    const { maxBacklogEvents } = this.#o;
    if (backlog < maxBacklogEvents) return null;
    const detail = `${backlog} events wait in the journal, ${maxBacklogEvents} are allowed (--max-backlog)`;
    return { code: "overloaded", detail, retryAfterSeconds: 2 };
  }

  get draining(): boolean {
    return this.#draining;
  }

  /** Readiness goes red and ingest is refused from here on. */
  beginDrain(): void {
    this.#draining = true;
    this.#embedder?.hurry();
    this.#questions.hurry();
  }

  /** Waits, for at most 10 s, until everything received is framed, shown and given to the store. */
  async settle(): Promise<void> {
    this.beginDrain();
    const { clock } = this.#o;
    const untilMs = clock.monotonicMs() + DRAIN_MS_MAX;
    while (!this.#idle() && clock.monotonicMs() < untilMs) {
      this.#wakeUp();
      void this.#feed();
      await clock.sleep(5);
    }
  }

  /** Closes store, ring and embedder; what was not framed stays in the journal. */
  async close(): Promise<void> {
    await this.settle();
    this.#stopped = true;
    this.#wakeUp();
    for (const timer of this.#timers) timer[Symbol.dispose]();
    // DuckDB may still be opening, and would make files where they have just been removed.
    await Promise.race([this.#storeOpening, this.#o.clock.sleep(STORE_OPENING_MS_MAX)]);
    await this.#store?.[Symbol.asyncDispose]();
    this.#ring?.close("closed");
    this.#ring = null;
    await this.#embedder?.stop();
  }

  /** Whether everything received is framed, shown and given to the store, as far as these are there at all. */
  #idle(): boolean {
    const framed = this.#unframed() === 0 || this.#embedder === null;
    const shown = this.#ring === null || this.#ring.head() >= this.#next;
    const given = this.#store === null || this.#offered + 1 >= this.#next;
    return framed && shown && given;
  }

  #unframed(): number {
    const unread = Math.max(0, this.#o.journal.headSeq() - this.#taken);
    return unread + this.#intake.length + this.#underWay + this.#questions.holds.held + this.#deciding;
  }

  // ----------------------------------------------------------------------------------------- answers

  /** The brain's last word on event `seq`, or what is known within `timeoutMs`; null where that is nothing. */
  async enrichedWithin(seq: number, timeoutMs: number): Promise<Enrichment | null> {
    const known = this.#updates.known(seq);
    if (known !== null && !this.#questions.expects(seq)) return known;
    if (known === null && this.#o.journal.eventsAt([seq])[0] === null) return this.#enrichedInStore(seq);
    return this.#updates.wait(seq, timeoutMs);
  }

  /** Of an event that has left the journal, as a repeat asks for. */
  async #enrichedInStore(seq: number): Promise<Enrichment | null> {
    const { json } = (await this.#store?.event(seq, 0)) ?? { json: null };
    if (json === null) return null;
    const event = JSON.parse(json) as {
      event_type: string;
      enrichment: Omit<Enrichment, "event_type"> | null;
    };
    return event.enrichment === null ? null : { event_type: event.event_type, ...event.enrichment };
  }

  snapshot(): Snapshot {
    const { journal, version, clock, kinetics, schemas } = this.#o;
    const backlog = journal.backlog();
    const ring = this.#ring;
    const headSeq = journal.headSeq();
    const stored = this.#store?.cursors ?? { seq: 0, frameId: 0 };
    const embedder = this.#embedder;
    const others = this.#o.otherMetrics();
    const choosing: PartState = { state: "starting", detail: "the embedder is being chosen" };
    return {
      version,
      startedUs: this.#startedUs,
      nowUs: clock.nowUs(),
      embedderName: embedder?.name ?? null,
      parts: {
        ...this.#states,
        embedder: embedder?.state ?? choosing,
        llm: partOf(this.#o.brain.llm.state),
      },
      counters: {
        ...this.#counters,
        ...embedder?.counters,
        ...this.#o.brain.llm.counters,
        ...this.#questions.counters,
        answers_total: this.#updates.written,
        ...schemas.counters,
        ...others.counters,
        dropped_events_total: journal.dropped(),
      },
      gauges: {
        journal_backlog_events: backlog.events,
        journal_bytes: backlog.bytes,
        head_seq: headSeq,
        next_frame_id: this.#next,
        unframed_events: this.#unframed(),
        store_lag_events: Math.max(0, headSeq - stored.seq),
        store_lag_frames: Math.max(0, this.#next - 1 - stored.frameId),
        ring_capacity_frames: ring?.capacity ?? 0,
        ring_head_frame_id: ring?.head() ?? 0,
        ring_tail_frame_id: ring?.tail() ?? 0,
        ring_reader_waiting: ring?.readerWaits() === true ? 1 : 0,
        embed_batch_ms: embedder?.batchMs ?? 0,
        ...this.#o.brain.llm.gauges,
        llm_waiting_frames: this.#questions.holds.frames,
        llm_late_events: this.#questions.late,
        remembered_shapes: this.#o.brain.shapes,
        ...this.#reembed?.gauges,
        conversations: kinetics.size,
        ...schemas.gauges,
        resident_bytes: process.memoryUsage.rss(),
        ...others.gauges,
      },
      drift: schemas.drift,
    };
  }
}

const DRAINING: Refusal = { code: "draining", detail: "the gateway is shutting down", retryAfterSeconds: 5 };

const LLM_PART: Readonly<Record<LlmState["name"], PartState["state"]>> = {
  off: "off",
  unknown: "starting",
  away: "down",
  ok: "ok",
  open: "degraded",
  "half-open": "degraded",
  budget: "degraded",
};

function partOf({ name, detail }: LlmState): PartState {
  return { state: LLM_PART[name], detail };
}

/** By shape: the journal's class is a value of another room. */
function isEventsGone(error: unknown): error is EventsGone {
  return error instanceof GatewayError && "seqs" in error;
}
