import { describe, expect, test } from "bun:test";
import * as v from "valibot";
import { askModel } from "../../src/llm/completion.ts";
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
  test("is sent in full: instructions, data, schema, bound and temperature", async () => {
    const { context, limit, bodies } = askingOf(['{"hello":"you"}']);
    expect(await askModel(context, REQUEST, limit)).toEqual({ ok: true, value: { hello: "you" } });
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

  test("is sent again without a refused part, which is remembered once the rest is accepted", async () => {
    const { context, limit, bodies } = askingOf([400, '{"hello":"you"}']);
    expect((await askModel(context, REQUEST, limit)).ok).toBe(true);
    expect([...context.forms.refusedBy("m")]).toEqual(["json_schema"]);
    expect(bodies().map(({ response_format }) => response_format === undefined)).toEqual([false, true]);
    // The instructions carry the schema instead.
    expect(bodies()[1]?.messages[0]?.content).toContain('{"type":"object"}');
  });

  test("that is refused in every form fails, and no refusal is remembered", async () => {
    const { context, limit, bodies } = askingOf([400, 400, '{"hello":"you"}']);
    expect(await askModel(context, REQUEST, limit)).toMatchObject({
      ok: false,
      failure: { reason: "refused" },
    });
    expect([bodies().length, context.forms.refusedBy("m").size]).toEqual([2, 0]);
  });

  test("is asked a second time with what was wrong, and not a third time", async () => {
    const { context, limit, bodies } = askingOf(['{"hello":1}', '{"hello":2}', '{"hello":"you"}']);
    expect(await askModel(context, REQUEST, limit)).toMatchObject({
      failure: { reason: "invalid", weight: 0.6 },
    });
    expect(bodies()[1]?.messages.map(({ role }) => role)).toEqual(["system", "user", "assistant", "user"]);
    expect(bodies().length).toBe(2);
    expect(context.tally.counters).toMatchObject({ llm_calls_total: 2, llm_corrections_total: 0 });
  });

  test("keeps its schema after a wrong object, and drops it after a reply without one", async () => {
    for (const [first, hasSchema] of [
      ['{"hello":1}', true],
      ["Hello!", false],
    ] as const) {
      const { context, limit, bodies } = askingOf([first, '{"hello":"you"}']);
      expect((await askModel(context, REQUEST, limit)).ok).toBe(true);
      expect("response_format" in (bodies()[1] ?? {})).toBe(hasSchema);
      expect(context.tally.corrections).toBe(1);
    }
  });

  test("is not asked a second time if the budget is used up", async () => {
    const { context, limit, bodies } = askingOf(['{"hello":1}', '{"hello":"you"}'], 1);
    expect(await askModel(context, REQUEST, limit)).toMatchObject({
      failure: { reason: "budget", weight: 0 },
    });
    expect(bodies().length).toBe(1);
  });

  test("fails at once if the reply is not a completion", async () => {
    const { context, limit, bodies } = askingOf([Response.json({ choices: [] })]);
    expect(await askModel(context, REQUEST, limit)).toMatchObject({ failure: { reason: "no_completion" } });
    expect(bodies().length).toBe(1);
  });
});
