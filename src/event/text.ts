/** The text of an event that is embedded. Part of the event room. */

import { LIMITS } from "./fields.ts";
import {
  BACKSLASH,
  CLOSE_ARRAY,
  CLOSE_OBJECT,
  COMMA,
  decode,
  OPEN_ARRAY,
  OPEN_OBJECT,
  QUOTE,
} from "./scan.ts";

/** The byte after the string that begins at `at`, or the end of the bytes. */
function stringEnd(bytes: Uint8Array, at: number): number {
  let end = at + 1;
  while (end < bytes.length && bytes[end] !== QUOTE) end += bytes[end] === BACKSLASH ? 2 : 1;
  return Math.min(end + 1, bytes.length);
}

function stringAt(bytes: Uint8Array, start: number): string {
  const raw = decode(bytes.subarray(start, stringEnd(bytes, start)));
  return raw.includes("\\") ? String(JSON.parse(raw)) : raw.slice(1, -1);
}

/** Where a walk through a body stands in one object or array. */
interface Level {
  /** Elements before this one; −1 in an object. */
  index: number;
  /** Where the key begins; −1 before it. */
  keyStart: number;
}

function pathOf(body: Uint8Array, levels: readonly Level[]): string {
  let path = "";
  for (const { index, keyStart } of levels) {
    if (path.length > LIMITS.textCharsMax) break;
    if (index >= 0) path += `[${index}]`;
    else path += `${path === "" ? "" : "."}${stringAt(body, keyStart)}`;
  }
  return path;
}

/**
 * The text that is embedded: the message; else the body's non-empty strings in their order as lines
 * `path: value`, paths like `customer.notes[0]`, up to LIMITS.textCharsMax UTF-16 units; else "".
 * @param body of a {@link ParsedEvent}.
 */
export function textOf(message: string | null, body: Uint8Array): string {
  if (message !== null) return message;
  const end = Math.min(body.length, LIMITS.textScanBytesMax);
  const levels: Level[] = [];
  let text = "";
  for (let at = 0; at < end && text.length < LIMITS.textCharsMax; ) {
    const byte = body[at];
    const level = levels.at(-1);
    if (byte === QUOTE) {
      const next = stringEnd(body, at);
      if (level !== undefined && level.index < 0 && level.keyStart < 0) level.keyStart = at;
      else if (next - at > 2)
        text += `${text === "" ? "" : "\n"}${pathOf(body, levels)}: ${stringAt(body, at)}`;
      at = next;
      continue;
    }
    if (byte === OPEN_OBJECT) levels.push({ index: -1, keyStart: -1 });
    else if (byte === OPEN_ARRAY) levels.push({ index: 0, keyStart: -1 });
    else if (byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) levels.pop();
    else if (byte === COMMA && level !== undefined) {
      if (level.index >= 0) level.index++;
      else level.keyStart = -1;
    }
    at++;
  }
  if (text.length > LIMITS.textCharsMax) {
    // A surrogate pair is not cut in two.
    const last = text.charCodeAt(LIMITS.textCharsMax - 1);
    text = text.slice(0, LIMITS.textCharsMax - (last >= 0xd800 && last < 0xdc00 ? 1 : 0));
  }
  return text.toWellFormed();
}
