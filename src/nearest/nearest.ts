/**
 * Nearest labelled examples: for a text's vector the label whose examples are nearest, or none.
 *
 * The score of a label is the mean cosine of its TOP_K nearest examples, in the space of embed-metric.ts. From
 * the examples themselves two more things are learned: the threshold below which there is no label, and how
 * sure a score is. Each example is asked twice, both times as if it were no example: once against all others
 * (is the best label its own?), and once as a stranger, without its label (what score does a message reach
 * whose intent has no examples?).
 */
import { type Groups, learnMetric, type Metric, type Pause } from "./metric.ts";
import { openSimd, padded, QUERIES, type SimdMemory } from "./simd.ts";

/** Found on banking77 and credsystem-pt, where 2 to 5 do about alike. */
const TOP_K = 3;
/** As if one message in eleven had an intent without examples. */
const STRANGER_WEIGHT = 0.1;
/**
 * Least probability that gives a label. A wrong label costs what a right one is worth; to say nothing costs a third
 * of it, since then an LLM has to be asked or nothing is known: (1 − 1/3) / 2.
 */
const LABEL_FROM = 1 / 3;
/** Without two examples of a label nothing can be learned: then only what is nearly an example itself. */
const UNLEARNED_THRESHOLD = 0.95;
/**
 * What a text that has nothing to do with any example may reach: measured up to 0.2 with MiniLM and hashing, 0.3
 * with multilingual-e5-small. Trials of a few examples know no such text: it stands for UNRELATED_TRIALS of them.
 */
const UNRELATED_SCORE = 0.2;
const UNRELATED_TRIALS = 3;
/** Examples that are asked: beyond, every second, third … one. */
const CALIBRATION_ROWS_MAX = 1024;
/** Rows are int8, queries finer: |sums| stay below 1,024 × 127 × 2,047 < 2³¹. */
const ROW_STEPS = 127;
const QUERY_STEPS = 2047;
const SLICE_MS = 5;

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

