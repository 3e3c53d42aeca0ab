import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { Projection } from "../../src/dashboard/projection.ts";
import { randomOf } from "../random.ts";
import { clusters } from "./fixtures.ts";

const seed = Number(process.env.FC_SEED ?? Date.now() % 1e9);
console.log(`dashboard/projection: FC_SEED=${seed}`);
setDefaultTimeout(60_000);

/** The share of the variance in the best plane, by many rounds of the power method with deflation. */
function best(vectors: readonly Float32Array[]): number {
  const dim = vectors[0]?.length ?? 0;
  const mean = Array.from(
    { length: dim },
    (_, at) => vectors.reduce((sum, v) => sum + (v[at] ?? 0), 0) / vectors.length,
  );
  let rows = vectors.map((vector) => Array.from(vector, (value, at) => value - (mean[at] ?? 0)));
  const total = rows.reduce((sum, row) => sum + row.reduce((part, value) => part + value * value, 0), 0);
  let found = 0;
  for (let component = 0; component < 2; component++) {
    let direction = Array.from({ length: dim }, (_, at) => Math.sin(at + 1));
    for (let round = 0; round < 300; round++) {
      const next = new Array<number>(dim).fill(0);
      for (const row of rows) {
        const place = row.reduce((sum, value, at) => sum + value * (direction[at] ?? 0), 0);
        row.forEach((value, at) => {
          next[at] = (next[at] ?? 0) + place * value;
        });
      }
      const length = Math.hypot(...next);
      direction = next.map((value) => value / length);
    }
    rows = rows.map((row) => {
      const place = row.reduce((sum, value, at) => sum + value * (direction[at] ?? 0), 0);
      found += place * place;
      return row.map((value, at) => value - place * (direction[at] ?? 0));
    });
  }
  return found / total;
}

describe("projection", () => {
  test("the plane holds nearly as much of the variance as any plane can", () => {
    const vectors = clusters(randomOf(seed), { dim: 48, centres: 4, count: 200 });
    const projection = new Projection();
    // It starts from the plane of other vectors.
    projection.update(clusters(randomOf(seed + 9), { dim: 48, centres: 4, count: 200 }));
    for (let update = 0; update < 20; update++) projection.update(vectors);
    const ideal = best(vectors);
    expect(projection.explained).toBeGreaterThan(0.97 * ideal);
    expect(projection.explained).toBeLessThanOrEqual(ideal + 1e-6);
  });

  test("places do not flip or jump while the vectors change", () => {
    const vectors = clusters(randomOf(seed + 1), { dim: 64, centres: 5, count: 600 });
    const projection = new Projection();
    const window = 256;
    for (let update = 0; update < 20; update++) projection.update(vectors.slice(0, window));
    let before = vectors.slice(0, window).map((vector) => projection.place(vector));
    for (let from = 8; from + window <= vectors.length; from += 8) {
      projection.update(vectors.slice(from, from + window));
      // The vectors that were shown before and still are.
      const stayed = vectors.slice(from, from - 8 + window);
      const now = stayed.map((vector) => projection.place(vector));
      const moves = now.map(([x, y], index) => {
        const [oldX, oldY] = before[index + 8] ?? [0, 0];
        return Math.hypot(x - oldX, y - oldY);
      });
      moves.sort((a, b) => a - b);
      expect(moves[moves.length >> 1]).toBeLessThan(0.1);
      expect(moves.at(-1)).toBeLessThan(0.4);
      before = vectors.slice(from, from + window).map((vector) => projection.place(vector));
    }
  });

  test("nearly all places are between −1 and 1; equal vectors, one vector and none cause no failure", () => {
    const vectors = clusters(randomOf(seed + 2), { dim: 32, centres: 3, count: 300 });
    const projection = new Projection();
    // The scale follows slowly, so it takes many updates.
    for (let update = 0; update < 50; update++) projection.update(vectors);
    const within = vectors
      .map((vector) => projection.place(vector))
      .filter(([x, y]) => Math.max(Math.abs(x), Math.abs(y)) <= 1.001);
    expect(within.length / vectors.length).toBeGreaterThan(0.9);
    const same = new Projection();
    same.update([]);
    same.update([new Float32Array(8).fill(0.5)]);
    same.update(Array.from({ length: 9 }, () => new Float32Array(8).fill(0.5)));
    for (const value of same.place(new Float32Array(8).fill(0.5))) expect(Number.isFinite(value)).toBe(true);
    const line = new Projection();
    line.update(Array.from({ length: 9 }, (_, at) => new Float32Array(8).fill(at)));
    for (const value of line.place(new Float32Array(8).fill(3))) expect(Number.isFinite(value)).toBe(true);
  });
});
