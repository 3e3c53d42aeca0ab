/**
 * Condenses a large body to a short JSON text of the same shape, at a bounded cost. It works on bytes, and it skips the
 * inside of strings at the speed of memory, so that what follows an attachment of megabytes is still seen. Part of the
 * schemas.
 */

/**
 * The size to which a body is condensed.
 * @bound the condensed form of a body | the rest is not looked at
 */
const CONDENSED_BYTES_MAX = 32 * 1024;
/** The bytes of a body that are read one by one. The inside of strings is skipped much faster. */
const STEPS_MAX = 128 * 1024;
/** What the search for the end of a string costs, in the same unit. */
const STRING_STEPS = 8;
/** Only this much of a string is kept: enough for 64 characters even if each is escaped. */
const STRING_BYTES_MAX = 512;
/** More levels than any accepted event has. */
const NESTING_MAX = 200;
/**
 * Only this many elements of an array are kept, and of an object whose keys are numbers: a byte array that was written as
 * {"0":255,"1":216} is skipped as quickly as an array.
 * @bound elements of an array that a schema learns | not looked at
 */
export const ARRAY_ELEMENTS_MAX = 32;
/** How much of long values is kept. */
export interface Kept {
  readonly stringBytes: number;
  readonly elements: number;
}

const KEPT: Kept = { stringBytes: STRING_BYTES_MAX, elements: ARRAY_ELEMENTS_MAX };
/** How many skipped bytes count as one step. */
const SKIPPED_BYTES = 16;

const QUOTE = 34;
const COMMA = 44;
const OPEN_ARRAY = 91;
const BACKSLASH = 92;
const CLOSE_ARRAY = 93;
const LOWER_U = 117;
const OPEN_OBJECT = 123;
const CLOSE_OBJECT = 125;
const SPACE = 32;
const ZERO = 48;
const NINE = 57;

/**
 * A shorter JSON text of the same shape. Long strings and arrays lose their ends. If the result is full or the steps are
 * used up, the rest of the body is left out.
 * @param body one valid JSON object or array.
 * @param kept at most as much as the schemas keep.
 */
export function condensed(body: Uint8Array, kept: Kept = KEPT): Uint8Array {
  const walk = new Walk(body);
  const shorter = new ShorterText(kept);
  while (walk.at < body.length && walk.steps > 0 && !shorter.isFull) {
    const { at } = walk;
    const byte = body[at] as number;
    if (byte === QUOTE) {
      const end = walk.skipString();
      if (end < 0) break;
      shorter.string(body, at, end);
      continue;
    }
    walk.at++;
    walk.steps--;
    if (byte <= SPACE) continue;
    if (byte === COMMA) {
      if (shorter.inArray) {
        if (!shorter.comma()) walk.skipElements(shorter.depth);
      } else if (walk.skipNumbers(shorter)) shorter.comma();
    } else if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) {
      if (shorter.depth === NESTING_MAX) break;
      shorter.open(byte);
    } else if (byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) shorter.close(byte);
    else shorter.put(byte);
  }
  return shorter.closed();
}

/** A reader's position in a body, and how many steps it has left. */
class Walk {
  at = 0;
  steps = STEPS_MAX;
  readonly #body: Uint8Array;

  constructor(body: Uint8Array) {
    this.#body = body;
  }

  /** Skips the string that begins here. @returns the position of its closing quote; −1: the steps are used up. */
  skipString(): number {
    let end = this.at;
    for (let escaped = 1; escaped % 2 === 1; ) {
      end = this.#body.indexOf(QUOTE, end + 1);
      if (end < 0) throw new Error("schemas: a string without end in a body that was checked");
      escaped = this.#backslashesBefore(end, Math.min(end - this.at - 1, Math.max(this.steps, 0)));
      this.steps -= STRING_STEPS + escaped;
    }
    // If the steps ran out inside a run of backslashes, the quote may be an escaped one.
    if (this.steps <= 0) return -1;
    this.at = end + 1;
    return end;
  }

  /** Counts the backslashes before `at`, at most `max`. An odd number escapes the byte there. */
  #backslashesBefore(at: number, max: number): number {
    let count = 0;
    while (count < max && this.#body[at - 1 - count] === BACKSLASH) count++;
    return count;
  }

