/** Questions at servers whose context is small, in the words of such servers. */
import { describe, expect, test } from "bun:test";
import * as v from "valibot";
import { Budget } from "../../src/llm/budget.ts";
import { type AskContext, askModel } from "../../src/llm/completion.ts";
import { judged } from "../../src/llm/failure.ts";
import { Forms } from "../../src/llm/forms.ts";
import { pieces } from "../../src/llm/stream.ts";
import { Tally } from "../../src/llm/tally.ts";
import { scripted } from "./scripted.ts";

interface Sizes {
  readonly context: number;
  readonly prompt: number;
  readonly reply: number;
}

const WORDS: Readonly<Record<string, (sizes: Sizes) => string>> = {
  "vLLM's old words": ({ context, prompt, reply }) =>
    `This model's maximum context length is ${context} tokens. However, you requested ${prompt + reply} tokens (${prompt} in the messages, ${reply} in the completion).`,
  "vLLM's new words": ({ context, prompt, reply }) =>
    `'max_tokens' or 'max_completion_tokens' is too large: ${reply}. This model's maximum context length is ${context} tokens and your request has ${prompt} input tokens.`,
  "words without a number": () =>
    "the request exceeds the available context size. try increasing the context size",
  "words that tell the context alone": ({ context }) =>
    `the model is loaded with context length of only ${context} tokens`,
};

/** A server with a context of so many tokens, one for each four characters of the prompt. */
function serverOf(contextTokens: number, words: (sizes: Sizes) => string) {
  const asked: { tokens: number; chars: number }[] = [];
  const { endpoint } = scripted(({ body }) => {
    const { messages, max_tokens, stream } = body as {
      messages: { content: string }[];
      max_tokens: number;
      stream: boolean;
    };
    const chars = messages.reduce((sum, { content }) => sum + content.length, 0);
    asked.push({ tokens: max_tokens, chars });
    const prompt = Math.ceil(chars / 4) + 20;
    if (prompt + max_tokens > contextTokens) {
      const message = words({ context: contextTokens, prompt, reply: max_tokens });
      return Response.json({ object: "error", message, code: 400 }, { status: 400 });
    }
    if (!stream) return Response.json({ choices: [{ message: { content: '{"hello":"you"}' } }] });
    return new Response('data: {"choices":[{"delta":{"content":"Hello"}}]}\n\ndata: [DONE]\n\n');
  });
  const context: AskContext = {
    ...{ endpoint, model: "m", forms: new Forms(), tally: new Tally(), judge: judged },
    budget: new Budget({ callsMax: null, kept: null, nowUs: () => 0, write: () => {} }),
  };
  return { asked, context, limit: endpoint.limit(1000, []) };
}

const questionOf = (data: string) => ({
  ...{ kind: "greeting", system: "Say hello.", data, schema: v.object({ hello: v.string() }) },
  ...{ jsonSchema: { type: "object" }, maxTokens: 2048, deadlineMs: 1000 },
});
const ANSWER = { ok: true as const, value: { hello: "you" } };

for (const [whose, words] of Object.entries(WORDS)) {
  describe(`a context of 2,048 tokens, in ${whose}`, () => {
    test("a question is asked with fewer tokens, and the next one at once", async () => {
      const { asked, context, limit } = serverOf(2048, words);
      expect(await askModel(context, questionOf("Hi"), limit)).toEqual(ANSWER);
      const calls = asked.length;
      expect(calls).toBeLessThan(4);
      for (let n = 0; n < 3; n++)
        expect(await askModel(context, questionOf(`Hi ${n}`), limit)).toEqual(ANSWER);
      expect(asked.length).toBe(calls + 3);
      expect(asked.at(-1)?.tokens).toBeGreaterThan(200);
      // The schema was not to blame.
      expect(context.forms.refusedBy("m").size).toBe(0);
    });

    test("a question whose data leave no room is asked with less of them", async () => {
      const { asked, context, limit } = serverOf(2048, words);
      expect(await askModel(context, questionOf("reclamação ".repeat(1200)), limit)).toEqual(ANSWER);
      expect(asked.at(-1)?.chars).toBeGreaterThan(1000);
      expect(await askModel(context, questionOf("Hi"), limit)).toEqual(ANSWER);
      expect(asked.at(-1)?.tokens).toBeGreaterThan(200);
    });

    test("a stream is asked for fewer tokens, too", async () => {
      const { context, limit } = serverOf(2048, words);
      const shown: string[] = [];
      const request = {
        messages: [{ role: "user" as const, content: "Hi" }],
        maxTokens: 2048,
        deadlineMs: 1000,
      };
      for await (const piece of pieces(context, request, limit)) shown.push(piece);
      expect(shown).toEqual(["Hello"]);
    });
  });
}

test("a context that has no room for any question is a failure that says what to do, after a few calls", async () => {
  for (const words of Object.values(WORDS)) {
    const { asked, context, limit } = serverOf(30, words);
    const outcome = await askModel(context, questionOf("x".repeat(4000)), limit);
    expect(outcome).toMatchObject({
      failure: { reason: "too_long", detail: expect.stringMatching(/context.*larger context/), weight: 0.6 },
    });
    expect(asked.length).toBeLessThan(12);
  }
});

test("a limit of the reply alone is respected", async () => {
  const { endpoint } = scripted(({ body }) => {
    const { max_tokens } = body as { max_tokens: number };
    return max_tokens > 512
      ? Response.json(
          { error: { message: "`max_tokens` must be less than or equal to `512`" } },
          { status: 400 },
        )
      : Response.json({ choices: [{ message: { content: '{"hello":"you"}' } }] });
  });
  const { context } = serverOf(1, () => "");
  const limit = endpoint.limit(1000, []);
  expect(await askModel({ ...context, endpoint }, questionOf("Hi"), limit)).toEqual(ANSWER);
  expect(context.forms.contexts.tokensFor("m", 2048, 100)).toBe(512);
});

test("a stream leaves out what the model refuses", async () => {
  const { endpoint, sent } = scripted(({ body }) =>
    (body as { messages: { role: string }[] }).messages[0]?.role === "system"
      ? Response.json({ error: { message: "this model has no system role" } }, { status: 400 })
      : new Response('data: {"choices":[{"delta":{"content":"Hello"}}]}\n\n'),
  );
  const { context } = serverOf(1, () => "");
  const messages = [
    { role: "system", content: "Be kind." },
    { role: "user", content: "Hi" },
  ] as const;
  const shown: string[] = [];
  const limit = endpoint.limit(1000, []);
  for await (const piece of pieces(
    { ...context, endpoint },
    { messages, maxTokens: 9, deadlineMs: 1 },
    limit,
  ))
    shown.push(piece);
  expect([shown, sent.length, [...context.forms.refusedBy("m")]]).toEqual([["Hello"], 2, ["system"]]);
});
