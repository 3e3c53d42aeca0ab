/**
 * Reads the JSON of a reply, in whatever form it comes: endpoints send streams that nobody asked for, whole replies to those
 * who asked for a stream, comments before the JSON and marks behind it.
 */
import { TooLargeError } from "./bounded-fetch.ts";

/** UTF-16 units of one event of a stream. */
const EVENT_CHARS_MAX = 1024 * 1024;
const DONE = "[DONE]";
/** How the lines of a stream of server-sent events begin. */
const EVENT_LINE = /^(data|event|id|retry)?:/m;

/**
 * The value of a whole reply. A stream is put together to the completion that it would have been.
 * @throws SyntaxError if the text holds no JSON.
 */
export function replyOf(text: string): unknown {
  const trimmed = text.trim();
  try {
    return JSON.parse(trimmed);
  } catch (error) {
    if (!EVENT_LINE.test(trimmed)) throw error;
    // Lines that belong to a stream may stand before and behind a reply that is none.
    const bare = trimmed.replace(/^(data|event|id|retry)?:.*$/gm, "").trim();
    if (bare !== "") return JSON.parse(bare);
    const events = new EventLines();
    const values = [...events.push(`${trimmed}\n\n`), ...events.end()];
    if (values.length === 0) throw error;
    return joined(values);
  }
}

/** Reads a body until it ends or the signal aborts. @throws the signal's reason */
export async function* bytesOf(
  body: ReadableStream<Uint8Array>,
  signal: AbortSignal,
): AsyncIterable<Uint8Array> {
  const reader = body.getReader();
  // A peer that keeps sending must not block us, so nobody waits for the end of the cancellation.
  const cancel = (): void => void reader.cancel().catch(() => undefined);
  signal.addEventListener("abort", cancel, { once: true });
  try {
    for (;;) {
      signal.throwIfAborted();
      const { done, value } = await reader.read();
      signal.throwIfAborted();
      if (done) return;
      yield value;
    }
  } finally {
    signal.removeEventListener("abort", cancel);
    cancel();
  }
}

/** The text of a whole body. @throws the signal's reason */
export async function textOf(response: Response, signal: AbortSignal): Promise<string> {
  if (response.body === null) return "";
  const decoder = new TextDecoder();
  let text = "";
  for await (const bytes of bytesOf(response.body, signal)) text += decoder.decode(bytes, { stream: true });
  return text + decoder.decode();
}

/** The values of a streamed reply, as they arrive. A reply that is not a stream is one value. */
export async function* streamedValues(body: AsyncIterable<Uint8Array>): AsyncIterable<unknown> {
  const decoder = new TextDecoder();
  const events = new EventLines();
  let whole: string | null = "";
  for await (const bytes of body) {
    const text = decoder.decode(bytes, { stream: true });
    if (whole === null) yield* events.push(text);
    else {
      whole += text;
      const first = whole.trimStart().charAt(0);
      if (whole.length > EVENT_CHARS_MAX) throw new TooLargeError("the reply is too large");
      if (first === "" || first === "{" || first === "[") continue;
      yield* events.push(whole);
      whole = null;
    }
    if (events.done) return;
  }
  if (whole === null) yield* events.end();
  else if (whole.trim() !== "") yield replyOf(whole);
}

/** Takes the text of a stream of server-sent events in pieces, and gives the JSON values of its data. */
class EventLines {
  #pending = "";
  /** Up to here, `#pending` has no end of a line. */
  #looked = 0;
  #data: string[] = [];
  /** Whether the stream has said that it is complete. */
  done = false;

  *push(text: string): Iterable<unknown> {
    this.#pending += text;
    while (!this.done) {
      const end = lineEnd(this.#pending, this.#looked);
      if (end === null) break;
      const line = this.#pending.slice(0, end.at);
      this.#pending = this.#pending.slice(end.at + end.chars);
      this.#looked = 0;
      yield* this.#take(line);
    }
    this.#looked = Math.max(0, this.#pending.length - 1);
    if (this.#pending.length > EVENT_CHARS_MAX) throw new TooLargeError("an event of the reply is too large");
  }

  /** Some streams end without the blank line behind their last event. */
  *end(): Iterable<unknown> {
    if (this.#pending !== "") yield* this.#take(this.#pending);
    yield* this.#take("");
  }

  *#take(line: string): Iterable<unknown> {
    if (line.startsWith("data:")) this.#data.push(line.slice("data:".length).trim());
    if (line !== "" || this.#data.length === 0) return;
    const lines = this.#data;
    this.#data = [];
    const value = parsed(lines.join("\n"));
    // Some servers leave out the blank lines between events.
    const texts = value === undefined ? lines : [];
    if (value !== undefined) yield value;
    for (const text of texts) {
      if (text === DONE) this.done = true;
      if (text === DONE || text === "") continue;
      yield parsed(text) ?? { error: text };
    }
  }
}

/** Where the first line ends, from `from` on; null: it does not end yet. A CR at the end may be half of a CRLF. */
function lineEnd(text: string, from: number): { at: number; chars: number } | null {
  for (let at = from; at < text.length; at++) {
    const char = text.charCodeAt(at);
    if (char === 0x0a) return { at, chars: 1 };
    if (char !== 0x0d) continue;
    if (at + 1 === text.length) return null;
    return { at, chars: text.charCodeAt(at + 1) === 0x0a ? 2 : 1 };
  }
  return null;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

interface Choice {
  readonly message?: object;
  readonly delta?: Record<string, unknown>;
  readonly finish_reason?: unknown;
}

function choiceOf(value: unknown): Choice | null {
  const { choices } = (value ?? {}) as { choices?: unknown };
  return Array.isArray(choices) ? ((choices[0] ?? null) as Choice | null) : null;
}

/** The texts that may be in a delta, each of which is a field of the message. */
const TEXTS = ["content", "reasoning", "reasoning_content"] as const;

/** One completion from the values of a stream; the value itself if one is a completion or tells an error. */
function joined(values: readonly unknown[]): unknown {
  const whole = values.find((value) => choiceOf(value)?.message !== undefined || "error" in Object(value));
  if (whole !== undefined) return whole;
  const message: Record<string, string> = {};
  let finish_reason: unknown = null;
  for (const value of values) {
    const choice = choiceOf(value);
    for (const field of TEXTS) {
      const text = contentText(choice?.delta?.[field]);
      if (text !== "") message[field] = (message[field] ?? "") + text;
    }
    finish_reason = choice?.finish_reason ?? finish_reason;
  }
  return values.some((value) => choiceOf(value) !== null)
    ? { choices: [{ message, finish_reason }] }
    : values[0];
}

/** The text of a chunk of a stream, which may be empty; null: the value is not a chunk of a completion. */
export function pieceOf(value: unknown): string | null {
  if (!("choices" in Object(value))) return null;
  const choice = choiceOf(value);
  const from = choice?.delta ?? (choice?.message as Record<string, unknown> | undefined);
  return contentText(from?.content);
}

/** Whether this chunk says that the reply ended at the limit of tokens. */
export function isCut(value: unknown): boolean {
  return choiceOf(value)?.finish_reason === "length";
}

/** Content is a text, or a list of parts. Parts of a thought are left out. */
function contentText(content: unknown): string {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return "";
  return content.map(partText).join("");
}

function partText(part: unknown): string {
  if (typeof part === "string") return part;
  const { type, text } = (part ?? {}) as { type?: unknown; text?: unknown };
  const isThought = typeof type === "string" && /think|thought|reason/i.test(type);
  return typeof text === "string" && !isThought ? text : "";
}
