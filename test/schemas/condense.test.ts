import { describe, expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { condensed } from "../../src/schemas/condense.ts";
import type { JsonValue } from "../../src/schemas/read.ts";
import { encode, Learner, SEED } from "./learner.ts";

setDefaultTimeout(60_000);

describe("a large body", () => {
  test("is condensed to a JSON text of the same shape", () => {
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
    /** Whether `left` may remain of `whole`: strings and arrays may lose their ends. */
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
          // Below the bounds, only strings and arrays become shorter. (JSON.stringify turns −0 into 0.)
          if (bytes.length < 25_000) expect(fits(left, JSON.parse(JSON.stringify(whole)))).toBe(true);
          expect(short.length).toBeLessThan(33_500);
        },
      ),
      { seed: SEED, numRuns: 200, endOnFailure: true },
    );
  });

  test("is read beyond its attachment, at a cost that does not depend on its size", () => {
    const learner = new Learner();
    const body = {
      type: "T",
      file: { name: "a.pdf", data: "QUJD".repeat(1_000_000) },
      caption: "Segue o contrato",
    };
    learner.see("T", body, body);
    expect(learner.paths("T")).toEqual(["type", "file", "file.name", "file.data", "caption"]);
  });

  test("becomes valid JSON even if it is hostile: endless escapes, digits, brackets, white space, keys", () => {
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
    // The rest of an array is skipped, and what follows it is seen.
    const after = condensed(encode(`{"a":[${"[[],{}],".repeat(5000)}0],"b":1}`));
    expect(JSON.parse(new TextDecoder().decode(after)).b).toBe(1);
  });

  const parsed = (text: string): unknown => JSON.parse(new TextDecoder().decode(condensed(encode(text))));

  test("loses the elements of an array after the 32nd, whatever they hold, and keeps what follows", () => {
    const rest = ['{"a":[1,{"b":"]"}]}', '"\\"]"', "[[],[[]]]", "true"].join(",");
    const whole = (elements: number): string => `{"a":[${`${rest},`.repeat(elements / 4)}0],"b":{"c":1}}`;
    expect((parsed(whole(28)) as { a: unknown[] }).a).toHaveLength(29);
    expect((parsed(whole(400)) as { a: unknown[] }).a).toHaveLength(32);
    expect(parsed(whole(400))).toMatchObject({ b: { c: 1 } });
  });

  test("loses the members of an object whose keys are numbers after the 32nd, and keeps what follows", () => {
    const object = (members: number, more = ""): string =>
      `{${Array.from({ length: members }, (_, n) => ` "${n}" : ${n % 3 === 0 ? '{"a":["}",1]}' : '"\\",x"'} `).join(",")}${more}}`;
    const members = (text: string): number => Object.keys((parsed(text) as { a: object }).a).length;
    expect(members(`{"a":${object(20)},"b":1}`)).toBe(20);
    expect(members(`{"a":${object(32)},"b":1}`)).toBe(32);
    for (const more of ["", ',"z":{"1":2}', ',"z":{"1":2},"9":1', ',"n0":1,"00":[]']) {
      const text = `{"a":${object(4000, more)},"b":{"c":1}}`;
      expect(parsed(text)).toMatchObject({ b: { c: 1 } });
      expect(members(text)).toBe(32 + (more.match(/"[zn]/g)?.length ?? 0));
    }
    // As Baileys' thumbnails come, a megabyte of them is skipped.
    const bytes = Array.from({ length: 100_000 }, (_, n) => `"${n}":${n % 256}`).join(",");
    expect(parsed(`{"a":{${bytes}},"b":1}`)).toMatchObject({ b: 1 });
  });

  test("is shown to the model with what stands behind an attachment and byte arrays", () => {
    const { schemas } = new Learner();
    const bytes = Object.fromEntries(Array.from({ length: 700 }, (_, n) => [n, n % 256]));
    const body = {
      a: bytes,
      b: "QUJD".repeat(10_000),
      list: Array(500).fill("x"),
      key: bytes,
      caption: "olá",
    };
    const shown = schemas.excerpt(encode(JSON.stringify(body)));
    expect(shown.length).toBeLessThan(600);
    expect(JSON.parse(shown)).toMatchObject({ caption: "olá", list: Array(8).fill("x") });
    expect(schemas.excerpt(encode('{ "small" : 1 }'))).toBe('{ "small" : 1 }');
  });

  test("ends at brackets that are nested deeper than an event may be, also inside skipped elements", () => {
    const nest = (levels: number): string => "[".repeat(levels) + "]".repeat(levels);
    expect(parsed(`{"a":1,"b":${nest(199)},"c":2}`)).toMatchObject({ c: 2 });
    expect(parsed(`{"a":1,"b":${nest(200)},"c":2}`)).toEqual({ a: 1, b: JSON.parse(nest(199)) });
    const after = (levels: number): unknown => parsed(`{"a":[${"1,".repeat(32)}${nest(levels)}],"b":2}`);
    expect(after(198)).toEqual({ a: Array(32).fill(1), b: 2 });
    expect(after(199)).toEqual({ a: Array(32).fill(1) });
  });

  test("ends where the steps are used up, and is complete up to there", () => {
    const keys = (bytes: number): string => `{"a":1,${" ".repeat(bytes)}"b":2}`;
    expect(parsed(keys(100_000))).toEqual({ a: 1, b: 2 });
    expect(parsed(keys(128 * 1024))).toEqual({ a: 1 });
  });
});
