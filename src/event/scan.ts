/** The byte scanner: reads JSON text and UTF-8 in slices and tells the offset of what is wrong. Part of the event room. */

import { isUtf8 } from "node:buffer";

const TAB = 9;
export const NEWLINE = 10;
const RETURN = 13;
const SPACE = 32;
export const QUOTE = 34;
const PLUS = 43;
export const COMMA = 44;
const MINUS = 45;
const DOT = 46;
const ZERO = 48;
const NINE = 57;
const COLON = 58;
const UPPER_E = 69;
export const OPEN_ARRAY = 91;
export const BACKSLASH = 92;
export const CLOSE_ARRAY = 93;
const LOWER_E = 101;
const LOWER_U = 117;
export const OPEN_OBJECT = 123;
export const CLOSE_OBJECT = 125;

export function isSpace(byte: number | undefined): boolean {
  return byte === SPACE || byte === NEWLINE || byte === RETURN || byte === TAB;
}

export function isDigit(byte: number | undefined): boolean {
  return byte !== undefined && byte >= ZERO && byte <= NINE;
}

/** The length of the byte order mark at the start of `bytes`: 3 or 0. */
export function markBytes(bytes: Uint8Array): number {
  return bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? 3 : 0;
}

/** `bytes` without a byte order mark and JSON white space around them; the same view if they have neither. */
export function trimmed(bytes: Uint8Array): Uint8Array {
  let start = markBytes(bytes);
  let end = bytes.length;
  while (start < end && isSpace(bytes[start])) start++;
  while (end > start && isSpace(bytes[end - 1])) end--;
  return start === 0 && end === bytes.length ? bytes : bytes.subarray(start, end);
}

const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** Decodes valid UTF-8. */
export function decode(bytes: Uint8Array): string {
  return decoder.decode(bytes);
}

/** `end`, or up to three bytes before it, where a character begins. */
export function characterStart(bytes: Uint8Array, end: number): number {
  let at = end;
  while (at > 0 && at < bytes.length && end - at < 3 && ((bytes[at] as number) & 0xc0) === 0x80) at--;
  return at;
}

/** The offset of the first character that is not valid UTF-8. `bytes` must hold one. */
export function invalidUtf8At(bytes: Uint8Array): number {
  let good = 0;
  let bad = bytes.length;
  while (bad - good > 8) {
    const middle = characterStart(bytes, good + ((bad - good) >> 1));
    if (middle <= good) break;
    if (isUtf8(bytes.subarray(good, middle))) good = middle;
    else bad = middle;
  }
  for (let size = 1; good < bytes.length; size = 1) {
    while (size <= 4 && !isUtf8(bytes.subarray(good, good + size))) size++;
    if (size > 4) break;
    good += size;
  }
  return good;
}

// States of the scanner. From IN_STRING on, they are inside a token.
const AT_VALUE = 0;
const AT_FIRST_VALUE = 1;
const AT_FIRST_KEY = 2;
const AT_KEY = 3;
const AT_COLON = 4;
const AFTER_VALUE = 5;
const IN_STRING = 6;
const IN_KEY = 7;
const IN_INTEGER = 8;
const AFTER_INTEGER = 9;
const IN_FRACTION = 10;
const IN_EXPONENT = 11;

const EXPECTED = [
  "a value",
  'a value or "]"',
  'a key in double quotes or "}"',
  "a key in double quotes",
  'a ":"',
  'a "," or the closing bracket',
];

/** The offset after `text` at `at`, or −1 if something else is there. */
export function literalEnd(bytes: Uint8Array, at: number, text: string): number {
  for (let index = 0; index < text.length; index++) {
    if (bytes[at + index] !== text.charCodeAt(index)) return -1;
  }
  return at + text.length;
}

/** The offset after the escape that begins with the backslash at `at`, or −1 if the escape is invalid. */
function escapeEnd(bytes: Uint8Array, at: number): number {
  const kind = bytes[at + 1];
  if (kind !== LOWER_U)
    return kind !== undefined && '"\\/bfnrt'.includes(String.fromCharCode(kind)) ? at + 2 : -1;
  for (let index = at + 2; index < at + 6; index++) {
    const byte = bytes[index];
    const letter = (byte ?? 0) | 0x20;
    if (!isDigit(byte) && (letter < 97 || letter > 102)) return -1;
  }
  return at + 6;
}

export type Step = "slice" | "child" | "done" | "bad";

/**
 * Reads one JSON text of RFC 8259 and accepts exactly what JSON.parse accepts. The bytes must be valid UTF-8. It stops
 * after each child of the root (an element of an array, a member of an object) and at each limit, and continues from
 * there. It needs one bit of memory per level of nesting.
 */
export class JsonScanner {
  /** The offset of the next byte. */
  at = 0;
  /** Bounds of the child that ended last and, in an object, of its key including the quotes. */
  childStart = 0;
  childEnd = 0;
  keyStart = 0;
  keyEnd = 0;
  /** The deepest nesting since the caller last reset this; the root is level 1. */
  deepest = 0;
  /** After "bad": what is wrong, with its offset. */
  problem = "";
  private state = AT_VALUE;
  private depth = 0;
  /** Bit n is set if level n is an object. */
  private objects = new Uint8Array(32);

  constructor(private readonly bytes: Uint8Array) {}

