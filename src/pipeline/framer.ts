/**
 * Turns events into frames: embeds events ahead, in order of receipt, and decides each frame as soon as it need not wait any
 * more. It ends with the commit of a frame's row; the ring and the store are the concern of other parts.
 */
import type { Brain } from "../brain/brain.ts";
import { GatewayError, messageOf } from "../errors.ts";
import type {
  ConversationMotion,
  DecidedFrame,
  EventsGone,
  Journal,
  JournalEvent,
} from "../journal/journal.ts";
import type { Log } from "../log.ts";
import type { Kinetics } from "../physics.ts";
import type { Schemas } from "../schemas/schemas.ts";
import { Arrivals } from "./arrivals.ts";
import { type PatientEmbedder, vectorOf } from "./embedding.ts";
import { type FrameMakerOptions, learnFrom, makeFrame } from "./frames.ts";
import { Intake } from "./intake.ts";
import type { Labels } from "./labels.ts";
import type { Questions } from "./questions.ts";
import type { PartState } from "./snapshot.ts";
import type { Draft, Embedded, Item } from "./work.ts";

/** Batches that are embedded at once, the one to be decided next included. */
const BATCHES_AHEAD = 2;
/** @bound frames of the journal from which a start restores the motion of conversations | older ones are not looked at */
const RESTORE_FRAMES_MAX = 200_000;
const RESTORE_STEP_FRAMES = 2000;
const RETRY_MS_MIN = 50;
const RETRY_MS_MAX = 2000;

export interface FramerOptions extends Omit<FrameMakerOptions, "journalId"> {
  readonly journal: Pick<
    Journal,
    "journalId" | "headSeq" | "unframedAfter" | "nextFrameId" | "recentConversations"
  >;
  readonly brain: Pick<Brain, "known">;
  readonly questions: Pick<Questions, "admit" | "framed" | "gone" | "holds">;
  readonly labels: Pick<Labels, "noteModel" | "keep" | "has">;
  readonly kinetics: Pick<Kinetics, "observe" | "decided" | "preview" | "restore">;
  readonly schemas: Pick<Schemas, "observe" | "preview">;
  /** Commits the rows of frames. @returns the first frame_id @throws what the journal's `decide` does */
  readonly commit: (drafts: readonly Draft[]) => Promise<number>;
  /** Called when the rows have committed. */
  readonly onCommitted: (firstFrameId: number, drafts: readonly Draft[]) => void;
  readonly log: Log;
}

interface Batch {
  readonly events: readonly JournalEvent[];
  /** The vectors; null: none; undefined: not known yet. */
  embedded: Embedded | null | undefined;
}

/** A frame that is decided in the transaction of its event. */
interface AtOnce {
  readonly item: Item;
  readonly draft: Draft;
}

export class Framer {
  readonly #o: FramerOptions;
  readonly #frameOptions: FrameMakerOptions;
  /** For a frame whose transaction may fail: conversations and schemas do not move on. */
  readonly #previewOptions: FrameMakerOptions;
  readonly #intake: Intake;
  readonly #arrivals: Arrivals;
  /** Whether rows of frames can be written to the journal. */
  state: PartState = { state: "ok", detail: "" };
  readonly counters = { frames_total: 0, frames_without_vector_total: 0 };
  /** The numbers of events that are being embedded, and of those whose rows are being committed. */
  #embedding = 0;
  #deciding = 0;
  #embedder: PatientEmbedder | null = null;
  #atOnce: AtOnce | null = null;
  #wake: (() => void) | null = null;
  #hasty = false;
  #stopped = false;

