/**
 * The labelled examples of intents: kept in the journal, embedded by the embedder in use, and learned in its
 * Worker, which then says with each batch of texts what is nearest (embed-index.ts). And what the LLM said of
 * texts, to be said again (intents-answers.ts).
 *
 * Examples are of one model: where the embedder is another than before, they are embedded again.
 */

import type { Embedder } from "../embed/embedder.ts";
import { GatewayError, messageOf } from "../errors.ts";
import type { IntentRows, StoredExample } from "../journal/journal.ts";
import type { Calibration, LabelledVectors } from "../nearest/nearest.ts";
import { RememberedAnswers } from "./answer-cache.ts";

export const INTENT_LIMITS = {
  labelsMax: 1000,
  labelCharsMax: 128,
  examplesPerLabelMax: 1000,
  /** Of all labels together: what one search goes through, 1,024 bytes each. */
  examplesMax: 10_000,
  exampleCharsMax: 2048,
} as const;

/** How long `put`, `delete` and `attach` wait until what they changed is in force. */
const IN_FORCE_MS = 10_000;
const RETRY_MS_MIN = 500;
const RETRY_MS_MAX = 30_000;

export interface IntentsState {
  /**
   * ready: what is listed is in force. learning: what was in force before still is. waiting: for the embedder.
   * off: there is no embedder.
   */
  readonly state: "ready" | "learning" | "waiting" | "off";
  /** What and why; empty where all is well. */
  readonly detail: string;
  /** What was learned from the examples in force; null without any. */
  readonly calibration: Calibration | null;
  readonly labels: number;
  readonly examples: number;
  /** Examples that have no vector: nothing in them can be embedded, or the embedder refuses them. */
  readonly withoutVector: number;
}

export interface IntentExamples {
  readonly label: string;
  readonly examples: readonly string[];
}

/** What became of a change: refused with a reason, or kept, and in force or not yet. */
export type Changed = { readonly refused: string } | { readonly inForce: boolean };

export interface IntentsOptions {
  readonly rows: IntentRows;
  readonly log: (level: "info" | "warn", message: string) => void;
}

export class Intents {
  /** What the LLM said of texts. */
  readonly answers: RememberedAnswers;
  readonly #o: IntentsOptions;
  readonly #examples = new Map<string, string[]>();
  #embedder: Embedder | null = null;
  #state: Pick<IntentsState, "state" | "detail"> = WAITING_FOR_CHOICE;
  #calibration: Calibration | null = null;
  #withoutVector = 0;
  /** Grows with each change; what is in force is `#learned` of them. */
  #version = 1;
  #learned = 0;
  #learning = false;
  #stopped = false;
  readonly #waiting = new Set<() => void>();

  constructor(options: IntentsOptions) {
    this.#o = options;
    for (const { label, text } of options.rows.texts()) {
      const texts = this.#examples.get(label);
      if (texts === undefined) this.#examples.set(label, [text]);
      else texts.push(text);
    }
    this.answers = new RememberedAnswers(options.rows, (error) =>
      options.log("warn", `intents: what the LLM said is not kept over a restart: ${messageOf(error)}`),
    );
  }

