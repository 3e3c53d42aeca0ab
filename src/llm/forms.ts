/** The form of a request: parts that a model refuses are left out, and the refusal is remembered. */
import { Contexts } from "./contexts.ts";
import type { Failure } from "./failure.ts";

/** The schema is left out after so many questions in a row whose reply was useless with it and right without it. */
const SCHEMA_FAILURES_MAX = 2;

export interface Message {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

/** Parts of a request that some endpoints or models refuse. */
export type Feature = "json_schema" | "temperature" | "max_tokens" | "system";

/** Remembers for each model which features it refused, how many tokens it takes, and how it thinks. */
export class Forms {
  readonly contexts = new Contexts();
  readonly #refused = new Map<string, Set<Feature>>();
  /** For each model that sent text: whether all of its thoughts had their opening mark. */
  readonly #opens = new Map<string, boolean>();
  #schemaFailures = 0;

  refusedBy(model: string): ReadonlySet<Feature> {
    return this.#refused.get(model) ?? new Set();
  }

  learn(model: string, features: Iterable<Feature>): void {
    this.#refused.set(model, new Set([...this.refusedBy(model), ...features]));
  }

  /** Whether every thought of the model began with a mark, in at least one text that it sent. */
  opensThoughts(model: string): boolean {
    return this.#opens.get(model) ?? false;
  }

  /** @param o.orphan whether a text had a thought without its opening mark. One such text is enough for good. */
  noteThoughts(model: string, { orphan }: { orphan: boolean }): void {
    this.#opens.set(model, !orphan && this.#opens.get(model) !== false);
  }

  /**
   * Notes a right answer, and gives up the schema if answers come right only without it.
   * @param withSchema whether the request of that answer had the schema.
   * @param attempt 0: the first reply was right; 1: the second was.
   */
  noteAnswer(model: string, withSchema: boolean, attempt: number): void {
    if (withSchema) this.#schemaFailures = 0;
    else if (attempt === 1) {
      this.#schemaFailures++;
      if (this.#schemaFailures >= SCHEMA_FAILURES_MAX) this.learn(model, ["json_schema"]);
    }
  }
}

/** Puts the instructions into a system turn or, if the model refuses that role, in front of the first turn. */
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

/** The feature to leave out after a refusal: the one that the error text names, else the schema. Null: the form is not to blame. */
export function blame(
  { status, detail }: Pick<Failure, "status" | "detail">,
  without: ReadonlySet<Feature>,
): Feature | null {
  if (status === null || ![400, 415, 422, 500, 501].includes(status)) return null;
  const named = BLAMES.find(([feature, names]) => !without.has(feature) && names.test(detail))?.[0];
  if (named !== undefined) return named;
  return status < 500 && !without.has("json_schema") ? "json_schema" : null;
}
