/** Hostile input, and helpers that parse it. */

import { expect } from "bun:test";
import fc from "fast-check";
import {
  type JsonBody,
  LIMITS,
  type Outcome,
  type ParsedEvent,
  parseEvent,
  parseJsonBody,
} from "../../src/event/event.ts";

/** Sets the seed of fast-check for one test file and prints it. */
export function seeded(file: string): void {
  const seed = Number(process.env.FC_SEED ?? Math.floor(Math.random() * 0x7fffffff));
  console.log(`${file}: FC_SEED=${seed}`);
  fc.configureGlobal({ seed, numRuns: 300 });
}

const encoder = new TextEncoder();
export const bytesOf = (text: string): Uint8Array => encoder.encode(text);
export const textIn = (bytes: Uint8Array): string =>
  new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
export const FILLER = `"filler":"${"x".repeat(LIMITS.largeEventBytes)}"`;

export function accepted(outcome: Outcome): ParsedEvent {
  if (outcome.refusal !== null) throw new Error(`refused: ${outcome.refusal.code} ${outcome.refusal.detail}`);
  return outcome.event;
}

/** Parses in both ways, by JSON.parse and by the scanner, and expects the same event. */
export function parse(json: string | object): ParsedEvent {
  const text = typeof json === "string" ? json : JSON.stringify(json);
  const small = accepted(parseEvent(bytesOf(text)));
  const inner = text.trim().slice(1, -1).trim();
  const large = accepted(parseEvent(bytesOf(`{${FILLER}${inner === "" ? "" : ","}${inner}}`)));
  expect({ ...large, body: null }).toEqual({ ...small, body: null });
  const [inBatch] = readBody(bytesOf(`[${text}]`)).outcomes;
  expect(inBatch?.event).toEqual(small);
  return small;
}

export function codeOf(bytes: Uint8Array): string | null {
  return parseEvent(bytes).refusal?.code ?? null;
}

export function refusal(text: string): { code: string; detail: string } {
  const { refusal } = parseEvent(bytesOf(text));
  if (refusal === null) throw new Error(`accepted: ${text.slice(0, 100)}`);
  return refusal;
}

export function readBody(bytes: Uint8Array): {
  outcomes: Outcome[];
  body: JsonBody;
  slices: number;
  most: number;
} {
  const outcomes: Outcome[] = [];
  const reader = parseJsonBody(bytes);
  let most = 0;
  for (let slices = 0; ; slices++) {
    const step = reader.next();
    if (step.done === true) return { outcomes, body: step.value, slices, most };
    for (const outcome of step.value) outcomes.push(outcome);
    most = Math.max(most, step.value.length);
  }
}

export function parses(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** Strings that could confuse a scanner: quotes, backslashes, brackets, lone surrogates, controls, any character. */
export const hostileString = fc.oneof(
  fc.string({
    unit: fc.constantFrom(
      '"',
      "\\",
      "[",
      "]",
      "{",
      "}",
      ",",
      ":",
      "\ud800",
      "\u0000",
      "é",
      "😀",
      "\u2028",
      "n",
      "u",
    ),
  }),
  fc.string({ unit: "binary" }),
);
export const jsonValue = fc.letrec((tie) => ({
  value: fc.oneof(
    { depthSize: "small" },
    hostileString,
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.integer(),
    fc.boolean(),
    fc.constant(null),
    fc.array(tie("value"), { maxLength: 4 }),
    fc.dictionary(hostileString, tie("value"), { maxKeys: 4 }),
  ),
})).value;
const space = fc.string({ unit: fc.constantFrom(" ", "\t", "\n", "\r"), maxLength: 3 });
/** JSON text of a value, with random white space between its tokens, escaped or not. */
export const jsonText = (value: fc.Arbitrary<unknown>): fc.Arbitrary<string> =>
  fc.tuple(value, space, space, fc.boolean()).map(([given, before, between, escaped]) => {
    const write = (part: unknown): string => {
      if (Array.isArray(part)) return `[${between}${part.map(write).join(`${between},${between}`)}${before}]`;
      if (typeof part === "object" && part !== null) {
        const members = Object.entries(part).map(
          ([key, member]) => `${quote(key)}${before}:${between}${write(member)}`,
        );
        return `{${before}${members.join(`,${between}`)}${between}}`;
      }
      return typeof part === "string" ? quote(part) : JSON.stringify(part);
    };
    const quote = (text: string): string => {
      if (!escaped) return JSON.stringify(text);
      const units = Array.from({ length: text.length }, (_, at) =>
        text.charCodeAt(at).toString(16).padStart(4, "0"),
      );
      return `"${units.map((unit) => `\\u${unit}`).join("")}"`;
    };
    return `${before}${write(given)}${between}`;
  });
