/**
 * A body as the values that schemas are learned from, at a cost that is bounded whatever its size. Part of the schemas.
 */
import { condensed } from "./condense.ts";

/** Bodies up to here are parsed whole. */
const WHOLE_BYTES_MAX = 16 * 1024;

export type JsonValue = string | number | boolean | null | JsonValue[] | { [key: string]: JsonValue };
export type JsonObject = { [key: string]: JsonValue };

const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** The text of a body, cut down where it is large; JSON all the same. */
export function textToRead(body: Uint8Array): string {
  return decoder.decode(body.length <= WHOLE_BYTES_MAX ? body : condensed(body));
}
