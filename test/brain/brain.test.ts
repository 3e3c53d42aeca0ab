/** The brain's questions, and who answers them, against a stub endpoint. */
import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import * as v from "valibot";
import { Brain, type Known } from "../../src/brain/brain.ts";
import { MESSAGE_QUESTION, pascalCase } from "../../src/brain/prompts.ts";
import type { RememberedReply } from "../../src/brain/remembered-replies.ts";
import type { JournalEvent } from "../../src/journal/journal.ts";
import type { Nearest } from "../../src/nearest/nearest.ts";
import type { LlmStub } from "../e2e/llm-stub.ts";
import { CAR, CAR_ANSWER, Opened, PATIENCE_MS, until } from "../llm/open-llm.ts";

setDefaultTimeout(PATIENCE_MS);

const opened = new Opened();
afterEach(() => opened.close());

test("the schema leaves a grammar no answer that would be refused", () => {
  const { properties } = MESSAGE_QUESTION.jsonSchema as {
    properties: Record<"intent" | "sentiment" | "confidence", { pattern?: string; enum?: number[] }>;
  };
  const { intent, sentiment, confidence } = properties;
  const label = new RegExp(intent.pattern ?? "");
  expect(
    [CAR, "", "A", "no", "RefundRequest", "Unknown", "A".repeat(65)].filter((text) => label.test(text)),
  ).toEqual(["RefundRequest", "Unknown"]);
  expect([sentiment.enum?.length, confidence.enum?.length]).toEqual([21, 11]);
  for (const [at, tenth] of [...(sentiment.enum ?? [])].entries()) {
    const answer = { intent: "A1", sentiment: tenth, confidence: Math.abs(tenth) };
    expect(v.safeParse(MESSAGE_QUESTION.schema, answer).success).toBe(true);
    expect(String(tenth)).toMatch(/^-?\d(\.\d)?$/);
    expect(at).toBe(Math.round(10 * tenth) + 10);
  }
});

test("labels are PascalCase, or none", () => {
  const labels: [string, string | null][] = [
    ["CarInsuranceRequest", "CarInsuranceRequest"],
    ["GitHubPush", "GitHubPush"],
    ["car insurance request", "CarInsuranceRequest"],
    ["car_insurance-request", "CarInsuranceRequest"],
    ["CAR_INSURANCE", "CarInsurance"],
    ["solicitação de seguro", "SolicitacaoDeSeguro"],
    ["he wants $$$", null],
    ["<b>", null],
    ["", null],
    ["123", null],
    ["a b c d e f g h i", null],
    ["x".repeat(80), null],
    ["保険", null],
  ];
  expect(labels.map(([text]) => [text, pascalCase(text)])).toEqual(labels);
});

function eventOf(fields: Partial<JournalEvent> & { json?: object } = {}): JournalEvent {
  const { json, ...rest } = fields;
  return {
    seq: 1,
    receivedUs: 0,
    id: "e",
    type: null,
    message: null,
    conversationId: null,
    timestampUs: null,
    fields: null,
    body: new TextEncoder().encode(JSON.stringify(json ?? {})),
    ...rest,
  };
}

function brainAt(
  stub: LlmStub,
  shapes = new Map<string, string>(),
  replies = new Map<string, RememberedReply>(),
) {
  const brain = new Brain({
    llm: opened.llmAt(stub.baseUrl),
    deadlineMs: PATIENCE_MS,
    excerpt: (body) => new TextDecoder().decode(body),
    fingerprint: (body) => Object.keys(JSON.parse(new TextDecoder().decode(body))).join(),
    shapes: {
      all: () => [...shapes].map(([key, value]) => ({ key, value })),
      write: (rows) => {
        for (const { key, value } of rows) value === null ? shapes.delete(key) : shapes.set(key, value);
      },
    },
    replies: {
      recall: (text) => replies.get(text) ?? null,
      remember: (text, reply) => void replies.set(text, reply),
      keepOnly: (model) => {
        for (const [text, reply] of replies) if (reply.model !== model) replies.delete(text);
      },
    },
  });
  return { brain, replies };
}

async function learn(brain: Brain, event: JournalEvent, known: Known): Promise<unknown> {
  const answer = await brain.ask(event, known);
  return answer.ok ? answer.value : answer.reason;
}

