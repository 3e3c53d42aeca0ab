import { describe, expect, test } from "bun:test";
import { readEmbeddings } from "../../src/embed/embeddings.ts";

const of = (...embeddings: unknown[]) => ({
  data: embeddings.map((embedding, index) => ({ index, embedding })),
});
const ROW = [1, 2, 3];

describe("a reply of an endpoint for embeddings", () => {
  test("becomes rows of length 1", () => {
    const read = readEmbeddings(of([3, 0, 4], [0, 0, 2]), { count: 2, dimBefore: 0 });
    expect(read).toEqual({ ok: true, dim: 3, rows: new Float32Array([0.6, 0, 0.8, 0, 0, 1]) });
  });

  test("is put in the order of its indices, or keeps its own order if it has none", () => {
    const swapped = {
      data: [
        { index: 1, embedding: [0, 1] },
        { index: 0, embedding: [1, 0] },
      ],
    };
    expect(readEmbeddings(swapped, { count: 2, dimBefore: 2 })).toMatchObject({
      rows: new Float32Array([1, 0, 0, 1]),
    });
    const bare = { data: [{ embedding: [0, 1] }, { embedding: [1, 0] }] };
    expect(readEmbeddings(bare, { count: 2, dimBefore: 2 })).toMatchObject({
      rows: new Float32Array([0, 1, 1, 0]),
    });
  });

  const indices = (...at: unknown[]) => ({ data: at.map((index) => ({ index, embedding: ROW })) });
  test.each<[fault: string, reply: unknown, why: RegExp]>([
    ["not being an object", null, /not a list of embeddings/],
    ["an error with a success status", { error: { message: "no such model" } }, /not a list of embeddings/],
    ["an index that is not a number", indices("0", "1"), /not a list of embeddings/],
    ["a vector too few", of(ROW), /1 vectors for 2 texts/],
    ["a vector too many", of(ROW, ROW, ROW), /3 vectors for 2 texts/],
    ["an index twice", indices(0, 0), /index 0 comes twice/],
    ["an index out of range", indices(0, 2), /index 2 .*not one of 0 to 1/],
    ["a negative index", indices(-1, 0), /index -1/],
    ["a fractional index", indices(0.5, 1), /index 0.5/],
    ["null in a vector", of([1, null, 3], ROW), /holds null/],
    ["NaN", of([1, Number.NaN, 3], ROW), /holds NaN/],
    ["an infinite number", of([1, Number.POSITIVE_INFINITY, 3], ROW), /holds Infinity/],
    ["null for a vector", of(null, ROW), /not a list of numbers/],
    ["base64", of("AAAA", ROW), /base64/],
    ["zeros", of([0, 0, 0], ROW), /all zeros/],
    ["numbers too large to normalise", of([1e300, 1e300, 1e300], ROW), /overflows/],
    ["two dimensions in one reply", of(ROW, [1, 2]), /3 and of 2 dimensions/],
    ["another dimension than before", of([1, 2], [1, 2]), /2 dimensions; so far they had 3/],
    ["no dimension at all", of([], []), /not a list of numbers/],
    [
      "more dimensions than a frame holds",
      of(Array(1025).fill(1), ROW),
      /1025 dimensions; a frame has room for 1024/,
    ],
  ])("is refused for %s", (_, reply, why) => {
    const read = readEmbeddings(reply, { count: 2, dimBefore: 3 });
    expect(read.ok ? "taken" : read.why).toMatch(why);
  });
});
