/**
 * What happened, what do they want, how do they feel: the type of an event, and intent and sentiment of a message, from
 * what is given, what is known already, and a language model, in this order. And the face of that model for others.
 */

import { UNKNOWN_EVENT } from "../frame.ts";
import type { JournalEvent, SmallTable } from "../journal/journal.ts";
import type { LlmClient, LlmRefusal } from "../llm/contract.ts";
import type { Nearest } from "../nearest/nearest.ts";
import type { RememberedAnswers } from "./answer-cache.ts";
import { dataOf, EVENT_QUESTION, type EventAnswer, MESSAGE_QUESTION, type MessageAnswer } from "./prompts.ts";

export { Chat, type ChatPart, type ChatState } from "./chat.ts";
export { type Changed, INTENT_LIMITS, type IntentExamples, Intents, type IntentsState } from "./intents.ts";
export { MESSAGE_QUESTION } from "./prompts.ts";

/** Tokens of one answer, thoughts included. */
const ANSWER_TOKENS_MAX = 2048;
/** Of a body, what is looked at for a question. */
const BODY_BYTES_MAX = 16 * 1024;
/** Types remembered by the shape of their events. */
const SHAPES_MAX = 10_000;

// ------------------------------------------------------------------------------------- understanding

/** Where a value is from. */
export type Source = "given" | "examples" | "cache" | "llm" | "shape";

/** What is known of an event; null: not known. A source without a value was asked and did not know. */
export interface Understanding {
  readonly type: string | null;
  readonly typeFrom: Source | null;
  readonly intent: string | null;
  readonly intentFrom: Source | null;
  /** Of the intent, 0 to 1. */
  readonly confidence: number;
  readonly sentiment: number | null;
  readonly sentimentFrom: Source | null;
}

export interface BrainOptions {
  readonly llm: LlmClient;
  /** How long one question may take. */
  readonly deadlineMs: number;
  /** Of key paths, types and discriminators of a body; null: shapes are not known, so types are not remembered. */
  readonly fingerprint: ((body: Uint8Array) => string) | null;
  /** Where types by shape are kept. */
  readonly shapes: SmallTable;
  /** The model's answers on messages, for texts that are nearly the same. */
  readonly answers: Pick<RememberedAnswers, "recall" | "remember" | "keepOnly">;
}

export interface Known {
  readonly understanding: Understanding;
  /** What only the model can add; null: nothing. */
  readonly question: "message" | "event" | null;
}

/** What a question is about. */
export type Text = Pick<JournalEvent, "message" | "body">;

export type Asked<T> = { ok: true; value: T } | LlmRefusal;

export class Brain {
  readonly llm: LlmClient;
  readonly #o: BrainOptions;
  /** By fingerprint, the least recently used first. */
  readonly #types = new Map<string, string>();
  /** Questions on their way, so that the same is not asked twice at once. */
  readonly #asking = new Map<string, Promise<Asked<unknown>>>();
  /** Whose answers are remembered; null: not known since the start. */
  #answersOf: string | null = null;

  constructor(options: BrainOptions) {
    this.#o = options;
    this.llm = options.llm;
    for (const { key, value } of options.shapes.all()) this.#types.set(key, value);
  }

  /** Types remembered by shape. */
  get shapes(): number {
    return this.#types.size;
  }

  /** What is known of an event without asking. */
  known(event: JournalEvent, nearest: Nearest | null): Known {
    const said = ofFields(event);
    return this.completed(event, event.message === null ? said : withExample(said, nearest));
  }

  /** What is known by now of an event of which something was said before. */
  completed({ message, body }: Text, said: Understanding): Known {
    const off = this.llm.state.name === "off";
    if (message === null) {
      const understanding = said.type === null ? this.#byShape(body, said) : said;
      const open = understanding.type === null && understanding.typeFrom === null;
      return { understanding, question: open && !off ? "event" : null };
    }
    const answer = isOpen(said) ? this.#recall(message) : null;
    const understanding = answer === null ? typed(said) : withAnswer(said, answer, "cache");
    return { understanding, question: isOpen(understanding) && !off ? "message" : null };
  }

