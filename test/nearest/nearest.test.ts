import { describe, expect, test } from "bun:test";
import {
  ExampleIndex,
  type LabelledVectors,
  learn,
  Outdated,
  type Trial,
} from "../../src/nearest/nearest.ts";
import { openSimd, padded, QUERIES } from "../../src/nearest/simd.ts";
import { randomOf } from "../random.ts";

const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000);
console.log(`SEED=${SEED}`);

function gaussOf(seed: number): () => number {
  const random = randomOf(seed);
  return () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

function unit(vector: number[]): number[] {
  const length = Math.hypot(...vector);
  return vector.map((value) => value / length);
}

/** Labels around centres of their own, with much spread in a few directions that all of them share. */
function groups(seed: number, o: { labels: number; each: number; dim: number; spread: number }) {
  const gauss = gaussOf(seed);
  return Array.from({ length: o.labels }, (_, label) => {
    const centre = unit(Array.from({ length: o.dim }, gauss));
    const examples = Array.from({ length: o.each }, () =>
      unit(
        centre.map(
          (value, at) => value + gauss() * (at < 4 ? o.spread : 0.2 * o.spread) + (at === 5 ? 1 : 0),
        ),
      ),
    );
    return { label: `label-${label}`, examples };
  });
}

function vectorsOf(set: readonly { label: string; examples: number[][] }[]): LabelledVectors {
  const all = set.flatMap(({ examples }) => examples);
  const dim = all[0]?.length ?? 0;
  const rows = new Float32Array(all.length * dim);
  all.forEach((vector, at) => {
    rows.set(vector, at * dim);
  });
  return { dim, labels: set.map(({ label, examples }) => ({ label, count: examples.length })), rows };
}

describe("dot products by SIMD", () => {
  test("are those of plain arithmetic, for every query and row, floats and bytes", () => {
    const random = randomOf(SEED);
    for (const dim of [1, 16, 17, 384, 1024]) {
      const width = padded(dim);
      const rows = 7;
      const rowsAt = QUERIES * width * 4;
      const resultsAt = rowsAt + rows * width * 4;
      const floats = openSimd(resultsAt + rows * QUERIES * 4);
      const queries = new Float32Array(floats.buffer, 0, QUERIES * width);
      const table = new Float32Array(floats.buffer, rowsAt, rows * width);
      for (let at = 0; at < dim; at++) {
        for (let query = 0; query < QUERIES; query++) queries[query * width + at] = random() - 0.5;
        for (let row = 0; row < rows; row++) table[row * width + at] = random() - 0.5;
      }
      floats.floats(0, rowsAt, rows, 4 * width, resultsAt);
      const results = new Float32Array(floats.buffer, resultsAt, rows * QUERIES);
      for (let row = 0; row < rows; row++) {
        for (let query = 0; query < QUERIES; query++) {
          let sum = 0;
          for (let at = 0; at < dim; at++)
            sum += (queries[query * width + at] as number) * (table[row * width + at] as number);
          expect(Math.abs((results[row * QUERIES + query] as number) - sum)).toBeLessThan(1e-4);
        }
      }
      const bytes = openSimd(resultsAt + rows * QUERIES * 4);
      const codes = new Int16Array(bytes.buffer, 0, QUERIES * width);
      const bytesTable = new Int8Array(bytes.buffer, rowsAt, rows * width);
      for (let at = 0; at < dim; at++) {
        // The largest there are: sums must not overflow.
        for (let query = 0; query < QUERIES; query++)
          codes[query * width + at] = query === 0 ? -2047 : Math.floor(random() * 4095) - 2047;
        for (let row = 0; row < rows; row++)
          bytesTable[row * width + at] = row === 0 ? -127 : Math.floor(random() * 255) - 127;
      }
      bytes.bytes(0, rowsAt, rows, width, resultsAt);
      const sums = new Int32Array(bytes.buffer, resultsAt, rows * QUERIES);
      for (let row = 0; row < rows; row++) {
        for (let query = 0; query < QUERIES; query++) {
          let sum = 0;
          for (let at = 0; at < dim; at++)
            sum += (codes[query * width + at] as number) * (bytesTable[row * width + at] as number);
          expect(sums[row * QUERIES + query]).toBe(sum);
        }
      }
    }
  });
});

describe("an index of examples", () => {
  test("gives the label of near texts, none to far ones, and nothing where nothing is asked or there is no vector", async () => {
    const set = groups(SEED, { labels: 8, each: 8, dim: 64, spread: 0.15 });
    const index = await ExampleIndex.build(vectorsOf(set));
    const near = set.flatMap(({ label, examples }) => [{ label, vector: examples[0] as number[] }]);
    const gauss = gaussOf(SEED + 1);
    const far = Array.from({ length: 20 }, () =>
      unit(Array.from({ length: 64 }, (_, at) => gauss() + (at === 5 ? 1 : 0))),
    );
    const all = [...near.map(({ vector }) => vector), ...far, new Array<number>(64).fill(0)];
    const rows = new Float32Array(all.flat());
    const found = index.nearest(
      rows,
      all.map(() => true),
    );
    expect(found.slice(0, 8).map((one) => one?.label)).toEqual(near.map(({ label }) => label));
    expect(found.slice(0, 8).every((one) => one !== null && one.score > index.calibration.threshold)).toBe(
      true,
    );
    const labelled = found.slice(8, 28).filter((one) => one?.label !== null);
    expect(labelled.length).toBeLessThan(5);
    expect(found[28]).toBeNull();
    expect(
      index
        .nearest(
          rows,
          all.map(() => false),
        )
        .every((one) => one === null),
    ).toBe(true);
  });

  test("asks each example as if it were none: what it says is what an index without it says", async () => {
    const set = groups(SEED, { labels: 6, each: 5, dim: 40, spread: 0.4 });
    const whole = await ExampleIndex.build(vectorsOf(set));
    let at = 0;
    let apart = 0;
    for (const [group, { label, examples }] of set.entries()) {
      for (const [position, vector] of examples.entries()) {
        const without = set.map((other, index) =>
          index === group ? { label, examples: examples.filter((_, which) => which !== position) } : other,
        );
        const index = await ExampleIndex.build(vectorsOf(without));
        const said = index.nearest(new Float32Array(vector), [true])[0];
        const trial = whole.trials[at++] as Trial;
        // The mean of all labels moves a little with the example, which a trial leaves out.
        expect(Math.abs((trial.own?.score ?? 0) - (said?.score ?? 0))).toBeLessThan(0.06);
        if (trial.own?.right !== (said?.best === label)) apart += 1;
      }
    }
    expect(at).toBe(30);
    expect(apart).toBeLessThanOrEqual(2);
  });

  test("with as many examples as there may be, learns in slices and finds them again", async () => {
    const set = groups(SEED, { labels: 100, each: 100, dim: 256, spread: 0.15 });
    let turns = 0;
    let longestMs = 0;
    let lastMs = performance.now();
    const timer = setInterval(() => {
      turns += 1;
      longestMs = Math.max(longestMs, performance.now() - lastMs);
      lastMs = performance.now();
    }, 1);
    const index = await ExampleIndex.build(vectorsOf(set));
    clearInterval(timer);
    expect(turns).toBeGreaterThan(10);
    expect(index.calibration.accuracy).toBeGreaterThan(0.9);
    const rows = new Float32Array(set.flatMap(({ examples }) => examples[99] as number[]));
    const found = index.nearest(
      rows,
      set.map(() => true),
    );
    expect(found.filter((one, at) => one?.label === set[at]?.label).length).toBeGreaterThan(95);
    console.log(`longest slice of ${turns}: ${longestMs.toFixed(1)} ms`);
  });

  test("is whole with one label, with one example, and with examples that are all the same", async () => {
    const [a, b] = [unit([1, 0.1, 0, 0]), unit([0, 0.1, 1, 0])];
    const ask = async (set: { label: string; examples: number[][] }[], vector: number[]) => {
      const index = await ExampleIndex.build(vectorsOf(set));
      const found = index.nearest(new Float32Array(vector), [true])[0];
      expect(Number.isFinite(found?.score)).toBe(true);
      expect(Number.isFinite(index.calibration.threshold)).toBe(true);
      return found?.label;
    };
    expect(await ask([{ label: "a", examples: [a] }], a)).toBe("a");
    expect(await ask([{ label: "a", examples: [a] }], b)).toBeNull();
    expect(await ask([{ label: "a", examples: [a, a, a] }], a)).toBe("a");
    expect(
      await ask(
        [
          { label: "a", examples: [a, a] },
          { label: "b", examples: [b] },
        ],
        b,
      ),
    ).toBe("b");
    expect(
      await ask(
        [
          { label: "a", examples: [a] },
          { label: "b", examples: [b] },
        ],
        unit([0, 0, 0, 1]),
      ),
    ).toBeNull();
    expect(
      await ask(
        [
          { label: "none", examples: [] },
          { label: "b", examples: [b] },
        ],
        b,
      ),
    ).toBe("b");
  });
});

test("an index that nobody wants any more is not learned to its end", async () => {
  const set = groups(SEED, { labels: 50, each: 20, dim: 128, spread: 0.15 });
  let looks = 0;
  const building = ExampleIndex.build(vectorsOf(set), () => {
    looks += 1;
    return looks < 2;
  });
  expect(await building.catch((error: unknown) => error)).toBeInstanceOf(Outdated);
  expect(looks).toBe(2);
});

describe("what trials teach", () => {
  const own = (score: number, right: boolean): Trial => ({ own: { score, right }, stranger: null });
  const stranger = (score: number): Trial => ({ own: null, stranger: score });

  test("the threshold parts what is right from what is wrong, and confidence says how sure", () => {
    const trials = [
      ...Array.from({ length: 100 }, (_, at) => own(0.5 + at / 250, true)),
      ...Array.from({ length: 60 }, (_, at) => own(0.1 + at / 300, false)),
      ...Array.from({ length: 60 }, (_, at) => stranger(0.1 + at / 300)),
    ];
    const { threshold, confidence } = learn(trials);
    expect(threshold).toBeGreaterThan(0.3);
    expect(threshold).toBeLessThan(0.5);
    expect(confidence(0.9)).toBeGreaterThan(0.95);
    expect(confidence(0.1)).toBeLessThan(0.05);
  });

  test("confidence is the share that is right, where scores overlap", () => {
    const random = randomOf(SEED);
    const chance = (score: number): number => 1 / (1 + Math.exp(-10 * (score - 0.4)));
    const trials = Array.from({ length: 4000 }, () => {
      const score = random();
      return own(score, random() < chance(score));
    });
    const { confidence } = learn(trials);
    for (const score of [0.2, 0.4, 0.6])
      expect(Math.abs(confidence(score) - chance(score))).toBeLessThan(0.06);
  });

  test("a few examples that are far apart do not make anything near", () => {
    const near = [0.41, 0.44, 0.32, 0.58, 0.23, 0.44].map((score) => own(score, true));
    const far = [-0.27, -0.4, -0.34, -0.38, -0.3, -0.34].map(stranger);
    expect(learn([...near, ...far]).threshold).toBeGreaterThanOrEqual(0.2);
  });

  test("where nothing can be learned, only what is nearly an example itself has a label", () => {
    expect(learn([]).threshold).toBe(0.95);
    expect(learn([stranger(0.2), stranger(0.99)]).threshold).toBeCloseTo(0.995);
    expect(learn([own(0.2, true), own(0.8, true), own(0.6, true)]).threshold).toBe(0.6);
    expect(learn([own(0.5, false), own(0.6, false), stranger(0.5)]).threshold).toBeGreaterThanOrEqual(0.95);
  });
});
