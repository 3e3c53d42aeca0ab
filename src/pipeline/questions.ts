/**
 * Questions for the language model: of events whose frames wait for it first, then of those whose frames went out
 * without, the newest first. What is not asked in time is forgotten and counted.
 */
import type { Brain, Known, Understanding } from "../brain/brain.ts";
import type { Clock } from "../clock.ts";
import { GatewayError, messageOf } from "../errors.ts";
import type { Journal } from "../journal/journal.ts";
import type { LlmRefusal } from "../llm/contract.ts";
import type { Log } from "../log.ts";
import { understandingOf, withUnderstanding } from "./frames.ts";
import { Holds, WAITING_FRAMES_MAX } from "./holds.ts";
import type { Updates } from "./updates.ts";
import type { Item } from "./work.ts";

/** Questions on their way at once: as many as the client has places. */
const ASKING_MAX = 2;
/** Events that are asked about later; their numbers are all that is held of them. */
const LATE_MAX = 10_000;
const LATE_SLACK = 1000;
/** How often one event is asked about, before the fault is taken to be its own. */
const ATTEMPTS_MAX = 3;
/** After so many frames in a row that waited in vain, none waits until an answer has come in time. */
const VAIN_MAX = 5;
/** Frames that are looked through at a start for what was not answered. */
const RESTORE_FRAMES_MAX = 20_000;
const RESTORE_STEP_FRAMES = 1000;
/** Another has the model's places. */
const BUSY_MS = 200;
/** Not the event's fault, nor an attempt. */
const NOT_ASKED: ReadonlySet<string> = new Set([
  "away",
  "open",
  "half-open",
  "busy",
  "budget",
  "off",
  "stopped",
]);

export interface QuestionsOptions {
  readonly brain: Pick<Brain, "llm" | "completed" | "ask">;
  readonly journal: Pick<Journal, "nextFrameId" | "unanswered">;
  readonly updates: Pick<Updates, "alone" | "latest" | "write" | "tell" | "waitedFor">;
  readonly frameWaitMs: number;
  readonly clock: Clock;
  readonly log: Log;
  /** An event that was held back can be decided. */
  readonly onReady: () => void;
}

/** A question whose frame waits, or waited, for it. */
interface Job {
  readonly item: Item;
  running: boolean;
  /** Its frame was decided before the answer came. */
  framed: boolean;
  /** It came after the wait and before the frame. */
  understanding: Understanding | null;
  /** It failed for good. */
  failed: boolean;
}

export class Questions {
  readonly holds: Holds;
  readonly counters = { late_answers_total: 0, llm_forgotten_total: 0, frame_waits_in_vain_total: 0 };
  readonly #o: QuestionsOptions;
  /** By seq: questions of frames that are not decided, or that are being asked. */
  readonly #jobs = new Map<number, Job>();
  #fresh: Job[] = [];
  /** Oldest first. */
  #late: number[] = [];
  readonly #attempts = new Map<number, number>();
  /** On its way, or about to be asked. */
  readonly #expected = new Set<number>();
  #asking = 0;
  #vain = 0;
  #stopped = false;

  constructor(options: QuestionsOptions) {
    this.#o = options;
    this.holds = new Holds({
      frameWaitMs: options.frameWaitMs,
      clock: options.clock,
      onReady: options.onReady,
      onVain: () => {
        this.#vain++;
        this.counters.frame_waits_in_vain_total++;
      },
    });
    options.brain.llm.onChange = () => this.#changed();
  }

  get late(): number {
    return this.#late.length;
  }

  /** Takes an event whose vector is known: what is open is asked, and its frame waits where that makes sense. */
  admit(item: Item): void {
    const waits = item.known.question !== null && this.#mayWait();
    if (waits) {
      const job = { item, running: false, framed: false, understanding: null, failed: false };
      this.#jobs.set(item.event.seq, job);
      this.#fresh.push(job);
    }
    this.holds.admit(item, waits);
    if (waits) this.#pump();
  }

