/**
 * What trials teach: how probably the best label is right, by its score, and the score from which it is given. Part of
 * the nearest examples.
 */
import type { Trial } from "./trials.ts";

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
