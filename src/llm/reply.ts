/**
 * What a language model said → a value that satisfies a schema. Models think aloud, fence, explain and lie: every
 * reply is an edge. Part of the brain; pure, and linear in the length of the reply.
 */
import * as v from "valibot";

/** Characters of one text that are looked at; an answer is far shorter. */
const TEXT_CHARS_MAX = 64 * 1024;
/** Characters that the search for JSON may look at in one reply: about 5 ms, whatever the braces are like. */
const SEARCH_CHARS_MAX = 1024 * 1024;
const NO_OBJECT = "the reply holds no JSON object";
const TAG = /<(\/?)think(?:ing)?\b[^<>]*>/gi;

/** The message of a completion, as far as it matters: any field may be missing or of another type. */
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
export interface Said {
  /** Where an answer may stand, the likeliest first; none is empty. */
  readonly texts: readonly string[];
  /** What the model said aloud, for showing it its mistake. */
  readonly content: string;
  /** It ran into its limit of tokens. */
  readonly cut: boolean;
}

/** null: the reply is no chat completion at all. */
export function saidOf(reply: unknown): Said | null {
  const parsed = v.safeParse(CompletionSchema, reply);
  const choice = parsed.success ? parsed.output.choices[0] : undefined;
  if (choice === undefined) return null;
  const content = textOf(choice.message.content);
  const { said, rest } = withoutThoughts(content);
  // Some servers put the answer of a thinking model beside its content. A thought that never ends, or whose beginning
  // is missing, comes last: a grammar can force the answer into it.
  const texts = [said, textOf(choice.message.reasoning), textOf(choice.message.reasoning_content), rest];
  return {
    texts: texts.filter((text) => text.trim() !== ""),
    content: said,
    cut: choice.finish_reason === "length",
  };
}

/** Content is a text, or a list of parts that have one. */
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
 * Takes `<think>` blocks out, nested ones too. What stands before a `</think>` without its beginning is thought, and
 * so is what stands after a `<think>` without its end: that is `rest`.
 */
export function withoutThoughts(text: string): { said: string; rest: string } {
  let said = "";
  let rest = "";
  let depth = 0;
  let from = 0;
  for (const tag of text.matchAll(TAG)) {
    const before = text.slice(from, tag.index);
    from = tag.index + tag[0].length;
    if (tag[1] === "") {
      if (depth === 0) said += before;
      depth++;
    } else if (depth > 0) {
      depth--;
    } else {
      // The server's template has opened the thought, so that its beginning never came.
      rest += said + before;
      said = "";
    }
  }
  if (depth === 0) said += text.slice(from);
  else rest += text.slice(from);
  return { said, rest };
}

export type Found<T> =
  | { readonly ok: true; readonly value: T }
  /** json: there was an object, though not the one that was asked for. */
  | { readonly ok: false; readonly why: string; readonly json: boolean };

/**
 * The first balanced JSON object in any of `texts` that satisfies the schema; prose and code fences around it do not
 * matter. `why` is of the first object that was JSON, in words that a model can act on.
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
        // JSON has no NaN and no Infinity, and JSON.parse is the judge of it.
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

/** Where the object that begins at `start` ends, its last brace included; null where it does not before `limit`. */
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

/** Takes thoughts out of a text that arrives in pieces; half a tag is held back until it is whole. */
export class ThoughtFilter {
  #pending = "";
  #depth = 0;
  /** A thought ended that had not begun: this model's template opens it, so that its beginning is never sent. */
  orphan = false;

  /** @returns what may be shown. */
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

  /** What was held back and is no tag after all. */
  end(): string {
    const rest = this.#depth === 0 ? this.#pending : "";
    this.#pending = "";
    return rest;
  }
}
