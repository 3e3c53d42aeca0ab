/**
 * Chat finds out what a person wants and what is still missing for it. A person can want any labelled intent and any
 * event type that the gateway has learned; the usual fields of a type are its slots.
 *
 * A turn asks the model twice: for the intent and the slots, as checked JSON, and for the reply, as text. Between the two
 * questions, chat itself decides what is filled and what is missing, because a model alone cannot be trusted with it: an
 * intent must be one of those offered, and a slot holds only what the person wrote. In both prompts, everything from
 * people and traffic is data and never an instruction.
 */
import { type OfferOptions, offerOf } from "./chat-offer.ts";
import { type ChatModel, reply, unavailable, understand } from "./chat-questions.ts";
import { ChatSessions, type ChatSessionsOptions, newestMessages } from "./chat-sessions.ts";
import { type ChatState, settled, stateOf } from "./chat-slots.ts";

export type { ChatModel } from "./chat-questions.ts";
export type { ChatState } from "./chat-slots.ts";

export interface ChatOptions extends OfferOptions, ChatSessionsOptions {
  /** null: there is no language model. */
  readonly llm: ChatModel | null;
}

/** What a turn yields: first one state, then the reply in pieces. */
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
   * One turn. The session remembers it only when it is complete: a turn that fails or is aborted leaves no trace, so the
   * person may send the message again.
   * @param sessionId null: a new session.
   * @param o.whole the reader waits for the whole reply anyway.
   * @throws GatewayError llm_unavailable; overloaded if the session is in the middle of another turn, or if too many
   *   sessions are.
   */
  async *turn(
    message: string,
    sessionId: string | null,
    signal: AbortSignal,
    { whole = false }: { readonly whole?: boolean } = {},
  ): AsyncGenerator<ChatPart, void> {
    const session = this.#sessions.begin(sessionId);
    let done = false;
    try {
      const { llm } = this.#o;
      if (llm === null) throw unavailable("the gateway has none");
      const history = newestMessages(session.history);
      const input = { history, message, signal, whole };
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
        // Yielded with the first piece and not before: if the model is away, the turn fails without a state.
        if (content === "") yield { kind: "state", state };
        content += text;
        yield { kind: "text", text };
      }
      if (content.trim() === "") throw unavailable("its reply was empty");
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