  /** Continues to the end of the next child, to the end of the text, or to `limit` (at most a few bytes of a token more). */
  run(limit: number): Step {
    const bytes = this.bytes;
    const stop = Math.min(limit, bytes.length);
    let at = this.at;
    let state = this.state;
    while (at < stop) {
      if (state >= IN_STRING) {
        if (state <= IN_KEY) {
          let byte = 0;
          while (at < stop) {
            byte = bytes[at] as number;
            if (byte === QUOTE || byte === BACKSLASH || byte < SPACE) break;
            at++;
          }
          if (at >= stop) break;
          if (byte === BACKSLASH) {
            const end = escapeEnd(bytes, at);
            if (end < 0) return this.bad(at, "no such escape in a string");
            at = end;
            continue;
          }
          if (byte !== QUOTE) return this.bad(at, "a control character in a string");
          at++;
          if (state === IN_KEY) {
            state = AT_COLON;
            if (this.depth === 1) this.keyEnd = at;
            continue;
          }
        } else {
          if (state !== AFTER_INTEGER) {
            while (at < stop && isDigit(bytes[at])) at++;
            if (at >= stop) break;
          }
          const byte = bytes[at] as number;
          if (byte === DOT && state <= AFTER_INTEGER) {
            if (!isDigit(bytes[at + 1])) return this.bad(at + 1, "a digit was expected");
            at += 2;
            state = IN_FRACTION;
            continue;
          }
          if ((byte === LOWER_E || byte === UPPER_E) && state !== IN_EXPONENT) {
            at++;
            if (bytes[at] === PLUS || bytes[at] === MINUS) at++;
            if (!isDigit(bytes[at])) return this.bad(at, "a digit was expected");
            at++;
            state = IN_EXPONENT;
            continue;
          }
        }
      } else {
        const byte = bytes[at] as number;
        if (byte <= SPACE && isSpace(byte)) {
          at++;
          continue;
        }
        if (state === AT_COLON) {
          if (byte !== COLON) return this.unexpected(at, state);
          at++;
          state = AT_VALUE;
          continue;
        }
        if (state === AFTER_VALUE) {
          if (this.depth === 0) return this.bad(at, "something follows the JSON value");
          if (byte === COMMA) {
            at++;
            state = this.inObject() ? AT_KEY : AT_VALUE;
            continue;
          }
          if (byte !== (this.inObject() ? CLOSE_OBJECT : CLOSE_ARRAY)) return this.unexpected(at, state);
          at++;
          this.depth--;
        } else if (state === AT_KEY || (state === AT_FIRST_KEY && byte !== CLOSE_OBJECT)) {
          if (byte !== QUOTE) return this.unexpected(at, state);
          if (this.depth === 1) this.keyStart = at;
          at++;
          state = IN_KEY;
          continue;
        } else if (state === AT_FIRST_KEY || (state === AT_FIRST_VALUE && byte === CLOSE_ARRAY)) {
          at++;
          this.depth--;
        } else {
          if (this.depth === 1) this.childStart = at;
          if (byte === QUOTE) {
            at++;
            state = IN_STRING;
            continue;
          }
          if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) {
            this.open(byte === OPEN_OBJECT);
            at++;
            state = byte === OPEN_OBJECT ? AT_FIRST_KEY : AT_FIRST_VALUE;
            continue;
          }
          if (byte === MINUS || isDigit(byte)) {
            if (byte === MINUS) at++;
            if (!isDigit(bytes[at])) return this.bad(at, "a digit was expected");
            state = bytes[at] === ZERO ? AFTER_INTEGER : IN_INTEGER;
            at++;
            continue;
          }
          const literal = byte === 116 ? "true" : byte === 102 ? "false" : "null";
          const end = literalEnd(bytes, at, literal);
          if (end < 0) return this.unexpected(at, state);
          at = end;
        }
      }
      // A value has ended here. Keys of objects have continued the loop above.
      state = AFTER_VALUE;
      if (this.depth === 1) {
        this.childEnd = at;
        return this.pause(at, state, "child");
      }
    }
    if (at < bytes.length) return this.pause(at, state, "slice");
    if (this.depth === 0 && (state === AFTER_VALUE || state >= IN_INTEGER))
      return this.pause(at, state, "done");
    return this.bad(at, "the JSON text ends too early");
  }

  private pause(at: number, state: number, step: Step): Step {
    this.at = at;
    this.state = state;
    return step;
  }

  private inObject(): boolean {
    return (((this.objects[this.depth >> 3] as number) >> (this.depth & 7)) & 1) === 1;
  }

  private open(object: boolean): void {
    const depth = ++this.depth;
    if (depth > this.deepest) this.deepest = depth;
    const index = depth >> 3;
    if (index >= this.objects.length) {
      const more = new Uint8Array(2 * this.objects.length);
      more.set(this.objects);
      this.objects = more;
    }
    const bit = 1 << (depth & 7);
    this.objects[index] = object
      ? (this.objects[index] as number) | bit
      : (this.objects[index] as number) & ~bit;
  }

  private bad(at: number, what: string): Step {
    this.problem = `byte ${at}: ${at >= this.bytes.length ? "the JSON text ends too early" : what}`;
    return "bad";
  }

  private unexpected(at: number, state: number): Step {
    return this.bad(at, `${this.depth === 0 ? "a JSON value" : EXPECTED[state]} was expected`);
  }
}
