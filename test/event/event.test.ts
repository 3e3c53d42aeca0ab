import { describe, expect, test } from "bun:test";
import { isUtf8 } from "node:buffer";
import fc from "fast-check";
import {
  type JsonBody,
  LIMITS,
  NdjsonSplitter,
  type Outcome,
  type ParsedEvent,
  parseEvent,
  parseEventInSlices,
  parseJsonBody,
  parseLine,
  textOf,
  typeFromQuery,
} from "../../src/event/event.ts";
import { JsonScanner } from "../../src/event/scan.ts";

const seed = Number(process.env.FC_SEED ?? Math.floor(Math.random() * 0x7fffffff));
console.log(`event.test.ts: FC_SEED=${seed}`);
fc.configureGlobal({ seed, numRuns: 300 });

const encoder = new TextEncoder();
const bytesOf = (text: string): Uint8Array => encoder.encode(text);
const textIn = (bytes: Uint8Array): string => new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
const FILLER = `"filler":"${"x".repeat(LIMITS.largeEventBytes)}"`;

function accepted(outcome: Outcome): ParsedEvent {
  if (outcome.refusal !== null) throw new Error(`refused: ${outcome.refusal.code} ${outcome.refusal.detail}`);
  return outcome.event;
}

/** Parses on both ways, JSON.parse and scanner, and holds them to the same answer. */
function parse(json: string | object): ParsedEvent {
  const text = typeof json === "string" ? json : JSON.stringify(json);
  const small = accepted(parseEvent(bytesOf(text)));
  const inner = text.trim().slice(1, -1).trim();
  const large = accepted(parseEvent(bytesOf(`{${FILLER}${inner === "" ? "" : ","}${inner}}`)));
  expect({ ...large, body: null }).toEqual({ ...small, body: null });
  const [inBatch] = readBody(bytesOf(`[${text}]`)).outcomes;
  expect(inBatch?.event).toEqual(small);
  return small;
}

function codeOf(bytes: Uint8Array): string | null {
  return parseEvent(bytes).refusal?.code ?? null;
}

function refusal(text: string): { code: string; detail: string } {
  const { refusal } = parseEvent(bytesOf(text));
  if (refusal === null) throw new Error(`accepted: ${text.slice(0, 100)}`);
  return refusal;
}

function readBody(bytes: Uint8Array): { outcomes: Outcome[]; body: JsonBody; slices: number; most: number } {
  const outcomes: Outcome[] = [];
  const reader = parseJsonBody(bytes);
  let most = 0;
  for (let slices = 0; ; slices++) {
    const step = reader.next();
    if (step.done === true) return { outcomes, body: step.value, slices, most };
    for (const outcome of step.value) outcomes.push(outcome);
    most = Math.max(most, step.value.length);
  }
}

