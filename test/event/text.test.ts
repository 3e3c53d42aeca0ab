/** The text of an event that is embedded. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { LIMITS, textOf } from "../../src/event/event.ts";
import { bytesOf, hostileString, jsonText, jsonValue, seeded } from "./fixtures.ts";

// A busy machine takes its time.
setDefaultTimeout(60_000);
seeded("text.test.ts");

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
