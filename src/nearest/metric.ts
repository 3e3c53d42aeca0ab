/**
 * The space in which labelled examples are compared: within-class covariance normalisation.
 *
 * The cosine of a model's vectors counts every direction alike, also those in which messages of the same intent differ
 * (politeness, length, language). Here a direction counts the less, the more the examples of one label spread in it:
 * x → L⁻¹(x − μ), with L Lᵀ the scatter within labels (Hatch, Kajarekar, Stolcke 2006, "Within-class covariance
 * normalization"). Then the cosine is taken as before. docs/MODELS.md says how much this improves.
 *
 * Few examples say little about 1,024 directions, so the scatter is mixed with that of a sphere, which counts as
 * PRIOR_PER_DIM × dim further examples. μ is the mean of the labels' means, multiplied by (labels − 1) / labels, because
 * the mean of a single label would be that label itself.
 */

import type { Pause } from "./pause.ts";

/** Chosen on banking77 and credsystem-pt, where 1.5 to 4 give about the same accuracy. */
const PRIOR_PER_DIM = 2;
/**
 * Examples that go into the scatter. If there are more, every second, third … one does.
 * @bound examples whose scatter is added up | only every second, third … example counts
 */
export const SCATTER_ROWS_MAX = 2048;

/** Vectors by group: the rows of one label follow each other. */
export interface Groups {
  readonly dim: number;
  /** The rows of label g are starts[g] to starts[g + 1] − 1; at least one each. */
  readonly starts: readonly number[];
  /** rows × dim, a unit vector a row. */
  readonly rows: Float32Array;
}

export interface Metric {
  readonly mean: Float32Array;
  /** L⁻¹, dim × dim, row by row; null: there is nothing to learn it from. */
  readonly whitening: Float32Array | null;
  /** Every `stride`th row went into the scatter. */
  readonly stride: number;
}

export async function learnMetric(groups: Groups, pause: Pause): Promise<Metric> {
  const { dim, starts } = groups;
  const labels = starts.length - 1;
  const count = starts[labels] as number;
  const means = await groupMeans(groups, pause);
  const mean = new Float32Array(dim);
  for (let label = 0; label < labels; label++) {
    for (let at = 0; at < dim; at++)
      mean[at] = (mean[at] as number) + (means[label * dim + at] as number) / labels;
  }
  for (let at = 0; at < dim; at++) mean[at] = ((mean[at] as number) * (labels - 1)) / labels;
  const stride = Math.ceil(count / SCATTER_ROWS_MAX);
  const freedom = Math.ceil(count / stride) * (1 - labels / count);
  if (freedom < 1) return { mean, whitening: null, stride };
  const scatter = await scatterWithin(groups, means, stride, pause);
  let trace = 0;
  for (let at = 0; at < dim; at++) trace += scatter[at * dim + at] as number;
  // If the examples of each label are all alike, there is no scatter.
  if (!(trace > 1e-6)) return { mean, whitening: null, stride };
  const sphere = (PRIOR_PER_DIM * trace) / freedom;
  for (let at = 0; at < dim; at++) scatter[at * dim + at] = (scatter[at * dim + at] as number) + sphere;
  await factorise(scatter, dim, pause);
  return { mean, whitening: await invert(scatter, dim, pause), stride };
}

/** The mean of each label: labels × dim. */
async function groupMeans({ dim, starts, rows }: Groups, pause: Pause): Promise<Float64Array> {
  const means = new Float64Array((starts.length - 1) * dim);
  for (let label = 0; label + 1 < starts.length; label++) {
    const [from, to] = [starts[label] as number, starts[label + 1] as number];
    for (let row = from; row < to; row++) {
      for (let at = 0; at < dim; at++) {
        means[label * dim + at] =
          (means[label * dim + at] as number) + (rows[row * dim + at] as number) / (to - from);
      }
    }
    await pause();
  }
  return means;
}

/** Rows that one pass over the matrix adds up. */
const ROWS_A_PASS = 4;
/** Lines of the matrix between two pauses. */
const LINES_A_LOOK = 64;

