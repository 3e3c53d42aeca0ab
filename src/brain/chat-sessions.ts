/** The sessions of chat: the messages of each, and what is known from them. In memory, and bounded. Part of chat. */
import { GatewayError } from "../errors.ts";
import type { SlotValue } from "./chat-slots.ts";

/**
 * Bounds on remembered sessions: their number, and the time since the last turn. A restart forgets all of them.
 * @bound conversations of chat | the least recently used is forgotten
 */
const SESSIONS_MAX = 1000;
/** @bound the life of a conversation of chat without a message | it is forgotten */
const SESSION_MS_MAX = 30 * 60_000;
/**
 * Turns that run at once, each in another session.
 * @bound turns of chat at once | 503
 */
const TURNS_AT_ONCE_MAX = 32;
/**
 * The model is shown at most this much of a session again.
 * @bound earlier messages that the model is shown again | the oldest are left out
 */
const HISTORY_MESSAGES_MAX = 12;
/** @bound characters of earlier messages that the model is shown again | the oldest are left out */
const HISTORY_CHARS_MAX = 6000;

/** One message of a session: the person wrote it (user), or the model replied it (assistant). */
export interface ChatMessage {
  readonly role: "user" | "assistant";
  readonly content: string;
}

export interface Session {
  readonly id: string;
  intent: string | null;
  slots: ReadonlyMap<string, SlotValue>;
  history: readonly ChatMessage[];
  lastMs: number;
  busy: boolean;
}

export interface ChatSessionsOptions {
  /** Milliseconds of a clock that never goes back. */
  readonly nowMs: () => number;
  readonly newSessionId: () => string;
}

export class ChatSessions {
  readonly #o: ChatSessionsOptions;
  /** The least recently used first. */
  readonly #sessions = new Map<string, Session>();
  #busy = 0;
  #forgotten = 0;

  constructor(options: ChatSessionsOptions) {
    this.#o = options;
  }

  get count(): number {
    return this.#sessions.size;
  }

  /** Sessions in the middle of a turn. */
  get busy(): number {
    return this.#busy;
  }

  /** How many sessions were forgotten before their time was over, to make room for others. */
  get forgotten(): number {
    return this.#forgotten;
  }

  /**
   * Begins a turn; the caller must {@link end} it.
   * @param sessionId null: a new session.
   * @throws GatewayError overloaded if the session is in the middle of another turn, or if too many sessions are.
   */
  begin(sessionId: string | null): Session {
    this.#expire();
    if (this.#busy >= TURNS_AT_ONCE_MAX)
      throw overloaded(`${this.#busy} sessions are in the middle of a turn`, "try again in a moment");
    const id = sessionId ?? this.#o.newSessionId();
    const known = this.#sessions.get(id);
    if (known?.busy === true)
      throw overloaded(
        "this session is in the middle of a turn",
        "wait for the reply before the next message",
      );
    if (known === undefined && this.#sessions.size >= SESSIONS_MAX) this.#forgetOldest();
    const nowMs = this.#o.nowMs();
    const session = known ?? { id, intent: null, slots: new Map(), history: [], lastMs: nowMs, busy: true };
    session.busy = true;
    this.#sessions.delete(id);
    this.#sessions.set(id, session);
    this.#busy += 1;
    return session;
  }

  end(session: Session): void {
    session.busy = false;
    session.lastMs = this.#o.nowMs();
    this.#busy -= 1;
    // A session without a completed turn has nothing to remember.
    if (session.history.length === 0) this.#sessions.delete(session.id);
  }

  #expire(): void {
    const beforeMs = this.#o.nowMs() - SESSION_MS_MAX;
    for (const session of this.#sessions.values()) {
      if (session.busy) continue;
      if (session.lastMs > beforeMs) return;
      this.#sessions.delete(session.id);
    }
  }

  /** An idle session always exists: TURNS_AT_ONCE_MAX is below SESSIONS_MAX. */
  #forgetOldest(): void {
    for (const session of this.#sessions.values()) {
      if (session.busy) continue;
      this.#sessions.delete(session.id);
      this.#forgotten += 1;
      return;
    }
  }
}

function overloaded(detail: string, hint: string): GatewayError {
  return new GatewayError({ code: "overloaded", operation: "chat: begin", object: "a turn", detail, hint });
}

/** The newest messages that fit the bounds; none is cut. */
export function newestMessages(messages: readonly ChatMessage[]): readonly ChatMessage[] {
  let from = messages.length;
  let chars = 0;
  while (from > 0 && messages.length - from < HISTORY_MESSAGES_MAX) {
    chars += messages[from - 1]?.content.length ?? 0;
    if (chars > HISTORY_CHARS_MAX) break;
    from -= 1;
  }
  // The first message must be the person's: some models refuse any other order.
  while (from < messages.length && messages[from]?.role !== "user") from += 1;
  return messages.slice(from);
}
