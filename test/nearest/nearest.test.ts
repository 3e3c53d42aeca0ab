import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { systemClock } from "../../src/clock.ts";
import { ExampleIndex, type LabelledVectors, Outdated } from "../../src/nearest/nearest.ts";
import type { Trial } from "../../src/nearest/trials.ts";
import { randomOf } from "../random.ts";

setDefaultTimeout(120_000);

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

/** Labels around different centres, with a wide spread in a few directions that all of them share. */
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

describe("an index of examples", () => {
  test("gives a label to near texts, none to far ones, and no result if it is not wanted or there is no vector", async () => {
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

  test("tries each example as if it were a message, with the result of an index without that example", async () => {
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
        const found = index.nearest(new Float32Array(vector), [true])[0];
        const trial = whole.trials[at++] as Trial;
        // An index without the example has a slightly different mean, which a trial does not correct.
        expect(Math.abs((trial.own?.score ?? 0) - (found?.score ?? 0))).toBeLessThan(0.06);
        if (trial.own?.right !== (found?.best === label)) apart += 1;
      }
    }
    expect(at).toBe(30);
    expect(apart).toBeLessThanOrEqual(2);
  });

  test("learns the maximum number of examples in slices, and finds them again", async () => {
    const set = groups(SEED, { labels: 100, each: 100, dim: 256, spread: 0.15 });
    let nowMs = 0;
    let pauses = 0;
    // Each call of the clock takes a millisecond, so a slice has five calls.
    const clock = {
      ...systemClock,
      monotonicMs: () => nowMs++,
      after: (ms: number, callback: () => void) => {
        pauses += 1;
        return systemClock.after(ms, callback);
      },
    };
    const index = await ExampleIndex.build(vectorsOf(set), () => true, clock);
    expect(pauses).toBeGreaterThan(100);
    expect(index.calibration.accuracy).toBeGreaterThan(0.9);
    const rows = new Float32Array(set.flatMap(({ examples }) => examples[99] as number[]));
    const found = index.nearest(
      rows,
      set.map(() => true),
    );
    expect(found.filter((one, at) => one?.label === set[at]?.label).length).toBeGreaterThan(95);
  });

  test("works with one label, with one example, and with examples that are all the same", async () => {
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

test("an index stops learning if newer examples have arrived", async () => {
  const set = groups(SEED, { labels: 50, each: 20, dim: 128, spread: 0.15 });
  let looks = 0;
  const building = ExampleIndex.build(vectorsOf(set), () => {
    looks += 1;
    return looks < 2;
  });
  expect(await building.catch((error: unknown) => error)).toBeInstanceOf(Outdated);
  expect(looks).toBe(2);
});
