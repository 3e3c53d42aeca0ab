/**
 * Finds the label whose examples are nearest to a text's vector, or none if all are too far away.
 *
 * The score of a label is the mean cosine of its three nearest examples (top-scores.ts), in the space of metric.ts. The
 * index also learns from the examples below which score there is no label, and how probably a score is right: trials.ts
 * asks the examples, and lesson.ts draws the conclusions.
 */
import { type Clock, systemClock } from "../clock.ts";
import { learn } from "./lesson.ts";
import { type Groups, learnMetric } from "./metric.ts";
import { slices } from "./pause.ts";
import { QUERIES } from "./simd.ts";
import { type Best, Table } from "./table.ts";
import { type Trial, trialsOf } from "./trials.ts";

export { Outdated } from "./pause.ts";

/** Labelled examples as vectors of one embedder. */
export interface LabelledVectors {
  readonly dim: number;
  readonly labels: readonly { readonly label: string; readonly count: number }[];
  /** The examples of all labels, in the order of `labels`; each row has length 1. */
  readonly rows: Float32Array<ArrayBuffer>;
}

/** What the index learned from its examples. */
export interface Calibration {
  /** The lowest score that gives a label, −1 to 1. */
  readonly threshold: number;
  /**
   * The share, 0 to 1, of the examples that find their own label among all other examples. The only example of a label
   * does not count; null: no label has two examples.
   */
  readonly accuracy: number | null;
  /** The share of the same examples that reach the threshold, 0 to 1. */
  readonly answered: number | null;
}

/** The best label for a text. */
export interface Nearest {
  /** The best label; null: its score is below the threshold. */
  readonly label: string | null;
  /** The best label, whatever its score. */
  readonly best: string;
  /** The score of the best label, −1 to 1. */
  readonly score: number;
  /** How probably the best label is right, 0 to 1, as learned from the examples. */
  readonly confidence: number;
}

export class ExampleIndex {
  readonly calibration: Calibration;
  /** The trials behind the calibration, in the order of the examples. */
  readonly trials: readonly Trial[];
  readonly #table: Table;
  readonly #labels: readonly string[];
  readonly #confidence: (score: number) => number;

  private constructor(table: Table, labels: readonly string[], trials: readonly Trial[]) {
    this.#table = table;
    this.#labels = labels;
    const { threshold, confidence } = learn(trials);
    const own = trials.flatMap((trial) => (trial.own === null ? [] : [trial.own]));
    const share = (of: (trial: { score: number; right: boolean }) => boolean): number | null =>
      own.length === 0 ? null : own.filter(of).length / own.length;
    this.#confidence = confidence;
    this.trials = trials;
    this.calibration = {
      threshold,
      accuracy: share(({ right }) => right),
      answered: share(({ score }) => score >= threshold),
    };
  }

  /**
   * Learns from examples, in slices of a few ms. Leaves out labels without examples.
   * @param isWanted called between slices.
   * @throws Outdated if `isWanted` returns false.
   */
  static async build(
    examples: LabelledVectors,
    isWanted = () => true,
    clock: Clock = systemClock,
  ): Promise<ExampleIndex> {
    const present = examples.labels.filter(({ count }) => count > 0);
    const starts = [0];
    for (const { count } of present) starts.push((starts.at(-1) as number) + count);
    const groups: Groups = { dim: examples.dim, starts, rows: examples.rows };
    const pause = slices(isWanted, clock);
    const table = new Table(groups, await learnMetric(groups, pause));
    await table.fill(groups.rows, pause);
    return new ExampleIndex(
      table,
      present.map(({ label }) => label),
      await trialsOf(table, pause),
    );
  }

  /**
   * @param rows texts × dim.
   * @param wanted which of the texts need a label.
   * @returns one result per text; null: it was not wanted, it has no vector, or there are no examples.
   */
  nearest(rows: Float32Array, wanted: readonly boolean[]): (Nearest | null)[] {
    const found = new Array<Nearest | null>(wanted.length).fill(null);
    const texts = wanted.flatMap((want, text) => (want && this.#labels.length > 0 ? [text] : []));
    for (let from = 0; from < texts.length; from += QUERIES) {
      const part = texts.slice(from, from + QUERIES);
      this.#table.bestLabels(rows, part).forEach((best, index) => {
        if (best !== null) found[part[index] as number] = this.#named(best);
      });
    }
    return found;
  }

  #named({ group, score }: Best): Nearest {
    const best = this.#labels[group] as string;
    const label = score >= this.calibration.threshold ? best : null;
    return { label, best, score, confidence: this.#confidence(score) };
  }
}
