import { describe, expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import type { JsonValue } from "../../src/schemas/read.ts";
import { Learner, SEED } from "./learner.ts";

setDefaultTimeout(60_000);

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

  /** A validator of the keywords that the gateway writes. */
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

  test("accepts every event that it was learned from", () => {
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

  test("lists required members, and is written in draft 2020-12", () => {
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
