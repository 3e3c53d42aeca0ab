import { describe, expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { fingerprintOf } from "../../src/schemas/fingerprint.ts";
import type { JsonValue } from "../../src/schemas/read.ts";
import { bytesOf, Learner, SEED } from "./learner.ts";

setDefaultTimeout(60_000);

describe("a fingerprint", () => {
  const schemas = new Learner().schemas;
  const print = (body: unknown): string => schemas.fingerprint(bytesOf(body));
  const push = {
    action: "opened",
    repository: { id: 1, name: "a", private: false },
    commits: [{ id: "x", n: 1 }],
  };

  test("does not change if a list of plain values is empty, but depends on the shape of objects in a list", () => {
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

  test("changes with a key, a type, and the value of a key that names the kind of event", () => {
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

  test("treats all keys that look like ids as one key, and ignores values that look like ids", () => {
    expect(print({ users: { "1234": { a: 1 }, "5678": { a: 1 } } })).toBe(
      print({ users: { "9": { a: 1 } } }),
    );
    expect(print({ object: "evt_20240501" })).toBe(print({ object: "evt_20240502" }));
    expect(print({ a: "user.action" })).toBe(print({ a: "other" }));
  });

  test("of a large body depends on its condensed form only", () => {
    const body = { kind: "upload", data: "x".repeat(3_000_000), after: 1 };
    expect(print(body)).toBe(print({ kind: "upload", data: "y", after: 2 }));
  });
});
