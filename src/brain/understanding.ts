/**
 * What is known of an event, and where each value comes from. What the sender gave comes before the nearest examples,
 * these before a remembered reply, and that before the model. Part of the brain; pure functions.
 */
import type { JournalEvent } from "../journal/journal.ts";
import type { Nearest } from "../nearest/nearest.ts";
import type { MessageReply } from "./prompts.ts";

/** Where a value comes from. */
export type Origin = "given" | "examples" | "cache" | "llm" | "shape";

/**
 * What is known of an event; null: not known. If `…From` is set beside a null, that origin was asked and did not know.
 */
export interface Understanding {
  readonly type: string | null;
  readonly typeFrom: Origin | null;
  readonly intent: string | null;
  readonly intentFrom: Origin | null;
  /** How sure the intent is, 0 to 1. */
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

/** Takes the label of the nearest examples as the intent, unless the sender gave one. */
export function withExample(before: Understanding, nearest: Nearest | null): Understanding {
  if (before.intent !== null || nearest === null || nearest.label === null) return before;
  return { ...before, intent: nearest.label, intentFrom: "examples", confidence: nearest.confidence };
}

/** Whether the model could add something: it is not asked again for what it did not know. */
export function isOpen({ intent, intentFrom, sentiment, sentimentFrom }: Understanding): boolean {
  return (intent === null && intentFrom === null) || (sentiment === null && sentimentFrom === null);
}

/** Fills what is open with a reply of the model, now or remembered, and leaves the rest as it is. */
export function withReply(before: Understanding, reply: MessageReply, from: "cache" | "llm"): Understanding {
  let full = before;
  if (full.intent === null) {
    const { intent, confidence } = reply;
    full = { ...full, intent, intentFrom: from, confidence: intent === null ? 0 : confidence };
  }
  if (full.sentiment === null) full = { ...full, sentiment: reply.sentiment, sentimentFrom: from };
  return typed(full);
}
