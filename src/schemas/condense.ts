/**
 * A large body cut down to a short JSON text of the same shape, at a cost that is bounded whatever its size. It reads
 * bytes and not characters, and it passes over the inside of strings at the speed of memory, so that an attachment of
 * megabytes hides nothing that follows it. Part of the schemas.
 */

/** What a larger body is cut down to before it is parsed. */
const CONDENSED_BYTES_MAX = 32 * 1024;
/** Bytes that are looked at one by one in a larger body; the inside of strings is passed over much faster. */
const STEPS_MAX = 128 * 1024;
/** What it costs to look for the end of a string, in such steps. */
const STRING_STEPS = 8;
/** Of a longer string only the beginning is read. Enough for 64 characters, each escaped. */
const STRING_BYTES_MAX = 512;
/** Deeper than any event may be nested. */
const NESTING_MAX = 200;
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

/**
 * A shorter JSON text of the same shape: long strings and arrays lose their ends, and what lies beyond the bounds
 * is left out together with everything after it.
 * @param body one JSON object or array, valid.
 */
export function condensed(body: Uint8Array): Uint8Array {
  const walk = new Walk(body);
  const shorter = new ShorterText();
  while (walk.at < body.length && walk.steps > 0 && !shorter.isFull) {
    const { at } = walk;
    const byte = body[at] as number;
    if (byte === QUOTE) {
      const end = walk.passString();
      if (end < 0) break;
      shorter.string(body, at, end);
      continue;
    }
    walk.at++;
    walk.steps--;
    if (byte <= SPACE) continue;
    if (byte === COMMA) {
      if (!shorter.comma()) walk.passElements(shorter.depth);
    } else if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) {
      if (shorter.depth === NESTING_MAX) break;
      shorter.open(byte);
    } else if (byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) shorter.close(byte);
    else shorter.put(byte);
  }
  return shorter.closed();
}

/** Where in a body its reader stands, and what it may still spend. */
class Walk {
  at = 0;
  steps = STEPS_MAX;
  readonly #body: Uint8Array;

  constructor(body: Uint8Array) {
    this.#body = body;
  }

  /** Passes over the string that begins here. @returns where its last quote stands; −1: there are no steps left. */
  passString(): number {
    let end = this.at;
    for (let escaped = 1; escaped % 2 === 1; ) {
      end = this.#body.indexOf(QUOTE, end + 1);
      if (end < 0) throw new Error("schemas: a string without end in a body that was checked");
      escaped = this.#backslashesBefore(end, Math.min(end - this.at - 1, Math.max(this.steps, 0)));
      this.steps -= STRING_STEPS + escaped;
    }
    // Without steps the search above may have stopped inside a run of backslashes: nothing after it counts.
    if (this.steps <= 0) return -1;
    this.at = end + 1;
    return end;
  }

  /** How many backslashes stand before `at`, of which `max` are looked at: an odd number escapes the byte there. */
  #backslashesBefore(at: number, max: number): number {
    let count = 0;
    while (count < max && this.#body[at - 1 - count] === BACKSLASH) count++;
    return count;
  }

  /** Passes over what is left of an array, up to its closing bracket. @param depth of the array. */
  passElements(depth: number): void {
    const body = this.#body;
    for (let level = depth; this.at < body.length && this.steps > 0; ) {
      const byte = body[this.at] as number;
      if (byte === QUOTE) {
        if (this.passString() < 0) return;
        continue;
      }
      if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) level++;
      else if (byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) {
        if (level === depth) return;
        level--;
      }
      this.at++;
      this.steps--;
      if (level > NESTING_MAX) this.steps = 0;
    }
  }
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

/** The shorter text while it is written: what of it is whole, and which brackets are open. */
class ShorterText {
  // Room for a string, and for the brackets that are still open at the end.
  readonly #out = new Uint8Array(CONDENSED_BYTES_MAX + STRING_BYTES_MAX + 256);
  #bytes = 0;
  /** Closing brackets of what is open, and in each how many commas there were. */
  readonly #closers: number[] = [];
  readonly #commas: number[] = [];
  /** Up to here `#out` is whole once the brackets of `#safeDepth` levels are closed. */
  #safeBytes = 0;
  #safeDepth = 0;

  get isFull(): boolean {
    return this.#bytes >= CONDENSED_BYTES_MAX;
  }

  get depth(): number {
    return this.#closers.length;
  }

  /** Takes the string whose quotes stand at `start` and `end`. */
  string(body: Uint8Array, start: number, end: number): void {
    const cut = end - start <= STRING_BYTES_MAX ? end : cutOf(body, start);
    this.#out.set(body.subarray(start, cut), this.#bytes);
    this.#bytes += cut - start;
    this.#out[this.#bytes++] = QUOTE;
  }

  /** Takes a byte that is neither bracket nor comma nor part of a string. */
  put(byte: number): void {
    this.#out[this.#bytes++] = byte;
  }

  open(bracket: number): void {
    this.#closers.push(bracket + 2);
    this.#commas.push(0);
    this.#bracket(bracket);
  }

  close(bracket: number): void {
    this.#closers.pop();
    this.#commas.pop();
    this.#bracket(bracket);
  }

  #bracket(bracket: number): void {
    this.#out[this.#bytes++] = bracket;
    this.#safeBytes = this.#bytes;
    this.#safeDepth = this.#closers.length;
  }

  /** @returns whether there is room for another element: an array has only its first ones. */
  comma(): boolean {
    const level = this.#closers.length - 1;
    const commas = (this.#commas[level] as number) + 1;
    this.#commas[level] = commas;
    this.#safeBytes = this.#bytes;
    if (this.#closers[level] === CLOSE_ARRAY && commas >= ARRAY_ELEMENTS_MAX) return false;
    this.#out[this.#bytes++] = COMMA;
    return true;
  }

  /** What is whole of it, with the brackets that were left open closed. */
  closed(): Uint8Array {
    let bytes = this.#safeBytes;
    for (let level = this.#safeDepth - 1; level >= 0; level--)
      this.#out[bytes++] = this.#closers[level] as number;
    return this.#out.subarray(0, bytes);
  }
}
