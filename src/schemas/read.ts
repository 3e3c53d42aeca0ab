/**
 * A body as the values that schemas are learned from, at a cost that is bounded whatever its size; and its
 * fingerprint. Part of the schemas.
 */

/** Bodies up to here are parsed whole. */
const WHOLE_BYTES_MAX = 16 * 1024;
/** What a larger body is cut down to before it is parsed. */
const CONDENSED_BYTES_MAX = 32 * 1024;
/** Bytes that are looked at one by one in a larger body; the inside of strings is passed over much faster. */
const STEPS_MAX = 128 * 1024;
/** What it costs to look for the end of a string, in such steps. */
const STRING_STEPS = 8;
/** Of a longer string only the beginning is read. Enough for 64 characters, each escaped. */
const STRING_BYTES_MAX = 512;
/** Elements of one array that are looked at. */
export const ARRAY_ELEMENTS_MAX = 32;

const QUOTE = 34;
const COMMA = 44;
const OPEN_ARRAY = 91;
const BACKSLASH = 92;
const CLOSE_ARRAY = 93;
const LOWER_U = 117;
const OPEN_OBJECT = 123;
const CLOSE_OBJECT = 125;
const SPACE = 32;

export type JsonValue = string | number | boolean | null | JsonValue[] | { [key: string]: JsonValue };
export type JsonObject = { [key: string]: JsonValue };

const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** The text of a body, cut down where it is large; JSON all the same. */
export function textToRead(body: Uint8Array): string {
  return decoder.decode(body.length <= WHOLE_BYTES_MAX ? body : condensed(body));
}

/** Whether the backslashes before `at` make the byte there an escaped one; and how many were looked at. */
function backslashesBefore(body: Uint8Array, at: number, max: number): number {
  let count = 0;
  while (count < max && body[at - 1 - count] === BACKSLASH) count++;
  return count;
}

/** Where the beginning of a string may be cut, so that neither an escape nor a character is torn apart. */
function cutOf(body: Uint8Array, start: number): number {
  const end = start + STRING_BYTES_MAX;
  for (let at = start + 1, next = at; ; at = next) {
    if (body[at] === BACKSLASH) next = at + (body[at + 1] === LOWER_U ? 6 : 2);
    else {
      next = at + 1;
      while (((body[next] as number) & 0xc0) === 0x80) next++;
    }
    if (next > end) return at;
  }
}

/**
 * A shorter JSON text of the same shape: long strings and arrays lose their ends, and what lies beyond the bounds
 * is left out together with everything after it.
 * @param body one JSON object or array, valid.
 */
export function condensed(body: Uint8Array): Uint8Array {
  // Room for a string, and for the brackets that are still open at the end.
  const out = new Uint8Array(CONDENSED_BYTES_MAX + STRING_BYTES_MAX + 256);
  /** Closing brackets of what is open, and in each how many commas there were. */
  const open: number[] = [];
  const commas: number[] = [];
  let outBytes = 0;
  /** Up to here `out` is whole once the brackets of `safeDepth` levels are closed. */
  let safeBytes = 0;
  let safeDepth = 0;
  /** The depth of the array whose further elements are left out; 0: none. */
  let skipDepth = 0;
  let steps = STEPS_MAX;
  for (let at = 0; at < body.length && steps > 0 && outBytes < CONDENSED_BYTES_MAX; ) {
    const byte = body[at] as number;
    if (byte === QUOTE) {
      let end = at;
      for (let escaped = 1; escaped % 2 === 1; ) {
        end = body.indexOf(QUOTE, end + 1);
        if (end < 0) throw new Error("schemas: a string without end in a body that was checked");
        escaped = backslashesBefore(body, end, Math.min(end - at - 1, Math.max(steps, 0)));
        steps -= STRING_STEPS + escaped;
      }
      // Without steps the search above may have stopped inside a run of backslashes: nothing after it counts.
      if (steps <= 0) break;
      if (skipDepth === 0) {
        const cut = end - at <= STRING_BYTES_MAX ? end : cutOf(body, at);
        out.set(body.subarray(at, cut), outBytes);
        outBytes += cut - at;
        out[outBytes++] = QUOTE;
      }
      at = end + 1;
      continue;
    }
    at++;
    steps--;
    if (byte <= SPACE) continue;
    const opens = byte === OPEN_OBJECT || byte === OPEN_ARRAY;
    const closes = byte === CLOSE_OBJECT || byte === CLOSE_ARRAY;
    if (opens) {
      // Deeper than any event may be nested.
      if (open.length === 200) break;
      open.push(byte + 2);
      commas.push(0);
    } else if (closes) {
      if (open.length === skipDepth) skipDepth = 0;
      open.pop();
      commas.pop();
    } else if (byte === COMMA) {
      const level = open.length - 1;
      commas[level] = (commas[level] as number) + 1;
      if (skipDepth > 0) continue;
      safeBytes = outBytes;
      if (open[level] === CLOSE_ARRAY && (commas[level] as number) >= ARRAY_ELEMENTS_MAX) {
        skipDepth = open.length;
        continue;
      }
    }
    if (skipDepth > 0) continue;
    out[outBytes++] = byte;
    if (opens || closes) {
      safeBytes = outBytes;
      safeDepth = open.length;
    }
  }
  for (let level = safeDepth - 1; level >= 0; level--) out[safeBytes++] = open[level] as number;
  return out.subarray(0, safeBytes);
}

