/**
 * Chat: what does a person want of what this gateway knows, and what is still missing for it. The learned event types and the
 * labelled intents are what can be wanted; the fields that are usual in a type are its slots.
 *
 * A turn asks the model twice: for the intent and the slots, as checked JSON, and for the answer, as text. Between the
 * two this room decides what is filled and what is missing, so that neither is the model's word alone: an intent is one of
 * those that were offered, and a slot holds only what the person wrote. Whatever people and traffic bring is data in
 * these prompts, never an instruction.
 */
import { type OfferOptions, offerOf } from "./chat-offer.ts";
import { type ChatModel, reply, unavailable, understand } from "./chat-questions.ts";
import { ChatSessions, type ChatSessionsOptions, newestMessages } from "./chat-sessions.ts";
import { type ChatState, settled, stateOf } from "./chat-slots.ts";

export type { ChatModel } from "./chat-questions.ts";
export type { ChatState } from "./chat-slots.ts";

export interface ChatOptions extends OfferOptions, ChatSessionsOptions {
  /** null: there is none. */
  readonly llm: ChatModel | null;
}

/** A turn's parts in their order: one state, then the reply in pieces. */
export type ChatPart =
  | { readonly kind: "state"; readonly state: ChatState }
  | { readonly kind: "text"; readonly text: string };

export class Chat {
  readonly #o: ChatOptions;
  readonly #sessions: ChatSessions;
  readonly #counters = { chat_turns_total: 0, chat_failed_turns_total: 0 };

  constructor(options: ChatOptions) {
    this.#o = options;
    this.#sessions = new ChatSessions(options);
  }

  /** For the Snapshot. */
  get counters(): Readonly<Record<string, number>> {
    return { ...this.#counters, chat_forgotten_sessions_total: this.#sessions.forgotten };
  }

  get gauges(): Readonly<Record<string, number>> {
    return { chat_sessions: this.#sessions.count, chat_busy_turns: this.#sessions.busy };
  }

  /**
   * One turn. A session remembers it when it is done, and not where it failed or was aborted: then it is as if
   * it had not been, and may be said again.
   * @param sessionId null: a new session.
   * @throws GatewayError llm_unavailable; overloaded where the session is in the middle of another turn, or too
   *   many are.
   */
  async *turn(
    message: string,
    sessionId: string | null,
    signal: AbortSignal,
  ): AsyncGenerator<ChatPart, void> {
    const session = this.#sessions.begin(sessionId);
    let done = false;
    try {
      const { llm } = this.#o;
      if (llm === null) throw unavailable("there is none");
      const history = newestMessages(session.history);
      const input = { history, message, signal };
      const offer = offerOf(session.intent, this.#o);
      const found = await understand(llm, input, { known: session, offer });
      const written = [
        ...history.filter(({ role }) => role === "user").map(({ content }) => content),
        message,
      ];
      const known = settled(session, found, { offer, written });
      const state = stateOf(session.id, known, offer);
      let content = "";
      for await (const text of reply(llm, input, state)) {
        // Told with the first words and not before: a model that is away is told by the turn's failure alone.
        if (content === "") yield { kind: "state", state };
        content += text;
        yield { kind: "text", text };
      }
      if (content.trim() === "") throw unavailable("it answered with nothing");
      session.intent = known.intent;
      session.slots = known.slots;
      session.history = newestMessages([
        ...history,
        { role: "user", content: message },
        { role: "assistant", content },
      ]);
      this.#counters.chat_turns_total += 1;
      done = true;
    } finally {
      if (!done) this.#counters.chat_failed_turns_total += 1;
      this.#sessions.end(session);
    }
  }
}
