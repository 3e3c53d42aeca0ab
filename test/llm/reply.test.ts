import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import * as v from "valibot";
import { completionOf, lastValid } from "../../src/llm/reply.ts";

describe("replies", () => {
  const schema = v.object({ intent: v.string() });
  const found = (content: unknown, beside: object = {}): unknown => {
    const completion = completionOf({ choices: [{ message: { content, ...beside } }] });
    const result = lastValid(completion?.texts ?? [], schema);
    return result.ok ? result.value.intent : null;
  };

  test("the last balanced object that satisfies the schema is the answer", () => {
    expect(found('{"intent":"B"} no: {"intent":"A"} {"a":1}')).toBe("A");
    expect(found('{"intent":"A","other":{"intent":"Inner"}}')).toBe("A");
    expect(found('{"answer":{"intent":"Inner"}}')).toBe("Inner");
    expect(found('{"intent":"with } and \\" and { in it"}')).toBe('with } and " and { in it');
    expect(found('{"intent":"use <think> tags, not [THINK]</think>"}')).toBe(
      "use <think> tags, not [THINK]</think>",
    );
    expect(found('{ not json } {"intent":"A"}')).toBe("A");
    expect(found('an open { brace, and {"intent":"A"}')).toBe("A");
    expect(found('[{"intent":"B"},{"intent":"A"}]')).toBe("A");
    expect(found('{"intent":NaN}')).toBeNull();
    expect(found('{"intent":"A"')).toBeNull();
    expect(found("")).toBeNull();
  });

  test("without an answer, the last object that stands in no other tells what is wrong", () => {
    const why = (text: string) => lastValid([text], schema);
    expect(why('{"intent":1} {"intent":true,"x":{"y":1}}')).toMatchObject({
      why: expect.stringContaining("received true"),
    });
    expect(why("no object")).toEqual({ ok: false, json: false, why: "the reply holds no JSON object" });
  });

  test("a part of a list that holds a thought is not read", () => {
    const parts = [
      { type: "thinking", thinking: [{ type: "text", text: '{"intent":"No"}' }], text: '{"intent":"No"}' },
      { type: "text", text: '{"intent":"A"}' },
    ];
    expect(found(parts)).toBe("A");
    expect(found(parts.toReversed())).toBe("A");
  });

  test("thoughts in a field of their own are searched only if nothing was said", () => {
    expect(found("", { reasoning: 'So {"intent":"B"}, or rather {"intent":"A"}' })).toBe("A");
    expect(found(null, { reasoning_content: '<think>{"intent":"No"} no.</think>{"intent":"A"}' })).toBe("A");
    expect(found(null, { reasoning_content: '<think>{"intent":"No"} or' })).toBeNull();
    expect(found("I cannot say.", { reasoning: '{"intent":"No"}' })).toBeNull();
  });

  test("an object within a thought is not the answer, however the tags are written", () => {
    expect(found('<think>{"intent":"No"}</think>{"intent":"A"}')).toBe("A");
    expect(found('<THINK >{"intent":"No"}</Think>{"intent":"A"}')).toBe("A");
    expect(found('<think><think>{"intent":"No"}</think>{"intent":"No"}</think>{"intent":"A"}')).toBe("A");
    expect(found('<think>{"intent":"No"}<think>x</think></think>{"intent":"A"}')).toBe("A");
    expect(found('{"intent":"No"}</think>{"intent":"A"}')).toBe("A");
    expect(found('{"intent":"No"}</think>{"intent":"No"}</think>{"intent":"A"}')).toBe("A");
    expect(found('<think>{"intent":"No"}</think> I cannot say.')).toBeNull();
    expect(found('{"intent":"A"}<think>and now {"intent":"No"}')).toBe("A");
    expect(found('{"intent":"No"}</think> I cannot say.')).toBeNull();
  });

  test("a thought that is one object and nothing else holds an answer that a grammar forced into it", () => {
    expect(found('<think>{"intent":"Forced"}')).toBe("Forced");
    expect(found('<think>\n```json\n{"intent":"Forced"}\n```')).toBe("Forced");
    expect(found('{"intent":"Forced"}</think>')).toBe("Forced");
    expect(found('<result>{"intent":"Wrapped"}</result>')).toBe("Wrapped");
    expect(found('<wuzzle>{"intent":"Wrapped"}</wuzzle>')).toBe("Wrapped");
    expect(found('<think>It may be {"intent":"No"}')).toBeNull();
    expect(found('<wuzzle>It may be {"intent":"No"}</wuzzle>')).toBeNull();
    expect(found(`<think>${" ".repeat(60_000)}x{`)).toBeNull();
  });

  test("the search for JSON reads a bounded number of characters, however the braces are nested", () => {
    let looked = 0;
    class CountingText extends String {
      override charCodeAt(at: number): number {
        looked++;
        return super.charCodeAt(at);
      }
    }
    for (const text of ["{".repeat(65_536), '{"'.repeat(32_768), "[{".repeat(32_000)]) {
      looked = 0;
      const counting = new CountingText(text) as unknown as string;
      expect(lastValid([counting, counting], schema).ok).toBe(false);
      expect(looked).toBeGreaterThan(text.length - 2);
      expect(looked).toBeLessThan(2 * 1024 * 1024);
    }
    expect(found("<think>".repeat(9000))).toBeNull();
  });

  test("a reply of any shape never throws, and a completion never has an empty text", () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.string(), (value, content) => {
        completionOf(value);
        const completion = completionOf({
          choices: [{ message: { content, reasoning: value, reasoning_content: value } }],
        });
        expect(completion).not.toBeNull();
        for (const text of completion?.texts ?? []) expect(text.trim()).not.toBe("");
      }),
    );
  });
});
