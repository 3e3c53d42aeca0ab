/**
 * What happened, what do they want, how do they feel: the type of an event, and intent and sentiment of a message, from
 * what is given, what is known already, and a language model, in this order. And the face of that model for others.
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

/** Tokens of one reply, thoughts included. */
const REPLY_TOKENS_MAX = 2048;
/** Of a body, what is looked at for a question. */
const BODY_BYTES_MAX = 16 * 1024;

export interface BrainOptions {
  readonly llm: LlmClient;
  /** How long one question may take. */
  readonly deadlineMs: number;
  /** Of key paths, types and discriminators of a body; null: shapes are not known, so types are not remembered. */
  readonly fingerprint: ((body: Uint8Array) => string) | null;
  /** Where types by shape are kept. */
  readonly shapes: SmallTable;
  /** The model's replies on messages, for texts that are nearly the same. */
  readonly replies: Pick<RememberedReplies, "recall" | "remember" | "keepOnly">;
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
  readonly #types: TypesByShape;
  /** Questions on their way, so that the same is not asked twice at once. */
  readonly #asking = new Map<string, Promise<Asked<unknown>>>();
  /** Whose replies are remembered; null: not known since the start. */
  #repliesOf: string | null = null;

  constructor(options: BrainOptions) {
    this.#o = options;
    this.llm = options.llm;
    this.#types = new TypesByShape(options.shapes);
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
    const reply = isOpen(said) ? this.#recall(message) : null;
    const understanding = reply === null ? typed(said) : withReply(said, reply, "cache");
    return { understanding, question: isOpen(understanding) && !off ? "message" : null };
  }

  /** What the model in use said of nearly this text; where none is there, what the last one said. */
  #recall(message: string): MessageReply | null {
    const reply = this.#o.replies.recall(dataOf(message));
    const { model } = this.llm.state;
    return reply === null || model === null || reply.model === model ? reply : null;
  }

  #remember(data: string, reply: MessageReply): void {
    const { replies } = this.#o;
    const { model } = this.llm.state;
    // Its endpoint has left while it answered: whose reply it is cannot be told any more.
    if (model === null) return;
    if (model !== this.#repliesOf) replies.keepOnly(model);
    this.#repliesOf = model;
    replies.remember(data, { ...reply, model });
  }

  #byShape(body: Uint8Array, said: Understanding): Understanding {
    const fingerprint = this.#o.fingerprint?.(body);
    const type = fingerprint === undefined ? undefined : this.#types.recall(fingerprint);
    return type === undefined ? said : { ...said, type, typeFrom: "shape" };
  }

  /** Asks the model what `known` leaves open. */
  async ask(event: Text, known: Known, signal?: AbortSignal): Promise<Asked<Understanding>> {
    if (known.question === "event") return this.#askType(event.body, known.understanding, signal);
    const text = dataOf(event.message ?? "");
    const asked = await this.#once<MessageReply>(`message ${text}`, () =>
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
  ): Promise<Asked<Understanding>> {
    const fingerprint = this.#o.fingerprint?.(body) ?? null;
    const text = dataOf(new TextDecoder().decode(body.subarray(0, BODY_BYTES_MAX)));
    const asked = await this.#once<EventReply>(`event ${fingerprint ?? text}`, () =>
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

  #once<T>(key: string, ask: () => Promise<Asked<T>>): Promise<Asked<T>> {
    const running = this.#asking.get(key);
    // The key holds the kind, and so the type of the reply.
    if (running !== undefined) return running as Promise<Asked<T>>;
    const asked = ask().finally(() => this.#asking.delete(key));
    this.#asking.set(key, asked);
    return asked;
  }
}