// ---- Fingerprint -------------------------------------------------------------------------------------

/** Levels that a fingerprint looks at, and elements of one array. */
const FINGERPRINT_DEPTH_MAX = 4;
const FINGERPRINT_ELEMENTS_MAX = 4;
const FINGERPRINT_KEY_CHARS_MAX = 64;
const DISCRIMINATOR_CHARS_MAX = 64;

/** Keys whose value says what kind of event or object this is; compared without case, `_` and `-`. */
const DISCRIMINATORS: ReadonlySet<string> = new Set([
  ...["action", "type", "event", "kind", "object", "topic", "operation", "op", "method", "category"],
  ...["eventtype", "eventname", "eventkind", "objecttype", "objectkind", "resourcetype", "recordtype"],
  ...["webhookevent", "webhooktype", "messagetype", "notificationtype", "trigger", "resource", "schema"],
]);

/** Keys and values that name one thing among many: a number, a UUID, a long hexadecimal or mixed text. */
function isIdentifier(text: string): boolean {
  return /\d{4}/.test(text) || /^\d+$/.test(text) || /^[0-9a-f-]{12,}$/i.test(text);
}

function isContainer(value: JsonValue): boolean {
  return typeof value === "object" && value !== null;
}

/**
 * The same for bodies of the same shape: key paths, JSON types, and the values of keys such as `action`. The order
 * of keys and the number of elements do not matter, and keys that look like an id count as one. Of a body over 16
 * KiB only what its condensed form has is looked at. 32 hexadecimal digits.
 */
export function fingerprintOf(value: JsonObject): string {
  const lines = new Set<string>();
  const visit = (path: string, key: string, value: JsonValue, depth: number): void => {
    if (Array.isArray(value)) {
      lines.add(`${path} array`);
      if (depth === FINGERPRINT_DEPTH_MAX) return;
      // Lists of plain values are of one shape, whether they hold any or not: GitHub's pushes have several, often empty.
      for (const element of value.slice(0, FINGERPRINT_ELEMENTS_MAX).filter(isContainer))
        visit(`${path}\u0000[]`, "", element, depth + 1);
    } else if (typeof value === "object" && value !== null) {
      lines.add(`${path} object`);
      if (depth === FINGERPRINT_DEPTH_MAX) return;
      for (const name in value) {
        const plain = name.length <= FINGERPRINT_KEY_CHARS_MAX && !isIdentifier(name);
        visit(
          `${path}\u0000${plain ? JSON.stringify(name) : "*"}`,
          name,
          value[name] as JsonValue,
          depth + 1,
        );
      }
    } else {
      lines.add(`${path} ${value === null ? "null" : typeof value}`);
      if (typeof value !== "string" || value.length > DISCRIMINATOR_CHARS_MAX) return;
      const says = DISCRIMINATORS.has(key.toLowerCase().replaceAll(/[_-]/g, ""));
      if (says && !isIdentifier(value)) lines.add(`${path} = ${JSON.stringify(value)}`);
    }
  };
  visit("", "", value, 0);
  const hash = new Bun.CryptoHasher("sha256").update([...lines].sort().join("\n"));
  return hash.digest("hex").slice(0, 32);
}
