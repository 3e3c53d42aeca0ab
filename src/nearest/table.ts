/**
 * The table that a text is compared with: all examples as unit vectors of int8 in the space of metric.ts, in a memory
 * that the kernels of simd.ts can read. Part of nearest.
 */
import type { Groups, Metric } from "./metric.ts";
import type { Pause } from "./pause.ts";
import { openSimd, padded, QUERIES, type SimdMemory } from "./simd.ts";
import { TopScores } from "./top-scores.ts";

/** Rows are int8 and queries finer. The sums fit int32: 1,024 × 127 × 2,047 < 2³¹. */
const ROW_STEPS = 127;
const QUERY_STEPS = 2047;

export interface Best {
  readonly group: number;
  readonly score: number;
}

/**
 * The examples, and the scratch space of one comparison: results of {@link compare} are valid until the next call.
 * Groups are labels, by number.
 */
export class Table {
  readonly dim: number;
  readonly #width: number;
  readonly starts: readonly number[];
  readonly count: number;
  readonly #metric: Metric;
  readonly #simd: SimdMemory;
  readonly #rowsAt: number;
  readonly #resultsAt: number;
  readonly #queries: Float32Array;
  readonly #codes: Int16Array;
  readonly #rows: Int8Array;
  readonly #sums: Int32Array;
  readonly #products: Float32Array;
  /** What one step of a row's int8 is worth. */
  readonly #steps: Float32Array;
  /** The length of each example before it was made a unit vector. */
  readonly lengths: Float64Array;
  /** The same two of the queries. */
  readonly #querySteps = new Float64Array(QUERIES);
  readonly queryLengths = new Float64Array(QUERIES);

  constructor({ dim, starts }: Groups, metric: Metric) {
    const width = padded(dim);
    const count = starts.at(-1) as number;
    this.dim = dim;
    this.#width = width;
    this.starts = starts;
    this.count = count;
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
    this.lengths = new Float64Array(count);
    if (metric.whitening === null) return;
    const whitening = new Float32Array(buffer, whiteningAt, dim * width);
    for (let row = 0; row < dim; row++)
      whitening.set(metric.whitening.subarray(row * dim, (row + 1) * dim), row * width);
  }

  get #whiteningAt(): number {
    return QUERIES * this.#width * 4;
  }

  /** Brings texts into the space of the metric. The result has value `at` of query `index` at at × QUERIES + index. */
  #transform(rows: Float32Array, part: readonly number[]): Float32Array {
    const { mean, whitening } = this.#metric;
    const [dim, width] = [this.dim, this.#width];
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

  /** Writes all examples into the table. @param rows as in {@link Groups}. */
  async fill(rows: Float32Array, pause: Pause): Promise<void> {
    const width = this.#width;
    for (let from = 0; from < this.count; from += QUERIES) {
      const part = positions(from, Math.min(from + QUERIES, this.count), 1);
      const values = this.#transform(rows, part);
      part.forEach((row, index) => {
        const { length, step } = measure(values, index, this.dim, ROW_STEPS);
        this.lengths[row] = length;
        this.#steps[row] = length === 0 ? 0 : step / length;
        for (let at = 0; at < this.dim; at++) {
          const value = values[at * QUERIES + index] as number;
          this.#rows[row * width + at] = step === 0 ? 0 : Math.round(value / step);
        }
      });
      await pause();
    }
  }

  /** Compares up to QUERIES queries with all examples; {@link cosine} has the results. @param values dim × QUERIES. */
  compare(values: Float32Array): void {
    const width = this.#width;
    const measures = Array.from({ length: QUERIES }, (_, index) =>
      measure(values, index, this.dim, QUERY_STEPS),
    );
    measures.forEach(({ length, step }, index) => {
      this.queryLengths[index] = length;
      this.#querySteps[index] = length === 0 ? 0 : step / length;
      for (let at = 0; at < width; at++) {
        const value = at < this.dim ? (values[at * QUERIES + index] as number) : 0;
        this.#codes[index * width + at] = step === 0 ? 0 : Math.round(value / step);
      }
    });
    this.#simd.bytes(0, this.#rowsAt, this.count, width, this.#resultsAt);
  }

  /** The cosine of an example and a query of the last comparison. */
  cosine(row: number, index: number): number {
    const sum = this.#sums[row * QUERIES + index] as number;
    return sum * (this.#steps[row] as number) * (this.#querySteps[index] as number);
  }

  /** The best label for each of at most QUERIES texts; null: the text has no vector. */
  bestLabels(rows: Float32Array, part: readonly number[]): (Best | null)[] {
    const empty = part.map((row) => isZero(rows, row * this.dim, this.dim));
    this.compare(this.#transform(rows, part));
    return part.map((_, index) => {
      if (empty[index] === true) return null;
      const top = new TopScores();
      let best: Best = { group: 0, score: Number.NEGATIVE_INFINITY };
      for (let group = 0; group + 1 < this.starts.length; group++) {
        top.clear();
        const to = this.starts[group + 1] as number;
        for (let row = this.starts[group] as number; row < to; row++) top.add(this.cosine(row, index));
        if (top.mean > best.score) best = { group, score: top.mean };
      }
      return best;
    });
  }

  /** Adds an example, divided by `divisor`, to query `index` of `values`, which are for {@link compare}. */
  addTo(values: Float32Array, o: { index: number; row: number; divisor: number }): void {
    const { index, row, divisor } = o;
    const scale = ((this.#steps[row] as number) * (this.lengths[row] as number)) / divisor;
    for (let at = 0; at < this.dim; at++) {
      values[at * QUERIES + index] =
        (values[at * QUERIES + index] as number) + scale * (this.#rows[row * this.#width + at] as number);
    }
  }

  /** Whether the metric was learned from this example, among others. */
  hasShaped(row: number): boolean {
    return this.#metric.whitening !== null && row % this.#metric.stride === 0;
  }
}

function isZero(rows: Float32Array, from: number, dim: number): boolean {
  for (let at = 0; at < dim; at++) if (rows[from + at] !== 0) return false;
  return true;
}

/** The length of a query, and the size of a step if its largest value takes `steps` of them. */
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

/** `from`, from + stride, … below `to`. */
export function positions(from: number, to: number, stride: number): number[] {
  return Array.from({ length: Math.max(0, Math.ceil((to - from) / stride)) }, (_, at) => from + at * stride);
}
