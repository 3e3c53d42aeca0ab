/**
 * Brings labelled examples into force: embeds those that lack a vector of the embedder in use, and has that embedder's
 * Worker learn from all of them. If the embedder fails, the learner tries again, and the examples that were in force
 * stay in force. Part of intents.
 */
import { type Clock, systemClock } from "../clock.ts";
import type { Embedder } from "../embed/embedder.ts";
import { messageOf } from "../errors.ts";
import type { IntentRows } from "../journal/journal.ts";
import type { Log } from "../log.ts";
import type { Calibration, LabelledVectors } from "../nearest/nearest.ts";
import { embeddedExamples } from "./example-vectors.ts";

/**
 * How long `changed` and `attach` wait for their change to be in force.
 * @bound the wait for changed examples to take effect, also of the first frames after a start | 202; frames are made without them
 */
const IN_FORCE_MS = 10_000;
const RETRY_MS_MIN = 500;
const RETRY_MS_MAX = 30_000;
/** Vectors that are copied in one turn of the event loop: 4 MiB of 1,024 floats each. */
const ROWS_A_TURN = 1024;

export interface LearningState {
  /**
   * ready: the listed examples are in force. learning: the ones before them still are. waiting: for the embedder.
   * off: there is no embedder.
   */
  readonly state: "ready" | "learning" | "waiting" | "off";
  /** What is wrong and why; empty if nothing is. */
  readonly detail: string;
}

const WAITING_FOR_CHOICE: LearningState = { state: "waiting", detail: "the embedder is being chosen" };
const LEARNING: LearningState = { state: "learning", detail: "" };
const READY: LearningState = { state: "ready", detail: "" };
const OFF: LearningState = { state: "off", detail: "--embedder off: examples are kept but not used" };

export interface ExampleLearnerOptions {
  readonly rows: Pick<IntentRows, "of" | "setVectors">;
  /** All labels, in the order in which they are learned. */
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
  /** Counts the changes; the examples as of change `#learned` are in force. */
  #version = 1;
  #learned = 0;
  #learning = false;
  #stopped = false;
  /** Each ends the wait of one caller. */
  readonly #waiting = new Set<() => void>();

  constructor(options: ExampleLearnerOptions) {
    this.#o = options;
    this.#clock = options.clock ?? systemClock;
  }

  get state(): LearningState {
    return this.#state;
  }

  /** What was learned from the examples in force; null: there are none. */
  get calibration(): Calibration | null {
    return this.#calibration;
  }

  /** Examples without a vector: they hold nothing to embed, or the embedder refuses them. */
  get withoutVector(): number {
    return this.#withoutVector;
  }

  /**
   * Learns the examples for this embedder, which is in use from now on. Resolves when they are in force; earlier if the
   * embedder fails, and after IN_FORCE_MS at the latest.
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

  /**
   * Learns the examples, which have changed. Resolves as `attach` does.
   * @returns whether the change is in force.
   */
  async changed(): Promise<boolean> {
    this.#version += 1;
    const version = this.#version;
    if (this.#embedder === null || this.#embedder.kind === "off") return false;
    void this.#learnAll();
    return this.#learnedIn(version);
  }

  /** Ends learning, and the waits of all callers. */
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

  /** Resolves at the next change of state, or after `timeoutMs`. */
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

  /** Learns until the listed examples are in force, or the stop. Waits longer after each failure. */
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
          this.#o.log("warn", `intents: cannot learn the examples yet: ${messageOf(error)}; trying again`);
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
      // One label per turn: thousands of rows are read, and this thread also serves HTTP.
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
