/**
 * What is known of an event, and from where: what was given comes before examples, examples before remembered replies,
 * and these before the model. Part of the brain; pure.
 */
import type { JournalEvent } from "../journal/journal.ts";
import type { Nearest } from "../nearest/nearest.ts";
import type { MessageReply } from "./prompts.ts";

/** Where a value is from. */
export type Origin = "given" | "examples" | "cache" | "llm" | "shape";

/** What is known of an event; null: not known. A source without a value was asked and did not know. */
export interface Understanding {
  readonly type: string | null;
  readonly typeFrom: Origin | null;
  readonly intent: string | null;
  readonly intentFrom: Origin | null;
  /** Of the intent, 0 to 1. */
  readonly confidence: number;
  readonly sentiment: number | null;
  readonly sentimentFrom: Origin | null;
}

export function ofFields(event: JournalEvent): Understanding {
  const { intent, sentiment } = event.fields ?? {};
  return {
    type: event.type,
    typeFrom: event.type === null ? null : "given",
    intent: intent ?? null,
    intentFrom: intent === undefined ? null : "given",
    confidence: intent === undefined ? 0 : 1,
    sentiment: sentiment ?? null,
    sentimentFrom: sentiment === undefined ? null : "given",
  };
}

/** The type of a message is what its writer wants, unless its sender gave one. */
export function typed(understanding: Understanding): Understanding {
  const { type, intent, intentFrom } = understanding;
  return type !== null || intent === null
    ? understanding
    : { ...understanding, type: intent, typeFrom: intentFrom };
}

/** The label of the nearest examples, where nobody said the intent. */
export function withExample(said: Understanding, nearest: Nearest | null): Understanding {
  if (said.intent !== null || nearest === null || nearest.label === null) return said;
  return { ...said, intent: nearest.label, intentFrom: "examples", confidence: nearest.confidence };
}

/** Whether the model could add something. A source without a value was asked already, and did not know. */
export function isOpen({ intent, intentFrom, sentiment, sentimentFrom }: Understanding): boolean {
  return (intent === null && intentFrom === null) || (sentiment === null && sentimentFrom === null);
}

/** What the model says, or said, of a message fills what is open, and no more. */
export function withReply(said: Understanding, reply: MessageReply, from: "cache" | "llm"): Understanding {
  let full = said;
  if (full.intent === null) {
    const { intent, confidence } = reply;
    full = { ...full, intent, intentFrom: from, confidence: intent === null ? 0 : confidence };
  }
  if (full.sentiment === null) full = { ...full, sentiment: reply.sentiment, sentimentFrom: from };
  return typed(full);
}
