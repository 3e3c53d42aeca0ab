import { describe, expect, test } from "bun:test";
import { Field, isChange, JSON_TYPES, type JsonType, typeOf } from "../../src/schemas/field.ts";

test("a JSON value has one of the seven types; a number without decimals is an integer", () => {
  const values = ["", 1e30, 1.5, false, null, {}, []];
  expect(values.map((value) => JSON_TYPES[typeOf(value)])).toEqual([...JSON_TYPES]);
});

describe("another JSON type", () => {
  const changes = (had: Partial<Record<JsonType, number>>, type: JsonType): boolean => {
    const field = new Field(null, "element", false);
    for (const [index, name] of JSON_TYPES.entries()) field.values[index] = had[name] ?? 0;
    return isChange(field, JSON_TYPES.indexOf(type));
  };

  test("is a change only after the field has had 20 values of others", () => {
    expect([changes({ string: 19 }, "array"), changes({ string: 20 }, "array")]).toEqual([false, true]);
    expect(changes({ string: 12, boolean: 8 }, "array")).toBe(true);
  });

  test("is not a change if it is null, and nulls do not count as values", () => {
    expect(changes({ string: 100 }, "null")).toBe(false);
    expect(changes({ null: 100 }, "string")).toBe(false);
  });

  test("is not a change between integers and numbers", () => {
    expect(changes({ integer: 100 }, "number")).toBe(false);
    expect(changes({ number: 100 }, "integer")).toBe(false);
    expect(changes({ string: 100 }, "number")).toBe(true);
  });
});