  /** In the order of labels. */
  list(): IntentExamples[] {
    return [...this.#examples]
      .map(([label, examples]) => ({ label, examples }))
      .sort((a, b) => (a.label < b.label ? -1 : 1));
  }

  get(label: string): IntentExamples | null {
    const examples = this.#examples.get(label);
    return examples === undefined ? null : { label, examples };
  }

  get state(): IntentsState {
    return {
      ...this.#state,
      calibration: this.#calibration,
      labels: this.#examples.size,
      examples: this.#count(),
      withoutVector: this.#withoutVector,
    };
  }

  /** For the Snapshot. */
  metrics(): { counters: Record<string, number>; gauges: Record<string, number> } {
    const gauges = {
      intent_labels: this.#examples.size,
      intent_examples: this.#count(),
      intent_threshold: this.#calibration?.threshold ?? 0,
      remembered_answers: this.answers.size,
    };
    return { counters: { ...this.answers.counters }, gauges };
  }

  /**
   * The label's examples are these from now on; the same text twice counts once. Durable when it resolves.
   * @throws GatewayError disk_full, journal_failed
   */
  async put(label: string, examples: readonly string[]): Promise<Changed> {
    const texts = [...new Set(examples.map((text) => text.trim()))].filter((text) => text !== "");
    if (texts.length === 0) return { refused: "there is no text in the examples" };
    const known = this.#examples.get(label);
    if (known === undefined && this.#examples.size >= INTENT_LIMITS.labelsMax)
      return { refused: `there are ${INTENT_LIMITS.labelsMax} labels already` };
    const total = this.#count() - (known?.length ?? 0) + texts.length;
    if (total > INTENT_LIMITS.examplesMax)
      return {
        refused: `with these there would be ${total} examples, at most ${INTENT_LIMITS.examplesMax} of all labels`,
      };
    const elsewhere = new Map<string, string>();
    for (const [other, its] of this.#examples)
      if (other !== label) for (const text of its) elsewhere.set(text, other);
    const twice = texts.find((text) => elsewhere.has(text));
    if (twice !== undefined) {
      const where = JSON.stringify(elsewhere.get(twice));
      return { refused: `the example ${JSON.stringify(twice.slice(0, 80))} stands under ${where} already` };
    }
    this.#o.rows.replace(label, texts);
    this.#examples.set(label, texts);
    return { inForce: await this.#inForce() };
  }

  /**
   * @returns null where there is no such label.
   * @throws GatewayError disk_full, journal_failed
   */
  async delete(label: string): Promise<{ readonly inForce: boolean } | null> {
    if (!this.#examples.has(label)) return null;
    this.#o.rows.replace(label, []);
    this.#examples.delete(label);
    return { inForce: await this.#inForce() };
  }

  /**
   * The embedder in use is this one: examples are learned for it. Resolves when they are in force, or cannot be soon:
   * the embedder fails, or IN_FORCE_MS are over.
   */
  async attach(embedder: Embedder): Promise<void> {
    this.#embedder = embedder;
    if (embedder.kind === "off") {
      this.#state = { state: "off", detail: "--embedder off: examples are kept and not used" };
      this.#tell();
      return;
    }
    void this.#learnAll();
    await this.#learnedIn(this.#version);
  }

  /** Writes what is not written yet and learns no more. */
  stop(): void {
    this.#stopped = true;
    this.answers.flush();
    this.#tell();
  }

  #count(): number {
    let count = 0;
    for (const texts of this.#examples.values()) count += texts.length;
    return count;
  }

  // ---------------------------------------------------------------------------------------- learning

  /** A change was made: false where it is not in force after IN_FORCE_MS, or without an embedder. */
  async #inForce(): Promise<boolean> {
    this.#version += 1;
    const version = this.#version;
    if (this.#embedder === null || this.#embedder.kind === "off") return false;
    void this.#learnAll();
    return this.#learnedIn(version);
  }

  async #learnedIn(version: number): Promise<boolean> {
    const untilMs = performance.now() + IN_FORCE_MS;
    while (this.#learned < version && !this.#stopped && this.#state.state !== "waiting") {
      const leftMs = untilMs - performance.now();
      if (leftMs <= 0) return false;
      await this.#change(leftMs);
    }
    return this.#learned >= version;
  }

  /** Settles at the next change of state, or when the time is over. */
  #change(timeoutMs: number): Promise<void> {
    return new Promise((resolve) => {
      const settle = (): void => {
        clearTimeout(timer);
        this.#waiting.delete(settle);
        resolve();
      };
      const timer = setTimeout(settle, timeoutMs);
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
        await this.#learn();
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
        await Bun.sleep(retryMs);
        retryMs = Math.min(2 * retryMs, RETRY_MS_MAX);
      }
    }
    this.#learning = false;
  }

  async #learn(): Promise<void> {
    const embedder = this.#embedder as Embedder;
    const labels: { label: string; count: number }[] = [];
    const vectors: Float32Array[] = [];
    let without = 0;
    for (const { label } of this.list()) {
      const examples = await this.#embedded(embedder, label);
      const present = examples.flatMap(({ vector }) => (vector === null ? [] : [vector]));
      without += examples.length - present.length;
      if (present.length > 0) labels.push({ label, count: present.length });
      vectors.push(...present);
      // A label at a time: thousands of rows are read, and this is the thread that answers.
      await nextTurn();
    }
    const dim = vectors[0]?.length ?? 0;
    if (vectors.some((vector) => vector.length !== dim))
      throw new Error(`examples have vectors of different lengths under the name ${embedder.name}`);
    const rows = new Float32Array(vectors.length * dim);
    for (let at = 0; at < vectors.length; at++) {
      rows.set(vectors[at] as Float32Array, at * dim);
      if (at % ROWS_A_TURN === ROWS_A_TURN - 1) await nextTurn();
    }
    const examples: LabelledVectors = { dim, labels, rows };
    this.#calibration = await embedder.setExamples(examples);
    this.#withoutVector = without;
  }

  /** The examples of a label with vectors of this embedder; those that are missing are made, and kept. */
  async #embedded(embedder: Embedder, label: string): Promise<StoredExample[]> {
    const examples = this.#o.rows.of(label);
    const known = ({ model, vector }: StoredExample): boolean =>
      vector !== null && model === embedder.name && (embedder.dim === 0 || vector.length === embedder.dim);
    const missing = examples.filter((example) => !known(example));
    const made = new Map<number, Float32Array>();
    for (let from = 0; from < missing.length; from += embedder.maxBatch) {
      const part = missing.slice(from, from + embedder.maxBatch);
      const vectors = await embedEach(
        embedder,
        part.map(({ text }) => text),
      );
      const fresh = part.map((example, at) => ({ ...example, vector: vectors[at] ?? null }));
      if (!embedder.recomputed) this.#o.rows.setVectors(embedder.name, fresh);
      for (const { position, vector } of fresh) if (vector !== null) made.set(position, vector);
    }
    return examples.map((example) =>
      known(example) ? example : { ...example, vector: made.get(example.position) ?? null },
    );
  }
}

const WAITING_FOR_CHOICE = { state: "waiting", detail: "the embedder is being chosen" } as const;
const LEARNING = { state: "learning", detail: "" } as const;
const READY = { state: "ready", detail: "" } as const;
/** Rows that are put together in one go: 4 MiB. */
const ROWS_A_TURN = 1024;

/** Null for a text that has nothing to embed, or that the embedder refuses while it takes others. */
async function embedEach(embedder: Embedder, texts: readonly string[]): Promise<(Float32Array | null)[]> {
  try {
    const rows = await embedder.embed(texts);
    const { dim } = embedder;
    return texts.map((_, at) => {
      const row = rows.subarray(at * dim, (at + 1) * dim);
      return row.some((value) => value !== 0) ? row : null;
    });
  } catch (error) {
    if (!(error instanceof GatewayError) || error.code !== "embedder_invalid") throw error;
    if (texts.length === 1) return [null];
    const vectors: (Float32Array | null)[] = [];
    for (const text of texts) vectors.push(...(await embedEach(embedder, [text])));
    // Refused one and all: it is not the texts.
    if (vectors.every((vector) => vector === null)) throw error;
    return vectors;
  }
}

function nextTurn(): Promise<void> {
  return new Promise((done) => setImmediate(done));
}
