import { expect, test } from "bun:test";
import { integerOf, POSITION, parameterless, parametersOf } from "../../src/http/parameters.ts";

const known = ["limit", "q"];

test("known parameters are decoded, and empty ones count as absent", () => {
  expect(parametersOf("limit=5&q=ol%C3%A1+mundo", known)).toEqual(
    new Map([
      ["limit", "5"],
      ["q", "olá mundo"],
    ]),
  );
  expect(parametersOf("limit=&q", known)).toEqual(new Map());
  expect(parametersOf("", known)).toEqual(new Map());
});

test("an unknown parameter is refused by its name, with a list of the known ones", () => {
  expect(parametersOf("colour=red", known)).toMatchObject({
    code: "bad_parameter",
    detail: expect.stringContaining('"colour"'),
    hint: expect.stringContaining("limit, q"),
  });
  expect(parameterless("x=1")).toMatchObject({ code: "bad_parameter", hint: "it takes no parameters" });
  expect(parameterless("")).toBeNull();
});

test("a parameter that is given twice is refused, unless one of the two is empty", () => {
  expect(parametersOf("limit=5&limit=6", known)).toMatchObject({
    code: "bad_parameter",
    detail: expect.stringContaining("limit"),
  });
  expect(parametersOf("limit=&limit=6", known)).toEqual(new Map([["limit", "6"]]));
});

test("an integer is taken inside its range, and refused outside with the range in the hint", () => {
  const read = (text: string, range = { min: 1, max: 1000 }) =>
    integerOf(new Map([["limit", text]]), "limit", range);
  expect(read("1")).toBe(1);
  expect(read("1000")).toBe(1000);
  expect(read(String(Number.MAX_SAFE_INTEGER), POSITION)).toBe(Number.MAX_SAFE_INTEGER);
  for (const text of ["0", "1001", "-1", "1.5", "1e2", " 1", "0x1", "ten", "9".repeat(17)])
    expect(read(text)).toMatchObject({
      code: "bad_parameter",
      detail: `limit is ${JSON.stringify(text)}`,
      hint: expect.stringContaining("1 to 1000"),
    });
  expect(read("9007199254740992", POSITION)).toMatchObject({ hint: expect.stringContaining("2^53 - 1") });
  expect(integerOf(new Map(), "limit", POSITION)).toBeUndefined();
});
