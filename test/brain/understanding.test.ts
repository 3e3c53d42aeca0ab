import { describe, expect, test } from "bun:test";
import {
  isOpen,
  ofFields,
  typed,
  type Understanding,
  withExample,
  withReply,
} from "../../src/brain/understanding.ts";
import type { JournalEvent } from "../../src/journal/journal.ts";

function given(fields: Partial<JournalEvent> = {}): Understanding {
  return ofFields({ type: null, fields: null, ...fields } as JournalEvent);
}

const NEAREST = { label: "Refund", best: "Refund", score: 0.9, confidence: 0.8 };
const REPLY = { intent: "Cancel", sentiment: -0.5, confidence: 0.7 };

describe("what is known of an event", () => {
  test("is what its sender gave, with full confidence in a given intent", () => {
    expect(given({ type: "Chat", fields: { intent: "Mine", sentiment: 0.5 } })).toEqual({
      ...{ type: "Chat", typeFrom: "given", intent: "Mine", intentFrom: "given", confidence: 1 },
      ...{ sentiment: 0.5, sentimentFrom: "given" },
    });
    expect(given()).toEqual({
      ...{ type: null, typeFrom: null, intent: null, intentFrom: null, confidence: 0 },
      ...{ sentiment: null, sentimentFrom: null },
    });
  });

  test("takes the label of the nearest examples only if nobody gave an intent", () => {
    expect(withExample(given(), NEAREST)).toMatchObject({
      ...{ intent: "Refund", intentFrom: "examples", confidence: 0.8 },
    });
    const mine = given({ fields: { intent: "Mine" } });
    expect(withExample(mine, NEAREST)).toEqual(mine);
    expect(withExample(given(), { ...NEAREST, label: null })).toEqual(given());
    expect(withExample(given(), null)).toEqual(given());
  });

  test("takes from a reply what is open, and no more", () => {
    expect(withReply(given(), REPLY, "llm")).toMatchObject({
      ...{ intent: "Cancel", intentFrom: "llm", confidence: 0.7, sentiment: -0.5, sentimentFrom: "llm" },
    });
    expect(withReply(given({ fields: { intent: "Mine" } }), REPLY, "cache")).toMatchObject({
      ...{ intent: "Mine", intentFrom: "given", confidence: 1, sentiment: -0.5, sentimentFrom: "cache" },
    });
  });

  test("keeps a given sentiment", () => {
    const happy = given({ fields: { sentiment: 0.5 } });
    expect(withReply(happy, REPLY, "llm")).toMatchObject({ sentiment: 0.5, sentimentFrom: "given" });
  });

  test("knows that the model was asked and did not know the intent", () => {
    const asked = withReply(given(), { ...REPLY, intent: null }, "llm");
    expect(asked).toMatchObject({ intent: null, intentFrom: "llm", confidence: 0, type: null });
    expect(isOpen(asked)).toBe(false);
  });

  test("is open while intent or sentiment is neither known nor asked for", () => {
    expect(isOpen(given())).toBe(true);
    expect(isOpen(given({ fields: { intent: "Mine" } }))).toBe(true);
    expect(isOpen(given({ fields: { sentiment: 0 } }))).toBe(true);
    expect(isOpen(given({ fields: { intent: "Mine", sentiment: 0 } }))).toBe(false);
  });

  test("has the intent of a message as its type, unless the sender gave one", () => {
    expect(typed(withExample(given(), NEAREST))).toMatchObject({ type: "Refund", typeFrom: "examples" });
    expect(typed(given({ type: "Chat", fields: { intent: "Mine" } })).type).toBe("Chat");
    expect(typed(given())).toEqual(given());
  });
});