  /** What the model in use said of nearly this text; where none is there, what the last one said. */
  #recall(message: string): MessageAnswer | null {
    const answer = this.#o.answers.recall(dataOf(message));
    const { model } = this.llm.state;
    return answer === null || model === null || answer.model === model ? answer : null;
  }

  #rememberAnswer(data: string, answer: MessageAnswer): void {
    const { answers } = this.#o;
    const { model } = this.llm.state;
    // Its endpoint has left while it answered: whose answer it is cannot be told any more.
    if (model === null) return;
    if (model !== this.#answersOf) answers.keepOnly(model);
    this.#answersOf = model;
    answers.remember(data, { ...answer, model });
  }

  #byShape(body: Uint8Array, said: Understanding): Understanding {
    const fingerprint = this.#o.fingerprint?.(body);
    const type = fingerprint === undefined ? undefined : this.#types.get(fingerprint);
    if (type === undefined || fingerprint === undefined) return said;
    // Moved to the end: the least recently used is forgotten first.
    this.#types.delete(fingerprint);
    this.#types.set(fingerprint, type);
    return { ...said, type: type === UNKNOWN_EVENT ? null : type, typeFrom: "shape" };
  }

  /** Asks the model what `known` leaves open. */
  async ask(event: Text, known: Known, signal?: AbortSignal): Promise<Asked<Understanding>> {
    if (known.question === "event") return this.#askType(event.body, known.understanding, signal);
    const text = dataOf(event.message ?? "");
    const asked = await this.#once<MessageAnswer>(`message ${text}`, () =>
      this.llm.ask({ ...MESSAGE_QUESTION, data: text, ...this.#limits(signal) }),
    );
    if (!asked.ok) return asked;
    this.#rememberAnswer(text, asked.value);
    return { ok: true, value: withAnswer(known.understanding, asked.value, "llm") };
  }

  async #askType(
    body: Uint8Array,
    understanding: Understanding,
    signal?: AbortSignal,
  ): Promise<Asked<Understanding>> {
    const fingerprint = this.#o.fingerprint?.(body) ?? null;
    const text = dataOf(new TextDecoder().decode(body.subarray(0, BODY_BYTES_MAX)));
    const asked = await this.#once<EventAnswer>(`event ${fingerprint ?? text}`, () =>
      this.llm.ask({ ...EVENT_QUESTION, data: text, ...this.#limits(signal) }),
    );
    if (!asked.ok) return asked;
    const type = asked.value.event_type;
    if (fingerprint !== null) this.#remember(fingerprint, type ?? UNKNOWN_EVENT);
    return { ok: true, value: { ...understanding, type, typeFrom: "llm" } };
  }

  #limits(signal: AbortSignal | undefined): {
    maxTokens: number;
    deadlineMs: number;
    signal?: AbortSignal;
  } {
    const limits = { maxTokens: ANSWER_TOKENS_MAX, deadlineMs: this.#o.deadlineMs };
    return signal === undefined ? limits : { ...limits, signal };
  }

  #once<T>(key: string, ask: () => Promise<Asked<T>>): Promise<Asked<T>> {
    const running = this.#asking.get(key);
    // The key holds the kind, and so the type of the answer.
    if (running !== undefined) return running as Promise<Asked<T>>;
    const asked = ask().finally(() => this.#asking.delete(key));
    this.#asking.set(key, asked);
    return asked;
  }

  #remember(fingerprint: string, type: string): void {
    this.#types.set(fingerprint, type);
    const oldest = this.#types.size > SHAPES_MAX ? this.#types.keys().next().value : undefined;
    if (oldest !== undefined) this.#types.delete(oldest);
    // What the model could not name it may name after the next start, or another model may.
    const rows = type === UNKNOWN_EVENT ? [] : [{ key: fingerprint, value: type }];
    const forgotten = oldest === undefined ? [] : [{ key: oldest, value: null }];
    try {
      if (rows.length + forgotten.length > 0) this.#o.shapes.write([...forgotten, ...rows]);
    } catch {
      // A full disk is the journal's affair; this shape is learned again after a restart.
    }
  }
}

function ofFields(event: JournalEvent): Understanding {
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
function typed(understanding: Understanding): Understanding {
  const { type, intent, intentFrom } = understanding;
  return type !== null || intent === null
    ? understanding
    : { ...understanding, type: intent, typeFrom: intentFrom };
}

/** The label of the nearest examples, where nobody said the intent. */
function withExample(said: Understanding, nearest: Nearest | null): Understanding {
  if (said.intent !== null || nearest === null || nearest.label === null) return said;
  return { ...said, intent: nearest.label, intentFrom: "examples", confidence: nearest.confidence };
}

/** Whether the model could add something. A source without a value was asked already, and did not know. */
function isOpen({ intent, intentFrom, sentiment, sentimentFrom }: Understanding): boolean {
  return (intent === null && intentFrom === null) || (sentiment === null && sentimentFrom === null);
}

/** What the model says, or said, of a message fills what is open, and no more. */
function withAnswer(said: Understanding, answer: MessageAnswer, from: "cache" | "llm"): Understanding {
  let full = said;
  if (full.intent === null) {
    const { intent, confidence } = answer;
    full = { ...full, intent, intentFrom: from, confidence: intent === null ? 0 : confidence };
  }
  if (full.sentiment === null) full = { ...full, sentiment: answer.sentiment, sentimentFrom: from };
  return typed(full);
}