describe("understanding", () => {
  const near: Nearest = { label: "Refund", best: "Refund", score: 0.9, confidence: 0.8 };
  const MODEL = "stub-7b-instruct";
  const remembered = { intent: "Other", sentiment: -0.25, confidence: 0.5, model: MODEL };

  test("given values come before examples, examples before remembered replies, and these before the model", async () => {
    const stub = await opened.stubIn("well");
    const { brain } = brainAt(stub, new Map(), new Map([[CAR, remembered]]));
    const given = eventOf({ message: CAR, type: "Chat", fields: { intent: "Mine", sentiment: 0.5 } });
    expect(brain.known(given, near)).toEqual({
      question: null,
      understanding: {
        ...{ type: "Chat", typeFrom: "given", intent: "Mine", intentFrom: "given", confidence: 1 },
        ...{ sentiment: 0.5, sentimentFrom: "given" },
      },
    });
    const message = eventOf({ message: CAR });
    expect(brain.known(message, near)).toEqual({
      question: null,
      understanding: {
        ...{
          type: "Refund",
          typeFrom: "examples",
          intent: "Refund",
          intentFrom: "examples",
          confidence: 0.8,
        },
        ...{ sentiment: -0.25, sentimentFrom: "cache" },
      },
    });
    expect(brain.known(message, { ...near, label: null }).understanding).toMatchObject({
      ...{ type: "Other", typeFrom: "cache", intentFrom: "cache", confidence: 0.5 },
    });
    const { brain: fresh, replies } = brainAt(stub);
    const open = fresh.known(message, near);
    expect(open.question).toBe("message");
    expect(await learn(fresh, message, open)).toMatchObject({
      ...{ intent: "Refund", intentFrom: "examples", sentiment: 0.25, sentimentFrom: "llm" },
    });
    expect([...replies]).toEqual([[CAR, { ...CAR_ANSWER, model: MODEL }]]);
  });

  test("if many messages of one text wait, the model is asked about one of them", async () => {
    const stub = await opened.stubIn("well");
    const { brain } = brainAt(stub);
    const event = eventOf({ message: CAR });
    const waiting = brain.known(event, null);
    await learn(brain, event, waiting);
    expect(brain.completed(event, waiting.understanding)).toMatchObject({
      question: null,
      understanding: { intent: "CarInsuranceRequest", intentFrom: "cache", sentimentFrom: "cache" },
    });
  });

  test("another model's reply is not used once this model is found, and is forgotten when this one replies", async () => {
    const stub = await opened.stubIn("well");
    const replies = new Map([[CAR, { ...remembered, model: "old" }]]);
    const { brain } = brainAt(stub, new Map(), replies);
    const event = eventOf({ message: CAR });
    // Until a model is found, the reply of another one is better than none.
    expect(brain.known(event, null).understanding.intent).toBe("Other");
    await until("the model is known", () => brain.llm.state.model !== null);
    expect(brain.known(event, null)).toMatchObject({ question: "message", understanding: { intent: null } });
    const other = eventOf({ message: "Quero cancelar meu plano" });
    await learn(brain, other, brain.known(other, null));
    expect([...replies.keys()]).toEqual(["Quero cancelar meu plano"]);
  });

  test("two long messages count as the same if the model is shown the same part of both", async () => {
    const stub = await opened.stubIn("well");
    const { brain } = brainAt(stub);
    const [one, two] = ["a", "b"].map((end) => eventOf({ message: `${CAR} ${"x".repeat(4000)}${end}` }));
    await learn(brain, one as JournalEvent, brain.known(one as JournalEvent, null));
    expect(brain.known(two as JournalEvent, null).question).toBeNull();
  });

  test("messages of one shape get the type that each writer's intent gives", async () => {
    const { brain } = brainAt(await opened.stubIn("thinking"));
    const types: unknown[] = [];
    for (const message of [CAR, "Quero cancelar meu plano"]) {
      const event = eventOf({ message, json: { message } });
      types.push(((await learn(brain, event, brain.known(event, null))) as { type: string }).type);
    }
    expect(types).toEqual(["CarInsuranceRequest", "PlanCancellation"]);
  });

  test("for events without a message, the model is asked once per shape, and a restart remembers the type", async () => {
    const stub = await opened.stubIn("well");
    const shapes = new Map<string, string>();
    const { brain } = brainAt(stub, shapes);
    const push = (n: number): JournalEvent => eventOf({ json: { pusher: `u${n}`, ref: "main" } });
    const learned = await Promise.all(
      [1, 2, 3].map((n) => learn(brain, push(n), brain.known(push(n), null))),
    );
    for (const understanding of learned)
      expect(understanding).toMatchObject({ type: "GitHubPush", typeFrom: "llm" });
    expect(stub.calls).toBe(1);
    const again = brainAt(stub, shapes).brain;
    expect(again.known(push(4), null)).toMatchObject({
      question: null,
      understanding: { type: "GitHubPush", typeFrom: "shape" },
    });
    expect(again.known(eventOf({ json: { paid: 3 } }), null).question).toBe("event");
    expect(again.known({ ...push(5), type: "Mine" }, null).understanding.typeFrom).toBe("given");
  });

  test("the model is not asked again about a shape that it cannot name, and the shape is not kept", async () => {
    const stub = await opened.stubIn("well");
    const shapes = new Map<string, string>();
    const { brain } = brainAt(stub, shapes);
    const odd = eventOf({ json: { odd: 1 } });
    expect(await learn(brain, odd, brain.known(odd, null))).toMatchObject({ type: null, typeFrom: "llm" });
    expect(brain.known(odd, null)).toMatchObject({ question: null, understanding: { type: null } });
    expect(shapes.size).toBe(0);
  });

  test("the number of remembered shapes is bounded, and the least recently used is forgotten", async () => {
    const shapes = new Map(Array.from({ length: 10_000 }, (_, n) => [`shape${n}`, "Known"]));
    const { brain } = brainAt(await opened.stubIn("well"), shapes);
    // This use makes shape1 the least recently used.
    expect(brain.known(eventOf({ json: { shape0: 1 } }), null).understanding.type).toBe("Known");
    const event = eventOf({ json: { pusher: 1 } });
    await learn(brain, event, brain.known(event, null));
    expect([brain.shapes, shapes.size]).toEqual([10_000, 10_000]);
    expect([shapes.has("shape0"), shapes.has("shape1"), shapes.get("pusher")]).toEqual([
      true,
      false,
      "GitHubPush",
    ]);
  });
});
