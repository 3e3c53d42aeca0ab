/**
 * Brings labelled examples into force: embeds those that have no vector of the embedder in use, and has its Worker
 * learn from all of them. An embedder that fails is asked again, and what was in force before stays. Part of intents.
 */
import { type Clock, systemClock } from "../clock.ts";
import type { Embedder } from "../embed/embedder.ts";
import { messageOf } from "../errors.ts";
import type { IntentRows } from "../journal/journal.ts";
import type { Log } from "../log.ts";
import type { Calibration, LabelledVectors } from "../nearest/nearest.ts";
import { embeddedExamples } from "./example-vectors.ts";

/** How long `changed` and `attach` wait until what they changed is in force. */
const IN_FORCE_MS = 10_000;
const RETRY_MS_MIN = 500;
const RETRY_MS_MAX = 30_000;
/** Rows that are put together in one go: 4 MiB. */
const ROWS_A_TURN = 1024;

export interface LearningState {
  /**
   * ready: what is listed is in force. learning: what was in force before still is. waiting: for the embedder.
   * off: there is no embedder.
   */
  readonly state: "ready" | "learning" | "waiting" | "off";
  /** What and why; empty where all is well. */
  readonly detail: string;
}

const WAITING_FOR_CHOICE: LearningState = { state: "waiting", detail: "the embedder is being chosen" };
const LEARNING: LearningState = { state: "learning", detail: "" };
const READY: LearningState = { state: "ready", detail: "" };
const OFF: LearningState = { state: "off", detail: "--embedder off: examples are kept and not used" };

export interface ExampleLearnerOptions {
  readonly rows: Pick<IntentRows, "of" | "setVectors">;
  /** In the order in which they are learned. */
  readonly labels: () => readonly string[];
  readonly log: Log;
  readonly clock?: Clock;
}

export class ExampleLearner {
  readonly #o: ExampleLearnerOptions;
  readonly #clock: Clock;
  #embedder: Embedder | null = null;
  #state = WAITING_FOR_CHOICE;
  #calibration: Calibration | null = null;
  #withoutVector = 0;
  /** Grows with each change; what is in force is `#learned` of them. */
  #version = 1;
  #learned = 0;
  #learning = false;
  #stopped = false;
  readonly #waiting = new Set<() => void>();

  constructor(options: ExampleLearnerOptions) {
    this.#o = options;
    this.#clock = options.clock ?? systemClock;
  }

  get state(): LearningState {
    return this.#state;
  }

  /** What was learned from the examples in force; null without any. */
  get calibration(): Calibration | null {
    return this.#calibration;
  }

  /** Examples that have no vector: nothing in them can be embedded, or the embedder refuses them. */
  get withoutVector(): number {
    return this.#withoutVector;
  }

  /**
   * The embedder in use is this one: examples are learned for it. Resolves when they are in force, or cannot be soon:
   * the embedder fails, or IN_FORCE_MS are over.
   */
  async attach(embedder: Embedder): Promise<void> {
    this.#embedder = embedder;
    if (embedder.kind === "off") {
      this.#state = OFF;
      this.#tell();
      return;
    }
    void this.#learnAll();
    await this.#learnedIn(this.#version);
  }

  /** The examples were changed: false where the change is not in force after IN_FORCE_MS, or without an embedder. */
  async changed(): Promise<boolean> {
    this.#version += 1;
    const version = this.#version;
    if (this.#embedder === null || this.#embedder.kind === "off") return false;
    void this.#learnAll();
    return this.#learnedIn(version);
  }

  /** Learns no more. */
  stop(): void {
    this.#stopped = true;
    this.#tell();
  }

  async #learnedIn(version: number): Promise<boolean> {
    const untilMs = this.#clock.monotonicMs() + IN_FORCE_MS;
    while (this.#learned < version && !this.#stopped && this.#state.state !== "waiting") {
      const leftMs = untilMs - this.#clock.monotonicMs();
      if (leftMs <= 0) return false;
      await this.#change(leftMs);
    }
    return this.#learned >= version;
  }

  /** Settles at the next change of state, or when the time is over. */
  #change(timeoutMs: number): Promise<void> {
    return new Promise((resolve) => {
      const settle = (): void => {
        timer[Symbol.dispose]();
        this.#waiting.delete(settle);
        resolve();
      };
      const timer = this.#clock.after(timeoutMs, settle);
      this.#waiting.add(settle);
    });
  }

  #tell(): void {
    for (const settle of [...this.#waiting]) settle();
  }

  /** Learns until what is in force is what is listed; an embedder that fails is asked again. */
  async #learnAll(): Promise<void> {
    if (this.#learning) return;
    this.#learning = true;
    let [retryMs, failing] = [RETRY_MS_MIN, false];
    while (this.#learned < this.#version && !this.#stopped) {
      const version = this.#version;
      if (!failing) this.#state = LEARNING;
      try {
        await this.#learn(this.#embedder as Embedder);
        this.#learned = version;
        this.#state = READY;
        [retryMs, failing] = [RETRY_MS_MIN, false];
        this.#tell();
      } catch (error) {
        if (this.#stopped) break;
        if (!failing)
          this.#o.log("warn", `intents: examples are not learned yet: ${messageOf(error)}; trying again`);
        failing = true;
        this.#state = { state: "waiting", detail: messageOf(error) };
        this.#tell();
        await this.#clock.sleep(retryMs);
        retryMs = Math.min(2 * retryMs, RETRY_MS_MAX);
      }
    }
    this.#learning = false;
  }

  async #learn(embedder: Embedder): Promise<void> {
    const labels: { label: string; count: number }[] = [];
    const vectors: Float32Array[] = [];
    let without = 0;
    for (const label of this.#o.labels()) {
      const examples = await embeddedExamples(embedder, this.#o.rows, label);
      const present = examples.flatMap(({ vector }) => (vector === null ? [] : [vector]));
      without += examples.length - present.length;
      if (present.length > 0) labels.push({ label, count: present.length });
      vectors.push(...present);
      // A label at a time: thousands of rows are read, and this is the thread that answers.
      await this.#clock.nextTurn();
    }
    const dim = vectors[0]?.length ?? 0;
    if (vectors.some((vector) => vector.length !== dim))
      throw new Error(`examples have vectors of different lengths under the name ${embedder.name}`);
    const rows = new Float32Array(vectors.length * dim);
    for (let at = 0; at < vectors.length; at++) {
      rows.set(vectors[at] as Float32Array, at * dim);
      if (at % ROWS_A_TURN === ROWS_A_TURN - 1) await this.#clock.nextTurn();
    }
    const examples: LabelledVectors = { dim, labels, rows };
    this.#calibration = await embedder.setExamples(examples);
    this.#withoutVector = without;
  }
}