  #mayWait(): boolean {
    if (this.#stopped || this.#o.frameWaitMs === 0 || this.#vain >= VAIN_MAX) return false;
    return this.holds.frames < WAITING_FRAMES_MAX && this.#o.brain.llm.usable;
  }

  /**
   * The frame of an event is decided. Who waits for more is told at once, unless a further word on it is expected soon.
   */
  framed(item: Item): void {
    if (!this.#askOn(item)) this.#o.updates.tell(item.event.seq);
  }

  /** @returns whether a further word on an event that has its frame is expected soon. */
  #askOn({ event, known }: Item): boolean {
    const job = this.#jobs.get(event.seq);
    if (job !== undefined && !job.running) this.#jobs.delete(event.seq);
    if (known.question === null || job?.failed === true) return false;
    if (job?.running === true) {
      job.framed = true;
    } else if (job?.understanding != null) {
      const { understanding } = job;
      void this.#guarded(event.seq, this.#answer(event.seq, understanding));
    } else {
      if (job !== undefined) this.#fresh = this.#fresh.filter((other) => other !== job);
      this.#askLater(event.seq);
    }
    this.#expected.add(event.seq);
    this.#pump();
    return this.expects(event.seq);
  }

  /** A temporary journal has dropped the event before its frame. */
  gone(seq: number): void {
    this.#jobs.delete(seq);
    this.#o.updates.tell(seq);
  }

  /** Whether a further word on an event that has its frame may come soon. */
  expects(seq: number): boolean {
    return this.#expected.has(seq) && this.#o.brain.llm.usable && !this.#stopped;
  }

  #askLater(seq: number): void {
    this.#late.push(seq);
    if (this.#late.length < LATE_MAX + LATE_SLACK) return;
    for (const forgotten of this.#late.splice(0, LATE_SLACK)) this.#forget(forgotten);
  }

  /** Nobody will ask about it any more. */
  #forget(seq: number): void {
    this.counters.llm_forgotten_total++;
    this.#done(seq);
  }

