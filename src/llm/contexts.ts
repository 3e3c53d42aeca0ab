/** Learns from refusals how many tokens a model's context and its replies may have. Pure. */
import type { Failure } from "./failure.ts";

/** A reply of fewer tokens answers nothing. */
export const REPLY_TOKENS_MIN = 64;
/** Kept free for the marks that a chat template puts around each turn. */
const MARGIN_TOKENS = 16;
/** How many characters of a prompt a token stands for, until a refusal tells how many tokens it had. */
const CHARS_PER_TOKEN = 3;

/** The numbers that a refusal tells. Null: it does not. */
export interface Complaint {
  readonly contextTokens: number | null;
  readonly promptTokens: number | null;
  readonly replyTokens: number | null;
}

interface Limits {
  readonly contextTokens: number;
  readonly replyTokens: number;
  readonly charsPerToken: number;
}

const UNLIMITED: Limits = {
  contextTokens: Number.POSITIVE_INFINITY,
  replyTokens: Number.POSITIVE_INFINITY,
  charsPerToken: CHARS_PER_TOKEN,
};

/** Remembers the limits of each model. */
export class Contexts {
  readonly #limits = new Map<string, Limits>();

  /** The tokens to ask for; null: the prompt leaves no room for a reply. */
  tokensFor(model: string, wanted: number, promptChars: number): number | null {
    const { contextTokens, replyTokens, charsPerToken } = this.#limits.get(model) ?? UNLIMITED;
    const room = contextTokens - Math.ceil(promptChars / charsPerToken) - MARGIN_TOKENS;
    const tokens = Math.min(wanted, replyTokens, room);
    return tokens >= Math.min(wanted, REPLY_TOKENS_MIN) ? tokens : null;
  }

  /** @param promptChars of the refused request. */
  learn(
    model: string,
    { contextTokens, promptTokens, replyTokens }: Partial<Complaint>,
    promptChars: number,
  ): void {
    const before = this.#limits.get(model) ?? UNLIMITED;
    const perToken = promptChars / Math.max(1, promptTokens ?? 0);
    this.#limits.set(model, {
      contextTokens: contextTokens ?? before.contextTokens,
      replyTokens: Math.min(before.replyTokens, replyTokens ?? before.replyTokens),
      charsPerToken: promptTokens == null ? before.charsPerToken : Math.max(0.1, perToken),
    });
  }
}

/** What a refusal for too many tokens looks like. */
const TOO_MANY =
  /context[_ -]?(length|size|window|limit)|maximum context|n_ctx|too (many|large|long)\b.{0,40}(token|model|context)|tokens?['"`]?.{0,60}(too large|too many|exceed|<=|less than|at most|maximum|valid range|must be)|exceed.{0,60}(context|tokens?)/i;
/** What is said of a field that has another name there: that is no matter of numbers. */
const OTHER_NAME = /unsupported|not supported|unrecognized|unknown|instead/i;

const CONTEXT = [
  /context[_ -]?(?:length|size|window|limit)\D{0,40}?(\d[\d,]*)/i,
  /(\d[\d,]*)[- ](?:token )?(?:maximum )?context/i,
  /(?:max_new_tokens|max_tokens|total)[`'"]* must be <= (\d[\d,]*)/i,
];
const PROMPT = [
  /(\d[\d,]*) (?:tokens )?in (?:the|your) (?:messages|prompt|input)/i,
  /(?:has|given:?|contains|resulted in|prompt(?: is)?:?|input(?: is)?:?)\s*[`'"(]*(\d[\d,]*)[`'" ]*(?:input|prompt|inputs)?[`'" ]*tokens/i,
  /request \((\d[\d,]*) tokens\)/i,
];
const TOTAL = [/requested (?:a total of )?(\d[\d,]*) tokens/i];
const REPLY = [
  /max_(?:completion_|new_|output_)?tokens\b.{0,80}?(?:less than or equal to|<=|at most|up to|\[\d+, ?)\s*[`'"]*(\d[\d,]*)/i,
  /max_(?:completion_|new_|output_)?tokens: \d+ > (\d[\d,]*)/i,
  /supports at most (\d[\d,]*) (?:completion|output) tokens/i,
];

/** Reads a refusal. @param tokens what was asked for. @returns null: it does not complain of too many tokens. */
export function complaintOf(
  { status, detail }: Pick<Failure, "status" | "detail">,
  tokens: number,
): Complaint | null {
  if (status === null || ![400, 413, 422, 500].includes(status)) return null;
  if (!TOO_MANY.test(detail) || OTHER_NAME.test(detail)) return null;
  const contextTokens = numberIn(detail, CONTEXT);
  const total = numberIn(detail, TOTAL);
  const promptTokens = numberIn(detail, PROMPT) ?? (total === null ? null : Math.max(0, total - tokens));
  return {
    contextTokens,
    promptTokens,
    replyTokens: contextTokens === null ? numberIn(detail, REPLY) : null,
  };
}

function numberIn(text: string, patterns: readonly RegExp[]): number | null {
  for (const pattern of patterns) {
    const found = pattern.exec(text)?.[1];
    if (found !== undefined) return Number(found.replaceAll(",", ""));
  }
  return null;
}
