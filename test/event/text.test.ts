/** The text that is embedded for an event. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { LIMITS, textOf } from "../../src/event/event.ts";
import { bytesOf, hostileString, jsonText, jsonValue, seeded } from "./fixtures.ts";

// Generous, because the machine may be busy.
setDefaultTimeout(60_000);
seeded("text.test.ts");

describe("the embedded text", () => {
  const text = (value: unknown) =>
    textOf(null, bytesOf(typeof value === "string" ? value : JSON.stringify(value)));
  test("is the message, if there is one", () => {
    expect(textOf("hello", bytesOf('{"message":"hello","a":"b"}'))).toBe("hello");
  });

  test("is otherwise the strings in their order, with their paths", () => {
    expect(
      text({ b: "x", a: { "deep.er": ["y", 5, { z: "w" }, ["v"]], n: 1 }, e: "", t: true, "": "k" }),
    ).toBe(["b: x", "a.deep.er[0]: y", "a.deep.er[2].z: w", "a.deep.er[3][0]: v", ": k"].join("\n"));
    expect(text(' { "k\\u00e9" : "a\\"b\\\\" , "l" : [ "[{,:}]" ] } ')).toBe('ké: a"b\\\nl[0]: [{,:}]');
  });

  test("is empty without any string", () => {
    for (const value of [{}, { a: 1, b: [true, null, { c: 2 }] }, { a: "" }]) expect(text(value)).toBe("");
  });

  test("has at most 8,192 characters, no half of a pair and no lone surrogate", () => {
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
        // A walk over the parsed value visits integer keys first, so the order of lines is not compared.
        const lines = (joined: string) => joined.split("\n").sort();
        expect(lines(text(body))).toEqual(lines(walk(JSON.parse(body), "", []).join("\n").toWellFormed()));
      }),
    );
  });
});
