/** The user's chat with the brain: one question at a time, and its reply as it streams in. */
import type { ChatPart } from "../brain/brain.ts";
import { messageOf } from "../errors.ts";
import type { ChatTurn, DashboardSnapshot } from "../tui/model.ts";

/** @bound the chat on its tab | the oldest turns are dropped */
const TURNS_MAX = 200;
/** @bound one turn of the chat | it is cut */
const TURN_CHARS_MAX = 64_000;

/** Sends a message; the reply comes in parts. Throws if there is no reply, with the reason. */
export type Chat = (message: string, signal: AbortSignal) => AsyncIterable<ChatPart>;

export interface ChatOptions {
  /** Null if no model replies; `chatAdvice` says what to do about it. */
  readonly chat: () => Chat | null;
  readonly chatAdvice: () => string;
}

export class ChatTurns implements Disposable {
  readonly #o: ChatOptions;
  readonly #changed: () => void;
  #turns: ChatTurn[] = [];
  /** Null while no reply is coming. */
  #replying: AbortController | null = null;

  constructor(options: ChatOptions, changed: () => void) {
    this.#o = options;
    this.#changed = changed;
  }

  /** Asks the brain. Does nothing while another reply is still coming. */
  async ask(text: string): Promise<void> {
    if (this.#replying !== null) return;
    const controller = new AbortController();
    this.#replying = controller;
    let turn: ChatTurn = {
      from: "brain",
      text: "",
      state: "streaming",
      intent: null,
      slots: {},
      missing: [],
    };
    this.#turns.push({ ...turn, from: "you", text, state: "done" }, turn);
    this.#turns = this.#turns.slice(-TURNS_MAX);
    const say = (more: Partial<ChatTurn>): void => {
      turn = { ...turn, ...more, text: (more.text ?? turn.text).slice(0, TURN_CHARS_MAX) };
      this.#turns[this.#turns.length - 1] = turn;
      this.#changed();
    };
    try {
      const chat = this.#o.chat();
      if (chat === null) throw new Error(this.#o.chatAdvice());
      for await (const part of chat(text, controller.signal)) {
        if (part.kind === "text") say({ text: turn.text + part.text });
        else {
          const { intent, slots, missing } = part.state;
          say({ intent, slots, missing });
        }
      }
      say({ state: "done" });
    } catch (error) {
      const why = controller.signal.aborted ? "stopped" : messageOf(error);
      say({ text: turn.text === "" ? why : `${turn.text}\n(${why})`, state: "failed" });
    } finally {
      this.#replying = null;
      this.#changed();
    }
  }

  /** Ends the reply that is coming; what came of it stays. */
  stop(): void {
    this.#replying?.abort();
  }

  view(): DashboardSnapshot["chat"] {
    return {
      available: this.#o.chat() !== null,
      advice: this.#o.chatAdvice(),
      answering: this.#replying !== null,
      turns: this.#turns,
    };
  }

  [Symbol.dispose](): void {
    this.stop();
  }
}
