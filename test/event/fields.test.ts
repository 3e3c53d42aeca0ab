/** The fields that the gateway understands in an event. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { LIMITS, parseEvent, typeFromQuery } from "../../src/event/event.ts";
import { bytesOf, parse, seeded, textIn } from "./fixtures.ts";

// Generous, because the machine may be busy.
setDefaultTimeout(60_000);
seeded("fields.test.ts");

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

  test("type falls back to event_type and message to text; the first one of the right JSON type wins", () => {
    expect(parse({ type: "A", event_type: "B" }).type).toBe("A");
    expect(parse({ event_type: "B" }).type).toBe("B");
    expect(parse({ type: 5, event_type: "B" })).toMatchObject({ type: "B", ignoredFields: 1 });
    expect(parse({ message: "a", text: "b" }).message).toBe("a");
    expect(parse({ message: { text: "a" }, text: "b" })).toMatchObject({ message: "b", ignoredFields: 1 });
    expect(parse({ message: ["a"], text: 1 })).toMatchObject({ message: null, ignoredFields: 2 });
  });

  test("with an empty string or null count neither as given nor as ignored", () => {
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

  test("of a wrong JSON type or out of range are ignored and counted, and never refuse the event", () => {
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

  test("may have the first and the last value of their ranges", () => {
    for (const node of [-2147483648, 0, 2147483647])
      expect(parse({ workflow_node: node }).fields?.workflow_node).toBe(node);
    for (const sentiment of [-1, 0, 1]) expect(parse({ sentiment }).fields?.sentiment).toBe(sentiment);
    expect(Object.is(parse('{"sentiment":-0,"workflow_node":-0}').fields?.sentiment, 0)).toBe(true);
    expect(Object.is(parse('{"workflow_node":-0}').fields?.workflow_node, 0)).toBe(true);
  });

  test("give statuses by name or number and actors by name", () => {
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

  test("that are labels have at most 1,024 characters; longer ones are ignored and counted", () => {
    const fits = "é".repeat(LIMITS.labelCharsMax);
    for (const name of ["type", "id", "conversation_id", "intent", "idempotency_key"]) {
      expect(parse({ [name]: fits }).ignoredFields).toBe(0);
      expect(parse({ [name]: `${fits}x` }).ignoredFields).toBe(1);
    }
    expect(parse({ id: fits }).id).toBe(fits);
    expect(parse({ message: fits.repeat(9) }).message).toBe(fits.repeat(9));
  });

  test("count once: of equal keys the last, as in JSON.parse, even if a key is escaped", () => {
    expect(parse('{"type":"A","type":"B"}').type).toBe("B");
    expect(parse('{"type":"A","\\u0074ype":"B"}').type).toBe("B");
    expect(
      parse(
        '{"idempotency_key":1,"\\u0069\\u0064\\u0065\\u006d\\u0070\\u006f\\u0074\\u0065\\u006e\\u0063\\u0079\\u005f\\u006b\\u0065\\u0079":"k"}',
      ).key,
    ).toBe("idempotency_key:k");
    expect(parse('{"id":9007199254740993,"id":9007199254740995}').id).toBe("9007199254740995");
  });

  test("are read only at the top level of the event", () => {
    expect(parse({ data: { type: "A", id: "x", message: "m" } })).toMatchObject({
      type: null,
      id: null,
      message: null,
    });
  });

  test("are not affected by __proto__ keys", () => {
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

  test("replace lone surrogates, which stay in the body, and keep U+0000", () => {
    const event = parse('{"message":"a\\ud800b\\u0000c","type":"\\udc00","id":"\\ud83d\\ude00"}');
    expect(event).toMatchObject({ message: "a\ufffdb\u0000c", type: "\ufffd", id: "😀" });
    expect(textIn(event.body)).toContain("\\ud800");
  });
});

describe("ids", () => {
  test("are kept exactly, even 64-bit and longer integers", () => {
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
        dedupByBody: true,
        ignoredFields: 0,
      });
      expect(parse(`{"idempotency_key":${digits}}`).key).toBe(`idempotency_key:${digits}`);
    }
  });

  test("spelled as whole numbers in another way are integers if a double holds them exactly", () => {
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

  test("give the dedup key: idempotency_key is one, and with an id alone the body decides", () => {
    expect(parse({ id: "i", idempotency_key: "k" }).key).toBe("idempotency_key:k");
    expect(parse({ id: "i", idempotency_key: "" })).toMatchObject({ key: null, dedupByBody: true });
    expect(parse({ id: 0, idempotency_key: {} })).toMatchObject({ key: null, dedupByBody: true });
    expect(parse({ message: "m" })).toMatchObject({ key: null, dedupByBody: false });
  });
});

describe("timestamp", () => {
  const base = Date.UTC(2026, 1, 28, 12, 30, 15) * 1000;
  test("may be epoch seconds, milliseconds or microseconds, told apart by magnitude", () => {
    expect(parse({ timestamp: base / 1e6 }).timestampUs).toBe(base);
    expect(parse({ timestamp: base / 1e6 + 0.25 }).timestampUs).toBe(base + 250_000);
    expect(parse({ timestamp: base / 1e3 }).timestampUs).toBe(base);
    expect(parse({ timestamp: base + 1 }).timestampUs).toBe(base + 1);
    expect(parse({ timestamp: 0 }).timestampUs).toBe(0);
    expect(parse({ timestamp: 1e11 }).timestampUs).toBe(1e14);
    expect(parse({ timestamp: 1e14 }).timestampUs).toBe(1e14);
    expect(parse({ timestamp: 7_289_654_399 }).timestampUs).toBe(7_289_654_399_000_000);
  });

  test("may be RFC 3339 with any offset, to the microsecond", () => {
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

  test("in quotes, epoch seconds, ms and µs are understood", () => {
    for (const [timestamp, us] of [
      ["1717605953", 1_717_605_953_000_000],
      ["1717605953048", 1_717_605_953_048_000],
      ["1717605953048123", 1_717_605_953_048_123],
    ] as const) {
      expect([timestamp, parse({ timestamp }).timestampUs]).toEqual([timestamp, us]);
    }
  });

  test("in any other form, or outside the years 1970 to 2200, is ignored and counted", () => {
    for (const timestamp of [
      "2026-02-28",
      "2026-02-28T12:30:15",
      "2026-02-30T00:00:00Z",
      "2025-02-29T00:00:00Z",
      "2026-13-01T00:00:00Z",
      "2026-00-01T00:00:00Z",
      "2026-01-01T24:00:00Z",
      "1700000000.5",
      "+1700000000",
      " 1700000000",
      "20260228",
      "202602281230",
      "20260228123015",
      "1700000000123456789",
      "2026",
      "9999999999",
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

describe("?type=", () => {
  test("is a name of 1 to 1,024 characters; an empty one counts as absent", () => {
    expect(typeFromQuery("A\ud800")).toEqual({ type: "A\ufffd", detail: null });
    expect(typeFromQuery(null)).toEqual({ type: null, detail: null });
    expect(typeFromQuery("")).toEqual({ type: null, detail: null });
    expect(typeFromQuery("x".repeat(LIMITS.labelCharsMax)).type?.length).toBe(LIMITS.labelCharsMax);
    expect(typeFromQuery("x".repeat(LIMITS.labelCharsMax + 1)).detail).toContain("1025");
  });
});
