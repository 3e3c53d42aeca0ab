/**
 * Nearest labelled examples: for a text's vector the label whose examples are nearest, or none.
 *
 * The score of a label is the mean cosine of its TOP_K nearest examples, in the space of embed-metric.ts. From
 * the examples themselves two more things are learned: the threshold below which there is no label, and how
 * sure a score is. Each example is asked twice, both times as if it were no example: once against all others
 * (is the best label its own?), and once as a stranger, without its label (what score does a message reach
 * whose intent has no examples?).
 */
import { type Clock, systemClock } from "../clock.ts";
import { learn } from "./lesson.ts";
import { type Groups, learnMetric } from "./metric.ts";
import { slices } from "./pause.ts";
import { QUERIES } from "./simd.ts";
import { type Best, Table } from "./table.ts";
import { type Trial, trialsOf } from "./trials.ts";

export { Outdated } from "./pause.ts";

/** What the examples are, by label, with the vectors of one embedder. */
export interface LabelledVectors {
  readonly dim: number;
  readonly labels: readonly { readonly label: string; readonly count: number }[];
  /** Of all labels, one after the other; each of length 1. */
  readonly rows: Float32Array<ArrayBuffer>;
}

/** What was learned from the examples. */
export interface Calibration {
  /** Least score that gives a label, −1 to 1. */
  readonly threshold: number;
  /** Of the examples that have another one of their label, how many find it, as if they were none: 0 to 1; null: there are none. */
  readonly accuracy: number | null;
  /** Of these, how many reach the threshold. */
  readonly answered: number | null;
}

/** The best label for a text. */
export interface Nearest {
  /** The best label; null where its score is below the threshold. */
  readonly label: string | null;
  /** The best label, whatever its score. */
  readonly best: string;
  /** Of the best label; −1 to 1. */
  readonly score: number;
  /** How probably the best label is right, by what the examples taught; 0 to 1. */
  readonly confidence: number;
}

export class ExampleIndex {
  readonly calibration: Calibration;
  /** What it was learned from, in the order of examples. */
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
   * Learns from examples, in slices of a few ms. Labels without examples are left out.
   * @param isWanted asked between slices.
   * @throws Outdated where it is not wanted any more.
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
   * @param wanted which of them are asked.
   * @returns one for each text; null where it was not asked, has no vector, or there are no examples.
   */
  nearest(rows: Float32Array, wanted: readonly boolean[]): (Nearest | null)[] {
    const found = new Array<Nearest | null>(wanted.length).fill(null);
    const asked = wanted.flatMap((want, text) => (want && this.#labels.length > 0 ? [text] : []));
    for (let from = 0; from < asked.length; from += QUERIES) {
      const part = asked.slice(from, from + QUERIES);
      this.#table.ask(rows, part).forEach((best, index) => {
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
