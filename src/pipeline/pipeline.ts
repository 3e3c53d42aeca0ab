/**
 * Moves events from the journal to the embedder, the ring and the store, and takes the Snapshot. This file keeps only the
 * order of things; each part has a file of its own.
 *
 * Data moves one way: committed event → vector → `frames` row → ring → DuckDB. Whatever is lost from memory is read again
 * from the journal (or from DuckDB, once a CHECKPOINT holds it), so every queue here may be bounded and dropped. The crash
 * protocol (docs/ARCHITECTURE.md): a frame is published only after its `frames` row has committed, and rows leave the
 * journal only below a completed CHECKPOINT and below the ring's head.
 */

import type { Embedder } from "../embed/embedder.ts";
import { type ErrorCode, GatewayError, messageOf } from "../errors.ts";
import type { DecidedFrame, JournalEvent } from "../journal/journal.ts";
import type { RingLabels } from "../ring/contract.ts";
import type { Store } from "../store/store.ts";
import { Admission } from "./admission.ts";
import { PatientEmbedder } from "./embedding.ts";
import { DecidedFrames } from "./frame-reader.ts";
import { Framer } from "./framer.ts";
import { understandingOf } from "./frames.ts";
import { Labels } from "./labels.ts";
import type { PipelineOptions } from "./options.ts";
import { Pruner } from "./pruner.ts";
import { Publisher } from "./publisher.ts";
import { Questions } from "./questions.ts";
import { RecentFrames } from "./recent.ts";
import { Reembed } from "./reembed.ts";
import type { Enrichment, FramesExtent, FramesRun, Refusal, Snapshot } from "./snapshot.ts";
import { StoreFeed } from "./store-feed.ts";
import { takeSnapshot } from "./take-snapshot.ts";
import { Updates } from "./updates.ts";
import type { Draft } from "./work.ts";

const HEARTBEAT_MS = 500;
const START_DRIFT_US_MAX = 1_000_000;
const DISK_LOOK_MS = 1000;
/** @bound a drain (less if the gateway stops) | what is not framed, shown and stored by then stays in the journal */
const DRAIN_MS_MAX = 10_000;
const DRAIN_LOOK_MS = 5;

export class Pipeline {
  readonly #o: PipelineOptions;
  readonly #startedMs: number;
  /** By the wall clock as it is now set. */
  #startedUs: number;
  readonly #admission: Admission;
  readonly #labels: Labels;
  readonly #recent: RecentFrames;
  readonly #frames: DecidedFrames;
  readonly #updates: Updates;
  readonly #questions: Questions;
  readonly #framer: Framer;
  readonly #publisher: Publisher;
  readonly #feed: StoreFeed;
  readonly #pruner: Pruner;
  #embedder: PatientEmbedder | null = null;
  #reembed: Reembed | null = null;
  #timers: Disposable[] = [];
  #closed = false;