/** Σ (x − mean of its label)(x − mean of its label)ᵀ, the lower half, over every `stride`th row. */
async function scatterWithin(
  { dim, starts, rows }: Groups,
  means: Float64Array,
  stride: number,
  pause: Pause,
): Promise<Float64Array> {
  const scatter = new Float64Array(dim * dim);
  const rest = Array.from({ length: ROWS_A_PASS }, () => new Float64Array(dim));
  const [a, b, c, d] = rest as [Float64Array, Float64Array, Float64Array, Float64Array];
  let filled = 0;
  const addUp = async (): Promise<void> => {
    for (let i = 0; i < dim; i++) {
      const [ai, bi, ci, di] = [a[i] as number, b[i] as number, c[i] as number, d[i] as number];
      const line = i * dim;
      for (let j = 0; j <= i; j++) {
        scatter[line + j] =
          (scatter[line + j] as number) +
          ai * (a[j] as number) +
          bi * (b[j] as number) +
          ci * (c[j] as number) +
          di * (d[j] as number);
      }
      // While the code is not yet optimised, a pass over a large matrix takes 100 ms.
      if (i % LINES_A_LOOK === LINES_A_LOOK - 1) await pause();
    }
    for (const vector of rest) vector.fill(0);
    filled = 0;
  };
  for (let label = 0; label + 1 < starts.length; label++) {
    for (let row = starts[label] as number; row < (starts[label + 1] as number); row++) {
      if (row % stride !== 0) continue;
      const vector = rest[filled++] as Float64Array;
      for (let at = 0; at < dim; at++)
        vector[at] = (rows[row * dim + at] as number) - (means[label * dim + at] as number);
      if (filled < ROWS_A_PASS) continue;
      await addUp();
    }
  }
  await addUp();
  return scatter;
}

/** Σ over at < length of a[i + at] × b[j + at]. */
function dot(a: Float64Array, i: number, b: Float64Array, j: number, length: number): number {
  let [one, two, three, four] = [0, 0, 0, 0];
  let at = 0;
  for (; at + 4 <= length; at += 4) {
    one += (a[i + at] as number) * (b[j + at] as number);
    two += (a[i + at + 1] as number) * (b[j + at + 1] as number);
    three += (a[i + at + 2] as number) * (b[j + at + 2] as number);
    four += (a[i + at + 3] as number) * (b[j + at + 3] as number);
  }
  for (; at < length; at++) one += (a[i + at] as number) * (b[j + at] as number);
  return one + two + three + four;
}

/** Cholesky, row by row, in place: the lower half becomes L. The sphere in it keeps it positive definite. */
async function factorise(matrix: Float64Array, dim: number, pause: Pause): Promise<void> {
  for (let i = 0; i < dim; i++) {
    for (let j = 0; j < i; j++) {
      const rest = (matrix[i * dim + j] as number) - dot(matrix, i * dim, matrix, j * dim, j);
      matrix[i * dim + j] = rest / (matrix[j * dim + j] as number);
    }
    const rest = (matrix[i * dim + i] as number) - dot(matrix, i * dim, matrix, i * dim, i);
    matrix[i * dim + i] = Math.sqrt(rest);
    await pause();
  }
}

/** L⁻¹ of a lower triangular L. It is built column by column, so that the sums run along memory. */
async function invert(lower: Float64Array, dim: number, pause: Pause): Promise<Float32Array> {
  const inverse = new Float32Array(dim * dim);
  const column = new Float64Array(dim);
  for (let j = 0; j < dim; j++) {
    column[j] = 1 / (lower[j * dim + j] as number);
    for (let i = j + 1; i < dim; i++) {
      const sum = dot(lower, i * dim + j, column, j, i - j);
      column[i] = -sum / (lower[i * dim + i] as number);
    }
    for (let i = j; i < dim; i++) inverse[i * dim + j] = column[i] as number;
    await pause();
  }
  return inverse;
}
