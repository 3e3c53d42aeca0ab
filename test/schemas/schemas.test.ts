import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { GatewayError } from "../../src/errors.ts";
import { Journal, type SmallTable } from "../../src/journal/journal.ts";
import { condensed, fingerprintOf, type JsonValue } from "../../src/schemas/read.ts";
import { sampleOf } from "../../src/schemas/sample.ts";
import { Schemas } from "../../src/schemas/schemas.ts";

const SEED = Number(process.env.FC_SEED ?? Date.now() % 2 ** 31);
console.log(`schemas: FC_SEED=${SEED}`);
const folder = mkdtempSync(join(tmpdir(), "schemas-test-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const encode = (text: string): Uint8Array => new TextEncoder().encode(text);
const bytesOf = (body: unknown): Uint8Array => encode(typeof body === "string" ? body : JSON.stringify(body));

interface Shown {
  type: string;
  events: number;
  expected_fields: number;
  drift: Record<string, number>;
  fields: {
    path: string;
    types: string[];
    fill_rate: number;
    first_seen_us: number;
    last_seen_us: number;
    drift: string | null;
    sample: unknown;
  }[];
}

/** A table in memory, which can be made to fail. */
class MemoryTable implements SmallTable {
  readonly rows = new Map<string, string>();
  failWith: Error | null = null;

  all(): { key: string; value: string }[] {
    return [...this.rows].map(([key, value]) => ({ key, value }));
  }

  write(rows: readonly { readonly key: string; readonly value: string | null }[]): void {
    if (this.failWith !== null) throw this.failWith;
    for (const { key, value } of rows) {
      if (value === null) this.rows.delete(key);
      else this.rows.set(key, value);
    }
  }
}

class Learner {
  readonly schemas: Schemas;
  readonly logged: string[] = [];
  #us = 0;

  constructor(table: SmallTable | null = null) {
    this.schemas = new Schemas({ table, log: (level, message) => this.logged.push(`${level} ${message}`) });
  }

  /** Fill rates, one an event. */
  see(type: string | null, ...bodies: unknown[]): number[] {
    return bodies.map((body) => this.schemas.observe(type, bytesOf(body), ++this.#us).fillRate);
  }

  repeat(times: number, type: string, body: (n: number) => unknown): void {
    for (let n = 0; n < times; n++) this.see(type, body(n));
  }

  shown(type: string): Shown {
    const text = this.schemas.show(type, "plain", { dialect: true });
    if (text === null) throw new Error(`there is no schema of ${type}`);
    return JSON.parse(text);
  }

  paths(type: string): string[] {
    return this.shown(type).fields.map(({ path }) => path);
  }

  field(type: string, path: string): Shown["fields"][number] {
    const field = this.shown(type).fields.find((one) => one.path === path);
    if (field === undefined) throw new Error(`${type} has no ${path}, but ${this.paths(type).join(", ")}`);
    return field;
  }

  drift(): string[] {
    return this.schemas.drift.map(({ kind, type, path }) => `${kind} ${type} ${path}`);
  }

  counter(name: string): number {
    const value = this.schemas.counters[name];
    if (value === undefined) throw new Error(`there is no counter ${name}`);
    return value;
  }
}

describe("a schema", () => {
  test("has nested fields with types, fill rates, when they were seen, and a sample", () => {
    const learner = new Learner();
    learner.see("Order", { id: 7, customer: { name: "Ana", tags: ["a", 2] }, note: null });
    learner.see("Order", { id: 8.5, customer: { name: "", tags: [] }, items: [{ sku: "x" }, { sku: "y" }] });
    expect(learner.shown("Order")).toEqual({
      type: "Order",
      events: 2,
      first_seen_us: 1,
      last_seen_us: 2,
      expected_fields: 4,
      drift: { new_field: 0, type_change: 0, gone: 0 },
      fields: [
        ["id", ["integer", "number"], 1, 1, 2, 7],
        ["customer", ["object"], 0, 1, 2, null],
        ["customer.name", ["string"], 0.5, 1, 2, "Ana"],
        ["customer.tags", ["array"], 0, 1, 2, null],
        ["customer.tags[]", ["string", "integer"], 0.5, 1, 1, "a"],
        ["note", ["null"], 0, 1, 1, null],
        ["items", ["array"], 0, 2, 2, null],
        ["items[]", ["object"], 0, 2, 2, null],
        ["items[].sku", ["string"], 0.5, 2, 2, "x"],
      ].map(([path, types, fill_rate, first_seen_us, last_seen_us, sample]) => ({
        ...{ path, types, fill_rate, first_seen_us, last_seen_us, drift: null, sample },
      })),
    } as unknown as Shown);
  });

  test("learns hostile keys as keys, and spells them so that no two paths are the same", () => {
    const learner = new Learner();
    const keys = [
      "__proto__",
      "constructor",
      "a.b",
      "a",
      "",
      "x\u0000y",
      '"',
      "[]",
      "*",
      "toString",
      "çã",
      "\u202e",
    ];
    const body = `{${keys.map((key) => `${JSON.stringify(key)}:{"b":1}`).join(",")}}`;
    learner.see("T", body, body);
    const paths = learner.paths("T");
    expect(paths).toHaveLength(2 * keys.length);
    expect(new Set(paths).size).toBe(paths.length);
    expect(paths).toContain("__proto__.b");
    expect(paths).toContain('["a.b"].b');
    expect(paths).toContain("a.b");
    expect(paths).toContain('["*"].b');
    expect(paths).toContain('["x\\u0000y"].b');
    expect(({} as { b?: unknown }).b).toBeUndefined();
    const schema = JSON.parse(learner.schemas.show("T", "jsonschema", { dialect: true }) ?? "");
    expect(Object.keys(schema.properties).sort()).toEqual([...keys].sort());
    expect(schema.required.sort()).toEqual([...keys].sort());
  });

  test("keeps all digits of a large number in its sample", () => {
    const learner = new Learner();
    learner.see("T", '{"a":18446744073709551615,"b":[-9007199254740993],"c":1e400,"d":9007199254740991}');
    const text = learner.schemas.show("T", "plain", { dialect: true }) ?? "";
    const samples = ["18446744073709551615", "-9007199254740993", "1e400", "9007199254740991"];
    for (const sample of samples) expect(text).toContain(`"sample":${sample}}`);
    expect(learner.field("T", "a").types).toEqual(["integer"]);
    expect(learner.field("T", "c").types).toEqual(["number"]);
  });

  test("of an unknown type is learned, fills nothing and does not drift", () => {
    const learner = new Learner();
    learner.see(null, { a: 1 });
    expect(learner.see(null, { a: 1 })).toEqual([0]);
    for (let n = 0; n < 200; n++) learner.see(null, n < 100 ? { a: 1 } : { b: "x", a: "now a text" });
    expect(learner.paths("UnknownEvent")).toEqual(["a", "b"]);
    expect(learner.drift()).toEqual([]);
  });
});

describe("the fill rate of an event", () => {
  test("is the share of the fields expected before it that it fills", () => {
    const learner = new Learner();
    const rates = learner.see(
      "T",
      { a: 1, b: { c: "x" } },
      { a: 1, b: { c: "x" } },
      { a: 2 },
      // What is new with an event is not yet expected of it.
      { a: 2, d: [true, false] },
      { a: false, b: { c: "y" } },
      {},
    );
    expect(rates).toEqual([0, 1, 1 / 2, 1 / 2, 2 / 3, 0]);
  });

  test("counts null, an empty string and empty brackets as not filled, and false and 0 as filled", () => {
    const learner = new Learner();
    learner.see("T", { a: "x", b: 1, c: true, d: ["x"], e: { f: 1 } });
    expect(learner.see("T", { a: "", b: null, c: null, d: [], e: {} })).toEqual([0]);
    expect(learner.see("T", { a: " ", b: 0, c: false, d: ["", 0], e: { f: false } })).toEqual([1]);
  });

  test("no longer expects a field that under one event in a hundred fills", () => {
    const learner = new Learner();
    learner.see("T", { a: 1, rare: 1 });
    // The set of fields is looked at again every 64 events: 1 of 64 is above 1 %, 1 of 128 is below.
    learner.repeat(126, "T", () => ({ a: 1 }));
    expect(learner.see("T", { a: 1 })).toEqual([0.5]);
    expect(learner.see("T", { a: 1 })).toEqual([1]);
    // Nor does it begin to expect one that so few fill.
    expect(learner.see("T", { a: 1, once: 1 }, { a: 1 })).toEqual([1, 1]);
  });

  test("speaks of the newest events, so that a field of long ago fades and a new one counts", () => {
    const learner = new Learner();
    learner.repeat(8192 * 2, "T", () => ({ old: 1, a: 1 }));
    learner.repeat(8192 * 3, "T", () => ({ a: 1, young: 1 }));
    expect(learner.field("T", "old")).toMatchObject({ drift: "gone" });
    expect(learner.field("T", "old").fill_rate).toBeLessThan(0.3);
    expect(learner.field("T", "young").fill_rate).toBeGreaterThan(0.7);
    expect(learner.shown("T").expected_fields).toBe(2);
    expect(learner.see("T", { a: 1, young: 1 })).toEqual([1]);
  });

  test("is the same for the same events in the same order, with or without a restart between", () => {
    const value = fc.letrec<{ value: JsonValue }>((tie) => ({
      value: fc.oneof(
        { depthSize: "small" },
        fc.constantFrom<JsonValue>(null, "", "x", 0, 1.5, true),
        fc.array(tie("value"), { maxLength: 3 }),
        fc.dictionary(fc.constantFrom("a", "b", "c", "__proto__", "token"), tie("value"), { maxKeys: 4 }),
      ),
    })).value;
    const body = fc.dictionary(fc.constantFrom("a", "b", "c", "d", "e"), value, { maxKeys: 5 });
    const event = fc.tuple(fc.constantFrom("A", "B"), body);
    fc.assert(
      fc.property(fc.array(event, { minLength: 1, maxLength: 150 }), fc.nat(), (events, cut) => {
        const straight = new Learner();
        const table = new MemoryTable();
        const before = new Learner(table);
        const at = cut % events.length;
        const rates = events.map(([type, value]) => straight.see(type, value)[0]);
        const again = events.slice(0, at).map(([type, value]) => before.see(type, value)[0]);
        before.schemas[Symbol.dispose]();
        const after = new Learner(table);
        again.push(...events.slice(at).map(([type, value]) => after.see(type, value)[0]));
        expect(again).toEqual(rates);
        for (const rate of rates) expect(rate).toBeWithin(0, 1.0000001);
        const withoutTime = (shown: Shown): unknown => ({
          ...shown,
          ...{ first_seen_us: 0, last_seen_us: 0 },
          fields: shown.fields.map((field) => ({ ...field, first_seen_us: 0, last_seen_us: 0 })),
        });
        for (const type of straight.schemas.types()) {
          expect(withoutTime(after.shown(type))).toEqual(withoutTime(straight.shown(type)));
        }
      }),
      { seed: SEED, numRuns: 60 },
    );
  });
});

describe("drift", () => {
  test("is a field that comes after the type has settled, told once and of an object alone", () => {
    const learner = new Learner();
    learner.repeat(49, "T", () => ({ a: 1 }));
    learner.see("T", { a: 1, early: 1 });
    expect(learner.drift()).toEqual([]);
    learner.repeat(3, "T", () => ({ a: 1, late: { x: 1, y: [{ z: 1 }] } }));
    expect(learner.drift()).toEqual(["new_field T late"]);
    expect(learner.counter("schema_new_fields_total")).toBe(1);
    expect(learner.field("T", "late.y[].z").drift).toBe("new_field");
    learner.see("T", { a: 1, late: { x: 1, w: 2 } });
    expect(learner.drift().at(-1)).toBe("new_field T late.w");
    learner.repeat(1000, "T", () => ({ a: 1, late: { x: 1, y: [{ z: 1 }] } }));
    expect(learner.field("T", "late").drift).toBeNull();
  });

  test("is another JSON type than the one that was usual, but neither null nor a number with decimals", () => {
    const learner = new Learner();
    learner.repeat(30, "T", () => ({ a: 1, b: "x", c: { d: 1 } }));
    learner.see("T", { a: 1.5, b: null, c: { d: 1 } });
    expect(learner.drift()).toEqual([]);
    learner.repeat(3, "T", () => ({ a: "1", b: ["x"], c: 5 }));
    expect(learner.drift()).toEqual(["type_change T a", "type_change T b", "type_change T c"]);
    expect(learner.counter("schema_type_changes_total")).toBe(3);
    expect(learner.field("T", "a")).toMatchObject({ drift: "type_change", sample: "1" });
    // Within the first values of a field nothing is usual yet.
    learner.repeat(10, "U", (n) => ({ a: n % 2 === 0 ? 1 : "x" }));
    expect(learner.counter("schema_type_changes_total")).toBe(3);
  });

  test("is a field that stops coming, told once and of an object alone, until it comes again", () => {
    const learner = new Learner();
    learner.repeat(64, "T", () => ({ a: 1, o: { b: 1, c: "x" } }));
    learner.repeat(64, "T", () => ({ a: 1 }));
    expect(learner.drift()).toEqual([]);
    learner.repeat(64, "T", () => ({ a: 1 }));
    expect(learner.drift()).toEqual(["gone T o"]);
    expect(learner.field("T", "o.c").drift).toBe("gone");
    expect(learner.counter("schema_gone_fields_total")).toBe(1);
    // What is gone is not expected any more.
    expect(learner.see("T", { a: 1 })).toEqual([1]);
    learner.see("T", { a: 1, o: { b: 1, c: "y" } });
    expect(learner.field("T", "o.c").drift).toBeNull();
    expect(learner.counter("schema_gone_fields_total")).toBe(1);
  });

  test("is not seen in a field that comes as rarely as before", () => {
    const learner = new Learner();
    learner.repeat(5001, "T", (n) => (n % 200 === 0 ? { a: 1, rare: 1 } : { a: 1 }));
    learner.repeat(1500, "T", () => ({ a: 1 }));
    expect(learner.drift()).toEqual([]);
    learner.repeat(200, "T", () => ({ a: 1 }));
    expect(learner.drift()).toEqual(["gone T rare"]);
  });

  test("is told of the newest 20 changes", () => {
    const learner = new Learner();
    learner.repeat(51, "T", () => ({ a: 1 }));
    learner.repeat(30, "T", (n) => ({ a: 1, [`new${n}`]: 1 }));
    expect(learner.drift()).toHaveLength(20);
    expect(learner.drift().at(-1)).toBe("new_field T new29");
    expect(learner.schemas.drift.at(-1)?.at_us).toBe(81);
    expect(learner.counter("schema_new_fields_total")).toBe(30);
  });
});

describe("bounds", () => {
  test("an object whose keys are data is learned as a map, and its usual keys keep their names", () => {
    const learner = new Learner();
    learner.repeat(100, "T", (n) => ({
      users: { count: 1, [`u${n}`]: { name: "Ana", tags: [n] }, [`v${n}`]: { name: "", token: "s" } },
    }));
    const paths = learner.paths("T");
    expect(paths).toContain("users.count");
    expect(paths).toContain("users.*.name");
    expect(paths).toContain("users.*.tags[]");
    expect(paths.length).toBeLessThan(200);
    expect(learner.field("T", "users.*.token").sample).toBe("***");
    expect(learner.field("T", "users.*.name").fill_rate).toBeGreaterThan(0.5);
    expect(learner.schemas.gauges.schema_fields).toBe(learner.shown("T").fields.length);
    const schema = JSON.parse(learner.schemas.show("T", "jsonschema", { dialect: false }) ?? "");
    expect(schema.properties.users.additionalProperties.properties.name.type).toBe("string");
    learner.see("T", { users: { count: 1, brand_new: { name: "x" } } });
    expect(learner.paths("T")).not.toContain("users.brand_new");
  });

  test("a table with many columns is no map", () => {
    const learner = new Learner();
    const row = Object.fromEntries(Array.from({ length: 200 }, (_, n) => [`column_${n}`, n]));
    learner.repeat(100, "T", () => row);
    expect(learner.shown("T").fields).toHaveLength(200);
  });

  test("long keys are one, and hold no memory", () => {
    const learner = new Learner();
    learner.see("T", { ["k".repeat(65)]: "x", ["é".repeat(10_000)]: 1, ["k".repeat(64)]: 1 });
    expect(learner.paths("T")).toEqual(["k".repeat(64), "*"]);
  });

  test("a type has at most 512 fields, 16 levels, and what is beyond is counted", () => {
    const learner = new Learner();
    learner.see("Wide", Object.fromEntries(Array.from({ length: 600 }, (_, n) => [`k${n}`, n])));
    expect(learner.shown("Wide").fields).toHaveLength(512);
    expect(learner.counter("schema_skipped_fields_total")).toBe(88);
    learner.see("Deep", `${'{"a":'.repeat(127)}1${"}".repeat(127)}`);
    expect(learner.shown("Deep").fields).toHaveLength(16);
    learner.see("LongArray", { a: [...Array(32).fill(1), "x"] });
    expect(learner.field("LongArray", "a[]").types).toEqual(["integer"]);
    learner.see("DeepArray", `{"a":${"[".repeat(126)}${"]".repeat(126)}}`);
    expect(learner.shown("DeepArray").fields).toHaveLength(16);
  });

  test("a flood of made-up types leaves what is known well", () => {
    const learner = new Learner();
    learner.repeat(3, "Known", () => ({ a: 1 }));
    learner.repeat(1500, "", () => ({}));
    for (let n = 0; n < 3000; n++) learner.see(`Made-up ${n}`, { [`k${n}`]: n });
    expect(learner.schemas.types()).toHaveLength(1000);
    expect(learner.shown("Known").events).toBe(3);
    expect(learner.schemas.types()).toContain("Made-up 2999");
    expect(learner.schemas.types()).not.toContain("Made-up 500");
    expect(learner.counter("schema_dropped_types_total")).toBe(2002);
    expect(learner.schemas.gauges).toEqual({ schema_types: 1000, schema_fields: 999 });
  });

  test("all types together have at most 20,000 fields", () => {
    const learner = new Learner();
    const wide = Object.fromEntries(Array.from({ length: 500 }, (_, n) => [`k${n}`, n]));
    learner.repeat(2, "Known", () => wide);
    for (let n = 0; n < 60; n++) learner.see(`T${n}`, wide);
    expect(learner.schemas.gauges.schema_fields).toBe(20_000);
    expect(learner.shown("Known").fields).toHaveLength(500);
    expect(learner.shown("T59").fields).toHaveLength(500);
    expect(learner.schemas.types()).not.toContain("T0");
  });

  test("a body that is no JSON costs its statistics and nothing else", () => {
    const learner = new Learner();
    expect(learner.see("T", '{"a":')).toEqual([0]);
    expect(learner.counter("schema_unread_events_total")).toBe(1);
  });
});

describe("a large body", () => {
  test("is cut down to a JSON text of the same shape", () => {
    const text = fc.oneof(
      fc.string({ unit: "binary", maxLength: 8 }),
      fc
        .tuple(
          fc.constantFrom("x", "é", "😀", '"', "\\", "\n", "\u0001", '𝄞\\"'),
          fc.integer({ min: 1, max: 900 }),
        )
        .map(([unit, times]) => unit.repeat(times)),
    );
    const value = fc.letrec<{ value: JsonValue }>((tie) => ({
      value: fc.oneof(
        { depthSize: "small" },
        text,
        fc.double({ noNaN: true, noDefaultInfinity: true }),
        fc.constantFrom<JsonValue>(null, true, false, {}, []),
        fc.array(tie("value"), { maxLength: 40, size: "max" }),
        fc.dictionary(text, tie("value"), { maxKeys: 5 }),
      ),
    })).value;
    /** What may be left of a value: strings and arrays lose their ends. */
    const fits = (left: JsonValue, whole: JsonValue): boolean => {
      if (typeof whole === "string")
        return (
          left === whole ||
          (typeof left === "string" && left.length >= 80 && whole.startsWith(left.slice(0, -1)))
        );
      if (typeof whole !== "object" || whole === null) return Object.is(left, whole);
      if (typeof left !== "object" || left === null || Array.isArray(left) !== Array.isArray(whole))
        return false;
      if (Array.isArray(whole)) {
        const elements = left as JsonValue[];
        return (
          elements.length === Math.min(whole.length, 32) &&
          elements.every((element, index) => fits(element, whole[index] as JsonValue))
        );
      }
      const entries = Object.entries(left);
      const wholes = Object.entries(whole);
      return entries.every(([key, inner]) =>
        wholes.some(
          ([name, other]) => (name === key || name.startsWith(key.slice(0, -1))) && fits(inner, other),
        ),
      );
    };
    fc.assert(
      fc.property(
        fc.dictionary(text, value, { maxKeys: 6 }),
        fc.constantFrom(undefined, 1),
        (whole, space) => {
          const bytes = encode(JSON.stringify(whole, null, space));
          const short = condensed(bytes);
          const left = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(short));
          // Where no bound is near, only strings and arrays are shorter. JSON has no negative zero to be had back.
          if (bytes.length < 25_000) expect(fits(left, JSON.parse(JSON.stringify(whole)))).toBe(true);
          expect(short.length).toBeLessThan(33_500);
        },
      ),
      { seed: SEED, numRuns: 200, endOnFailure: true },
    );
  });

  test("is read past its attachment, at a cost that does not grow with it", () => {
    const learner = new Learner();
    const body = {
      type: "T",
      file: { name: "a.pdf", data: "QUJD".repeat(1_000_000) },
      caption: "Segue o contrato",
    };
    learner.see("T", body, body);
    expect(learner.paths("T")).toEqual(["type", "file", "file.name", "file.data", "caption"]);
  });

  test("that is hostile yields valid JSON: endless escapes, digits, brackets, white space, keys", () => {
    const many = 300_000;
    const bodies = [
      `{"a":"${'\\"'.repeat(many)}","b":1}`,
      `{"a":"${"\\\\".repeat(many)}","b":1}`,
      `{"a":${"1".repeat(many)},"b":1}`,
      `{"a":${"[".repeat(127)}${"]".repeat(127)},"b":"${"x".repeat(many)}"}`,
      `{"a":[${"[[],{}],".repeat(many)}0],"b":1}`,
      `{${" ".repeat(many)}"a":1}`,
      `{"a":[${'"x",'.repeat(many)}0],"b":1}`,
      `{${Array.from({ length: 50_000 }, (_, n) => `"${n}":{}`).join(",")}}`,
      `{"a":"${"ab\\u0001".repeat(many)}","b":1}`,
      `{"${"k".repeat(many)}":1,"b":{"${"\\u00e9".repeat(many)}":2}}`,
    ];
    for (const body of bodies) {
      const short = condensed(encode(body));
      expect(short.length).toBeLessThan(33_500);
      expect(typeof JSON.parse(new TextDecoder().decode(short))).toBe("object");
    }
    // The rest of an array is passed over, and what follows it is seen.
    const after = condensed(encode(`{"a":[${"[[],{}],".repeat(5000)}0],"b":1}`));
    expect(JSON.parse(new TextDecoder().decode(after)).b).toBe(1);
  });
});

describe("JSON Schema", () => {
  interface Rules {
    readonly type?: string | string[];
    readonly required?: string[];
    readonly properties?: Record<string, Rules>;
    readonly additionalProperties?: Rules;
    readonly items?: Rules;
  }

  const typeOf = (value: JsonValue): string => {
    if (value === null) return "null";
    return Array.isArray(value) ? "array" : typeof value;
  };

  /** As far as what is exported needs it. */
  const valid = (rules: Rules, value: JsonValue): boolean => {
    const types = [rules.type ?? []].flat();
    const whole = Number.isInteger(value) && types.includes("integer");
    if (types.length > 0 && !types.includes(typeOf(value)) && !whole) return false;
    if (Array.isArray(value)) {
      const { items } = rules;
      return value.every((element) => items === undefined || valid(items, element));
    }
    if (typeof value !== "object" || value === null) return true;
    const { required = [], properties = {}, additionalProperties } = rules;
    if (!required.every((key) => Object.hasOwn(value, key))) return false;
    return Object.entries(value).every(([key, inner]) => {
      const rule = Object.hasOwn(properties, key) ? properties[key] : additionalProperties;
      return rule === undefined || valid(rule, inner);
    });
  };

  test("is satisfied by every event that it was learned from", () => {
    const value = fc.letrec<{ value: JsonValue }>((tie) => ({
      value: fc.oneof(
        { depthSize: "small" },
        fc.constantFrom<JsonValue>(null, "", "x", 3, -1.5, 1e30, false),
        fc.array(tie("value"), { maxLength: 4 }),
        fc.dictionary(fc.constantFrom("a", "b", "c", "__proto__"), tie("value"), { maxKeys: 4 }),
      ),
    })).value;
    const event = fc.dictionary(fc.constantFrom("a", "b", "c", "d"), value, { maxKeys: 4 });
    fc.assert(
      fc.property(fc.array(event, { minLength: 1, maxLength: 30 }), (events) => {
        const learner = new Learner();
        learner.see("T", ...events);
        const schema = JSON.parse(learner.schemas.show("T", "jsonschema", { dialect: true }) ?? "");
        for (const body of events) expect(valid(schema, body)).toBe(true);
      }),
      { seed: SEED, numRuns: 200 },
    );
  });

  test("says what is required, and is written in draft 2020-12", () => {
    const learner = new Learner();
    learner.see("T", { a: 1, b: [{ c: "x" }, { c: "y", d: null }] }, { a: 2.5, b: [], password: "hunter2" });
    expect(JSON.parse(learner.schemas.show("T", "jsonschema", { dialect: true }) ?? "")).toEqual({
      $schema: "https://json-schema.org/draft/2020-12/schema",
      title: "T",
      description: "Learned from 2 events.",
      type: "object",
      properties: {
        a: { type: "number", examples: [1] },
        b: {
          type: "array",
          items: {
            type: "object",
            properties: { c: { type: "string", examples: ["x"] }, d: { type: "null" } },
            required: ["c"],
          },
        },
        password: { type: "string" },
      },
      required: ["a", "b"],
    });
  });
});

describe("a sample", () => {
  const sample = (value: string | number | boolean): unknown => JSON.parse(sampleOf(value, false));

  test("hides secrets by the names of their keys, and of the keys around them", () => {
    const learner = new Learner();
    learner.see("T", {
      access_token: "abc",
      Auth: { value: 1, deep: [{ x: "y" }] },
      cpf: 12345678909,
      action: "opened",
    });
    for (const path of ["access_token", "Auth.value", "Auth.deep[].x", "cpf"])
      expect(learner.field("T", path).sample).toBe("***");
    expect(learner.field("T", "action").sample).toBe("opened");
  });

  test("hides what looks like a secret or names a person", () => {
    expect(sample("sk_test_0A1b2C3d4E5f6G7h8I9j")).toBe("***");
    expect(sample("Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl1")).toBe("Bearer ***");
    expect(sample("https://user:pw@example.com/a?token=1#x")).toBe("https://***@example.com/a?***");
    expect(sample("fale com maria.souza@example.com.br hoje")).toBe("fale com ***@example.com.br hoje");
    expect(sample("meu CPF é 123.456.789-09")).toBe("meu CPF é 000.000.000-00");
    expect(sample("4111 1111 1111 1111")).toBe("0000 0000 0000 0000");
    expect(sample("+55 (11) 91234-5678")).toBe("+00 (00) 00000-0000");
  });

  test("shows what is harmless as it is", () => {
    for (const value of [
      "opened",
      "2024-05-01T10:11:12.345Z",
      "2024-05-01",
      "123e4567-e89b-12d3-a456-426614174000",
    ])
      expect(sample(value)).toBe(value);
    for (const value of ["https://example.com/a/b", "Quero cancelar meu plano", "R$ 1.999,90", 12.5, false])
      expect(sample(value)).toBe(value);
  });

  test("is short, well-formed and without control characters, whatever it came from", () => {
    expect(sample(`a\u0000b\u001b[31mc\u202ed\u2028${"x y ".repeat(100)}`)).toBe(
      `${`a b [31mc d ${"x y ".repeat(100)}`.slice(0, 63)}…`,
    );
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 700, size: "max" }), (value) => {
        const shown = JSON.parse(sampleOf(value, false)) as string;
        expect(shown.length).toBeLessThanOrEqual(64);
        expect(shown.isWellFormed()).toBe(true);
      }),
      { seed: SEED },
    );
  });
});

