import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import * as v from "valibot";
import { completionOf, firstValid, ThoughtFilter, withoutThoughts } from "../../src/llm/reply.ts";

describe("replies", () => {
  const schema = v.object({ intent: v.string() });
  const found = (text: string): unknown => {
    const { spoken, unclosed } = withoutThoughts(text);
    const result = firstValid([spoken, unclosed], schema);
    return result.ok ? result.value.intent : null;
  };

  test("the first balanced object that satisfies the schema is the answer", () => {
    expect(found('{"a":1} then {"intent":"A"} then {"intent":"B"}')).toBe("A");
    expect(found('{"answer":{"intent":"Inner"}}')).toBe("Inner");
    expect(found('{"intent":"with } and \\" and { in it"}')).toBe('with } and " and { in it');
    expect(found('{ not json } {"intent":"A"}')).toBe("A");
    expect(found('an open { brace, and {"intent":"A"}')).toBe("A");
    expect(found('[{"intent":"A"}]')).toBe("A");
    expect(found('{"intent":NaN}')).toBeNull();
    expect(found('{"intent":"A"')).toBeNull();
    expect(found("")).toBeNull();
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
    expect(found('<think>{"intent":"Forced"}')).toBe("Forced");
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
      expect(firstValid([counting, counting], schema).ok).toBe(false);
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

  test("a filter of pieces shows the same text wherever the pieces are cut", () => {
    const text = "<think>a<b</think>Hi <b>there</b> < 3 <think>x<think>y</think></think>!";
    fc.assert(
      fc.property(fc.array(fc.nat(text.length), { maxLength: 12 }), (cuts) => {
        const filter = new ThoughtFilter();
        const edges = [0, ...cuts.sort((a, b) => a - b), text.length];
        let shown = "";
        for (let at = 1; at < edges.length; at++) shown += filter.push(text.slice(edges[at - 1], edges[at]));
        expect(shown + filter.end()).toBe("Hi <b>there</b> < 3 !");
      }),
    );
  });
});
