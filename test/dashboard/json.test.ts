import { describe, expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { memberText, prettyJson } from "../../src/dashboard/json.ts";

const seed = Number(process.env.FC_SEED ?? Date.now() % 1e9);
console.log(`dashboard/json: FC_SEED=${seed}`);
fc.configureGlobal({ seed });
setDefaultTimeout(60_000);

describe("json", () => {
  test("indented JSON has the same value", () => {
    fc.assert(
      fc.property(fc.json(), (json) => {
        const pretty = prettyJson(json, 1e6).join("\n");
        expect(JSON.parse(pretty)).toEqual(JSON.parse(json));
      }),
    );
  });

  test("it is indented as JSON.stringify does, up to a number of lines", () => {
    const value = { a: [1, { b: "x, {y}: \\" }], empty: {}, none: [] };
    const expected = JSON.stringify(value, null, 2);
    expect(prettyJson(JSON.stringify(value), 100).join("\n")).toBe(expected);
    expect(prettyJson(JSON.stringify(value), 3).length).toBe(3);
  });

  test("a member is found by its name, at the top level only", () => {
    fc.assert(
      fc.property(
        fc.dictionary(fc.string(), fc.jsonValue(), { maxKeys: 5 }),
        fc.jsonValue(),
        (object, value) => {
          const { payload: _, ...rest } = object;
          const text = memberText(JSON.stringify({ ...rest, payload: value, z: 1 }), "payload");
          expect(JSON.parse(text ?? "missing")).toEqual(JSON.parse(JSON.stringify(value)));
          expect(memberText(JSON.stringify({ x: { payload: 1 } }), "payload")).toBeNull();
        },
      ),
    );
  });
});