  constructor(options: PipelineOptions) {
    const { journal, clock, log, watch = null } = options;
    this.#o = options;
    this.#startedUs = clock.nowUs();
    this.#startedMs = clock.monotonicMs();
    this.#admission = new Admission(options);
    this.#labels = new Labels(journal);
    this.#recent = new RecentFrames({
      nextFrameId: journal.nextFrameId(),
      takenBelow: () => Math.min(this.#publisher.ring?.head() ?? 0, this.#feed.offered + 1),
    });
    this.#frames = new DecidedFrames({
      ...options,
      ring: () => this.#publisher.ring,
      recent: this.#recent,
      openedStore: () => this.#feed.opened(),
    });
    this.#updates = new Updates({
      ...options,
      store: () => this.#feed.store,
      onWritten: (row: DecidedFrame) => watch?.updated(row.seq, understandingOf(row)),
    });
    this.#questions = new Questions({
      ...options,
      updates: this.#updates,
      onReady: () => this.#framer.wake(),
    });
    this.#framer = new Framer({
      ...options,
      questions: this.#questions,
      labels: this.#labels,
      commit: (drafts) => this.#commit(drafts),
      onCommitted: (firstFrameId, drafts) => this.#committed(firstFrameId, drafts),
    });
    const parts = { frames: this.#frames, recent: this.#recent, clock, log };
    this.#publisher = new Publisher({ ...parts, openRing: options.openRing, labels: this.#labels });
    this.#feed = new StoreFeed({
      ...parts,
      journal,
      openStore: options.openStore,
      recomputedModelId: options.hashing.modelId,
      onOpen: () => this.#lookAround(),
      onCheckpoint: (cursors) => void this.#pruner.prune(cursors),
      bursting: () => this.#framer.bursting,
      onDamage: ({ log: name, id, why }) => journal.damage.note(name, id, why),
      onFatal: (error) => this.#fail(error, "store_failed", "store: open"),
    });
    this.#pruner = new Pruner({
      ...{ journal, clock, log },
      published: () => (this.#publisher.ring?.head() ?? 1) - 1,
    });
    journal.frameAtOnce = (event) => this.#framer.atOnce(event);
    journal.onCommitted = ({ events, frameId }) => this.#received(events, frameId);
    journal.damage.onDamage = (message) => log("error", `journal ${journal.path}: ${message}`);
  }

  /** Starts everything behind the acknowledgement. Returns at once. */
  start(): void {
    const { clock, log } = this.#o;
    this.#feed.open();
    void this.#publisher.open();
    void this.#frame().catch((error) => this.#fail(error, "journal_failed", "frames: decide"));
    void this.#questions
      .restore()
      .catch((error) => log("error", `${messageOf(error)}; open questions of earlier runs are not asked`));
    this.#lookAround();
    this.#timers = [
      clock.every(HEARTBEAT_MS, () => this.#beat()),
      clock.every(DISK_LOOK_MS, () => this.#lookAround()),
    ];
  }

  #fail(error: unknown, code: ErrorCode, operation: string): void {
    const known = error instanceof GatewayError;
    const detail = messageOf(error);
    this.#o.fatal(known ? error : new GatewayError({ code, operation, object: "", detail, cause: error }));
  }

  #beat(): void {
    this.#feed.tellHead();
    this.#publisher.beat();
  }

  #lookAround(): void {
    this.#admission.lookAtDisk();
    if (this.#admission.checkpointDue) this.#feed.checkpoint();
  }

  /** Takes events that have just committed; they are acknowledged after this. */
  #received(events: readonly JournalEvent[], frameId: number | null): void {
    this.#o.watch?.committed(events);
    this.#framer.take(events, frameId);
    if (!this.#framer.bursting) this.#feed.tellSoon();
  }

  /** Frames events until the end. */
  async #frame(): Promise<void> {
    await this.#framer.restore();
    const embedder = await this.#openEmbedder();
    if (embedder === null) return;
    if (this.#closed) return embedder[Symbol.asyncDispose]();
    this.#embedder = new PatientEmbedder(embedder, this.#o);
    if (this.#o.reembed && !this.draining) this.#beginReembed(embedder);
    await this.#framer.run(this.#embedder);
  }

  async #openEmbedder(): Promise<Embedder | null> {
    try {
      return await this.#o.openEmbedder();
    } catch (error) {
      this.#fail(error, "embedder_unavailable", "embed: open");
      return null;
    }
  }

  #beginReembed(embedder: Embedder): void {
    this.#reembed = new Reembed({
      ...this.#o,
      embedder,
      updates: this.#updates,
      store: () => this.#feed.store,
      busy: () => this.#framer.unframed > 0,
      onVectors: () => {
        this.#labels.noteModel({ embedder, dim: embedder.dim });
        this.#labels.keep([]);
      },
    });
    void this.#reembed.run();
  }

  /** Decides frames once and for ever: nobody sees a frame before its row has committed. */
  #commit(drafts: readonly Draft[]): Promise<number> {
    return this.#o.journal.decide(drafts.map(({ decided }) => decided));
  }

  /** Passes on frames whose rows have committed. */
  #committed(firstFrameId: number, drafts: readonly Draft[]): void {
    this.#recent.add(firstFrameId, drafts);
    this.#o.watch?.decided(firstFrameId, drafts);
    void this.#publisher.publish();
    this.#feed.tellSoon();
  }

  /** Returns why an event cannot be taken now; null if it can. Costs next to nothing. */
  admission(): Refusal | null {
    return this.#admission.refusal();
  }

  get draining(): boolean {
    return this.#admission.draining;
  }

  /** The store once DuckDB is open, for a read; null before. It is told first what is new. */
  store(): Store | null {
    this.#feed.tellNow();
    return this.#feed.store;
  }

  /** Returns frames in order for /api/frames; see {@link DecidedFrames.run}. */
  frames(after: number | null, limit: number): Promise<FramesRun> {
    return this.#frames.run(after, limit);
  }

  /** Returns which frames that would be; see {@link DecidedFrames.extent}. */
  framesExtent(after: number | null, limit: number): Promise<FramesExtent | null> {
    return this.#frames.extent(after, limit);
  }

  /** The next frame_id: the rows of all frames below it have committed. */
  nextFrameId(): number {
    return this.#recent.next;
  }

  /** The labels of all decided frames, those on their way to the ring included. */
  labels(): RingLabels {
    return this.#labels.all();
  }

  /** Resolves to what is known of event `seq` when no update is expected soon, at the latest after `timeoutMs`; null if nothing is. */
  async enrichedWithin(seq: number, timeoutMs: number): Promise<Enrichment | null> {
    const known = this.#updates.known(seq);
    if (known !== null && !this.#questions.expects(seq)) return known;
    if (known === null && this.#o.journal.eventsAt([seq])[0] === null) return this.#updates.stored(seq);
    return this.#updates.wait(seq, timeoutMs);
  }

  /** When the gateway started. Follows the wall clock if that was set since, but not each of its small corrections. */
  #startUs(): number {
    const { clock } = this.#o;
    const startedUs = Math.round(clock.nowUs() - (clock.monotonicMs() - this.#startedMs) * 1000);
    if (Math.abs(startedUs - this.#startedUs) > START_DRIFT_US_MAX) this.#startedUs = startedUs;
    return this.#startedUs;
  }

  snapshot(): Snapshot {
    return takeSnapshot({
      ...this.#o,
      startedUs: this.#startUs(),
      recent: this.#recent,
      updates: this.#updates,
      questions: this.#questions,
      framer: this.#framer,
      publisher: this.#publisher,
      feed: this.#feed,
      pruner: this.#pruner,
      embedder: this.#embedder,
      reembed: this.#reembed,
    });
  }

  /** From now on readiness is red and ingest is refused. */
  beginDrain(): void {
    this.#admission.drain();
    this.#framer.hurry();
    this.#embedder?.hurry();
    this.#questions.hurry();
    this.#reembed?.stop();
  }

  /** Waits until everything received is framed, published and offered to the store, at most `withinMs` (10 s if left out). */
  async settle(withinMs = DRAIN_MS_MAX): Promise<void> {
    const { clock } = this.#o;
    this.beginDrain();
    const untilMs = clock.monotonicMs() + withinMs;
    while (!this.#idle && clock.monotonicMs() < untilMs) {
      this.#framer.wake();
      void this.#feed.feed();
      await clock.sleep(DRAIN_LOOK_MS);
    }
  }

  /** Whether everything received is framed, published and offered, as far as embedder, ring and store are open. */
  get #idle(): boolean {
    const framed = this.#framer.unframed === 0 || this.#embedder === null;
    return framed && this.#publisher.idle && this.#feed.idle;
  }

  /**
   * Settles, then closes store, ring and embedder. Events without a frame stay in the journal.
   * @param within how long it settles, and how long it waits for DuckDB then.
   */
  async close(within: { readonly settleMs?: number; readonly storeMs?: number } = {}): Promise<void> {
    await this.settle(within.settleMs);
    this.#closed = true;
    this.#framer.stop();
    this.#updates.stop();
    this.#publisher.stop();
    this.#pruner.stop();
    for (const timer of this.#timers) timer[Symbol.dispose]();
    await this.#feed.close(within.storeMs);
    this.#publisher.close();
    await this.#embedder?.stop();
  }
}
