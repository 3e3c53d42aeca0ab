import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { openSimd, padded, QUERIES } from "../../src/nearest/simd.ts";
import { randomOf } from "../random.ts";

setDefaultTimeout(60_000);
const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000);
console.log(`SEED=${SEED}`);

describe("dot products by SIMD", () => {
  test("equal those of plain arithmetic, for every query and row, for floats and bytes", () => {
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
        // The largest values: the sums must not overflow.
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
