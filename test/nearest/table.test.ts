import { describe, expect, setDefaultTimeout, test } from "bun:test";
import type { Metric } from "../../src/nearest/metric.ts";
import { QUERIES } from "../../src/nearest/simd.ts";
import { positions, Table } from "../../src/nearest/table.ts";
import { trialsOf } from "../../src/nearest/trials.ts";
import { randomOf } from "../random.ts";

setDefaultTimeout(60_000);
const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000);
console.log(`SEED=${SEED}`);

const DIM = 24;
const noPause = (): null => null;

function unit(vector: readonly number[]): number[] {
  const length = Math.hypot(...vector);
  return vector.map((value) => value / length);
}

/** A table of two labels with three random examples each, and its vectors. */
async function open(metric: Partial<Metric> = {}) {
  const random = randomOf(SEED);
  const vectors = Array.from({ length: 6 }, () => unit(Array.from({ length: DIM }, () => random() - 0.5)));
  const rows = new Float32Array(vectors.flat());
  const table = new Table(
    { dim: DIM, starts: [0, 3, 6], rows },
    { mean: new Float32Array(DIM), whitening: null, stride: 1, ...metric },
  );
  await table.fill(rows, noPause);
  return { table, vectors, rows };
}

const cosineOf = (a: readonly number[], b: readonly number[]): number =>
  unit(a).reduce((sum, value, at) => sum + value * (unit(b)[at] as number), 0);

describe("a table of examples", () => {
  test("gives the cosines of up to four queries with every example, within its rounding to eight bits", async () => {
    const { table, vectors } = await open();
    const values = new Float32Array(DIM * QUERIES);
    for (let query = 0; query < QUERIES; query++) {
      for (let at = 0; at < DIM; at++)
        values[at * QUERIES + query] = 3 * ((vectors[query] as number[])[at] as number);
    }
    table.compare(values);
    for (const [row, vector] of vectors.entries()) {
      for (let query = 0; query < QUERIES; query++) {
        const exact = cosineOf(vector, vectors[query] as number[]);
        expect(Math.abs(table.cosine(row, query) - exact)).toBeLessThan(0.02);
      }
    }
    expect(table.queryLengths[0]).toBeCloseTo(3, 5);
  });

  test("compares in the space of the metric: the mean is subtracted, and directions are weighted", async () => {
    const random = randomOf(SEED + 1);
    const mean = Float32Array.from({ length: DIM }, () => 0.2 * (random() - 0.5));
    const whitening = new Float32Array(DIM * DIM);
    for (let at = 0; at < DIM; at++) whitening[at * DIM + at] = at === 0 ? 0 : 1 + at / DIM;
    const { table, vectors } = await open({ mean, whitening });
    const moved = vectors.map((vector) =>
      vector.map((value, at) => (value - (mean[at] as number)) * (whitening[at * DIM + at] as number)),
    );
    const values = new Float32Array(DIM * QUERIES);
    table.addTo(values, { index: 0, row: 5, divisor: 1 });
    table.compare(values);
    for (const [row, vector] of moved.entries())
      expect(Math.abs(table.cosine(row, 0) - cosineOf(vector, moved[5] as number[]))).toBeLessThan(0.03);
  });

  test("finds the label of the nearest examples, and none for a text without a vector", async () => {
    const { table, rows } = await open();
    const texts = new Float32Array([...rows.subarray(4 * DIM, 5 * DIM), ...new Float32Array(DIM)]);
    const [best, none] = table.bestLabels(texts, [0, 1]);
    expect(best?.group).toBe(1);
    expect(none).toBeNull();
  });

  test("knows which examples shaped the space: every `stride`th, and none without whitening", async () => {
    const whitening = new Float32Array(DIM * DIM);
    const shaped = (table: Table): number[] => positions(0, 6, 1).filter((row) => table.hasShaped(row));
    expect(shaped((await open({ whitening, stride: 2 })).table)).toEqual([0, 2, 4]);
    expect(shaped((await open({ stride: 2 })).table)).toEqual([]);
  });
});

describe("trials", () => {
  test("score each example without itself, and as a stranger without its label", async () => {
    const { table, vectors } = await open();
    const trials = await trialsOf(table, noPause);
    expect(trials).toHaveLength(6);
    for (const [row, vector] of vectors.entries()) {
      const score = (others: readonly number[][]): number =>
        others.reduce((sum, other) => sum + cosineOf(vector, other), 0) / others.length;
      const own = vectors.filter((_, at) => at !== row && at >= 3 === row >= 3);
      const strangers = vectors.filter((_, at) => at >= 3 !== row >= 3);
      const trial = trials[row];
      expect(Math.abs((trial?.stranger ?? 9) - score(strangers))).toBeLessThan(0.03);
      expect(Math.abs((trial?.own?.score ?? 9) - Math.max(score(own), score(strangers)))).toBeLessThan(0.03);
    }
  });

  test("have no own score for a label's only example, and no stranger's score if there is one label", async () => {
    const rows = new Float32Array([1, 0, 0, 0, 1, 0, 0, 0.8, 0.6]);
    const metric = { mean: new Float32Array(3), whitening: null, stride: 1 };
    const two = new Table({ dim: 3, starts: [0, 1, 3], rows }, metric);
    await two.fill(rows, noPause);
    expect((await trialsOf(two, noPause)).map(({ own }) => own === null)).toEqual([true, false, false]);
    const one = new Table({ dim: 3, starts: [0, 3], rows }, metric);
    await one.fill(rows, noPause);
    expect((await trialsOf(one, noPause)).map(({ stranger }) => stranger)).toEqual([null, null, null]);
  });
});
