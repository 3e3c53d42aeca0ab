/**
 * Intents and their labelled examples. The journal keeps the texts and their vectors. The Worker of the embedder in use
 * learns from the vectors, and then finds the nearest label for each text that it embeds (src/nearest/).
 *
 * Vectors belong to one model: if another embedder is in use than before, all examples are embedded again.
 */

import { type Clock, systemClock } from "../clock.ts";
import type { Embedder } from "../embed/embedder.ts";
import type { IntentRows } from "../journal/journal.ts";
import type { Log } from "../log.ts";
import type { Calibration } from "../nearest/nearest.ts";
import { ExampleLearner, type LearningState } from "./example-learner.ts";

export const INTENT_LIMITS = {
  /** @bound labels with examples | 422 */
  labelsMax: 1000,
  /** @bound characters of a label | 422 */
  labelCharsMax: 128,
  /** @bound examples of one label | 422 */
  examplesPerLabelMax: 1000,
  /**
   * Of all labels together: one search compares a text with every example, 1,024 bytes each.
   * @bound examples of all labels | 422
   */
  examplesMax: 10_000,
  /** @bound characters of an example | 422 */
  exampleCharsMax: 2048,
} as const;

export interface IntentsState extends LearningState {
  /** What was learned from the examples in force; null: there are none. */
  readonly calibration: Calibration | null;
  readonly labels: number;
  readonly examples: number;
  /** Examples without a vector: they hold nothing to embed, or the embedder refuses them. */
  readonly withoutVector: number;
}

export interface IntentExamples {
  readonly label: string;
  readonly examples: readonly string[];
}

/** The outcome of a change: refused for a reason, or kept and in force (or not yet). */
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
   * Replaces all examples of a label; a text that is given twice counts once. The change is durable when this resolves.
   * @throws GatewayError disk_full, journal_failed
   */
  async put(label: string, examples: readonly string[]): Promise<Changed> {
    const texts = [...new Set(examples.map((text) => text.trim()))].filter((text) => text !== "");
    if (texts.length === 0) return { refused: "the examples hold no text" };
    const known = this.#examples.get(label);
    if (known === undefined && this.#examples.size >= INTENT_LIMITS.labelsMax)
      return { refused: `there are already ${INTENT_LIMITS.labelsMax} labels, which is the maximum` };
    const total = this.#count() - (known?.length ?? 0) + texts.length;
    if (total > INTENT_LIMITS.examplesMax)
      return {
        refused: `all labels together would have ${total} examples; at most ${INTENT_LIMITS.examplesMax} are allowed`,
      };
    const elsewhere = new Map<string, string>();
    for (const [other, others] of this.#examples)
      if (other !== label) for (const text of others) elsewhere.set(text, other);
    const twice = texts.find((text) => elsewhere.has(text));
    if (twice !== undefined) {
      const other = JSON.stringify(elsewhere.get(twice));
      return { refused: `the example ${JSON.stringify(twice.slice(0, 80))} already belongs to ${other}` };
    }
    this.#rows.replace(label, texts);
    this.#examples.set(label, texts);
    return { inForce: await this.#learner.changed() };
  }

  /**
   * Deletes a label with all its examples.
   * @returns null: there is no such label.
   * @throws GatewayError disk_full, journal_failed
   */
  async delete(label: string): Promise<{ readonly inForce: boolean } | null> {
    if (!this.#examples.has(label)) return null;
    this.#rows.replace(label, []);
    this.#examples.delete(label);
    return { inForce: await this.#learner.changed() };
  }

  /** Learns the examples for the embedder in use. Resolves when they are in force, or will not be soon. */
  attach(embedder: Embedder): Promise<void> {
    return this.#learner.attach(embedder);
  }

  /** Ends learning. */
  stop(): void {
    this.#learner.stop();
  }

  #count(): number {
    let count = 0;
    for (const texts of this.#examples.values()) count += texts.length;
    return count;
  }
}
