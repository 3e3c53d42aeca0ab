import { describe, expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import type { JsonValue } from "../../src/schemas/read.ts";
import { MemoryTable } from "../memory-table.ts";
import { bytesOf, Learner, SEED, type Shown } from "./learner.ts";

setDefaultTimeout(60_000);

describe("a schema", () => {
  test("has nested fields, each with its types, fill rate, first and last time, and a sample", () => {
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

  test("learns hostile keys like other keys, and gives each its own path", () => {
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

  test("of the unknown type is learned, but has no fill rate and no drift", () => {
    const learner = new Learner();
    learner.see(null, { a: 1 });
    expect(learner.see(null, { a: 1 })).toEqual([0]);
    for (let n = 0; n < 200; n++) learner.see(null, n < 100 ? { a: 1 } : { b: "x", a: "now a text" });
    expect(learner.paths("UnknownEvent")).toEqual(["a", "b"]);
    expect(learner.drift()).toEqual([]);
  });
});

describe("the fill rate of an event", () => {
  test("is the share that it fills of the fields that were expected before it", () => {
    const learner = new Learner();
    const rates = learner.see(
      "T",
      { a: 1, b: { c: "x" } },
      { a: 1, b: { c: "x" } },
      { a: 2 },
      // A field that first comes with an event is not yet expected in it.
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

  test("does not expect a field that fewer than one event in a hundred fill", () => {
    const learner = new Learner();
    learner.see("T", { a: 1, rare: 1 });
    // The expected fields are computed again every 64 events: 1 of 64 is above 1 %, 1 of 128 is below.
    learner.repeat(126, "T", () => ({ a: 1 }));
    expect(learner.see("T", { a: 1 })).toEqual([0.5]);
    expect(learner.see("T", { a: 1 })).toEqual([1]);
    // A field that so few fill does not become expected either.
    expect(learner.see("T", { a: 1, once: 1 }, { a: 1 })).toEqual([1, 1]);
  });

  test("depends on the newest events: an old field fades, and a new one counts", () => {
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
        const previews: number[] = [];
        const rates = events.map(([type, value]) => {
          previews.push(straight.schemas.preview(type, bytesOf(value)).fillRate);
          return straight.see(type, value)[0];
        });
        expect(previews).toEqual(rates as number[]);
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
  test("is a field that first comes after the type has settled; it is reported once, and for a new object only the object", () => {
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

  test("is another JSON type than before, but neither null nor a number with decimals", () => {
    const learner = new Learner();
    learner.repeat(30, "T", () => ({ a: 1, b: "x", c: { d: 1 } }));
    learner.see("T", { a: 1.5, b: null, c: { d: 1 } });
    expect(learner.drift()).toEqual([]);
    learner.repeat(3, "T", () => ({ a: "1", b: ["x"], c: 5 }));
    expect(learner.drift()).toEqual(["type_change T a", "type_change T b", "type_change T c"]);
    expect(learner.counter("schema_type_changes_total")).toBe(3);
    expect(learner.field("T", "a")).toMatchObject({ drift: "type_change", sample: "1" });
    // Among the first values of a field, another type is not a change yet.
    learner.repeat(10, "U", (n) => ({ a: n % 2 === 0 ? 1 : "x" }));
    expect(learner.counter("schema_type_changes_total")).toBe(3);
  });

  test("is a field that stops coming, until it comes again; it is reported once, and for an object only the object", () => {
    const learner = new Learner();
    learner.repeat(64, "T", () => ({ a: 1, o: { b: 1, c: "x" } }));
    learner.repeat(64, "T", () => ({ a: 1 }));
    expect(learner.drift()).toEqual([]);
    learner.repeat(64, "T", () => ({ a: 1 }));
    expect(learner.drift()).toEqual(["gone T o"]);
    expect(learner.field("T", "o.c").drift).toBe("gone");
    expect(learner.counter("schema_gone_fields_total")).toBe(1);
    // A field that has stopped coming is no longer expected.
    expect(learner.see("T", { a: 1 })).toEqual([1]);
    learner.see("T", { a: 1, o: { b: 1, c: "y" } });
    expect(learner.field("T", "o.c").drift).toBeNull();
    expect(learner.counter("schema_gone_fields_total")).toBe(1);
  });

  test("is not a field that comes as rarely as before", () => {
    const learner = new Learner();
    learner.repeat(5001, "T", (n) => (n % 200 === 0 ? { a: 1, rare: 1 } : { a: 1 }));
    learner.repeat(1500, "T", () => ({ a: 1 }));
    expect(learner.drift()).toEqual([]);
    learner.repeat(200, "T", () => ({ a: 1 }));
    expect(learner.drift()).toEqual(["gone T rare"]);
  });

  test("lists the newest 20 changes", () => {
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

  const byteObject = (bytes: number, first = 0): object =>
    Object.fromEntries(Array.from({ length: bytes }, (_, n) => [n, (first + n) % 256]));

  test("byte arrays that were written as objects are one field each, and the fields around them are learned", () => {
    const learner = new Learner();
    learner.repeat(80, "T", (n) => ({
      data: {
        key: { id: `3EB0${n}` },
        message: { mediaKey: byteObject(32, n), jpegThumbnail: byteObject(480 + 14 * n, n), caption: `${n}` },
      },
      sender: "x",
    }));
    expect(learner.paths("T")).toEqual([
      ...[
        "data",
        "data.key",
        "data.key.id",
        "data.message",
        "data.message.mediaKey",
        "data.message.mediaKey.*",
      ],
      ...["data.message.jpegThumbnail", "data.message.jpegThumbnail.*", "data.message.caption", "sender"],
    ]);
    expect(learner.field("T", "data.message.jpegThumbnail.*").types).toEqual(["integer"]);
    expect(learner.counter("schema_skipped_fields_total")).toBe(0);
    const { properties } = JSON.parse(learner.schemas.show("T", "jsonschema", { dialect: false }) ?? "");
    expect(properties.data.properties.message.properties.mediaKey.additionalProperties).toMatchObject({
      type: "integer",
    });
  });

  test("keys that are data are one field at once, beside the names in the same object", () => {
    const learner = new Learner();
    learner.see("T", {
      people: {
        count: 2,
        "5511987654321@s.whatsapp.net": { name: "Ana" },
        "3f2504e0-4f89-11d3-9a0c-0305e82c3301": { name: "Rui", age: 3 },
        "2026-11-28": { name: "" },
      },
    });
    learner.see("T", { people: { count: 1, total: 1, "17": { name: "Eva" } } });
    expect(learner.paths("T")).toEqual([
      "people",
      ...["count", "total", "*", "*.name", "*.age"].map((p) => `people.${p}`),
    ]);
    expect(learner.field("T", "people.*.name").fill_rate).toBe(1);
  });

  test("keys that differ only in their numbers are one field if they hold objects or are rare", () => {
    const learner = new Learner();
    const items = Object.fromEntries(
      Array.from({ length: 100 }, (_, n) => [`item${n}`, { id: n, price: 1, tags: ["x"] }]),
    );
    learner.see("Nested", { order: { total: 1, ...items } });
    expect(learner.paths("Nested")).toEqual([
      ...["order", "order.total", "order.*", "order.*.id", "order.*.price", "order.*.tags", "order.*.tags[]"],
    ]);
    learner.repeat(200, "Rare", (n) => ({ seen: { [`u-${n}`]: 1 } }));
    expect(learner.paths("Rare")).toEqual(["seen", "seen.*"]);
  });

  test("secrets under keys that are data stay hidden", () => {
    const learner = new Learner();
    learner.see("T", { token_1234567: "abc", tokens: { "1234567": "def" } });
    expect(learner.field("T", "token_1234567").sample).toBe("***");
    expect(learner.field("T", "tokens.*").sample).toBe("***");
  });

  test("a full schema makes room by merging keys that differ only in their numbers", () => {
    const learner = new Learner();
    const wide = Object.fromEntries(Array.from({ length: 600 }, (_, n) => [`k${n}`, n]));
    learner.see("T", wide);
    expect(learner.shown("T").fields).toHaveLength(512);
    learner.see("T", { ...wide, name: "x" });
    learner.see("T", { ...wide, other: { name: "x" } });
    expect(learner.paths("T")).toEqual(["*", "*.name"]);
    expect(learner.schemas.gauges.schema_fields).toBe(2);
  });

  test("a table with many columns is not a map", () => {
    const learner = new Learner();
    const row = Object.fromEntries(Array.from({ length: 200 }, (_, n) => [`column_${n}`, n]));
    learner.repeat(100, "T", () => row);
    expect(learner.shown("T").fields).toHaveLength(200);
  });

  test("all long keys are learned as one field, so they take no memory", () => {
    const learner = new Learner();
    learner.see("T", { ["k".repeat(65)]: "x", ["é".repeat(10_000)]: 1, ["k".repeat(64)]: 1 });
    expect(learner.paths("T")).toEqual(["k".repeat(64), "*"]);
  });

  test("a type has at most 512 fields and 16 levels, and skipped fields are counted", () => {
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

  test("a flood of invented types does not drop a type that is known well", () => {
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

  test("a body that is not JSON is counted and otherwise ignored", () => {
    const learner = new Learner();
    expect(learner.see("T", '{"a":')).toEqual([0]);
    expect(learner.counter("schema_unread_events_total")).toBe(1);
  });
});
