/**
 * Makes samples of values that are safe to keep and to show: short, without control characters, and without what looks
 * like a secret or names a person. Part of the schemas.
 */

/**
 * UTF-16 units of a sample.
 * @bound a sample | cut
 */
const SAMPLE_CHARS_MAX = 64;
/** Secrets are searched for in this much of a value. The sample is cut afterwards. */
const LOOK_CHARS_MAX = 512;
const HIDDEN = "***";

const SECRET_KEY =
  /pass(word|wd|phrase|code)|senha|secret|token|api[-_]?key|apikey|authori[sz]ation|credential|private[-_]?key|signature|cookie|session|cvv|cvc|card[-_]?(number|no)|cpf|cnpj|ssn|iban|^(pin|otp|auth|pwd|rg|key)$/i;

/** Whether the values of a key must be hidden, with everything inside them. */
export function isSecretKey(key: string): boolean {
  return SECRET_KEY.test(key);
}

/** The text with everything replaced that looks like a secret or names a person. */
function harmless(text: string): string {
  return (
    text
      // The user and the query of a URL often contain tokens.
      .replaceAll(/\b([a-z][a-z0-9+.-]*:\/\/)[^\s/@]*@/gi, `$1${HIDDEN}@`)
      .replaceAll(/\b([a-z][a-z0-9+.-]*:\/\/[^\s?#]*)[?#]\S*/gi, `$1?${HIDDEN}`)
      .replaceAll(/[^\s@<>"'(),;:/*]+@([a-z0-9-]+(?:\.[a-z0-9-]+)+)/gi, `${HIDDEN}@$1`)
      // Long words with letters and digits are keys, tokens or hashes. A UUID only names a thing.
      .replaceAll(/[A-Za-z0-9_+=~-]{20,}(?:\.[A-Za-z0-9_+=~-]+)*/g, (word) => (isToken(word) ? HIDDEN : word))
      // Numbers of cards, documents and telephones, however their digits are grouped. A plain date never gets here.
      .replaceAll(/\+?\d(?:[ ().-]{0,2}\d){8,}/g, (digits) => digits.replaceAll(/\d/g, "0"))
  );
}

function isToken(word: string): boolean {
  if (/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(word)) return false;
  return /\d/.test(word) && /[a-z]/i.test(word);
}

const DATE = /^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:?\d\d)?)?$/;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/** The JSON text of a value, safe to show. @param hidden whether its key is a secret one. */
export function sampleOf(value: string | number | boolean, hidden: boolean): string {
  if (hidden) return JSON.stringify(HIDDEN);
  if (typeof value !== "string") return JSON.stringify(value);
  if (DATE.test(value) || UUID.test(value)) return JSON.stringify(value);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are removed, as are marks that reorder text.
  const printable = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g;
  const text = harmless(value.slice(0, LOOK_CHARS_MAX).toWellFormed()).replaceAll(printable, " ");
  const cut = text.length <= SAMPLE_CHARS_MAX ? text : `${text.slice(0, SAMPLE_CHARS_MAX - 1)}…`;
  return JSON.stringify(cut.toWellFormed());
}

/** The numbers of a JSON text, each with the digits that it is written with. JSON.parse rounds them to doubles. */
export function exactDigits(text: string): ReadonlyMap<number, string> {
  const digits = new Map<number, string>();
  JSON.parse(text, (_key, value: unknown, context?: { source?: string }) => {
    if (typeof value === "number" && context?.source !== undefined) digits.set(value, context.source);
    return value;
  });
  return digits;
}