/** One example, asked as if it were none. */
export interface Trial {
  /** Null where it is the only one of its label. */
  readonly own: { readonly score: number; readonly right: boolean } | null;
  /** Best score of another label; null where there is none. */
  readonly stranger: number | null;
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
  static async build(examples: LabelledVectors, isWanted = () => true): Promise<ExampleIndex> {
    const present = examples.labels.filter(({ count }) => count > 0);
    const starts = [0];
    for (const { count } of present) starts.push((starts.at(-1) as number) + count);
    const groups: Groups = { dim: examples.dim, starts, rows: examples.rows };
    const pause = slices(isWanted);
    const table = new Table(groups, await learnMetric(groups, pause));
    await table.fill(groups.rows, pause);
    return new ExampleIndex(
      table,
      present.map(({ label }) => label),
      await table.trials(pause),
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

/** Other examples have come: these are not learned any further. */
export class Outdated extends Error {}

/** Gives the thread back whenever a slice of time is used up. */
function slices(isWanted: () => boolean): Pause {
  let endMs = performance.now() + SLICE_MS;
  return () => {
    if (performance.now() < endMs) return null;
    return new Promise((resume, stop) =>
      setTimeout(() => {
        endMs = performance.now() + SLICE_MS;
        if (isWanted()) resume();
        else stop(new Outdated("embed: other examples have come"));
      }, 0),
    );
  };
}

interface Best {
  readonly group: number;
  readonly score: number;
}

/** The examples in the space of the metric, as unit vectors of int8, and the scratch space of a call. */
class Table {
  readonly #dim: number;
  readonly #width: number;
  readonly #starts: readonly number[];
  readonly #count: number;
  readonly #metric: Metric;
  readonly #simd: SimdMemory;
  readonly #rowsAt: number;
  readonly #resultsAt: number;
  readonly #queries: Float32Array;
  readonly #codes: Int16Array;
  readonly #rows: Int8Array;
  readonly #sums: Int32Array;
  readonly #products: Float32Array;
  /** What one step of a row's int8 stands for. */
  readonly #steps: Float32Array;
  /** Lengths before they were made one. */
  readonly #lengths: Float64Array;
  /** The same of the queries of a call. */
  readonly #querySteps = new Float64Array(QUERIES);
  readonly #queryLengths = new Float64Array(QUERIES);

  constructor({ dim, starts }: Groups, metric: Metric) {
    const width = padded(dim);
    const count = starts.at(-1) as number;
    this.#dim = dim;
    this.#width = width;
    this.#starts = starts;
    this.#count = count;
    this.#metric = metric;
    const queryBytes = QUERIES * width * 4;
    const whiteningBytes = metric.whitening === null ? 0 : dim * width * 4;
    // In this order: queries (float32, then the same memory as int16), whitening, rows, results.
    const whiteningAt = queryBytes;
    this.#rowsAt = whiteningAt + whiteningBytes;
    this.#resultsAt = this.#rowsAt + count * width;
    const results = Math.max(count, dim) * QUERIES;
    this.#simd = openSimd(this.#resultsAt + 4 * results);
    const { buffer } = this.#simd;
    this.#queries = new Float32Array(buffer, 0, QUERIES * width);
    this.#codes = new Int16Array(buffer, 0, QUERIES * width);
    this.#rows = new Int8Array(buffer, this.#rowsAt, count * width);
    this.#sums = new Int32Array(buffer, this.#resultsAt, count * QUERIES);
    this.#products = new Float32Array(buffer, this.#resultsAt, dim * QUERIES);
    this.#steps = new Float32Array(count);
    this.#lengths = new Float64Array(count);
    if (metric.whitening === null) return;
    const whitening = new Float32Array(buffer, whiteningAt, dim * width);
    for (let row = 0; row < dim; row++)
      whitening.set(metric.whitening.subarray(row * dim, (row + 1) * dim), row * width);
  }

  get #whiteningAt(): number {
    return QUERIES * this.#width * 4;
  }

  /** Brings vectors into the space: value `at` of query `index` at at × QUERIES + index of what is returned. */
  #transform(rows: Float32Array, part: readonly number[]): Float32Array {
    const { mean, whitening } = this.#metric;
    const [dim, width] = [this.#dim, this.#width];
    this.#queries.fill(0);
    part.forEach((row, index) => {
      for (let at = 0; at < dim; at++)
        this.#queries[index * width + at] = (rows[row * dim + at] as number) - (mean[at] as number);
    });
    if (whitening !== null) {
      this.#simd.floats(0, this.#whiteningAt, dim, 4 * width, this.#resultsAt);
      return this.#products;
    }
    for (let index = 0; index < QUERIES; index++) {
      for (let at = 0; at < dim; at++)
        this.#products[at * QUERIES + index] = this.#queries[index * width + at] as number;
    }
    return this.#products;
  }

  async fill(rows: Float32Array, pause: Pause): Promise<void> {
    const width = this.#width;
    for (let from = 0; from < this.#count; from += QUERIES) {
      const part = positions(from, Math.min(from + QUERIES, this.#count), 1);
      const values = this.#transform(rows, part);
      part.forEach((row, index) => {
        const { length, step } = measure(values, index, this.#dim, ROW_STEPS);
        this.#lengths[row] = length;
        this.#steps[row] = length === 0 ? 0 : step / length;
        for (let at = 0; at < this.#dim; at++) {
          const value = values[at * QUERIES + index] as number;
          this.#rows[row * width + at] = step === 0 ? 0 : Math.round(value / step);
        }
      });
      await pause();
    }
  }

  /** Cosines with all examples, raw: see {@link #cosine}. */
  #compare(values: Float32Array): void {
    const width = this.#width;
    const measures = Array.from({ length: QUERIES }, (_, index) =>
      measure(values, index, this.#dim, QUERY_STEPS),
    );
    measures.forEach(({ length, step }, index) => {
      this.#queryLengths[index] = length;
      this.#querySteps[index] = length === 0 ? 0 : step / length;
      for (let at = 0; at < width; at++) {
        const value = at < this.#dim ? (values[at * QUERIES + index] as number) : 0;
        this.#codes[index * width + at] = step === 0 ? 0 : Math.round(value / step);
      }
    });
    this.#simd.bytes(0, this.#rowsAt, this.#count, width, this.#resultsAt);
  }

  #cosine(row: number, index: number): number {
    const sum = this.#sums[row * QUERIES + index] as number;
    return sum * (this.#steps[row] as number) * (this.#querySteps[index] as number);
  }

  /** The best label for each of at most QUERIES texts; null where a text has no vector. */
  ask(rows: Float32Array, part: readonly number[]): (Best | null)[] {
    const empty = part.map((row) => isZero(rows, row * this.#dim, this.#dim));
    this.#compare(this.#transform(rows, part));
    return part.map((_, index) => {
      if (empty[index] === true) return null;
      const top = new TopScores();
      let best: Best = { group: 0, score: Number.NEGATIVE_INFINITY };
      for (let group = 0; group + 1 < this.#starts.length; group++) {
        top.clear();
        const to = this.#starts[group + 1] as number;
        for (let row = this.#starts[group] as number; row < to; row++) top.add(this.#cosine(row, index));
        if (top.mean > best.score) best = { group, score: top.mean };
      }
      return best;
    });
  }

  // ------------------------------------------------------------------------------------------- trials

  /** Asks examples as if they were none. */
  async trials(pause: Pause): Promise<Trial[]> {
    const trials: Trial[] = [];
    const stride = Math.ceil(this.#count / CALIBRATION_ROWS_MAX);
    for (let group = 0; group + 1 < this.#starts.length; group++) {
      const [from, to] = [this.#starts[group] as number, this.#starts[group + 1] as number];
      const asked = positions(Math.ceil(from / stride) * stride, to, stride);
      if (asked.length === 0) continue;
      const mean = this.#meanOf(from, to);
      for (let at = 0; at < asked.length; at += QUERIES) {
        const part = asked.slice(at, at + QUERIES);
        this.#compare(this.#spread(part));
        for (let index = 0; index < part.length; index++) {
          trials.push(this.#trial(part[index] as number, index, group, mean));
          // Nobody else uses this table's memory before it is built.
          await pause();
        }
      }
    }
    return trials;
  }

  /** Examples as queries of a call. */
  #spread(part: readonly number[]): Float32Array {
    const values = new Float32Array(this.#dim * QUERIES);
    part.forEach((row, index) => {
      const scale = (this.#steps[row] as number) * (this.#lengths[row] as number);
      for (let at = 0; at < this.#dim; at++)
        values[at * QUERIES + index] = scale * (this.#rows[row * this.#width + at] as number);
    });
    return values;
  }

  /** Products of a label's mean with every example, and with itself. */
  #meanOf(from: number, to: number): GroupMean {
    const values = new Float32Array(this.#dim * QUERIES);
    for (let row = from; row < to; row++) {
      const scale = ((this.#steps[row] as number) * (this.#lengths[row] as number)) / (to - from);
      for (let at = 0; at < this.#dim; at++) {
        values[at * QUERIES] =
          (values[at * QUERIES] as number) + scale * (this.#rows[row * this.#width + at] as number);
      }
    }
    this.#compare(values);
    const length = this.#queryLengths[0] as number;
    const products = Float64Array.from(
      { length: this.#count },
      (_, row) => this.#cosine(row, 0) * length * (this.#lengths[row] as number),
    );
    return { products, square: length * length, count: to - from };
  }

  /**
   * The scores of one example without itself. It has also bent the space a little towards its own label, which
   * with few examples flatters it much; taking its z zᵀ out of the scatter again is a change of rank one of the
   * inverse (Sherman and Morrison), which in this space reads
   * ⟨a, b⟩ + γ ⟨a, u⟩⟨b, u⟩, with u = the example − its label's mean, γ = β / (1 − β|u|²), β = n / (n − 1).
   */
  #trial(row: number, index: number, group: number, mean: GroupMean): Trial {
    const own = this.#lengths[row] as number;
    const ownMean = mean.products[row] as number;
    const alone = mean.count === 1;
    const learned = this.#metric.whitening !== null && row % this.#metric.stride === 0 && !alone;
    const beta = learned ? mean.count / (mean.count - 1) : 0;
    const square = own * own - 2 * ownMean + mean.square;
    // At least a little is left of the sphere, whatever rounding says.
    const gamma = beta / Math.max(1 - beta * square, 0.05);
    const ownU = own * own - ownMean;
    const ownLength = Math.sqrt(own * own + gamma * ownU * ownU);
    const top = new TopScores();
    let ownScore = Number.NEGATIVE_INFINITY;
    let stranger = Number.NEGATIVE_INFINITY;
    for (let other = 0; other + 1 < this.#starts.length; other++) {
      top.clear();
      for (let at = this.#starts[other] as number; at < (this.#starts[other + 1] as number); at++) {
        if (at === row) continue;
        const length = this.#lengths[at] as number;
        const product = this.#cosine(at, index) * own * length;
        const u = product - (mean.products[at] as number);
        const otherLength = Math.sqrt(length * length + gamma * u * u);
        const norm = ownLength * otherLength;
        top.add(norm === 0 ? 0 : (product + gamma * ownU * u) / norm);
      }
      if (other === group) ownScore = top.mean;
      else stranger = Math.max(stranger, top.mean);
    }
    const score = Math.max(ownScore, stranger);
    return {
      own: alone ? null : { score, right: ownScore >= stranger },
      stranger: stranger === Number.NEGATIVE_INFINITY ? null : stranger,
    };
  }
}

interface GroupMean {
  /** With each example. */
  readonly products: Float64Array;
  /** With itself. */
  readonly square: number;
  /** Examples of the label. */
  readonly count: number;
}

/** The mean of the highest TOP_K of what is added; −∞ of nothing. */
class TopScores {
  readonly #highest = new Float64Array(TOP_K);
  #count = 0;

  clear(): void {
    this.#count = 0;
  }

  add(score: number): void {
    const highest = this.#highest;
    let at = this.#count;
    if (at === TOP_K) {
      if (score <= (highest[TOP_K - 1] as number)) return;
      at -= 1;
    } else this.#count += 1;
    for (; at > 0 && (highest[at - 1] as number) < score; at--) highest[at] = highest[at - 1] as number;
    highest[at] = score;
  }

  get mean(): number {
    if (this.#count === 0) return Number.NEGATIVE_INFINITY;
    let sum = 0;
    for (let at = 0; at < this.#count; at++) sum += this.#highest[at] as number;
    return sum / this.#count;
  }
}

function positions(from: number, to: number, stride: number): number[] {
  return Array.from({ length: Math.max(0, Math.ceil((to - from) / stride)) }, (_, at) => from + at * stride);
}

function isZero(rows: Float32Array, from: number, dim: number): boolean {
  for (let at = 0; at < dim; at++) if (rows[from + at] !== 0) return false;
  return true;
}

/** Length of a query's values, and the step at which its largest takes `steps` of them. */
function measure(
  values: Float32Array,
  index: number,
  dim: number,
  steps: number,
): { length: number; step: number } {
  let [squares, largest] = [0, 0];
  for (let at = 0; at < dim; at++) {
    const value = values[at * QUERIES + index] as number;
    squares += value * value;
    largest = Math.max(largest, Math.abs(value));
  }
  return { length: Math.sqrt(squares), step: largest / steps };
}

// --- what trials teach ------------------------------------------------------------------------------

interface Lesson {
  /** How probably the best label is right, by its score; 0 to 1. */
  readonly confidence: (score: number) => number;
  readonly threshold: number;
}

/**
 * A label is given where it is right with a probability of LABEL_FROM. How probably, by score, is a logistic
 * regression over the trials (Platt 1999), in which strangers weigh STRANGER_WEIGHT of the others.
 */
export function learn(trials: readonly Trial[]): Lesson {
  const own = trials.flatMap((trial) => (trial.own === null ? [] : [trial.own]));
  const strangers = trials.flatMap((trial) => (trial.stranger === null ? [] : [trial.stranger]));
  const weight = (STRANGER_WEIGHT * own.length) / strangers.length;
  const line = logistic([
    ...own.map(({ score, right }) => ({ score, right: right ? 1 : 0, weight: 1 })),
    ...strangers.map((score) => ({ score, right: 0, weight })),
    { score: UNRELATED_SCORE, right: 0, weight: UNRELATED_TRIALS },
  ]);
  // With one label alone nothing was ever wrong or a stranger.
  const learned = strangers.length > 0 || own.some(({ right }) => !right);
  if (learned && line !== null) {
    const { slope, offset } = line;
    return {
      confidence: (score) => 1 / (1 + Math.exp(-(slope * score + offset))),
      threshold: Math.min(UNLEARNED_THRESHOLD, Math.max(UNRELATED_SCORE, (LEAST_LOG_ODDS - offset) / slope)),
    };
  }
  const confidence = (score: number): number => Math.min(1, Math.max(0, score));
  if (strangers.length > 0 || own.length === 0) {
    const nearest = Math.max(-1, ...strangers);
    return { confidence, threshold: Math.max(UNLEARNED_THRESHOLD, (1 + nearest) / 2) };
  }
  // One label alone: nothing says how near other messages come. What is as near as the nearer half of its own.
  const scores = own.map(({ score }) => score).sort((a, b) => a - b);
  return { confidence, threshold: Math.min(UNLEARNED_THRESHOLD, scores[scores.length >> 1] as number) };
}

/** Log odds of LABEL_FROM. */
const LEAST_LOG_ODDS = Math.log(LABEL_FROM / (1 - LABEL_FROM));
/** A little is added to the curvature, so that points that can be told apart do not drive the slope to infinity. */
const RIDGE = 0.01;
const NEWTON_STEPS_MAX = 100;

interface Point {
  readonly score: number;
  readonly right: number;
  readonly weight: number;
}

/** Newton's method on a convex function of two numbers; null where there is nothing to tell apart, or score does not help. */
function logistic(points: readonly Point[]): { slope: number; offset: number } | null {
  if (!points.some(({ right }) => right === 1) || !points.some(({ right }) => right === 0)) return null;
  let [slope, offset] = [0, 0];
  for (let step = 0; step < NEWTON_STEPS_MAX; step++) {
    let [bySlope, byOffset] = [RIDGE * slope, RIDGE * offset];
    let [curveSlope, curveBoth, curveOffset] = [RIDGE, 0, RIDGE];
    for (const { score, right, weight } of points) {
      const p = 1 / (1 + Math.exp(-(slope * score + offset)));
      const [error, curve] = [weight * (p - right), weight * p * (1 - p)];
      bySlope += error * score;
      byOffset += error;
      curveSlope += curve * score * score;
      curveBoth += curve * score;
      curveOffset += curve;
    }
    const determinant = curveSlope * curveOffset - curveBoth * curveBoth;
    const slopeStep = (curveOffset * bySlope - curveBoth * byOffset) / determinant;
    const offsetStep = (curveSlope * byOffset - curveBoth * bySlope) / determinant;
    slope -= slopeStep;
    offset -= offsetStep;
    if (!Number.isFinite(slope) || !Number.isFinite(offset)) return null;
    if (Math.abs(slopeStep) + Math.abs(offsetStep) < 1e-6) return slope > 0 ? { slope, offset } : null;
  }
  return null;
}
