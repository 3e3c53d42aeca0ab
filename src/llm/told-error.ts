/** Finds the error that a reply tells although its status says success. */

export interface ToldError {
  /** The endpoint's own words. */
  readonly words: string;
  /** The status that it should have had; null if neither a code nor the words say. */
  readonly status: number | null;
}

/** What words mean, if there is no code. */
const MEANINGS: readonly (readonly [number, RegExp])[] = [
  [404, /unexpected endpoint|unknown (endpoint|path|route|url)|no such (endpoint|route|model)|not found/i],
  [503, /loading|not ready|starting up|warming/i],
  [429, /rate.?limit|too many requests/i],
  [400, /context (length|size|window)|too (long|large)/i],
];

/** Fields of which each reply that succeeded has one. */
const RESULTS = ["choices", "data", "embeddings", "models"] as const;

/** @returns null if the reply tells no error. */
export function toldError(reply: unknown): ToldError | null {
  if (typeof reply !== "object" || reply === null) return null;
  const fields = reply as Readonly<Record<string, unknown>>;
  const choice = Array.isArray(fields.choices) ? (Object(fields.choices[0]) as Record<string, unknown>) : {};
  for (const error of [fields.error, choice.error]) {
    if (typeof error === "string" ? error !== "" : typeof error === "object" && error !== null) {
      return toldBy(error, fields);
    }
  }
  if (choice.finish_reason === "error") return { words: "the model ended with an error", status: null };
  if (RESULTS.some((field) => Array.isArray(fields[field]))) return null;
  // Without a result, what else it says is why.
  const words = wordsOf(fields) ?? (typeof fields.status === "string" ? fields.status : null);
  return words === null ? null : { words, status: codeOf(fields) ?? meaningOf(words) };
}

function toldBy(error: unknown, beside: Readonly<Record<string, unknown>>): ToldError {
  const words = typeof error === "string" ? error : (wordsOf(Object(error)) ?? JSON.stringify(error));
  return { words, status: codeOf(Object(error)) ?? codeOf(beside) ?? meaningOf(words) };
}

/** The text that a person would read in the object of an error. */
export function wordsOf(error: Readonly<Record<string, unknown>>, depth = 3): string | null {
  for (const field of ["message", "detail", "msg", "error"]) {
    const value = error[field];
    if (typeof value === "string" && value !== "") return value;
    if (typeof value !== "object" || value === null || depth === 0) continue;
    return wordsOf(Object(value), depth - 1) ?? JSON.stringify(value);
  }
  return null;
}

function codeOf(error: Readonly<Record<string, unknown>>): number | null {
  for (const field of ["code", "status", "status_code", "http_code"]) {
    const code = Number(error[field]);
    if (Number.isInteger(code) && code >= 400 && code <= 599) return code;
  }
  return null;
}

function meaningOf(words: string): number | null {
  return MEANINGS.find(([, means]) => means.test(words))?.[0] ?? null;
}
