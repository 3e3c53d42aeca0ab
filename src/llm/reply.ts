/**
 * Finds a value that satisfies a schema in a reply of a language model. Models think aloud, put code fences around JSON,
 * explain it, and invent fields, so nothing in a reply is trusted. Pure, and linear in the length of the reply.
 */
import * as v from "valibot";
import { objectAlone } from "./json-run.ts";
import { Thoughts } from "./thoughts.ts";

/** Characters of one text that are read. An answer is far shorter. */
const TEXT_CHARS_MAX = 64 * 1024;
/** Characters that the search for JSON may read in one reply: about 5 ms, however the braces are nested. */
const SEARCH_CHARS_MAX = 1024 * 1024;
const NO_OBJECT = "the reply holds no JSON object";

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
  /** Whether it held a thought without its opening mark. */
  readonly orphan: boolean;
}

/** @returns null if the reply is not a chat completion. */
export function completionOf(reply: unknown): Completion | null {
  const parsed = v.safeParse(CompletionSchema, reply);
  const choice = parsed.success ? parsed.output.choices[0] : undefined;
  if (choice === undefined) return null;
  const content = textOf(choice.message.content);
  const { said, doubtful, orphan } = withoutThoughts(content);
  // Some servers put the answer of a thinking model into another field than its content. What was said decides before that.
  const { reasoning, reasoning_content } = choice.message;
  const silent = said.trim() === "";
  const others = silent ? [objectAlone(doubtful), ...[reasoning, reasoning_content].map(answerIn)] : [];
  return {
    texts: [said, ...others].filter((text) => text.trim() !== ""),
    content: said,
    cut: choice.finish_reason === "length",
    orphan,
  };
}

/** A field of thoughts: what follows its marks or, if it has none, all of it. */
function answerIn(field: unknown): string {
  const { said, doubtful } = withoutThoughts(textOf(field));
  return said.trim() === "" ? objectAlone(doubtful) : said;
}

/** Content is a text, or a list of parts with a text each. */
function textOf(content: unknown): string {
  if (typeof content === "string") return content.slice(0, TEXT_CHARS_MAX);
  if (!Array.isArray(content)) return "";
  const parts = content.slice(0, 64).map((part: unknown) => {
    const { type, text } = (part ?? {}) as { type?: unknown; text?: unknown };
    const thinks = typeof type === "string" && /think|thought|reason/i.test(type);
    return typeof text === "string" && !thinks ? text : "";
  });
  return parts.join("").slice(0, TEXT_CHARS_MAX);
}

/**
 * `said`: the text without thoughts. `doubtful`: the thoughts of which only their place or one mark tells that they are
 * thoughts; a server's grammar can force an answer into them.
 */
function withoutThoughts(text: string): { said: string; doubtful: string; orphan: boolean } {
  const thoughts = new Thoughts({ mode: "hold", unknown: "anywhere" });
  const said = thoughts.push(text) + thoughts.end({ cut: true });
  return { said, doubtful: thoughts.doubtful, orphan: thoughts.orphan };
}

export type Found<T> =
  | { readonly ok: true; readonly value: T }
  /** json: whether the texts hold any JSON object. */
  | { readonly ok: false; readonly why: string; readonly json: boolean };

/**
 * Finds the last balanced JSON object that satisfies the schema, in the first of `texts` that has one: models write drafts
 * before their answer. Prose and code fences around it do not matter. An object inside one that satisfies the schema does
 * not count. If none does, `why` tells what is wrong with the last candidate, in words that a model can act on.
 */
export function lastValid<T>(texts: readonly string[], schema: v.GenericSchema<unknown, T>): Found<T> {
  const search = new Search(schema);
  for (const text of texts) {
    const found = search.in(text);
    if (found !== null) return found;
  }
  return { ok: false, why: search.why ?? NO_OBJECT, json: search.json };
}

class Search<T> {
  why: string | null = null;
  json = false;
  #leftChars = SEARCH_CHARS_MAX;
  readonly #schema: v.GenericSchema<unknown, T>;

  constructor(schema: v.GenericSchema<unknown, T>) {
    this.#schema = schema;
  }

  in(text: string): Found<T> | null {
    let last: Found<T> | null = null;
    /** The end of the outermost object whose inside is searched, because it does not satisfy the schema. */
    let outerEnd = 0;
    for (let start = text.indexOf("{"); start >= 0; ) {
      const end = balancedEnd(text, start, start + this.#leftChars);
      this.#leftChars -= Math.max(1, (end ?? text.length) - start);
      // An answer may stand in the rest, so a draft before it must not count.
      if (this.#leftChars <= 0) return null;
      const value = end === null ? null : this.#valueOf(text.slice(start, end), start >= outerEnd);
      if (value !== null) last = { ok: true, value: value.output };
      if (end !== null) outerEnd = Math.max(outerEnd, end);
      start = text.indexOf("{", value !== null && end !== null ? end : start + 1);
    }
    return last;
  }

  /** @param outermost whether the object stands in no other, so that it tells why there is no answer. */
  #valueOf(json: string, outermost: boolean): { output: T } | null {
    let value: unknown;
    try {
      value = JSON.parse(json);
    } catch (error) {
      // NaN and Infinity end here: they are not JSON.
      if (outermost) this.why = error instanceof Error ? error.message : String(error);
      return null;
    }
    this.json = true;
    const parsed = v.safeParse(this.#schema, value);
    if (parsed.success) return { output: parsed.output };
    if (outermost) this.why = issuesOf(parsed.issues);
    return null;
  }
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