  #done(seq: number): void {
    this.#expected.delete(seq);
    this.#attempts.delete(seq);
    this.#o.updates.tell(seq);
  }

  #changed(): void {
    if (!this.#o.brain.llm.usable) this.#settleWaiters();
    this.#pump();
  }

  /** Nobody answers now: whoever waits for more than a frame is told what there is. */
  #settleWaiters(): void {
    const { updates } = this.#o;
    for (const seq of updates.waitedFor()) if (this.#expected.has(seq)) updates.tell(seq);
  }

  /** A failure of ours, as of DuckDB while it is opened again: asked about later. */
  #guarded(seq: number, work: Promise<void>): Promise<void> {
    return work.catch((error: unknown) => {
      this.#o.log("warn", `brain: event ${seq}: ${messageOf(error)}`);
      if (this.#again(seq, { ok: false, reason: "failed", retryable: error instanceof GatewayError })) {
        this.#askLater(seq);
      } else this.#forget(seq);
    });
  }

  #pump(): void {
    while (!this.#stopped && this.#asking < ASKING_MAX && this.#o.brain.llm.usable) {
      const job = this.#fresh.shift();
      const seq = job === undefined ? this.#late.pop() : job.item.event.seq;
      if (seq === undefined) return;
      this.#asking++;
      const asked = job === undefined ? this.#askLate(seq) : this.#askFresh(job);
      void this.#guarded(seq, asked).finally(() => {
        this.#asking--;
        this.#pump();
      });
    }
  }

  // ------------------------------------------------------------------------------ while a frame waits

  async #askFresh(job: Job): Promise<void> {
    const { event } = job.item;
    job.running = true;
    const asked = await this.#ask(event, this.#o.brain.completed(event, job.item.known.understanding));
    job.running = false;
    if (asked.ok) {
      if (this.holds.answered(event.seq, { understanding: asked.value, question: null })) return;
      if (!job.framed) {
        job.understanding = asked.value;
        return;
      }
      this.#jobs.delete(event.seq);
      return this.#answer(event.seq, asked.value);
    }
    job.failed = !this.#again(event.seq, asked);
    if (job.framed) {
      this.#jobs.delete(event.seq);
      if (job.failed) this.#forget(event.seq);
      else this.#askLater(event.seq);
      return this.#pause(asked);
    }
    if (job.failed) this.counters.llm_forgotten_total++;
    this.holds.release(event.seq);
    return this.#pause(asked);
  }

  /** An answer that comes in time is reason to wait for the next ones, too. */
  async #ask(event: Parameters<Brain["ask"]>[0], known: Known): ReturnType<Brain["ask"]> {
    if (known.question === null) return { ok: true, value: known.understanding };
    const { brain, clock, frameWaitMs } = this.#o;
    const startedMs = clock.monotonicMs();
    const asked = await brain.ask(event, known);
    if (asked.ok && clock.monotonicMs() - startedMs < frameWaitMs) this.#vain = 0;
    return asked;
  }

  /** Whether it is asked again after this refusal. */
  #again(seq: number, { reason, retryable }: LlmRefusal): boolean {
    if (!retryable) return false;
    if (NOT_ASKED.has(reason)) return true;
    const attempts = (this.#attempts.get(seq) ?? 0) + 1;
    this.#attempts.set(seq, attempts);
    return attempts < ATTEMPTS_MAX;
  }

  async #pause({ reason }: LlmRefusal): Promise<void> {
    if (reason === "busy") await this.#o.clock.sleep(BUSY_MS);
  }

  // ---------------------------------------------------------------------------------- after the frame

  async #askLate(seq: number): Promise<void> {
    const latest = await this.#o.updates.latest(seq);
    if (latest === null) return this.#forget(seq);
    const known = this.#o.brain.completed(latest, understandingOf(latest.row));
    const asked = await this.#ask(latest, known);
    if (asked.ok) return this.#answer(seq, asked.value);
    if (this.#again(seq, asked)) this.#askLater(seq);
    else this.#forget(seq);
    return this.#pause(asked);
  }

  /** Only what the model, or what was learned from it, says is new; the rest stays as it was last said. */
  #answer(seq: number, understanding: Understanding): Promise<void> {
    const { updates, clock } = this.#o;
    return updates.alone(async () => {
      const latest = await updates.latest(seq);
      if (latest === null) return this.#forget(seq);
      await updates.write([{ latest, row: withUnderstanding(latest.row, understanding, clock.nowUs()) }]);
      this.counters.late_answers_total++;
      this.#done(seq);
    });
  }

  // ------------------------------------------------------------------------------------ start and end

  /** Asks about events of before this start whose frames say less than the model could, as far as they are still here. */
  async restore(): Promise<void> {
    const { journal, brain, clock } = this.#o;
    if (brain.llm.state.name === "off") return;
    const newest: number[] = [];
    const next = journal.nextFrameId();
    for (
      let to = next;
      to > Math.max(1, next - RESTORE_FRAMES_MAX) && !this.#stopped;
      to -= RESTORE_STEP_FRAMES
    ) {
      newest.push(...journal.unanswered(Math.max(1, to - RESTORE_STEP_FRAMES), to));
      await clock.nextTurn();
    }
    this.counters.llm_forgotten_total += Math.max(0, newest.length - LATE_MAX);
    const restored = newest.slice(0, LATE_MAX).reverse();
    for (const seq of restored) this.#expected.add(seq);
    this.#late.unshift(...restored);
    this.#pump();
  }

  /** A drain has begun: no frame waits any more, and nothing new is asked. */
  hurry(): void {
    this.#stopped = true;
    this.holds.releaseAll();
    this.#settleWaiters();
  }
}