describe("a fingerprint", () => {
  const schemas = new Learner().schemas;
  const print = (body: unknown): string => schemas.fingerprint(bytesOf(body));
  const push = {
    action: "opened",
    repository: { id: 1, name: "a", private: false },
    commits: [{ id: "x", n: 1 }],
  };

  test("does not depend on whether a list of plain values holds any, but on what objects in a list are like", () => {
    const push = (added: unknown[]): object => ({ ref: "main", commits: [{ id: "a", added }] });
    expect(print(push(["b.c"]))).toBe(print(push([])));
    expect(print(push([{ path: "b.c" }]))).not.toBe(print(push([])));
    expect(print({ added: "b.c" })).not.toBe(print({ added: [] }));
  });

  test("does not depend on the order of keys, on values, or on the number of elements", () => {
    const shuffle = (value: JsonValue): JsonValue => {
      if (Array.isArray(value)) return value.map(shuffle);
      if (typeof value !== "object" || value === null) return value;
      return Object.fromEntries(
        Object.entries(value)
          .reverse()
          .map(([key, inner]) => [key, shuffle(inner)]),
      );
    };
    expect(print(shuffle(push))).toBe(print(push));
    expect(print({ ...push, repository: { id: 99, name: "b", private: true } })).toBe(print(push));
    expect(print({ ...push, commits: Array(7).fill({ id: "z", n: 2 }) })).toBe(print(push));
    expect(print(push)).toMatch(/^[0-9a-f]{32}$/);
    const value = fc.dictionary(
      fc.constantFrom("a", "b", "type", "c"),
      fc.jsonValue() as fc.Arbitrary<JsonValue>,
    );
    fc.assert(
      fc.property(value, (body) => {
        expect(fingerprintOf(shuffle(body) as never)).toBe(fingerprintOf(body));
      }),
      { seed: SEED },
    );
  });

  test("changes with a key, a type, and the value of a key that says what happened", () => {
    const others = [
      { ...push, action: "closed" },
      { ...push, extra: 1 },
      { ...push, commits: [{ id: 5, n: 1 }] },
      { ...push, repository: { id: 1, name: "a", private: null } },
      { ...push, repository: { id: 1, name: "a", private: { x: 1 } } },
      { ...push, repository: { id: 1, name: "a", private: false, "object-type": "fork" } },
      { ...push, commits: [] },
    ];
    expect(new Set([push, ...others].map(print)).size).toBe(others.length + 1);
  });

  test("takes keys and values that look like an id as one", () => {
    expect(print({ users: { "1234": { a: 1 }, "5678": { a: 1 } } })).toBe(
      print({ users: { "9": { a: 1 } } }),
    );
    expect(print({ object: "evt_20240501" })).toBe(print({ object: "evt_20240502" }));
    expect(print({ a: "user.action" })).toBe(print({ a: "other" }));
  });

  test("of a large body is bounded, and of its beginning", () => {
    const body = { kind: "upload", data: "x".repeat(3_000_000), after: 1 };
    expect(print(body)).toBe(print({ kind: "upload", data: "y", after: 2 }));
  });
});

