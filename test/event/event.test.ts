/** Single events and JSON bodies: what is accepted, and how the rest is refused. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { isUtf8 } from "node:buffer";
import fc from "fast-check";
import {
  LIMITS,
  NdjsonSplitter,
  parseEvent,
  parseEventInSlices,
  parseLine,
  textOf,
} from "../../src/event/event.ts";
import {
  accepted,
  bytesOf,
  codeOf,
  FILLER,
  hostileString,
  jsonText,
  jsonValue,
  parse,
  parses,
  readBody,
  refusal,
  seeded,
  textIn,
} from "./fixtures.ts";

// Generous, because the machine may be busy.
setDefaultTimeout(60_000);
seeded("event.test.ts");

describe("an event's body", () => {
  test("is kept as the received bytes, without a byte order mark and white space around them", () => {
    const inner = '{ "b":1e400, "a" :9007199254740993,\n"a":"\\ud800" }';
    for (const [before, after] of [
      ["", ""],
      [" \t\r\n", "\r\n "],
      ["\ufeff", ""],
      ["\ufeff  ", "\n"],
    ]) {
      expect(textIn(accepted(parseEvent(bytesOf(`${before}${inner}${after}`))).body)).toBe(inner);
    }
  });

  test("is a view of the received bytes, not a copy", () => {
    const bytes = bytesOf('  {"a":1}');
    expect(accepted(parseEvent(bytes)).body.buffer).toBe(bytes.buffer);
  });

  test("equals the trimmed bytes of any object", () => {
    fc.assert(
      fc.property(jsonText(fc.dictionary(hostileString, jsonValue)), (text) => {
        const event = accepted(parseEvent(bytesOf(text)));
        expect(textIn(event.body)).toBe(text.replace(/^[ \t\r\n]+|[ \t\r\n]+$/g, ""));
      }),
    );
  });

  test("may be an empty object, which gives no field", () => {
    const { body, ...rest } = parse("{}");
    expect(textIn(body)).toBe("{}");
    expect(rest).toEqual({
      id: null,
      key: null,
      dedupByBody: false,
      type: null,
      message: null,
      conversationId: null,
      timestampUs: null,
      fields: null,
      ignoredFields: 0,
    });
  });
});

describe("a refusal", () => {
  test("of invalid JSON has the code malformed and names the byte", () => {
    expect(refusal("")).toEqual({
      code: "malformed",
      detail: "byte 0: a JSON object was expected, nothing came",
    });
    expect(refusal(" \n ").code).toBe("malformed");
    expect(refusal('{"a":1').detail).toContain("byte 6");
    expect(refusal('{"a":1} x').detail).toContain("byte 8");
    expect(refusal('{"a":tru}').detail).toContain("byte 5");
    expect(refusal('{"é":1,}').detail).toContain("byte 8");
    expect(refusal('{"a":01}').detail).toContain("byte 6");
    expect(refusal('{"a":"\\x"}').detail).toContain("byte 6");
    expect(refusal('{"a":"\n"}').detail).toContain("byte 6");
    expect(refusal(`{${FILLER},}`).code).toBe("malformed");
  });

  test("of valid JSON that is not an object has the code not_an_event", () => {
    for (const text of [
      "[]",
      "[{}]",
      "1",
      '"{}"',
      "null",
      "true",
      "-0.5e+3",
      `[${`"${"x".repeat(LIMITS.largeEventBytes)}"`}]`,
    ]) {
      expect([text.slice(0, 9), refusal(text).code]).toEqual([text.slice(0, 9), "not_an_event"]);
    }
  });

  test("of invalid UTF-8 names the first bad byte, wherever it is and however long the body is", () => {
    for (const bad of [
      [0xff],
      [0x80],
      [0xc0, 0xaf],
      [0xed, 0xa0, 0x80],
      [0xf5, 0x80, 0x80, 0x80],
      [0xc3],
      [0xf0, 0x9f, 0x98],
    ]) {
      for (const before of ["", "é".repeat(5), "😀x".repeat(1000), "€".repeat(LIMITS.sliceBytes)]) {
        for (const after of ["", "plain", "é".repeat(1000)]) {
          const head = bytesOf(`{"a":"${before}`);
          const bytes = Buffer.concat([head, new Uint8Array(bad), bytesOf(`${after}"}`)]);
          expect(parseEvent(bytes).refusal).toEqual({
            code: "malformed",
            detail: `byte ${head.length}: not valid UTF-8`,
          });
        }
      }
    }
  });

  test("of nesting begins beyond LIMITS.depthMax, for objects and arrays alike", () => {
    const nested = (levels: number, open = "[", close = "]") =>
      `{"a":${open.repeat(levels - 1)}0${close.repeat(levels - 1)}}`;
    for (const [open, close] of [
      ["[", "]"],
      ['{"b":', "}"],
    ]) {
      for (const filler of ["", `${FILLER},`]) {
        const text = (levels: number) => `{${filler}${nested(levels, open, close).slice(1)}`;
        expect(codeOf(bytesOf(text(LIMITS.depthMax)))).toBeNull();
        expect(codeOf(bytesOf(text(LIMITS.depthMax + 1)))).toBe("too_deep");
      }
    }
    expect(codeOf(bytesOf(`{"a":[${"[],{},".repeat(1000)}1]}`))).toBeNull();
    expect(codeOf(bytesOf(`{"a":"${"[".repeat(1000)}"}`))).toBeNull();
  });

  test("of 100,000 or 4 million levels does not crash, whether they are closed or not", () => {
    for (const levels of [100_000, 4_000_000]) {
      expect(codeOf(bytesOf(`{"a":${"[".repeat(levels)}${"]".repeat(levels)}}`))).toBe("too_deep");
      expect(codeOf(bytesOf("[".repeat(levels)))).toBe("malformed");
      expect(codeOf(bytesOf('{"a":'.repeat(levels / 4)))).toBe("malformed");
    }
  });

  test("of size begins beyond 8 MiB, without white space around the event", () => {
    const shell = '{"message":""}'.length;
    const fits = `{"message":"${"x".repeat(LIMITS.eventBytesMax - shell)}"}`;
    const event = accepted(parseEvent(bytesOf(`\ufeff ${fits}\r\n`)));
    expect(event.body.length).toBe(LIMITS.eventBytesMax);
    expect(event.message?.length).toBe(LIMITS.eventBytesMax - shell);
    expect(codeOf(bytesOf(`{"message":"${"x".repeat(LIMITS.eventBytesMax - shell + 1)}"}`))).toBe(
      "too_large",
    );
  });

  test("is a value: no input of random bytes throws", () => {
    const anything = fc.oneof(
      fc.uint8Array({ maxLength: 60 }),
      fc
        .string({ unit: fc.constantFrom(...'{}[]",:\\u0019eE+-.truefalsn \n\ufeffé'), maxLength: 40 })
        .map(bytesOf),
    );
    fc.assert(
      fc.property(anything, (bytes) => {
        const { event, refusal } = parseEvent(bytes);
        const code = refusal?.code;
        const text = textIn(bytes).replace(/^\ufeff/, "");
        expect(code === "malformed").toBe(!isUtf8(bytes) || !parses(text));
        readBody(bytes);
        if (event !== null) textOf(null, event.body);
        const splitter = new NdjsonSplitter();
        for (const line of splitter.push(bytes)) parseLine(line);
        const last = splitter.end();
        if (last !== null) parseLine(last);
      }),
      { numRuns: 3000 },
    );
  });
});

describe("a large event", () => {
  test("gives the same fields as a small one, whatever their values are", () => {
    const member = fc.tuple(
      fc.constantFrom(
        "type",
        "event_type",
        "message",
        "text",
        "conversation_id",
        "actor",
        "timestamp",
        "id",
        "idempotency_key",
        "workflow_node",
        "case_status",
        "lead_status",
        "sentiment",
        "intent",
        "__proto__",
        "other",
      ),
      fc.oneof(jsonValue, fc.constantFrom("human", "open", "hot", "2026-01-01T00:00:00Z", 1, 3, 0.5, 1.7e9)),
    );
    fc.assert(
      fc.property(fc.array(member, { maxLength: 8 }), (members) => {
        parse(`{${members.map(([name, value]) => `"${name}":${JSON.stringify(value)}`).join(",")}}`);
      }),
    );
  });

  test("is read in slices", () => {
    const text = `{"a":[${"1,".repeat(2_000_000)}1],"message":"last"}`;
    const reader = parseEventInSlices(bytesOf(text));
    let slices = 0;
    let step = reader.next();
    for (; step.done !== true; step = reader.next()) slices++;
    expect(accepted(step.value).message).toBe("last");
    expect(slices).toBeGreaterThanOrEqual(Math.floor(text.length / LIMITS.sliceBytes));
  });
});

describe("a JSON body", () => {
  test("with an object is one event; any other value but an array is refused", () => {
    expect(readBody(bytesOf(' {"type":"A"} ')).body).toMatchObject({ kind: "event", event: { type: "A" } });
    expect(readBody(bytesOf("7")).body).toMatchObject({ kind: "refused", refusal: { code: "not_an_event" } });
    expect(readBody(bytesOf("")).body).toMatchObject({ kind: "refused", refusal: { code: "malformed" } });
    expect(readBody(new Uint8Array(LIMITS.eventBytesMax + 2).fill(0x7b)).body).toMatchObject({
      refusal: { code: "too_large" },
    });
  });

  test("with an array is a batch; a bad element in valid JSON is refused alone", () => {
    const deep = `{"a":${"[".repeat(LIMITS.depthMax)}${"]".repeat(LIMITS.depthMax)}}`;
    const fits = `{"a":${"[".repeat(LIMITS.depthMax - 1)}${"]".repeat(LIMITS.depthMax - 1)}}`;
    const huge = `{"m":"${"x".repeat(LIMITS.eventBytesMax)}"}`;
    const large = `{${FILLER},"type":"L"}`;
    const elements = [
      '{"type":"A"}',
      "1",
      '"[{"',
      deep,
      fits,
      huge,
      "[]",
      "null",
      large,
      deep,
      '{"type":"B"}',
    ];
    const { outcomes, body } = readBody(bytesOf(`[ ${elements.join(" ,\n")} ]`));
    expect(body).toEqual({ kind: "batch", count: elements.length });
    expect(outcomes.map(({ refusal, event }) => refusal?.code ?? event?.type ?? null)).toEqual([
      "A",
      "not_an_event",
      "not_an_event",
      "too_deep",
      null,
      "too_large",
      "not_an_event",
      "not_an_event",
      "L",
      "too_deep",
      "B",
    ]);
    expect(outcomes.map(({ event }) => event && textIn(event.body))).toEqual(
      elements.map((element, index) => (outcomes[index]?.refusal === null ? element : null)),
    );
    expect(readBody(bytesOf("[]")).body).toEqual({ kind: "batch", count: 0 });
  });

  test("with malformed JSON anywhere is refused as a whole and names the byte", () => {
    const good = '{"type":"A"}';
    const cases: [string, number][] = [
      [`[${good},`, 14],
      [`[${good}`, 13],
      [`[${good} ${good}]`, 14],
      [`[${good},]`, 14],
      [`[${good}] x`, 15],
      [`[,${good}]`, 1],
      [`[${good}}`, 13],
      [`[{"a":}]`, 6],
      [`[${good},{"a" 1}]`, 19],
      ["[", 1],
      [`[${good},"\\ud80g"]`, 15],
    ];
    for (const [text, offset] of cases) {
      const { outcomes, body } = readBody(bytesOf(text));
      expect(outcomes).toEqual([]);
      expect([text, body]).toEqual([
        text,
        {
          kind: "refused",
          refusal: { code: "malformed", detail: expect.stringContaining(`byte ${offset}: `) },
        },
      ]);
    }
    const late = `[${`${good},`.repeat(20_000)}nul]`;
    expect(readBody(bytesOf(late))).toMatchObject({ outcomes: [], body: { kind: "refused" } });
    const notUtf8 = bytesOf(`[${`${good},`.repeat(20_000)}"x"]`);
    notUtf8[notUtf8.length - 3] = 0xff;
    expect(readBody(notUtf8).body).toMatchObject({
      refusal: { code: "malformed", detail: `byte ${notUtf8.length - 3}: not valid UTF-8` },
    });
  });

  test("of 100,000 or 10 million levels does not crash", () => {
    for (const levels of [100_000, 10_000_000]) {
      const body = bytesOf(`[{"type":"A"},${"[".repeat(levels)}${"]".repeat(levels)}]`);
      const { outcomes } = readBody(body);
      expect(outcomes.map(({ refusal }) => refusal?.code ?? null)).toEqual([
        null,
        levels > 1e6 ? "too_large" : "not_an_event",
      ]);
      expect(readBody(body.subarray(0, levels)).body).toMatchObject({ refusal: { code: "malformed" } });
    }
  });

  test("of 60 MiB is read in slices of bounded work", () => {
    const element =
      '{"message":"some text that is not very long, of a usual size","conversation_id":"c-123","type":"UserMessage"},';
    const count = Math.floor((60 * 1024 * 1024) / element.length);
    const { outcomes, body, slices, most } = readBody(
      bytesOf(`[${element.repeat(count - 1)}${element.slice(0, -1)}]`),
    );
    expect(body).toEqual({ kind: "batch", count });
    expect(outcomes.every(({ refusal }) => refusal === null)).toBe(true);
    expect(slices).toBeGreaterThan(1900);
    expect(most).toBeLessThan(600);
    const tiny = readBody(bytesOf(`[${"{},".repeat(100_000)}{}]`));
    expect(tiny.body).toEqual({ kind: "batch", count: 100_001 });
    expect(tiny.most).toBeLessThan(600);
  });

  test("beyond 64 MiB is refused", () => {
    const bytes = new Uint8Array(LIMITS.jsonBodyBytesMax + 1).fill(0x30);
    bytes[0] = 0x5b;
    expect(readBody(bytes).body).toMatchObject({ refusal: { code: "too_large" } });
  });

  test("has elements that parse to the same values as with JSON.parse of the whole body", () => {
    fc.assert(
      fc.property(
        jsonText(fc.array(fc.oneof(jsonValue, fc.dictionary(hostileString, jsonValue)), { maxLength: 6 })),
        (text) => {
          const values = JSON.parse(text) as unknown[];
          const { outcomes, body } = readBody(bytesOf(text));
          expect(body).toEqual({ kind: "batch", count: values.length });
          outcomes.forEach(({ event, refusal }, index) => {
            const value = values[index];
            if (event !== null) expect(JSON.parse(textIn(event.body))).toEqual(value as never);
            else
              expect([
                refusal.code,
                typeof value === "object" && value !== null && !Array.isArray(value),
              ]).toEqual(["not_an_event", false]);
          });
        },
      ),
    );
  });

  test("is refused as malformed exactly when JSON.parse refuses it, whatever the corruption", () => {
    const piece = fc.oneof(
      fc.constantFrom(
        ...'[]{}",:\\0123456789eE+-.tfnu \n\u0000\u00a0\ufeff\u007f',
        "\\u00",
        "true",
        "null",
        "-",
        "0x",
        "NaN",
        "'",
      ),
      fc.string({ unit: "binary", maxLength: 2 }),
    );
    let refusedCount = 0;
    fc.assert(
      fc.property(
        jsonText(fc.array(jsonValue, { maxLength: 4 })),
        fc.nat(),
        fc.nat(3),
        piece,
        (text, where, cut, put) => {
          const at = where % (text.length + 1);
          const broken = textIn(bytesOf(`${text.slice(0, at)}${put}${text.slice(at + cut)}`));
          const { refusal } = readBody(bytesOf(broken)).body as { refusal?: { code: string } };
          const whole = broken.replace(/^\ufeff/, "");
          if (!parses(whole)) refusedCount++;
          expect([broken, refusal?.code === "malformed"]).toEqual([broken, !parses(whole)]);
        },
      ),
      { numRuns: 3000 },
    );
    // Both sides of the property must occur often.
    expect(refusedCount).toBeGreaterThan(300);
    expect(refusedCount).toBeLessThan(2900);
  });
});
