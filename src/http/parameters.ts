/** Reads the parameters of a query and refuses what is unknown, repeated or of the wrong type. */
import type { Refused } from "./contract.ts";

/** The parameters of a query by name. Empty ones count as absent. */
export function parametersOf(query: string, known: readonly string[]): Map<string, string> | Refused {
  const found = new Map<string, string>();
  for (const [name, value] of new URLSearchParams(query)) {
    if (!known.includes(name)) {
      const hint = known.length === 0 ? "it takes no parameters" : `it takes ${known.join(", ")}`;
      return { code: "bad_parameter", detail: `this route has no parameter ${JSON.stringify(name)}`, hint };
    }
    if (found.has(name))
      return { code: "bad_parameter", detail: `${name} is given twice`, hint: "give it once" };
    if (value !== "") found.set(name, value);
  }
  return found;
}

/** Refuses any parameter. */
export function parameterless(query: string): Refused | null {
  const parameters = parametersOf(query, []);
  return "code" in parameters ? parameters : null;
}

/** The value of an integer parameter; undefined if the parameter is absent. */
export function integerOf(
  parameters: ReadonlyMap<string, string>,
  name: string,
  range: { min: number; max: number },
): number | undefined | Refused {
  const text = parameters.get(name);
  if (text === undefined) return undefined;
  const value = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
  if (value >= range.min && value <= range.max) return value;
  const bounds = `${range.min} to ${range.max === Number.MAX_SAFE_INTEGER ? "2^53 - 1" : range.max}`;
  return {
    code: "bad_parameter",
    detail: `${name} is ${JSON.stringify(text)}`,
    hint: `${name} takes an integer from ${bounds}`,
  };
}

/** The range of a seq or a frame_id. */
export const POSITION = { min: 0, max: Number.MAX_SAFE_INTEGER };
