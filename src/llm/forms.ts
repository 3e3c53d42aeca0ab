/** In which form a call is made: what a model refuses is left out of it, and remembered. */
import type { Failure } from "./failure.ts";

/** After so many answers in a row that were useless with a schema and right without, it is left out. */
const SCHEMA_VAIN_MAX = 2;

export interface Message {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

/** Parts of a call that some endpoint or model refuses. */
export type Feature = "json_schema" | "temperature" | "max_tokens" | "system";

/** By model: what it was seen to refuse. */
export class Forms {
  readonly #refused = new Map<string, Set<Feature>>();
  #schemaVain = 0;

  refusedBy(model: string): ReadonlySet<Feature> {
    return this.#refused.get(model) ?? new Set();
  }

  learn(model: string, features: Iterable<Feature>): void {
    this.#refused.set(model, new Set([...this.refusedBy(model), ...features]));
  }

  /** Where answers come right only without a schema, it is left out from then on. */
  noteSchema(model: string, usedNow: boolean, attempt: number): void {
    if (usedNow) this.#schemaVain = 0;
    else if (attempt === 1) {
      this.#schemaVain++;
      if (this.#schemaVain >= SCHEMA_VAIN_MAX) this.learn(model, ["json_schema"]);
    }
  }
}

/** The rules as a turn of their own, or, for templates that know no such role, before the user's first. */
export function messagesOf(
  system: string,
  turns: readonly Message[],
  without: ReadonlySet<Feature>,
): Message[] {
  const [first, ...rest] = turns;
  if (first === undefined || !without.has("system")) return [{ role: "system", content: system }, ...turns];
  return [{ role: first.role, content: `${system}\n\n${first.content}` }, ...rest];
}

export function tokensOf(maxTokens: number, without: ReadonlySet<Feature>) {
  return without.has("max_tokens") ? { max_completion_tokens: maxTokens } : { max_tokens: maxTokens };
}

const BLAMES: readonly (readonly [Feature, RegExp])[] = [
  ["max_tokens", /max_(completion_)?tokens/i],
  ["temperature", /temperature/i],
  ["json_schema", /response_format|json_schema|json_object|grammar|schema|structured/i],
  ["system", /system (role|message|prompt)|role.{0,20}system|roles must alternate/i],
];

/** What to leave out after a refusal: what its words name, else the schema; null: it is not about the form. */
export function blame(
  { status, detail }: Pick<Failure, "status" | "detail">,
  without: ReadonlySet<Feature>,
): Feature | null {
  if (status === null || ![400, 415, 422, 500, 501].includes(status)) return null;
  const named = BLAMES.find(([feature, words]) => !without.has(feature) && words.test(detail))?.[0];
  if (named !== undefined) return named;
  return status < 500 && !without.has("json_schema") ? "json_schema" : null;
}
