/**
 * The labelled examples of intents: kept in the journal, embedded by the embedder in use, and learned in its
 * Worker, which then says with each batch of texts what is nearest (embed-index.ts).
 *
 * Examples are of one model: where the embedder is another than before, they are embedded again.
 */

import { type Clock, systemClock } from "../clock.ts";
import type { Embedder } from "../embed/embedder.ts";
import type { IntentRows } from "../journal/journal.ts";
import type { Log } from "../log.ts";
import type { Calibration } from "../nearest/nearest.ts";
import { ExampleLearner, type LearningState } from "./example-learner.ts";

export const INTENT_LIMITS = {
  labelsMax: 1000,
  labelCharsMax: 128,
  examplesPerLabelMax: 1000,
  /** Of all labels together: what one search goes through, 1,024 bytes each. */
  examplesMax: 10_000,
  exampleCharsMax: 2048,
} as const;

export interface IntentsState extends LearningState {
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
  readonly log: Log;
  readonly clock?: Clock;
}

export class Intents {
  readonly #rows: IntentRows;
  readonly #examples = new Map<string, string[]>();
  readonly #learner: ExampleLearner;

  constructor({ rows, log, clock = systemClock }: IntentsOptions) {
    this.#rows = rows;
    for (const { label, text } of rows.texts()) {
      const texts = this.#examples.get(label);
      if (texts === undefined) this.#examples.set(label, [text]);
      else texts.push(text);
    }
    const labels = (): string[] => this.list().map(({ label }) => label);
    this.#learner = new ExampleLearner({ rows, labels, log, clock });
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
    const { state, calibration, withoutVector } = this.#learner;
    return { ...state, calibration, labels: this.#examples.size, examples: this.#count(), withoutVector };
  }

  /** For the Snapshot. */
  get gauges(): Readonly<Record<string, number>> {
    return {
      intent_labels: this.#examples.size,
      intent_examples: this.#count(),
      intent_threshold: this.#learner.calibration?.threshold ?? 0,
    };
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
    this.#rows.replace(label, texts);
    this.#examples.set(label, texts);
    return { inForce: await this.#learner.changed() };
  }

  /**
   * @returns null where there is no such label.
   * @throws GatewayError disk_full, journal_failed
   */
  async delete(label: string): Promise<{ readonly inForce: boolean } | null> {
    if (!this.#examples.has(label)) return null;
    this.#rows.replace(label, []);
    this.#examples.delete(label);
    return { inForce: await this.#learner.changed() };
  }

  /** Learns the examples for the embedder in use; resolves when they are in force, or cannot be soon. */
  attach(embedder: Embedder): Promise<void> {
    return this.#learner.attach(embedder);
  }

  /** Learns no more. */
  stop(): void {
    this.#learner.stop();
  }

  #count(): number {
    let count = 0;
    for (const texts of this.#examples.values()) count += texts.length;
    return count;
  }
}