  constructor(options: FramerOptions) {
    this.#o = options;
    const { kinetics, schemas } = options;
    this.#frameOptions = { ...options, journalId: options.journal.journalId };
    this.#previewOptions = {
      ...this.#frameOptions,
      kinetics: { observe: (event) => kinetics.preview(event), decided: () => {} },
      schemas: { observe: (type, body) => schemas.preview(type, body) },
    };
    this.#intake = new Intake(options.journal);
    this.#arrivals = new Arrivals(options.clock);
  }

  /** The number of events that are received and have no frame. */
  get unframed(): number {
    return this.#intake.waiting + this.#embedding + this.#o.questions.holds.held + this.#deciding;
  }

  get bursting(): boolean {
    return this.#arrivals.bursting;
  }

  /**
   * Takes events that have just committed.
   * @param frameId the id of the frame that {@link atOnce} has decided in the same transaction; null: there is none.
   */
  take(events: readonly JournalEvent[], frameId: number | null): void {
    this.#arrivals.count(events.length);
    const made = this.#atOnce;
    this.#atOnce = null;
    if (frameId !== null && made !== null) {
      this.#passOn(made, frameId);
      return;
    }
    this.#intake.take(events);
    this.wake();
  }

  /**
   * Decides the frame of an event inside the event's own transaction, which may still fail. That saves a commit for whoever sends one
   * event after the other.
   * @returns null: something is in the way, so the frame follows in a commit of its own.
   */
  atOnce(event: JournalEvent): DecidedFrame | null {
    const embedder = this.#embedder;
    if (embedder === null || this.#stopped || this.bursting || this.unframed > 0) return null;
    const vector = embedder.embedNow(event);
    if (vector === undefined) return null;
    const known = this.#o.brain.known(event, null);
    if (known.question !== null) return null;
    const item = { event, vector, known };
    const draft = makeFrame(item, this.#o.clock.nowUs(), this.#previewOptions);
    if (!this.#o.labels.has(draft, vector?.embedder.modelId ?? null)) return null;
    this.#atOnce = { item, draft };
    return draft.decided;
  }

  /** Passes on a frame that has committed with its event. */
  #passOn({ item, draft }: AtOnce, frameId: number): void {
    this.#intake.passOver(item.event.seq);
    learnFrom(item, draft.decided.decidedUs, this.#frameOptions);
    this.#note([draft]);
    this.#o.onCommitted(frameId, [draft]);
    this.#o.questions.framed(item);
  }

  /** Looks again for something to do. */
  wake(): void {
    this.#wake?.();
    this.#wake = null;
  }

  /** Called when a drain begins: from then on framing does not pause for ingest. */
  hurry(): void {
    this.#hasty = true;
  }

  /** Stops after the batch under way. Events without a frame stay in the journal. */
  stop(): void {
    this.#stopped = true;
    this.wake();
  }

  /** Restores the motion of conversations from the newest frames that the journal still has. */
  async restore(): Promise<void> {
    const { journal, kinetics, clock } = this.#o;
    let after = Math.max(0, journal.nextFrameId() - 1 - RESTORE_FRAMES_MAX);
    while (!this.#stopped) {
      const rows = this.#motionsAfter(after);
      kinetics.restore(rows);
      after = rows.at(-1)?.frameId ?? after;
      if (rows.length < RESTORE_STEP_FRAMES) return;
      await clock.nextTurn();
    }
  }

  /** A damaged page of the journal ends the restoring, because framing does not need it. */
  #motionsAfter(frameId: number): ConversationMotion[] {
    try {
      return this.#o.journal.recentConversations(RESTORE_STEP_FRAMES, frameId);
    } catch (error) {
      this.#o.log("error", `${messageOf(error)}; conversations after frame ${frameId} begin anew`);
      return [];
    }
  }

  /** Embeds ahead, and decides in order of receipt what does not wait for the language model, until {@link stop}. */
  async run(embedder: PatientEmbedder): Promise<void> {
    const ahead: Batch[] = [];
    this.#embedder = embedder;
    while (!this.#stopped) {
      try {
        this.#embedAhead(embedder, ahead);
      } catch (error) {
        await this.#pause(error, RETRY_MS_MAX);
        continue;
      }
      const [batch] = ahead;
      if (batch?.embedded !== undefined) {
        ahead.shift();
        this.#understand(batch.events, batch.embedded);
      }
      const items = this.#o.questions.holds.take();
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

  #embedAhead(embedder: PatientEmbedder, ahead: Batch[]): void {
    while (ahead.length < BATCHES_AHEAD) {
      const events = this.#intake.next(embedder.maxBatch);
      if (events.length === 0) return;
      this.#embedding += events.length;
      const batch: Batch = { events, embedded: undefined };
      ahead.push(batch);
      void embedder.embed(events).then((embedded) => {
        batch.embedded = embedded;
        this.wake();
      });
    }
  }

  /** Collects what is known of each event, and passes it to the questions, which ask for the rest. */
  #understand(events: readonly JournalEvent[], embedded: Embedded | null): void {
    if (embedded !== null) this.#o.labels.noteModel(embedded);
    events.forEach((event, index) => {
      const known = this.#o.brain.known(event, embedded?.nearest[index] ?? null);
      this.#o.questions.admit({ event, vector: vectorOf(embedded, index), known });
    });
    this.#embedding -= events.length;
  }

  async #yieldToIngest(): Promise<void> {
    const pauseMs = this.#arrivals.pauseMs(this.unframed);
    if (pauseMs > 0 && !this.#hasty) await this.#o.clock.sleep(pauseMs);
  }

  /** Makes frames and commits them. Tries until the journal can write. */
  async #decide(items: readonly Item[]): Promise<void> {
    const { commit, onCommitted, questions, labels, clock } = this.#o;
    let decided = items;
    const decidedUs = clock.nowUs();
    let drafts = items.map((item) => makeFrame(item, decidedUs, this.#frameOptions));
    this.#deciding = items.length;
    for (let waitMs = RETRY_MS_MIN; !this.#stopped && drafts.length > 0; ) {
      let firstFrameId: number;
      try {
        labels.keep(drafts);
        firstFrameId = await commit(drafts);
      } catch (error) {
        if (isEventsGone(error)) {
          // A temporary journal dropped these events at its bound, so they get no frames.
          const gone = new Set(error.seqs);
          for (const seq of error.seqs) questions.gone(seq);
          decided = decided.filter(({ event }) => !gone.has(event.seq));
          drafts = drafts.filter((draft) => !gone.has(draft.decided.seq));
          continue;
        }
        await this.#pause(error, waitMs);
        waitMs = Math.min(2 * waitMs, RETRY_MS_MAX);
        continue;
      }
      this.#deciding = 0;
      this.#note(drafts);
      onCommitted(firstFrameId, drafts);
      for (const item of decided) questions.framed(item);
      return;
    }
    this.#deciding = 0;
  }

  /** Waits before the next attempt, because the journal has failed. */
  #pause(error: unknown, waitMs: number): Promise<void> {
    this.state = { state: "degraded", detail: messageOf(error) };
    this.#o.log("warn", `frames wait: ${messageOf(error)}`);
    return this.#o.clock.sleep(waitMs);
  }

  #note(drafts: readonly Draft[]): void {
    this.state = { state: "ok", detail: "" };
    this.counters.frames_total += drafts.length;
    for (const { vector } of drafts) if (vector === null) this.counters.frames_without_vector_total += 1;
  }
}

/** Tells it by its shape, because the journal's class is a value of another room. */
function isEventsGone(error: unknown): error is EventsGone {
  return error instanceof GatewayError && "seqs" in error;
}
