/** The sessions of chat: what was said in each and what is known from it, in memory and bounded. Part of chat. */
import { GatewayError } from "../errors.ts";
import type { SlotValue } from "./chat-slots.ts";

/** Sessions that are remembered, each for so long after its last turn; they end with the process. */
const SESSIONS_MAX = 1000;
const SESSION_MS_MAX = 30 * 60_000;
/** Turns that are worked on at once, in different sessions. */
const TURNS_AT_ONCE_MAX = 32;
/** What of a session the model is shown again. */
const HISTORY_MESSAGES_MAX = 12;
const HISTORY_CHARS_MAX = 6000;

/** One message of a session: what the person wrote, or the model's reply. */
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
  /** A clock that only goes forward. */
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

  /** Sessions that were forgotten before their time, to make room for another. */
  get forgotten(): number {
    return this.#forgotten;
  }

  /**
   * Begins a turn; whoever begins one ends it.
   * @param sessionId null: a new session.
   * @throws GatewayError overloaded where the session is in the middle of another turn, or too many are.
   */
  begin(sessionId: string | null): Session {
    this.#expire();
    if (this.#busy >= TURNS_AT_ONCE_MAX)
      throw overloaded(`${this.#busy} conversations are being answered`, "try again in a moment");
    const id = sessionId ?? this.#o.newSessionId();
    const known = this.#sessions.get(id);
    if (known?.busy === true)
      throw overloaded("this conversation is being answered", "wait for the answer before the next message");
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
    // A session in which nothing was said yet is none.
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

/** The newest messages that are shown again, whole. */
export function newestMessages(messages: readonly ChatMessage[]): readonly ChatMessage[] {
  let from = messages.length;
  let chars = 0;
  while (from > 0 && messages.length - from < HISTORY_MESSAGES_MAX) {
    chars += messages[from - 1]?.content.length ?? 0;
    if (chars > HISTORY_CHARS_MAX) break;
    from -= 1;
  }
  // It begins with the person: some models refuse a conversation that does not.
  while (from < messages.length && messages[from]?.role !== "user") from += 1;
  return messages.slice(from);
}
