/**
 * Learns from trials how probably the best label is right, depending on its score, and from which score on it is given.
 * Part of nearest.
 */
import type { Trial } from "./trials.ts";

/** The weight of all strangers together: as if one message in eleven had an intent without examples. */
const STRANGER_WEIGHT = 0.1;
/**
 * The lowest probability that gives a label. A wrong label costs as much as a right one is worth. No label costs a third
 * of that, because then the language model has to be asked, or nothing is known. Hence (1 − 1/3) / 2.
 */
const LABEL_FROM = 1 / 3;
/** If nothing can be learned, because no label has two examples, only near copies of an example get its label. */
const UNLEARNED_THRESHOLD = 0.95;
/**
 * The score of a text that has nothing to do with any example: up to 0.2 was measured with MiniLM and hashing, 0.3 with
 * multilingual-e5-small. The trials of a few examples contain no such text, so UNRELATED_TRIALS of them are added.
 */
const UNRELATED_SCORE = 0.2;
const UNRELATED_TRIALS = 3;

interface Lesson {
  /** How probably the best label is right, 0 to 1, if it has this score. */
  readonly confidence: (score: number) => number;
  readonly threshold: number;
}

/**
 * A label is given if it is right with a probability of at least LABEL_FROM. The probability is a logistic regression of
 * the trials on their scores (Platt 1999). All strangers together weigh STRANGER_WEIGHT times as much as the others.
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
  // A single label has no strangers, and its trials cannot be wrong, so there is nothing to learn from.
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
  // One label alone: nothing shows how near other messages come. A message must be as near as half of the examples.
  const scores = own.map(({ score }) => score).sort((a, b) => a - b);
  return { confidence, threshold: Math.min(UNLEARNED_THRESHOLD, scores[scores.length >> 1] as number) };
}

/** Log odds of LABEL_FROM. */
const LEAST_LOG_ODDS = Math.log(LABEL_FROM / (1 - LABEL_FROM));
/** Added to the curvature: points that a score separates perfectly would drive the slope to infinity. */
const RIDGE = 0.01;
const NEWTON_STEPS_MAX = 100;

interface Point {
  readonly score: number;
  readonly right: number;
  readonly weight: number;
}

/**
 * Newton's method on a convex function of two numbers.
 * @returns null: all points are alike right or wrong, or a higher score does not make right more probable.
 */
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
