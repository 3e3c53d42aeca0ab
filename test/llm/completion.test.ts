import { describe, expect, test } from "bun:test";
import * as v from "valibot";
import { converse } from "../../src/llm/completion.ts";
import { askingOf } from "./scripted.ts";

const REQUEST = {
  kind: "greeting",
  system: "Say hello.",
  data: "Hi",
  schema: v.object({ hello: v.string() }),
  jsonSchema: { type: "object" },
  maxTokens: 9,
  deadlineMs: 1000,
};

describe("a question", () => {
  test("is asked in full: rules, data, schema, bound and temperature", async () => {
    const { asking, limit, bodies } = askingOf(['{"hello":"you"}']);
    expect(await converse(asking, REQUEST, limit)).toEqual({ ok: true, value: { hello: "you" } });
    expect(bodies()).toEqual([
      {
        model: "m",
        messages: [
          { role: "system", content: "Say hello." },
          { role: "user", content: 'The data:\n"Hi"' },
        ],
        max_tokens: 9,
        temperature: 0,
        response_format: {
          type: "json_schema",
          json_schema: { name: "greeting", strict: true, schema: { type: "object" } },
        },
        stream: false,
      },
    ]);
  });

  test("is asked without what is refused, and what was refused is remembered once the rest is taken", async () => {
    const { asking, limit, bodies } = askingOf([400, '{"hello":"you"}']);
    expect((await converse(asking, REQUEST, limit)).ok).toBe(true);
    expect([...asking.forms.refusedBy("m")]).toEqual(["json_schema"]);
    expect(bodies().map(({ response_format }) => response_format === undefined)).toEqual([false, true]);
    // The model learns the schema from the rules instead.
    expect(bodies()[1]?.messages[0]?.content).toContain('{"type":"object"}');
  });

  test("that is refused in every form fails, and nothing is learned from it", async () => {
    const { asking, limit, bodies } = askingOf([400, 400, '{"hello":"you"}']);
    expect(await converse(asking, REQUEST, limit)).toMatchObject({
      ok: false,
      failure: { reason: "refused" },
    });
    expect([bodies().length, asking.forms.refusedBy("m").size]).toEqual([2, 0]);
  });

  test("is asked once more with what was wrong, and no third time", async () => {
    const { asking, limit, bodies } = askingOf(['{"hello":1}', '{"hello":2}', '{"hello":"you"}']);
    expect(await converse(asking, REQUEST, limit)).toMatchObject({
      failure: { reason: "invalid", weight: 0.6 },
    });
    expect(bodies()[1]?.messages.map(({ role }) => role)).toEqual(["system", "user", "assistant", "user"]);
    expect(bodies().length).toBe(2);
    expect(asking.tally.counters).toMatchObject({ llm_calls_total: 2, llm_corrections_total: 0 });
  });

  test("keeps its schema after an object, and goes without after words alone", async () => {
    for (const [first, hasSchema] of [
      ['{"hello":1}', true],
      ["Hello!", false],
    ] as const) {
      const { asking, limit, bodies } = askingOf([first, '{"hello":"you"}']);
      expect((await converse(asking, REQUEST, limit)).ok).toBe(true);
      expect("response_format" in (bodies()[1] ?? {})).toBe(hasSchema);
      expect(asking.tally.corrections).toBe(1);
    }
  });

  test("that is used up by the budget is not asked, not even a second time", async () => {
    const { asking, limit, bodies } = askingOf(['{"hello":1}', '{"hello":"you"}'], 1);
    expect(await converse(asking, REQUEST, limit)).toMatchObject({
      failure: { reason: "budget", weight: 0 },
    });
    expect(bodies().length).toBe(1);
  });

  test("with a reply that is no completion fails at once", async () => {
    const { asking, limit, bodies } = askingOf([Response.json({ error: "no" })]);
    expect(await converse(asking, REQUEST, limit)).toMatchObject({ failure: { reason: "no_completion" } });
    expect(bodies().length).toBe(1);
  });
});
