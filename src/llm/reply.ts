/**
 * Finds a value that satisfies a schema in a reply of a language model. Models think aloud, put code fences around JSON,
 * explain it, and invent fields, so nothing in a reply is trusted. Pure, and linear in the length of the reply.
 */
import * as v from "valibot";

/** Characters of one text that are read. An answer is far shorter. */
const TEXT_CHARS_MAX = 64 * 1024;
/** Characters that the search for JSON may read in one reply: about 5 ms, however the braces are nested. */
const SEARCH_CHARS_MAX = 1024 * 1024;
const NO_OBJECT = "the reply holds no JSON object";
const TAG = /<(\/?)think(?:ing)?\b[^<>]*>/gi;

/** The fields of a message that are read. Each may be missing or of any type. */
const MessageSchema = v.object({
  content: v.optional(v.unknown()),
  reasoning: v.optional(v.unknown()),
  reasoning_content: v.optional(v.unknown()),
});
const CompletionSchema = v.object({
  choices: v.pipe(
    v.array(v.object({ message: MessageSchema, finish_reason: v.optional(v.unknown()) })),
    v.minLength(1),
  ),
});

/** The texts of a completion. */
export interface Completion {
  /** Texts that may hold the answer, the likeliest first. None is empty. */
  readonly texts: readonly string[];
  /** The reply without thoughts, to show the model its mistake. */
  readonly content: string;
  /** Whether the reply ended at the limit of tokens. */
  readonly cut: boolean;
}

/** @returns null if the reply is not a chat completion. */
export function completionOf(reply: unknown): Completion | null {
  const parsed = v.safeParse(CompletionSchema, reply);
  const choice = parsed.success ? parsed.output.choices[0] : undefined;
  if (choice === undefined) return null;
  const content = textOf(choice.message.content);
  const { spoken, unclosed } = withoutThoughts(content);
  // Some servers put the answer of a thinking model into another field than its content. A thought without its end or
  // its beginning comes last: a grammar can force the answer into it.
  const { reasoning, reasoning_content } = choice.message;
  const texts = [spoken, textOf(reasoning), textOf(reasoning_content), unclosed];
  return {
    texts: texts.filter((text) => text.trim() !== ""),
    content: spoken,
    cut: choice.finish_reason === "length",
  };
}

/** Content is a text, or a list of parts with a text each. */
function textOf(content: unknown): string {
  if (typeof content === "string") return content.slice(0, TEXT_CHARS_MAX);
  if (!Array.isArray(content)) return "";
  const parts = content.slice(0, 64).map((part: unknown) => {
    const text = (part as { text?: unknown } | null)?.text;
    return typeof text === "string" ? text : "";
  });
  return parts.join("").slice(0, TEXT_CHARS_MAX);
}

/**
 * Removes `<think>` blocks, nested ones too. Text before a `</think>` without its `<think>`, and text after a `<think>`
 * without its `</think>`, counts as thought too: it is returned as `unclosed`.
 */
export function withoutThoughts(text: string): { spoken: string; unclosed: string } {
  let spoken = "";
  let unclosed = "";
  let depth = 0;
  let from = 0;
  for (const tag of text.matchAll(TAG)) {
    const before = text.slice(from, tag.index);
    from = tag.index + tag[0].length;
    if (tag[1] === "") {
      if (depth === 0) spoken += before;
      depth++;
    } else if (depth > 0) {
      depth--;
    } else {
      // The server's chat template opens the thought, so the model never sends the beginning.
      unclosed += spoken + before;
      spoken = "";
    }
  }
  if (depth === 0) spoken += text.slice(from);
  else unclosed += text.slice(from);
  return { spoken, unclosed };
}

export type Found<T> =
  | { readonly ok: true; readonly value: T }
  /** json: whether the texts hold any JSON object. */
  | { readonly ok: false; readonly why: string; readonly json: boolean };

/**
 * Finds the first balanced JSON object in `texts` that satisfies the schema. Prose and code fences around it do not
 * matter. If none does, `why` tells what is wrong with the first candidate, in words that a model can act on.
 */
export function firstValid<T>(texts: readonly string[], schema: v.GenericSchema<unknown, T>): Found<T> {
  let why: string | null = null;
  let json = false;
  let leftChars = SEARCH_CHARS_MAX;
  for (const text of texts) {
    for (let start = text.indexOf("{"); start >= 0; start = text.indexOf("{", start + 1)) {
      const end = balancedEnd(text, start, start + leftChars);
      leftChars -= Math.max(1, (end ?? text.length) - start);
      if (leftChars <= 0) return { ok: false, why: why ?? NO_OBJECT, json };
      if (end === null) continue;
      let value: unknown;
      try {
        value = JSON.parse(text.slice(start, end));
      } catch (error) {
        // NaN and Infinity end here: they are not JSON.
        why ??= error instanceof Error ? error.message : String(error);
        continue;
      }
      json = true;
      const parsed = v.safeParse(schema, value);
      if (parsed.success) return { ok: true, value: parsed.output };
      why ??= issuesOf(parsed.issues);
    }
  }
  return { ok: false, why: why ?? NO_OBJECT, json };
}

function issuesOf(issues: readonly v.BaseIssue<unknown>[]): string {
  const lines = issues.slice(0, 4).map((issue) => {
    const path = v.getDotPath(issue) ?? "the object";
    return `${path}: ${issue.message}`;
  });
  return lines.join("; ").slice(0, 500);
}

/** The index behind the last brace of the object that begins at `start`; null if it does not end before `limit`. */
function balancedEnd(text: string, start: number, limit: number): number | null {
  let depth = 0;
  let quoted = false;
  const end = Math.min(text.length, limit);
  for (let at = start; at < end; at++) {
    const char = text.charCodeAt(at);
    if (quoted) {
      if (char === 0x5c) at++;
      else if (char === 0x22) quoted = false;
    } else if (char === 0x22) quoted = true;
    else if (char === 0x7b || char === 0x5b) depth++;
    else if (char === 0x7d || char === 0x5d) {
      depth--;
      if (depth === 0) return at + 1;
    }
  }
  return null;
}

/** Removes thoughts from a text that arrives in pieces. A piece that ends within a tag is held back from there. */
export class ThoughtFilter {
  #pending = "";
  #depth = 0;
  /** Whether a thought ended that had not begun: the chat template opens it, so the model never sends the beginning. */
  orphan = false;

  /** @returns the text that may be shown. */
  push(piece: string): string {
    this.#pending += piece;
    let shown = "";
    let from = 0;
    for (const tag of this.#pending.matchAll(TAG)) {
      if (this.#depth === 0) shown += this.#pending.slice(from, tag.index);
      from = tag.index + tag[0].length;
      if (tag[1] === "") this.#depth++;
      else if (this.#depth > 0) this.#depth--;
      else this.orphan = true;
    }
    const tail = this.#pending.slice(from);
    const half = /<[^<>]{0,64}$/.exec(tail)?.index ?? tail.length;
    if (this.#depth === 0) shown += tail.slice(0, half);
    this.#pending = tail.slice(half);
    return shown;
  }

  /** @returns the text that was held back and is not a tag after all. */
  end(): string {
    const rest = this.#depth === 0 ? this.#pending : "";
    this.#pending = "";
    return rest;
  }
}
