import { describe, expect, test } from "bun:test";
import { poolRows } from "../../src/embed/pooling.ts";
import { GatewayError } from "../../src/errors.ts";

const described = (pooling: "cls" | "mean") => ({ fullName: `m@fp32+${pooling}`, pooling });
/** Two texts, of one token and of two tokens; the first is padded. */
const BATCH = [[1], [1, 2]];
// biome-ignore format: one row per text.
const TOKENS = new Float32Array([
  3, 4, /* padding: */ 100, 100,
  1, 0, 0, 1,
]);
const OUTPUT = { data: TOKENS, dims: [2, 2, 2] };
const SQRT_HALF = Math.fround(Math.SQRT1_2);

test("cls pooling takes the first token of each text", () => {
  expect(poolRows(described("cls"), BATCH, OUTPUT)).toEqual(new Float32Array([0.6, 0.8, 1, 0]));
});

test("mean pooling takes all tokens of a text and none of its padding", () => {
  expect(poolRows(described("mean"), BATCH, OUTPUT)).toEqual(
    new Float32Array([0.6, 0.8, SQRT_HALF, SQRT_HALF]),
  );
});

test("the output of a graph that pools itself is only normalised", () => {
  const output = { data: new Float32Array([3, 4, 0, 2]), dims: [2, 2] };
  expect(poolRows(described("mean"), BATCH, output)).toEqual(new Float32Array([0.6, 0.8, 0, 1]));
});

describe("an output is refused", () => {
  test.each([
    ["with rows for other texts", [3, 2, 2], TOKENS],
    ["with fewer floats than its shape", [2, 2, 2], TOKENS.subarray(1)],
    ["with one dimension", [2], new Float32Array(4).fill(1)],
    ["with a vector of zeros", [2, 2], new Float32Array(4)],
    ["with a vector that is not finite", [2, 2], new Float32Array([1, Number.NaN, 1, 1])],
  ])("%s", (_, dims, data) => {
    let thrown: unknown;
    try {
      poolRows(described("cls"), BATCH, { data, dims });
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toBeInstanceOf(GatewayError);
    expect([(thrown as GatewayError).code, (thrown as GatewayError).object]).toEqual([
      "embedder_invalid",
      "m@fp32+cls",
    ]);
  });
});
