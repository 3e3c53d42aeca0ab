/**
 * Asks the language model what only it can add to an event. Events whose frames wait come first, then events whose frames
 * went out without a reply, the newest first. Questions beyond a bound are forgotten and counted.
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

/** Questions under way at once: as many as the client takes. */
const ASKING_MAX = 2;
/** @bound events that are asked about later (only their numbers are kept) | the oldest are forgotten, and counted */
const LATE_EVENTS_MAX = 10_000;
const LATE_SLACK_EVENTS = 1000;
/** @bound questions about one event | it is forgotten, and counted */
const ATTEMPTS_MAX = 3;
/** @bound frames in a row that waited for the model in vain | no frame waits until a reply comes in time */
const VAIN_FRAMES_MAX = 5;
/** @bound frames that a start searches for open questions | older ones stay as they are */
const RESTORE_FRAMES_MAX = 20_000;
const RESTORE_STEP_FRAMES = 1000;
/** The pause after a refusal because others use the model. */
const BUSY_MS = 200;
/** Reasons of a refusal that are not the event's fault: such a question does not count as an attempt. */
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
  readonly journal: Pick<Journal, "nextFrameId" | "withoutUpdate">;
  readonly updates: Pick<Updates, "alone" | "latest" | "write" | "tell" | "waitedFor">;
  readonly frameWaitMs: number;
  readonly clock: Clock;
  readonly log: Log;
  /** Called when an event that was held back can be decided. */
  readonly onReady: () => void;
}

/** A question whose frame waits for the reply, or did. */
interface Job {
  readonly item: Item;
  running: boolean;
  /** The frame was decided before the reply came. */
  framed: boolean;
  /** What the reply added, if it came after the wait and before the frame. */
  understanding: Understanding | null;
  /** The question failed for good. */
  failed: boolean;
}

export class Questions {
  readonly holds: Holds;
  readonly counters = { late_answers_total: 0, llm_forgotten_total: 0, frame_waits_in_vain_total: 0 };
  readonly #o: QuestionsOptions;
  /** By seq: questions whose frames are not decided, or that are under way. */
  readonly #jobs = new Map<number, Job>();
  #fresh: Job[] = [];
  /** The seq of each event to ask about after its frame, the oldest first. */
  #late: number[] = [];
  readonly #attempts = new Map<number, number>();
  /** The seq of each event whose question is under way, or still to be asked. */
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

  /** The number of events to ask about after their frames. */
  get late(): number {
    return this.#late.length;
  }

  /** Takes an event whose vector is known. Asks what is open, and lets the frame wait if a reply may come in time. */
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
    if (this.#stopped || this.#o.frameWaitMs === 0 || this.#vain >= VAIN_FRAMES_MAX) return false;
    return this.holds.frames < WAITING_FRAMES_MAX && this.#o.brain.llm.usable;
  }

  /**
   * Notes that the frame of an event is decided. Resolves those who wait for more, unless an update may come soon.
   */
  framed(item: Item): void {
    if (!this.#askOn(item)) this.#o.updates.tell(item.event.seq);
  }

  /** Goes on with the question of a framed event. @returns whether an update may come soon. */
  #askOn({ event, known }: Item): boolean {
    const job = this.#jobs.get(event.seq);
    if (job !== undefined && !job.running) this.#jobs.delete(event.seq);
    if (known.question === null || job?.failed === true) return false;
    if (job?.running === true) {
      job.framed = true;
    } else if (job?.understanding != null) {
      const { understanding } = job;
      void this.#guarded(event.seq, this.#update(event.seq, understanding));
    } else {
      if (job !== undefined) this.#fresh = this.#fresh.filter((other) => other !== job);
      this.#askLater(event.seq);
    }
    this.#expected.add(event.seq);
    this.#pump();
    return this.expects(event.seq);
  }

