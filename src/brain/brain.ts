/**
 * Finds out the type of an event, and the intent and the sentiment of a message. What the sender gave comes first, then
 * what is known already, and only what is still open becomes a question for the language model.
 */
import type { JournalEvent, SmallTable } from "../journal/journal.ts";
import type { LlmClient, LlmRefusal } from "../llm/contract.ts";
import type { Nearest } from "../nearest/nearest.ts";
import { dataOf, EVENT_QUESTION, type EventReply, MESSAGE_QUESTION, type MessageReply } from "./prompts.ts";
import type { RememberedReplies } from "./remembered-replies.ts";
import { TypesByShape } from "./types-by-shape.ts";
import { isOpen, ofFields, typed, type Understanding, withExample, withReply } from "./understanding.ts";

export { Chat, type ChatPart, type ChatState } from "./chat.ts";
export { type Changed, INTENT_LIMITS, type IntentExamples, Intents, type IntentsState } from "./intents.ts";
export { MESSAGE_QUESTION } from "./prompts.ts";
export { RememberedReplies } from "./remembered-replies.ts";
export type { Understanding } from "./understanding.ts";

/**
 * Tokens of one reply, thoughts included.
 * @bound tokens of a reply to a question | the question fails
 */
const REPLY_TOKENS_MAX = 2048;
export interface BrainOptions {
  readonly llm: LlmClient;
  /** How long one question may take, all attempts included. */
  readonly deadlineMs: number;
  /** The fingerprint of a body's shape; null: there are no fingerprints, so types are not remembered by shape. */
  readonly fingerprint: ((body: Uint8Array) => string) | null;
  /** The text of a body, in which nothing long hides what follows it. */
  readonly excerpt: (body: Uint8Array) => string;
  /** Keeps types by shape over restarts. */
  readonly shapes: SmallTable;
  /** The model's replies to earlier messages, for messages of the same words. */
  readonly replies: Pick<RememberedReplies, "recall" | "remember" | "keepOnly">;
}

export interface Known {
  readonly understanding: Understanding;
  /** The question that is still open; null: none, or the model is off. */
  readonly question: "message" | "event" | null;
}

/** What a question shows of an event. */
type Subject = Pick<JournalEvent, "message" | "body">;

type AskResult<T> = { ok: true; value: T } | LlmRefusal;

export class Brain {
  readonly llm: LlmClient;
  readonly #o: BrainOptions;
  readonly #types: TypesByShape;
  /** Questions that are being asked, so that nobody asks the same one a second time meanwhile. */
  readonly #asking = new Map<string, Promise<AskResult<unknown>>>();
  /** The model whose replies were last remembered; null: none since the start. */
  #repliesOf: string | null = null;

  constructor(options: BrainOptions) {
    this.#o = options;
    this.llm = options.llm;
    this.#types = new TypesByShape(options.shapes);
  }

  /** How many shapes have a remembered type. */
  get shapes(): number {
    return this.#types.size;
  }

  /** What is known of an event without asking the model. */
  known(event: JournalEvent, nearest: Nearest | null): Known {
    const given = ofFields(event);
    return this.completed(event, event.message === null ? given : withExample(given, nearest));
  }

  /** Adds what became known since `before`: the model may have replied to another event of the same shape or words. */
  completed({ message, body }: Subject, before: Understanding): Known {
    const off = this.llm.state.name === "off";
    if (message === null) {
      const understanding = before.type === null ? this.#byShape(body, before) : before;
      const open = understanding.type === null && understanding.typeFrom === null;
      return { understanding, question: open && !off ? "event" : null };
    }
    const reply = isOpen(before) ? this.#recall(message) : null;
    const understanding = reply === null ? typed(before) : withReply(before, reply, "cache");
    return { understanding, question: isOpen(understanding) && !off ? "message" : null };
  }

  /** The reply that the model in use gave to the same words; while no model is found, any model's reply. */
  #recall(message: string): MessageReply | null {
    const reply = this.#o.replies.recall(dataOf(message));
    const { model } = this.llm.state;
    return reply === null || model === null || reply.model === model ? reply : null;
  }

  #remember(data: string, reply: MessageReply): void {
    const { replies } = this.#o;
    const { model } = this.llm.state;
    // The endpoint went away meanwhile, so it is unknown which model replied.
    if (model === null) return;
    if (model !== this.#repliesOf) replies.keepOnly(model);
    this.#repliesOf = model;
    replies.remember(data, { ...reply, model });
  }

  #byShape(body: Uint8Array, before: Understanding): Understanding {
    const fingerprint = this.#o.fingerprint?.(body);
    const type = fingerprint === undefined ? undefined : this.#types.recall(fingerprint);
    return type === undefined ? before : { ...before, type, typeFrom: "shape" };
  }

  /** Asks the model the question that `known` leaves open. A refusal is a value. */
  async ask(event: Subject, known: Known, signal?: AbortSignal): Promise<AskResult<Understanding>> {
    if (known.question === "event") return this.#askType(event.body, known.understanding, signal);
    const text = dataOf(event.message ?? "");
    const asked = await this.#askOnce<MessageReply>(`message ${text}`, () =>
      this.llm.ask({ ...MESSAGE_QUESTION, data: text, ...this.#limits(signal) }),
    );
    if (!asked.ok) return asked;
    this.#remember(text, asked.value);
    return { ok: true, value: withReply(known.understanding, asked.value, "llm") };
  }

  async #askType(
    body: Uint8Array,
    understanding: Understanding,
    signal?: AbortSignal,
  ): Promise<AskResult<Understanding>> {
    const fingerprint = this.#o.fingerprint?.(body) ?? null;
    const text = dataOf(this.#o.excerpt(body));
    const asked = await this.#askOnce<EventReply>(`event ${fingerprint ?? text}`, () =>
      this.llm.ask({ ...EVENT_QUESTION, data: text, ...this.#limits(signal) }),
    );
    if (!asked.ok) return asked;
    const type = asked.value.event_type;
    if (fingerprint !== null) this.#types.remember(fingerprint, type);
    return { ok: true, value: { ...understanding, type, typeFrom: "llm" } };
  }

  #limits(signal: AbortSignal | undefined): {
    maxTokens: number;
    deadlineMs: number;
    signal?: AbortSignal;
  } {
    const limits = { maxTokens: REPLY_TOKENS_MAX, deadlineMs: this.#o.deadlineMs };
    return signal === undefined ? limits : { ...limits, signal };
  }

  #askOnce<T>(key: string, ask: () => Promise<AskResult<T>>): Promise<AskResult<T>> {
    const running = this.#asking.get(key);
    // The key begins with the kind of the question, which decides the type of the reply.
    if (running !== undefined) return running as Promise<AskResult<T>>;
    const asked = ask().finally(() => this.#asking.delete(key));
    this.#asking.set(key, asked);
    return asked;
  }
}
