/** The text that is embedded for an event. Part of the event room. */

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

/** The offset after the string that begins at `at`, or the end of the bytes. */
function stringEnd(bytes: Uint8Array, at: number): number {
  let end = at + 1;
  while (end < bytes.length && bytes[end] !== QUOTE) end += bytes[end] === BACKSLASH ? 2 : 1;
  return Math.min(end + 1, bytes.length);
}

function stringAt(bytes: Uint8Array, start: number): string {
  const raw = decode(bytes.subarray(start, stringEnd(bytes, start)));
  return raw.includes("\\") ? String(JSON.parse(raw)) : raw.slice(1, -1);
}

/** One object or array that the walk through a body is inside of. */
interface Level {
  /** The index of the current element; −1 in an object. */
  index: number;
  /** The offset of the current member's key; −1 before it was read. */
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
 * The text that is embedded for an event: its message. Without a message, the non-empty strings of the body in their
 * order, each as a line `path: value` with a path like `customer.notes[0]`, up to LIMITS.textCharsMax UTF-16 units.
 * Without strings, "".
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
    // Never cut a surrogate pair in two.
    const last = text.charCodeAt(LIMITS.textCharsMax - 1);
    text = text.slice(0, LIMITS.textCharsMax - (last >= 0xd800 && last < 0xdc00 ? 1 : 0));
  }
  return text.toWellFormed();
}