  /** Notes that a temporary journal dropped the event before its frame. */
  gone(seq: number): void {
    this.#jobs.delete(seq);
    this.#o.updates.tell(seq);
  }

  /** Whether an update of an event that has its frame may come soon. */
  expects(seq: number): boolean {
    return this.#expected.has(seq) && this.#o.brain.llm.usable && !this.#stopped;
  }

  #askLater(seq: number): void {
    this.#late.push(seq);
    if (this.#late.length < LATE_EVENTS_MAX + LATE_SLACK_EVENTS) return;
    for (const forgotten of this.#late.splice(0, LATE_SLACK_EVENTS)) this.#forget(forgotten);
  }

  /** Gives the question up, and counts it. */
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

  /** The model cannot be asked now: resolves those who wait for its reply with what is known. */
  #settleWaiters(): void {
    const { updates } = this.#o;
    for (const seq of updates.waitedFor()) if (this.#expected.has(seq)) updates.tell(seq);
  }

  /** Asks later if the work fails for a reason of ours, for example while DuckDB opens again. */
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

  /** Asks about an event whose frame waits. */
  async #askFresh(job: Job): Promise<void> {
    const { event } = job.item;
    job.running = true;
    const asked = await this.#ask(event, this.#o.brain.completed(event, job.item.known.understanding));
    job.running = false;
    if (asked.ok) {
      if (this.holds.replied(event.seq, { understanding: asked.value, question: null })) return;
      if (!job.framed) {
        job.understanding = asked.value;
        return;
      }
      this.#jobs.delete(event.seq);
      return this.#update(event.seq, asked.value);
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

  /** Asks. A reply that comes within the frame wait lets the next frames wait again. */
  async #ask(event: Parameters<Brain["ask"]>[0], known: Known): ReturnType<Brain["ask"]> {
    if (known.question === null) return { ok: true, value: known.understanding };
    const { brain, clock, frameWaitMs } = this.#o;
    const startedMs = clock.monotonicMs();
    const asked = await brain.ask(event, known);
    if (asked.ok && clock.monotonicMs() - startedMs < frameWaitMs) this.#vain = 0;
    return asked;
  }

  /** Whether to ask again after this refusal. */
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

  /** Asks about an event that has its frame. */
  async #askLate(seq: number): Promise<void> {
    const latest = await this.#o.updates.latest(seq);
    if (latest === null) return this.#forget(seq);
    const known = this.#o.brain.completed(latest, understandingOf(latest.row));
    const asked = await this.#ask(latest, known);
    if (asked.ok) return this.#update(seq, asked.value);
    if (this.#again(seq, asked)) this.#askLater(seq);
    else this.#forget(seq);
    return this.#pause(asked);
  }

  /** Writes an update: what the model added is new, the rest stays as in the newest row. */
  #update(seq: number, understanding: Understanding): Promise<void> {
    const { updates, clock } = this.#o;
    return updates.alone(async () => {
      const latest = await updates.latest(seq);
      if (latest === null) return this.#forget(seq);
      await updates.write([{ latest, row: withUnderstanding(latest.row, understanding, clock.nowUs()) }]);
      this.counters.late_answers_total++;
      this.#done(seq);
    });
  }

  /** Finds the events of earlier runs with an open question, as far as the journal still has them, and asks about them. */
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
      newest.push(...journal.withoutUpdate(Math.max(1, to - RESTORE_STEP_FRAMES), to));
      await clock.nextTurn();
    }
    this.counters.llm_forgotten_total += Math.max(0, newest.length - LATE_EVENTS_MAX);
    const restored = newest.slice(0, LATE_EVENTS_MAX).reverse();
    for (const seq of restored) this.#expected.add(seq);
    this.#late.unshift(...restored);
    this.#pump();
  }

  /** Called when a drain begins: no frame waits any more, and no further question is asked. */
  hurry(): void {
    this.#stopped = true;
    this.holds.releaseAll();
    this.#settleWaiters();
  }
}
