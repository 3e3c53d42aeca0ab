/**
 * Trials show what scores are worth: each treats one example as if it were a message. It is scored twice, against all
 * other examples (is the best label its own?) and as a stranger, without all examples of its label (what score does a
 * message reach if its intent has no examples?). Part of nearest.
 */
import type { Pause } from "./pause.ts";
import { QUERIES } from "./simd.ts";
import { positions, type Table } from "./table.ts";
import { TopScores } from "./top-scores.ts";

/**
 * The number of trials. If there are more examples, every second, third … one is tried.
 * @bound examples that are scored as if they were messages | only every second, third … example counts
 */
const CALIBRATION_ROWS_MAX = 1024;

/** The scores of one example as if it were a message. */
export interface Trial {
  /** The best score, and whether it is its own label's; null: the example is the only one of its label. */
  readonly own: { readonly score: number; readonly right: boolean } | null;
  /** The best score of another label; null: there is no other label. */
  readonly stranger: number | null;
}

/** The mean of a label's examples, by its dot products. */
interface GroupMean {
  /** With each example. */
  readonly products: Float64Array;
  /** With itself. */
  readonly square: number;
  /** How many examples the label has. */
  readonly count: number;
}

/** Runs the trials, in the order of the examples. The table must not be used for anything else meanwhile. */
export async function trialsOf(table: Table, pause: Pause): Promise<Trial[]> {
  const trials: Trial[] = [];
  const stride = Math.ceil(table.count / CALIBRATION_ROWS_MAX);
  for (let group = 0; group + 1 < table.starts.length; group++) {
    const [from, to] = [table.starts[group] as number, table.starts[group + 1] as number];
    const tried = positions(Math.ceil(from / stride) * stride, to, stride);
    if (tried.length === 0) continue;
    const mean = meanOf(table, from, to);
    for (let at = 0; at < tried.length; at += QUERIES) {
      const part = tried.slice(at, at + QUERIES);
      table.compare(spread(table, part));
      for (let index = 0; index < part.length; index++) {
        trials.push(trialOf(table, { row: part[index] as number, index, group, mean }));
        await pause();
      }
    }
  }
  return trials;
}

/** Up to QUERIES examples as the queries of one comparison. */
function spread(table: Table, part: readonly number[]): Float32Array {
  const values = new Float32Array(table.dim * QUERIES);
  part.forEach((row, index) => {
    table.addTo(values, { index, row, divisor: 1 });
  });
  return values;
}

/** The mean of the examples `from` to `to` − 1. */
function meanOf(table: Table, from: number, to: number): GroupMean {
  const values = new Float32Array(table.dim * QUERIES);
  for (let row = from; row < to; row++) {
    table.addTo(values, { index: 0, row, divisor: to - from });
  }
  table.compare(values);
  const length = table.queryLengths[0] as number;
  const products = Float64Array.from(
    { length: table.count },
    (_, row) => table.cosine(row, 0) * length * (table.lengths[row] as number),
  );
  return { products, square: length * length, count: to - from };
}

/**
 * The scores of one example against the others. The example has also shaped the space, which flatters it: much so if
 * there are few examples. Taking its z zᵀ out of the scatter again changes the inverse by a matrix of rank one (Sherman
 * and Morrison). In this space the dot product becomes
 * ⟨a, b⟩ + γ ⟨a, u⟩⟨b, u⟩, with u = the example − its label's mean, γ = β / (1 − β|u|²), β = n / (n − 1).
 */
function trialOf(
  table: Table,
  { row, index, group, mean }: { row: number; index: number; group: number; mean: GroupMean },
): Trial {
  const own = table.lengths[row] as number;
  const ownMean = mean.products[row] as number;
  const alone = mean.count === 1;
  const learned = table.hasShaped(row) && !alone;
  const beta = learned ? mean.count / (mean.count - 1) : 0;
  const square = own * own - 2 * ownMean + mean.square;
  // The sphere in the scatter keeps the exact value positive; this keeps the rounded one positive, too.
  const gamma = beta / Math.max(1 - beta * square, 0.05);
  const ownU = own * own - ownMean;
  const ownLength = Math.sqrt(own * own + gamma * ownU * ownU);
  const top = new TopScores();
  let ownScore = Number.NEGATIVE_INFINITY;
  let stranger = Number.NEGATIVE_INFINITY;
  for (let other = 0; other + 1 < table.starts.length; other++) {
    top.clear();
    for (let at = table.starts[other] as number; at < (table.starts[other + 1] as number); at++) {
      if (at === row) continue;
      const length = table.lengths[at] as number;
      const product = table.cosine(at, index) * own * length;
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