  /**
   * Behind a comma in an object: skips the members whose keys are numbers if the object has had enough of them.
   * @returns whether the next member belongs to the shorter text.
   */
  skipNumbers(shorter: Pick<ShorterText, "takesNumber">): boolean {
    for (;;) {
      const key = numberKeyEnd(this.#body, this.at);
      if (key < 0 || shorter.takesNumber()) return true;
      const from = this.at;
      const left = this.steps;
      this.at = key;
      if (!this.#skipMember()) return false;
      this.steps = left - Math.ceil((this.at - from) / SKIPPED_BYTES);
      if (this.steps <= 0 || this.#body[this.at] !== COMMA) return false;
      this.at++;
    }
  }

  /** Skips a value, up to the comma or bracket behind it. @returns false: the steps are used up. */
  #skipMember(): boolean {
    const body = this.#body;
    for (let level = 0; this.steps > 0; ) {
      const byte = body[this.at] as number;
      if (byte === QUOTE) {
        if (this.skipString() < 0) return false;
        continue;
      }
      if (level === 0 && (byte === COMMA || byte === CLOSE_OBJECT)) return true;
      if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) level++;
      else if (byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) level--;
      this.at++;
      this.steps--;
      if (level > NESTING_MAX) this.steps = 0;
    }
    return false;
  }

  /** Skips the remaining elements of an array, up to its closing bracket. @param depth the level of the array. */
  skipElements(depth: number): void {
    const body = this.#body;
    for (let level = depth; this.at < body.length && this.steps > 0; ) {
      const byte = body[this.at] as number;
      if (byte === QUOTE) {
        if (this.skipString() < 0) return;
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

/** The position behind the key at `at` and its quotes, if white space and a key of digits stand there; else −1. */
function numberKeyEnd(body: Uint8Array, at: number): number {
  let from = at;
  while ((body[from] as number) <= SPACE) from++;
  let end = from + 1;
  while ((body[end] as number) >= ZERO && (body[end] as number) <= NINE) end++;
  return body[from] === QUOTE && end > from + 1 && body[end] === QUOTE ? end + 1 : -1;
}

/** Where to cut a long string, so that neither an escape nor a character is torn apart. */
function cutOf(body: Uint8Array, start: number, bytesMax: number): number {
  const end = start + bytesMax;
  for (let at = start + 1, next = at; ; at = next) {
    if (body[at] === BACKSLASH) next = at + (body[at + 1] === LOWER_U ? 6 : 2);
    else {
      next = at + 1;
      while (((body[next] as number) & 0xc0) === 0x80) next++;
    }
    if (next > end) return at;
  }
}

/** Writes the shorter text, and knows how to end it as valid JSON. */
class ShorterText {
  // The extra room is for one more string, and for the brackets that are closed at the end.
  readonly #out = new Uint8Array(CONDENSED_BYTES_MAX + STRING_BYTES_MAX + 256);
  #bytes = 0;
  /** For each open level its closing bracket, how many commas it had, and how many members with a number as their key. */
  readonly #closers: number[] = [];
  readonly #commas: number[] = [];
  readonly #numbers: number[] = [];
  /** The text up to here is valid JSON if the brackets of `#safeDepth` levels are added. */
  #safeBytes = 0;
  #safeDepth = 0;
  readonly #kept: Kept;

  constructor(kept: Kept) {
    this.#kept = kept;
  }

  get isFull(): boolean {
    return this.#bytes >= CONDENSED_BYTES_MAX;
  }

  get inArray(): boolean {
    return this.#closers.at(-1) === CLOSE_ARRAY;
  }

  /** Counts a member of the innermost object whose key is a number. @returns whether there is room for it. */
  takesNumber(): boolean {
    const level = this.#numbers.length - 1;
    const count = (this.#numbers[level] as number) + 1;
    this.#numbers[level] = count;
    return count <= this.#kept.elements;
  }

  get depth(): number {
    return this.#closers.length;
  }

  /** Adds the string between the quotes at `start` and `end`. */
  string(body: Uint8Array, start: number, end: number): void {
    const { stringBytes } = this.#kept;
    const cut = end - start <= stringBytes ? end : cutOf(body, start, stringBytes);
    this.#out.set(body.subarray(start, cut), this.#bytes);
    this.#bytes += cut - start;
    this.#out[this.#bytes++] = QUOTE;
  }

  /** Adds a byte that is neither bracket nor comma nor part of a string. */
  put(byte: number): void {
    this.#out[this.#bytes++] = byte;
  }

  open(bracket: number): void {
    this.#closers.push(bracket + 2);
    this.#commas.push(0);
    // The first member has no comma before it, so it counts as one.
    this.#numbers.push(1);
    this.#bracket(bracket);
  }

  close(bracket: number): void {
    this.#closers.pop();
    this.#commas.pop();
    this.#numbers.pop();
    this.#bracket(bracket);
  }

  #bracket(bracket: number): void {
    this.#out[this.#bytes++] = bracket;
    this.#safeBytes = this.#bytes;
    this.#safeDepth = this.#closers.length;
  }

  /** Adds a comma. @returns false: the array has enough elements, so the comma and the rest of it are left out. */
  comma(): boolean {
    const level = this.#closers.length - 1;
    const commas = (this.#commas[level] as number) + 1;
    this.#commas[level] = commas;
    this.#safeBytes = this.#bytes;
    if (this.#closers[level] === CLOSE_ARRAY && commas >= this.#kept.elements) return false;
    this.#out[this.#bytes++] = COMMA;
    return true;
  }

  /** The result: the valid part of the text, with closing brackets for what is still open. */
  closed(): Uint8Array {
    let bytes = this.#safeBytes;
    for (let level = this.#safeDepth - 1; level >= 0; level--)
      this.#out[bytes++] = this.#closers[level] as number;
    return this.#out.subarray(0, bytes);
  }
}
