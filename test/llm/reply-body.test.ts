import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { TooLargeError } from "../../src/llm/bounded-fetch.ts";
import { pieceOf, replyOf, streamedValues } from "../../src/llm/reply-body.ts";

const whole = { choices: [{ message: { content: "Hello" }, finish_reason: "stop" }] };
const delta = (content: unknown, more: object = {}) => ({ choices: [{ delta: { content }, ...more }] });
const sse = (...values: unknown[]): string =>
  values.map((value) => `data: ${JSON.stringify(value)}\n\n`).join("");
const DONE = "data: [DONE]\n\n";

async function* bytesOf(text: string, sizes: readonly number[] = [7]): AsyncIterable<Uint8Array> {
  const bytes = new TextEncoder().encode(text);
  for (let from = 0, turn = 0; from < bytes.length; turn++) {
    const size = sizes[turn % sizes.length] ?? 1;
    yield bytes.subarray(from, from + size);
    from += size;
  }
}

async function piecesOf(text: string, sizes?: readonly number[]): Promise<string[]> {
  const pieces: string[] = [];
  for await (const value of streamedValues(bytesOf(text, sizes))) pieces.push(pieceOf(value) ?? "(none)");
  return pieces.filter((piece) => piece !== "");
}

describe("a whole reply", () => {
  test.each([
    ["plain", JSON.stringify(whole)],
    ["behind blank lines", `\n      \n ${JSON.stringify(whole)}\n`],
    ["before a mark of a stream", `${JSON.stringify(whole)}\n\ndata: [DONE]\n\n`],
    ["behind comments", `: PROCESSING\n\n: PROCESSING\n\n${JSON.stringify(whole)}`],
    ["as one event of a stream", sse(whole) + DONE],
  ])("is read %s", (_, text) => {
    expect(replyOf(text)).toEqual(whole);
  });

  test("is put together from a stream that nobody asked for", () => {
    const chunks = [delta("Hel"), delta(null), delta("lo", { finish_reason: "length" })];
    expect(replyOf(sse(...chunks) + DONE)).toEqual({
      choices: [{ message: { content: "Hello" }, finish_reason: "length" }],
    });
    const thinking = [
      { choices: [{ delta: { reasoning_content: "hm" } }] },
      delta([{ type: "text", text: "Hi" }]),
    ];
    expect(replyOf(sse(...thinking))).toMatchObject({
      choices: [{ message: { content: "Hi", reasoning_content: "hm" } }],
    });
  });

  test("that is an error in a stream is that error", () => {
    expect(replyOf(sse(delta("Hel"), { error: { message: "gone" } }))).toEqual({
      error: { message: "gone" },
    });
  });

  test.each(["", "<html>", "data: [DONE]\n\n", "{"])("%p is no JSON", (text) => {
    expect(() => replyOf(text)).toThrow(SyntaxError);
  });
});

describe("a streamed reply", () => {
  test.each([
    ["with keep-alive comments", `: PROCESSING\n\n${sse(delta("Hel"), delta("lo"))}${DONE}`],
    [
      "with CRLF and without blanks",
      'event: m\r\nid: 1\r\ndata:{"choices":[{"delta":{"content":"Hello"}}]}\r\n\r\ndata:[DONE]\r\n\r\n',
    ],
    ["with CR alone", 'data: {"choices":[{"delta":{"content":"Hello"}}]}\r\rdata: [DONE]\r\r'],
    ["without its end", 'data: {"choices":[{"delta":{"content":"Hello"}}]}'],
    [
      "without blank lines",
      'data: {"choices":[{"delta":{"content":"Hel"}}]}\ndata: {"choices":[{"delta":{"content":"lo"}}]}\ndata: [DONE]\n',
    ],
    ["over several lines of data", 'data: {"choices":\ndata: [{"delta":{"content":"Hello"}}]}\n\n'],
    [
      "in parts",
      sse(
        delta([{ type: "thinking", thinking: [{ type: "text", text: "no" }] }]),
        delta([{ type: "text", text: "Hel" }]),
        delta("lo"),
      ),
    ],
    [
      "with the thought as a part with a text",
      sse(
        delta([
          { type: "reasoning", text: "no" },
          { type: "text", text: "Hello" },
        ]),
      ),
    ],
    ["that is a whole completion", JSON.stringify(whole, null, 2)],
    ["that is a whole completion in one event", sse(whole)],
    [
      "with empty chunks",
      sse({ choices: null }, { choices: [] }, delta("Hello"), { choices: [], usage: {} }),
    ],
    ["with text behind its end", `${sse(delta("Hello"))}${DONE}${sse(delta("more"))}`],
  ])("is read %s", async (_, text) => {
    for (const sizes of [[1], [7], [100_000]]) expect((await piecesOf(text, sizes)).join("")).toBe("Hello");
  });

  test("may be cut into pieces anywhere", async () => {
    const text = `: hi\r\n\r\n${sse(delta("Olá, "), delta("você 😀"))}data:[DONE]\r\n\r\n`;
    await fc.assert(
      fc.asyncProperty(fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 }), async (sizes) => {
        expect(await piecesOf(text, sizes)).toEqual(["Olá, ", "você 😀"]);
      }),
    );
  });

  test("arrives piece by piece", async () => {
    const held = Promise.withResolvers<void>();
    async function* slow(): AsyncIterable<Uint8Array> {
      yield new TextEncoder().encode(sse(delta("Hel")));
      await held.promise;
      yield new TextEncoder().encode(sse(delta("lo")));
    }
    const values = streamedValues(slow())[Symbol.asyncIterator]();
    expect(pieceOf((await values.next()).value)).toBe("Hel");
    held.resolve();
    expect(pieceOf((await values.next()).value)).toBe("lo");
  });

  test("whose data is no JSON tells it as an error", async () => {
    const values: unknown[] = [];
    for await (const value of streamedValues(bytesOf("event: error\ndata: out of memory\n\n")))
      values.push(value);
    expect(values).toEqual([{ error: "out of memory" }]);
  });

  test("is not held in memory without a bound", async () => {
    async function* endless(first: string): AsyncIterable<Uint8Array> {
      yield new TextEncoder().encode(first);
      for (;;) yield new Uint8Array(64 * 1024).fill(120);
    }
    for (const first of ["data: ", "{", "x"]) {
      const read = async (): Promise<void> => {
        for await (const _ of streamedValues(endless(first)));
      };
      await expect(read()).rejects.toBeInstanceOf(TooLargeError);
    }
  });
});
