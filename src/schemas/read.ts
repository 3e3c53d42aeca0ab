/** Turns a body into the text that schemas are learned from, at a bounded cost. Part of the schemas. */
import { condensed } from "./condense.ts";

/**
 * A body of at most this size is parsed whole.
 * @bound a body that is learned whole | a condensed form is learned
 */
const WHOLE_BYTES_MAX = 16 * 1024;

export type JsonValue = string | number | boolean | null | JsonValue[] | { [key: string]: JsonValue };
export type JsonObject = { [key: string]: JsonValue };

const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/**
 * A body of at most this size is shown to the language model as it is.
 * @bound a body that a question shows as it is | a condensed form is shown
 */
const SHOWN_BYTES_MAX = 4000;
const SHOWN = { stringBytes: 160, elements: 8 };

/** The text of a body for the language model: nothing long hides what follows it. */
export function textToShow(body: Uint8Array): string {
  return decoder.decode(body.length <= SHOWN_BYTES_MAX ? body : condensed(body, SHOWN));
}

/** The JSON text of a body. A large body is condensed first. */
export function textToRead(body: Uint8Array): string {
  return decoder.decode(body.length <= WHOLE_BYTES_MAX ? body : condensed(body));
}