function parses(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** Strings that tempt a scanner: quotes, backslashes, brackets, lone surrogates, controls, any character. */
const hostileString = fc.oneof(
  fc.string({
    unit: fc.constantFrom(
      '"',
      "\\",
      "[",
      "]",
      "{",
      "}",
      ",",
      ":",
      "\ud800",
      "\u0000",
      "é",
      "😀",
      "\u2028",
      "n",
      "u",
    ),
  }),
  fc.string({ unit: "binary" }),
);
const jsonValue = fc.letrec((tie) => ({
  value: fc.oneof(
    { depthSize: "small" },
    hostileString,
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.integer(),
    fc.boolean(),
    fc.constant(null),
    fc.array(tie("value"), { maxLength: 4 }),
    fc.dictionary(hostileString, tie("value"), { maxKeys: 4 }),
  ),
})).value;
const space = fc.string({ unit: fc.constantFrom(" ", "\t", "\n", "\r"), maxLength: 3 });
/** JSON text of a value, with any white space between its tokens and any way of escaping. */
const jsonText = (value: fc.Arbitrary<unknown>): fc.Arbitrary<string> =>
  fc.tuple(value, space, space, fc.boolean()).map(([given, before, between, escaped]) => {
    const write = (part: unknown): string => {
      if (Array.isArray(part)) return `[${between}${part.map(write).join(`${between},${between}`)}${before}]`;
      if (typeof part === "object" && part !== null) {
        const members = Object.entries(part).map(
          ([key, member]) => `${quote(key)}${before}:${between}${write(member)}`,
        );
        return `{${before}${members.join(`,${between}`)}${between}}`;
      }
      return typeof part === "string" ? quote(part) : JSON.stringify(part);
    };
    const quote = (text: string): string => {
      if (!escaped) return JSON.stringify(text);
      const units = Array.from({ length: text.length }, (_, at) =>
        text.charCodeAt(at).toString(16).padStart(4, "0"),
      );
      return `"${units.map((unit) => `\\u${unit}`).join("")}"`;
    };
    return `${before}${write(given)}${between}`;
  });

describe("an event's body", () => {
  test("is kept as the bytes that came, without white space and byte order mark around them", () => {
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

  test("is a view of what came, not a copy", () => {
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

  test("may be an empty object: then nothing is given", () => {
    const { body, ...rest } = parse("{}");
    expect(textIn(body)).toBe("{}");
    expect(rest).toEqual({
      id: null,
      key: null,
      type: null,
      message: null,
      conversationId: null,
      timestampUs: null,
      fields: null,
      ignoredFields: 0,
    });
  });
});

describe("the understood fields", () => {
  test("are all taken from one event", () => {
    const event = parse({
      type: "UserMessage",
      message: "Olá",
      conversation_id: "c-1",
      id: "e-1",
      idempotency_key: "k-1",
      actor: "agent",
      timestamp: "2026-01-02T03:04:05.678901Z",
      workflow_node: -7,
      case_status: "pending",
      lead_status: 2,
      sentiment: -0.25,
      intent: "greet",
      anything: { else: [1] },
    });
    expect(event).toMatchObject({
      type: "UserMessage",
      message: "Olá",
      conversationId: "c-1",
      id: "e-1",
      key: "idempotency_key:k-1",
      timestampUs: Date.UTC(2026, 0, 2, 3, 4, 5, 678) * 1000 + 901,
      ignoredFields: 0,
      fields: {
        actor: 2,
        workflow_node: -7,
        case_status: 2,
        lead_status: 2,
        sentiment: -0.25,
        intent: "greet",
      },
    });
  });

  test("type falls back to event_type and message to text, the first of the right JSON type winning", () => {
    expect(parse({ type: "A", event_type: "B" }).type).toBe("A");
    expect(parse({ event_type: "B" }).type).toBe("B");
    expect(parse({ type: 5, event_type: "B" })).toMatchObject({ type: "B", ignoredFields: 1 });
    expect(parse({ message: "a", text: "b" }).message).toBe("a");
    expect(parse({ message: { text: "a" }, text: "b" })).toMatchObject({ message: "b", ignoredFields: 1 });
    expect(parse({ message: ["a"], text: 1 })).toMatchObject({ message: null, ignoredFields: 2 });
  });

  test("an empty string and null are not given, and not counted", () => {
    const names = [
      "type",
      "message",
      "conversation_id",
      "id",
      "idempotency_key",
      "actor",
      "timestamp",
      "workflow_node",
      "case_status",
      "lead_status",
      "sentiment",
      "intent",
    ];
    for (const nothing of ["", null]) {
      const event = parse(Object.fromEntries(names.map((name) => [name, nothing])));
      expect({ ...event, body: null }).toEqual({ ...parse("{}"), body: null as never });
    }
    expect(parse({ type: "", event_type: "B" })).toMatchObject({ type: "B", ignoredFields: 0 });
  });

  test("of another JSON type or out of range are ignored and counted, never a refusal", () => {
    const wrong: Record<string, unknown[]> = {
      type: [1, true, [], {}],
      message: [1, false, [], {}],
      intent: [1, true, [], {}],
      conversation_id: [1.5, true, [], {}],
      id: [1.5, false, []],
      idempotency_key: [0.1, {}],
      actor: ["robot", 1, true, [], {}, "__proto__", "constructor"],
      timestamp: [true, [], {}, "yesterday", -1, 1e18, 1e300],
      workflow_node: [1.5, 2147483648, -2147483649, "1", true, [1], {}],
      case_status: [-1, 5, 1.5, "won", true, [0], {}],
      lead_status: [-1, 5, "open", {}],
      sentiment: [1.01, -1.01, "0.5", true, [0]],
    };
    for (const [name, values] of Object.entries(wrong)) {
      for (const value of values) {
        const event = parse({ [name]: value, message: name === "message" ? value : "hello" });
        expect([name, value, event.ignoredFields]).toEqual([name, value, 1]);
        expect(event.fields).toBeNull();
      }
    }
    expect(
      parse('{"sentiment":1e400,"workflow_node":1e400,"timestamp":1e400,"id":1e400,"type":1e400}')
        .ignoredFields,
    ).toBe(5);
  });

  test("reach to the ends of their ranges", () => {
    for (const node of [-2147483648, 0, 2147483647])
      expect(parse({ workflow_node: node }).fields?.workflow_node).toBe(node);
    for (const sentiment of [-1, 0, 1]) expect(parse({ sentiment }).fields?.sentiment).toBe(sentiment);
    expect(Object.is(parse('{"sentiment":-0,"workflow_node":-0}').fields?.sentiment, 0)).toBe(true);
    expect(Object.is(parse('{"workflow_node":-0}').fields?.workflow_node, 0)).toBe(true);
  });

  test("statuses come by name or number, actors by name", () => {
    ["new", "open", "pending", "resolved", "closed"].forEach((name, value) => {
      expect(parse({ case_status: name }).fields).toEqual({ case_status: value });
      expect(parse({ case_status: value }).fields).toEqual({ case_status: value });
    });
    ["cold", "warm", "hot", "converted", "lost"].forEach((name, value) => {
      expect(parse({ lead_status: name }).fields).toEqual({ lead_status: value });
      expect(parse({ lead_status: value }).fields).toEqual({ lead_status: value });
    });
    ["system", "human", "agent", "tool"].forEach((name, value) => {
      expect(parse({ actor: name }).fields as unknown).toEqual({ actor: value });
    });
  });

  test("of labels have 1,024 characters at most; longer ones are ignored and counted", () => {
    const fits = "é".repeat(LIMITS.labelCharsMax);
    for (const name of ["type", "id", "conversation_id", "intent", "idempotency_key"]) {
      expect(parse({ [name]: fits }).ignoredFields).toBe(0);
      expect(parse({ [name]: `${fits}x` }).ignoredFields).toBe(1);
    }
    expect(parse({ id: fits }).id).toBe(fits);
    expect(parse({ message: fits.repeat(9) }).message).toBe(fits.repeat(9));
  });

  test("the last of equal keys counts, as in JSON.parse, escaped keys included", () => {
    expect(parse('{"type":"A","type":"B"}').type).toBe("B");
    expect(parse('{"type":"A","\\u0074ype":"B"}').type).toBe("B");
    expect(
      parse(
        '{"idempotency_key":1,"\\u0069\\u0064\\u0065\\u006d\\u0070\\u006f\\u0074\\u0065\\u006e\\u0063\\u0079\\u005f\\u006b\\u0065\\u0079":"k"}',
      ).key,
    ).toBe("idempotency_key:k");
    expect(parse('{"id":9007199254740993,"id":9007199254740995}').id).toBe("9007199254740995");
  });

  test("are read at the top of the event only", () => {
    expect(parse({ data: { type: "A", id: "x", message: "m" } })).toMatchObject({
      type: null,
      id: null,
      message: null,
    });
  });

  test("__proto__ keys are harmless", () => {
    const event = parse(
      '{"__proto__":{"type":"A","id":"x","actor":"tool"},"constructor":{"prototype":{"message":"m"}}}',
    );
    expect(event).toMatchObject({ type: null, id: null, message: null, fields: null, ignoredFields: 0 });
    expect(({} as Record<string, unknown>).type).toBeUndefined();
  });

  test("are not taken from a polluted prototype", () => {
    const prototype = Object.prototype as unknown as Record<string, unknown>;
    try {
      Object.assign(prototype, { type: "evil", id: 7, sentiment: 1, timestamp: 5 });
      const { event } = parseEvent(bytesOf('{"a":1}'));
      expect([event?.type, event?.id, event?.fields, event?.timestampUs]).toEqual([null, null, null, null]);
    } finally {
      for (const name of ["type", "id", "sentiment", "timestamp"]) delete prototype[name];
    }
  });

  test("lone surrogates stay in the body and are replaced in what is extracted; U+0000 stays", () => {
    const event = parse('{"message":"a\\ud800b\\u0000c","type":"\\udc00","id":"\\ud83d\\ude00"}');
    expect(event).toMatchObject({ message: "a\ufffdb\u0000c", type: "\ufffd", id: "😀" });
    expect(textIn(event.body)).toContain("\\ud800");
  });
});

describe("ids", () => {
  test("are kept exactly, 64-bit integers and longer ones too", () => {
    for (const digits of [
      "0",
      "42",
      "-7",
      "9007199254740991",
      "9007199254740993",
      "-9007199254740993",
      "18446744073709551615",
      "123456789012345678901234567890",
    ]) {
      const event = parse(`{"x":{"id":1},"id": ${digits} ,"conversation_id":${digits}}`);
      expect(event).toMatchObject({
        id: digits,
        conversationId: digits,
        key: `id:${digits}`,
        ignoredFields: 0,
      });
      expect(parse(`{"idempotency_key":${digits}}`).key).toBe(`idempotency_key:${digits}`);
    }
  });

  test("that are whole numbers in another spelling are integers where a double holds them exactly", () => {
    expect(parse('{"id":42.0}').id).toBe("42");
    expect(parse('{"id":1e3}').id).toBe("1000");
    expect(parse('{"id":-0}').id).toBe("0");
    expect(parse('{"id":1e30}')).toMatchObject({ id: null, ignoredFields: 1 });
    expect(parse('{"id":9007199254740993.0}')).toMatchObject({ id: null, ignoredFields: 1 });
    expect(parse(`{"id":${"9".repeat(LIMITS.labelCharsMax + 1)}}`)).toMatchObject({
      id: null,
      ignoredFields: 1,
    });
  });

  test("give the dedup key: idempotency_key first, then id", () => {
    expect(parse({ id: "i", idempotency_key: "k" }).key).toBe("idempotency_key:k");
    expect(parse({ id: "i", idempotency_key: "" }).key).toBe("id:i");
    expect(parse({ id: "i", idempotency_key: {} }).key).toBe("id:i");
    expect(parse({ message: "m" }).key).toBeNull();
  });
});

describe("timestamp", () => {
  const base = Date.UTC(2026, 1, 28, 12, 30, 15) * 1000;
  test("is epoch seconds, milliseconds or microseconds by magnitude", () => {
    expect(parse({ timestamp: base / 1e6 }).timestampUs).toBe(base);
    expect(parse({ timestamp: base / 1e6 + 0.25 }).timestampUs).toBe(base + 250_000);
    expect(parse({ timestamp: base / 1e3 }).timestampUs).toBe(base);
    expect(parse({ timestamp: base + 1 }).timestampUs).toBe(base + 1);
    expect(parse({ timestamp: 0 }).timestampUs).toBe(0);
    expect(parse({ timestamp: 1e11 }).timestampUs).toBe(1e14);
    expect(parse({ timestamp: 1e14 }).timestampUs).toBe(1e14);
    expect(parse({ timestamp: 7_289_654_399 }).timestampUs).toBe(7_289_654_399_000_000);
  });

  test("is RFC 3339 with any offset, to the microsecond", () => {
    const same: [string, number][] = [
      ["2026-02-28T12:30:15Z", 0],
      ["2026-02-28t12:30:15z", 0],
      ["2026-02-28 12:30:15Z", 0],
      ["2026-02-28T09:30:15-03:00", 0],
      ["2026-02-28T18:00:15+05:30", 0],
      ["2026-02-28T12:30:15-00:00", 0],
      ["2026-02-28T12:30:15.5Z", 500_000],
      ["2026-02-28T12:30:15.123456789Z", 123_456],
      ["2026-03-01T00:15:15+11:45", 0],
      ["2026-02-28T12:29:75Z", Number.NaN],
      ["2026-02-28T12:29:60Z", -15_000_000],
    ];
    for (const [text, us] of same) {
      expect([text, parse({ timestamp: text }).timestampUs]).toEqual([
        text,
        Number.isNaN(us) ? null : base + us,
      ]);
    }
  });

  test("agrees with Date on every date from 1970 to 2200", () => {
    const date = fc.date({ min: new Date(0), max: new Date(Date.UTC(2201, 0, 1) - 1), noInvalidDate: true });
    fc.assert(
      fc.property(date, (instant) => {
        expect(parse({ timestamp: instant.toISOString() }).timestampUs).toBe(instant.getTime() * 1000);
      }),
    );
    for (let year = 1970; year <= 2200; year++) {
      for (let month = 1; month <= 12; month++) {
        const days = new Date(Date.UTC(year, month, 0)).getUTCDate();
        const last = `${year}-${String(month).padStart(2, "0")}-`;
        const us = (day: number): number | null | undefined =>
          parseEvent(bytesOf(`{"timestamp":"${last}${day}T00:00:00Z"}`)).event?.timestampUs;
        expect(us(days)).toBe(Date.UTC(year, month - 1, days) * 1000);
        expect(us(days + 1)).toBeNull();
      }
    }
  });

  test("that is neither, or outside the years 1970 to 2200, is ignored and counted", () => {
    for (const timestamp of [
      "2026-02-28",
      "2026-02-28T12:30:15",
      "2026-02-30T00:00:00Z",
      "2025-02-29T00:00:00Z",
      "2026-13-01T00:00:00Z",
      "2026-00-01T00:00:00Z",
      "2026-01-01T24:00:00Z",
      "1700000000",
      "1969-12-31T23:59:59Z",
      "2201-01-01T00:00:00Z",
      `2026-02-28T12:30:15.${"0".repeat(100)}Z`,
      -1,
      7_289_654_400,
      1.7e18,
    ]) {
      expect([timestamp, parse({ timestamp }).ignoredFields]).toEqual([timestamp, 1]);
    }
    expect(parse({ timestamp: "2200-12-31T23:59:59Z" }).ignoredFields).toBe(0);
    expect(parse({ timestamp: "1970-01-01T00:00:00Z" }).timestampUs).toBe(0);
  });
});

describe("a refusal", () => {
  test("of what is no JSON is malformed and names the byte", () => {
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

  test("of valid JSON that is no object is not_an_event", () => {
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

  test("of invalid UTF-8 names the first bad byte, wherever it stands and however long the body is", () => {
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

  test("of nesting begins beyond LIMITS.depthMax, objects and arrays alike", () => {
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

  test("of 100,000 and of 4 million levels comes without a crash, closed or not", () => {
    for (const levels of [100_000, 4_000_000]) {
      expect(codeOf(bytesOf(`{"a":${"[".repeat(levels)}${"]".repeat(levels)}}`))).toBe("too_deep");
      expect(codeOf(bytesOf("[".repeat(levels)))).toBe("malformed");
      expect(codeOf(bytesOf('{"a":'.repeat(levels / 4)))).toBe("malformed");
    }
  });

  test("of size begins beyond 8 MiB, white space around it not counted", () => {
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
  test("gives the same as a small one, for any values of the understood fields", () => {
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
  test("that is an object is one event, else refused", () => {
    expect(readBody(bytesOf(' {"type":"A"} ')).body).toMatchObject({ kind: "event", event: { type: "A" } });
    expect(readBody(bytesOf("7")).body).toMatchObject({ kind: "refused", refusal: { code: "not_an_event" } });
    expect(readBody(bytesOf("")).body).toMatchObject({ kind: "refused", refusal: { code: "malformed" } });
    expect(readBody(new Uint8Array(LIMITS.eventBytesMax + 2).fill(0x7b)).body).toMatchObject({
      refusal: { code: "too_large" },
    });
  });

  test("that is an array is a batch; a bad element that is well delimited is refused alone", () => {
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

  test("that is malformed anywhere is refused as a whole, by its byte", () => {
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

  test("of 100,000 and of 10 million levels comes back without a crash", () => {
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
  }, 20_000);

  test("beyond 64 MiB is refused", () => {
    const bytes = new Uint8Array(LIMITS.jsonBodyBytesMax + 1).fill(0x30);
    bytes[0] = 0x5b;
    expect(readBody(bytes).body).toMatchObject({ refusal: { code: "too_large" } });
  });

  test("gives elements that parse to the same values as JSON.parse of the whole", () => {
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
    // Otherwise the property would say little on one of its sides.
    expect(refusedCount).toBeGreaterThan(300);
    expect(refusedCount).toBeLessThan(2900);
  });
});

describe("the scanner", () => {
  test("keeps objects and arrays apart at any depth", () => {
    const levels = 10_000;
    const open = Array.from({ length: levels }, (_, level) => (level % 3 === 1 ? "[" : '{"a":'));
    const close = open.map((bracket) => (bracket === "[" ? "]" : "}")).reverse();
    const scan = (text: string): string => {
      const scanner = new JsonScanner(bytesOf(text));
      let step = scanner.run(text.length);
      while (step === "child") step = scanner.run(text.length);
      expect(scanner.deepest).toBe(levels);
      return step;
    };
    expect(scan(`${open.join("")}0${close.join("")}`)).toBe("done");
    for (const wrong of [0, 5, 5000, levels - 1]) {
      const closed = close.with(wrong, close[wrong] === "]" ? "}" : "]").join("");
      expect(scan(`${open.join("")}0${closed}`)).toBe("bad");
    }
  });

  test("finds the same members and elements wherever it is stopped", () => {
    const scan = (bytes: Uint8Array, limits: () => number) => {
      const scanner = new JsonScanner(bytes);
      const found: unknown[] = [];
      for (;;) {
        const step = scanner.run(scanner.at + limits());
        if (step === "done" || step === "bad") return [...found, step, scanner.problem];
        if (step !== "child") continue;
        found.push([scanner.childStart, scanner.childEnd, scanner.keyStart, scanner.keyEnd, scanner.deepest]);
        scanner.deepest = 0;
      }
    };
    fc.assert(
      fc.property(
        jsonText(jsonValue),
        fc.nat(),
        fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1 }),
        (text, cut, steps) => {
          const whole = bytesOf(text);
          const bytes = cut % 4 === 0 ? whole.subarray(0, cut % (whole.length + 1)) : whole;
          let turn = 0;
          const sliced = scan(bytes, () => steps[turn++ % steps.length] as number);
          expect(sliced).toEqual(scan(bytes, () => bytes.length + 1));
          if (isUtf8(bytes)) expect(sliced.includes("done")).toBe(parses(textIn(bytes)));
        },
      ),
      { numRuns: 1000 },
    );
  });
});

describe("NDJSON", () => {
  const split = (chunks: Uint8Array[]) => {
    const splitter = new NdjsonSplitter();
    const lines = chunks.flatMap((chunk) => splitter.push(chunk));
    const last = splitter.end();
    if (last !== null) lines.push(last);
    return lines.map(({ lineNumber, bytes }) => [lineNumber, bytes && textIn(bytes)]);
  };

  test("lines end with LF or CRLF, the last one with nothing; blank ones are skipped but counted", () => {
    expect(split([bytesOf('{"a":1}\r\n\n  \t\r\n{"b":2}\n{"c":3}')])).toEqual([
      [1, '{"a":1}\r'],
      [4, '{"b":2}'],
      [5, '{"c":3}'],
    ]);
    expect(split([bytesOf("\n\n")])).toEqual([]);
    expect(split([])).toEqual([]);
    expect(split([bytesOf("\ufeff\n{}")])).toEqual([[2, "{}"]]);
  });

  test("a byte order mark at the start is no part of the first event, however it is cut", () => {
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

  test("is independent of the chunks' bounds", () => {
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

  test("a line that is too long is reported once, not kept, and reading goes on behind it", () => {
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

  test("the longest event fits, with CRLF and byte order mark; one byte more is too large", () => {
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

  test("a line that drips in byte by byte is put together", () => {
    const text = `{"message":"${"é".repeat(20_000)}"}`;
    expect(split([...bytesOf(`${text}\n${text}`)].map((byte) => new Uint8Array([byte])))).toEqual([
      [1, text],
      [2, text],
    ]);
  });

  test("one bad line of 1,000 is refused by its number, the others are kept", () => {
    const lines = Array.from({ length: 1000 }, (_, index) => (index === 16 ? '{"a":' : `{"id":${index}}`));
    const outcomes = new NdjsonSplitter().push(bytesOf(`${lines.join("\n")}\n`)).map(parseLine);
    expect(outcomes.filter(({ refusal }) => refusal === null).length).toBe(999);
    expect(outcomes[16]?.refusal).toEqual({
      code: "malformed",
      detail: "line 17: byte 5: the JSON text ends too early",
    });
  });
});

describe("what is embedded", () => {
  const text = (value: unknown) =>
    textOf(null, bytesOf(typeof value === "string" ? value : JSON.stringify(value)));
  test("is the message, where there is one", () => {
    expect(textOf("hello", bytesOf('{"message":"hello","a":"b"}'))).toBe("hello");
  });

  test("else the string leaves in their order, with their paths", () => {
    expect(
      text({ b: "x", a: { "deep.er": ["y", 5, { z: "w" }, ["v"]], n: 1 }, e: "", t: true, "": "k" }),
    ).toBe(["b: x", "a.deep.er[0]: y", "a.deep.er[2].z: w", "a.deep.er[3][0]: v", ": k"].join("\n"));
    expect(text(' { "k\\u00e9" : "a\\"b\\\\" , "l" : [ "[{,:}]" ] } ')).toBe('ké: a"b\\\nl[0]: [{,:}]');
  });

  test("else nothing", () => {
    for (const value of [{}, { a: 1, b: [true, null, { c: 2 }] }, { a: "" }]) expect(text(value)).toBe("");
  });

  test("has 8,192 characters at most, no half of a pair, no lone surrogate", () => {
    expect(text({ a: "x".repeat(9000) }).length).toBe(LIMITS.textCharsMax);
    const pairs = text({ a: "😀".repeat(9000) });
    expect(pairs.length).toBe(LIMITS.textCharsMax - 1);
    expect(text({ ab: "😀".repeat(9000) }).length).toBe(LIMITS.textCharsMax);
    expect(pairs.isWellFormed()).toBe(true);
    expect(text('{"a":"\\ud800"}')).toBe("a: \ufffd");
    expect(text({ ["k".repeat(10_000)]: "v" }).length).toBe(LIMITS.textCharsMax);
    expect(text(Array.from({ length: 5000 }, () => "abc")).length).toBe(LIMITS.textCharsMax);
  });

  test("agrees with a walk over the parsed value", () => {
    const walk = (value: unknown, path: string, lines: string[]): string[] => {
      if (typeof value === "string" && value !== "") lines.push(`${path}: ${value}`);
      if (Array.isArray(value)) {
        for (const [index, item] of value.entries()) walk(item, `${path}[${index}]`, lines);
      } else if (typeof value === "object" && value !== null) {
        for (const [key, item] of Object.entries(value))
          walk(item, path === "" ? key : `${path}.${key}`, lines);
      }
      return lines;
    };
    fc.assert(
      fc.property(jsonText(fc.dictionary(hostileString, jsonValue)), (body) => {
        // A walk over the parsed value sees integer keys first; the same lines in any order will do.
        const lines = (joined: string) => joined.split("\n").sort();
        expect(lines(text(body))).toEqual(lines(walk(JSON.parse(body), "", []).join("\n").toWellFormed()));
      }),
    );
  });
});

describe("?type=", () => {
  test("is a name of 1 to 1,024 characters, absent where empty", () => {
    expect(typeFromQuery("A\ud800")).toEqual({ type: "A\ufffd", detail: null });
    expect(typeFromQuery(null)).toEqual({ type: null, detail: null });
    expect(typeFromQuery("")).toEqual({ type: null, detail: null });
    expect(typeFromQuery("x".repeat(LIMITS.labelCharsMax)).type?.length).toBe(LIMITS.labelCharsMax);
    expect(typeFromQuery("x".repeat(LIMITS.labelCharsMax + 1)).detail).toContain("1025");
  });
});
