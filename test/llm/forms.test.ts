import { expect, test } from "bun:test";
import { blame, type Feature, Forms, messagesOf, tokensOf } from "../../src/llm/forms.ts";

const without = (...features: Feature[]): ReadonlySet<Feature> => new Set(features);

test("a refusal is blamed on the part that its text names, else on the schema", () => {
  const cases: [status: number | null, detail: string, without: Feature[], blamed: Feature | null][] = [
    [400, "Unsupported parameter: 'max_tokens'", [], "max_tokens"],
    [400, "temperature must be 1", [], "temperature"],
    [422, "'response_format.type' must be 'text'", [], "json_schema"],
    [500, "failed to parse grammar", [], "json_schema"],
    [400, "System role not supported", [], "system"],
    [400, "Conversation roles must alternate", [], "system"],
    [400, "no", [], "json_schema"],
    [400, "no", ["json_schema"], null],
    // A part that was left out is not to blame.
    [400, "max_tokens", ["max_tokens"], "json_schema"],
    // A broken server fails in any form, unless its error names a part.
    [500, "oops", [], null],
    [503, "grammar", [], null],
    [401, "grammar", [], null],
    [null, "grammar", [], null],
  ];
  expect(cases.map(([status, detail, left]) => blame({ status, detail }, without(...left)))).toEqual(
    cases.map(([, , , blamed]) => blamed),
  );
});

test("instructions are a system turn, or stand in front of the first turn", () => {
  const turns = [
    { role: "user", content: "Hi" },
    { role: "assistant", content: "?" },
  ] as const;
  expect(messagesOf("Be brief", turns, without())).toEqual([
    { role: "system", content: "Be brief" },
    ...turns,
  ]);
  expect(messagesOf("Be brief", turns, without("system"))).toEqual([
    { role: "user", content: "Be brief\n\nHi" },
    { role: "assistant", content: "?" },
  ]);
  expect(messagesOf("Be brief", [], without("system"))).toEqual([{ role: "system", content: "Be brief" }]);
});

test("the token limit has the name that the model accepts", () => {
  expect(tokensOf(9, without())).toEqual({ max_tokens: 9 });
  expect(tokensOf(9, without("max_tokens"))).toEqual({ max_completion_tokens: 9 });
});

test("a refusal is remembered for its model only", () => {
  const forms = new Forms();
  forms.learn("a", ["temperature"]);
  forms.learn("a", ["system"]);
  expect([...forms.refusedBy("a")]).toEqual(["temperature", "system"]);
  expect(forms.refusedBy("b").size).toBe(0);
});

test("the schema is left out after two questions in a row that came right only without it", () => {
  const forms = new Forms();
  const has = (): boolean => !forms.refusedBy("m").has("json_schema");
  forms.noteAnswer("m", false, 1);
  forms.noteAnswer("m", true, 0);
  forms.noteAnswer("m", false, 1);
  expect(has()).toBe(true);
  // A first attempt without the schema shows nothing about the schema.
  forms.noteAnswer("m", false, 0);
  expect(has()).toBe(true);
  forms.noteAnswer("m", false, 1);
  expect(has()).toBe(false);
});
