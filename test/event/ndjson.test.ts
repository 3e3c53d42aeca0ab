/** NDJSON is split into the same lines however the stream is cut. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { LIMITS, NdjsonSplitter, parseLine } from "../../src/event/event.ts";
import { accepted, bytesOf, jsonText, jsonValue, seeded, textIn } from "./fixtures.ts";

// Generous, because the machine may be busy.
setDefaultTimeout(60_000);
seeded("ndjson.test.ts");

describe("NDJSON", () => {
  const split = (chunks: Uint8Array[]) => {
    const splitter = new NdjsonSplitter();
    const lines = chunks.flatMap((chunk) => splitter.push(chunk));
    const last = splitter.end();
    if (last !== null) lines.push(last);
    return lines.map(({ lineNumber, bytes }) => [lineNumber, bytes && textIn(bytes)]);
  };

  test("lines end with LF or CRLF, the last one may have neither; blank lines are skipped but counted", () => {
    expect(split([bytesOf('{"a":1}\r\n\n  \t\r\n{"b":2}\n{"c":3}')])).toEqual([
      [1, '{"a":1}\r'],
      [4, '{"b":2}'],
      [5, '{"c":3}'],
    ]);
    expect(split([bytesOf("\n\n")])).toEqual([]);
    expect(split([])).toEqual([]);
    expect(split([bytesOf("\ufeff\n{}")])).toEqual([[2, "{}"]]);
  });

  test("a byte order mark at the start is not part of the first event, however the stream is cut", () => {
    const bytes = bytesOf('\ufeff{"type":"A"}\n{"type":"B"}');
    for (let at = 0; at < bytes.length; at++) {
      const splitter = new NdjsonSplitter();
      const lines = [...splitter.push(bytes.slice(0, at)), ...splitter.push(bytes.slice(at)), splitter.end()];
      const events = lines.filter((line) => line !== null).map((line) => accepted(parseLine(line)));
      expect(events.map((event) => [event.type, textIn(event.body)])).toEqual([
        ["A", '{"type":"A"}'],
        ["B", '{"type":"B"}'],
      ]);
    }
  });

  test("a line inside one chunk is a view of it", () => {
    const chunk = bytesOf('{"a":1}\n{"b":2}\n');
    for (const line of new NdjsonSplitter().push(chunk)) expect(line.bytes?.buffer).toBe(chunk.buffer);
  });

  test("gives the same lines for any chunks", () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.oneof(
            jsonText(jsonValue),
            fc.constantFrom("", "\r", " ", "\ufeff"),
            fc.string({ unit: "binary" }),
          ),
          { maxLength: 8 },
        ),
        fc.constantFrom("\n", "\r\n"),
        fc.array(fc.nat(200)),
        (lines, ending, cuts) => {
          const bytes = bytesOf(lines.join(ending));
          const bounds = [
            0,
            ...cuts.map((cut) => cut % (bytes.length + 1)).sort((a, b) => a - b),
            bytes.length,
          ];
          const chunks = bounds.slice(1).map((end, index) => bytes.slice(bounds[index], end));
          const whole = split([bytes]);
          expect(split(chunks)).toEqual(whole);
          const expected = textIn(bytes)
            .split("\n")
            .map((line, index) => [index + 1, line])
            .filter(([, line]) => /[^ \t\r]/.test(String(line).replace(/^\ufeff/, "")));
          expect(whole).toEqual(expected as typeof whole);
        },
      ),
    );
  });

  test("a line that is too long is reported once and not kept, and reading continues after it", () => {
    const piece = new Uint8Array(1024 * 1024).fill(0x78);
    const splitter = new NdjsonSplitter();
    const lines = splitter.push(bytesOf('{"a":1}\n{"m":"'));
    const before = process.memoryUsage().arrayBuffers;
    for (let index = 0; index < 200; index++) lines.push(...splitter.push(piece));
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(32 * 1024 * 1024);
    lines.push(...splitter.push(bytesOf('"}\r\n{"b":2}\n')));
    expect(lines.map(({ lineNumber, bytes }) => [lineNumber, bytes && textIn(bytes)])).toEqual([
      [1, '{"a":1}'],
      [2, null],
      [3, '{"b":2}'],
    ]);
    expect(parseLine(lines[1] as (typeof lines)[0]).refusal).toEqual({
      code: "too_large",
      detail: expect.stringContaining("line 2: "),
    });
    expect(splitter.end()).toBeNull();
  });

  test("the longest event is accepted, with CRLF and byte order mark; one byte more is too large", () => {
    const shell = '{"m":""}'.length;
    for (const [extra, code] of [
      [0, null],
      [1, "too_large"],
    ] as const) {
      const bytes = bytesOf(`\ufeff{"m":"${"x".repeat(LIMITS.eventBytesMax - shell + extra)}"}\r\n{}`);
      const splitter = new NdjsonSplitter();
      const lines = [];
      for (let at = 0; at < bytes.length; at += 300_000)
        lines.push(...splitter.push(bytes.subarray(at, at + 300_000)));
      expect(lines.map((line) => parseLine(line).refusal?.code ?? null)).toEqual([code]);
      expect(splitter.end()?.lineNumber).toBe(2);
    }
  });

  test("a line that arrives byte by byte is put together", () => {
    const text = `{"message":"${"é".repeat(20_000)}"}`;
    expect(split([...bytesOf(`${text}\n${text}`)].map((byte) => new Uint8Array([byte])))).toEqual([
      [1, text],
      [2, text],
    ]);
  });

  test("one bad line of 1,000 is refused by its number; the others are accepted", () => {
    const lines = Array.from({ length: 1000 }, (_, index) => (index === 16 ? '{"a":' : `{"id":${index}}`));
    const outcomes = new NdjsonSplitter().push(bytesOf(`${lines.join("\n")}\n`)).map(parseLine);
    expect(outcomes.filter(({ refusal }) => refusal === null).length).toBe(999);
    expect(outcomes[16]?.refusal).toEqual({
      code: "malformed",
      detail: "line 17: byte 5: the JSON text ends too early",
    });
  });
});