describe("what was learned", () => {
  const options = (path: string) => ({
    path,
    ephemeral: null,
    nowUs: () => 1,
    randomU32: () => 7,
    bootId: "boot",
  });

  test("is kept in the journal, over restarts, hostile names included", () => {
    const path = join(folder, "kept.journal");
    const names = ["Order", "__proto__", "", "Olá 😀", "'; DROP TABLE schemas; --"];
    {
      using journal = Journal.open(options(path));
      const learner = new Learner(journal.table("schemas"));
      for (const name of names) learner.repeat(60, name, (n) => ({ a: n, b: { c: ["x"] } }));
      learner.see("Order", { a: 1, fresh: true });
      learner.schemas[Symbol.dispose]();
    }
    using journal = Journal.open(options(path));
    const learner = new Learner(journal.table("schemas"));
    expect(learner.schemas.types().sort()).toEqual([...names].sort());
    expect(learner.shown("Order").events).toBe(61);
    expect(learner.field("Order", "fresh").drift).toBe("new_field");
    expect(learner.see("__proto__", { a: 1, b: { c: [""] } })).toEqual([0.5]);
    expect(learner.schemas.gauges.schema_fields).toBe(4 * names.length + 1);
  });

  test("is written on its own, a while after it was learned, and not once an event", async () => {
    const table = new MemoryTable();
    let writes = 0;
    const counting: SmallTable = {
      all: () => [],
      write: (rows) => {
        writes += 1;
        table.write(rows);
      },
    };
    const learner = new Learner(counting);
    learner.repeat(500, "T", (n) => ({ a: n }));
    expect(writes).toBe(0);
    const endMs = performance.now() + 20_000;
    while (table.rows.size === 0 && performance.now() < endMs) await Bun.sleep(20);
    expect(writes).toBe(1);
    expect(JSON.parse(table.rows.get("T") ?? "").events).toBe(500);
  }, 30_000);

  test("that cannot be written is written later, and learning goes on", () => {
    const table = new MemoryTable();
    const learner = new Learner(table);
    table.failWith = new GatewayError({
      code: "disk_full",
      operation: "journal: write schemas",
      object: "/x.journal",
      detail: "no space",
    });
    learner.see("T", { a: 1 });
    learner.schemas[Symbol.dispose]();
    expect(table.rows.size).toBe(0);
    expect(learner.logged[0]).toContain("no space");
    expect(learner.counter("schema_write_failures_total")).toBe(1);
    table.failWith = null;
    learner.schemas[Symbol.dispose]();
    expect(table.rows.size).toBe(1);
  });

  test("of a dropped type leaves the table, too", () => {
    const table = new MemoryTable();
    const learner = new Learner(table);
    learner.see("First", { a: 1 });
    learner.schemas[Symbol.dispose]();
    expect([...table.rows.keys()]).toEqual(["First"]);
    for (let n = 0; n < 1000; n++) learner.see(`T${n}`, {}, {});
    learner.schemas[Symbol.dispose]();
    expect(table.rows.size).toBe(1000);
    expect(table.rows.has("First")).toBe(false);
  });

  test("and was damaged is learned anew, and the others are kept", () => {
    const table = new MemoryTable();
    const learner = new Learner(table);
    learner.see("Good", { a: 1 });
    learner.see("Bad", { a: "x" });
    learner.schemas[Symbol.dispose]();
    const good = table.rows.get("Bad") ?? "";
    const damaged = [
      "",
      "{",
      "null",
      good.replace('"version":1', '"version":2'),
      good.replace('"\\"x\\""', '"},"'),
      good.replace("[1,0,0,0,0,0,0]", "[-1,0,0,0,0,0,0]"),
      good.replace('["a"]', "[5]"),
    ];
    for (const text of damaged) {
      if (text === good) throw new Error("a damage that changes nothing");
      table.rows.set("Bad", text);
      const again = new Learner(table);
      expect({ text, types: again.schemas.types() }).toEqual({ text, types: ["Good"] });
      expect(again.logged[0]).toContain('"Bad"');
      expect(again.see("Bad", { a: "x" })).toEqual([0]);
    }
  });
});
