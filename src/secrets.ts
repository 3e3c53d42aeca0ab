/** Removes secrets from texts of others. An endpoint may repeat the key that it was sent, in whatever form. */

const MASK = "***";
/** A shorter text is no secret: masking it would only make messages unreadable. */
const SECRET_CHARS_MIN = 4;
/** So many consecutive characters of a secret are masked. Endpoints like to show the first or the last few. */
const PART_CHARS = 8;

/** Masks the secrets in a text. */
export type Scrub = (text: string) => string;

/**
 * Makes a function that masks these secrets and their parts of 8 characters or more: as they are, in base64 (also within a
 * longer text, as of `user:password`), percent-encoded, in hexadecimal, and in other letter case.
 */
export function scrubber(secrets: Iterable<string | null>): Scrub {
  /** By length: parts of that many characters, in lower case. */
  const parts = new Map<number, Set<string>>();
  for (const form of [...secrets].flatMap((secret) => formsOf(secret ?? ""))) {
    const chars = Math.min(PART_CHARS, form.length);
    const known = parts.get(chars) ?? new Set();
    parts.set(chars, known);
    for (let at = 0; at + chars <= form.length; at++) known.add(form.slice(at, at + chars));
  }
  if (parts.size === 0) return (text) => text;
  return (text) => masked(text, parts);
}

function masked(text: string, parts: ReadonlyMap<number, ReadonlySet<string>>): string {
  const lower = lowered(text);
  let clean = "";
  let copied = 0;
  let maskEnd = -1;
  for (let at = 0; at < lower.length; at++) {
    for (const [chars, known] of parts) {
      if (!known.has(lower.slice(at, at + chars))) continue;
      if (at > maskEnd) clean += `${text.slice(copied, at)}${MASK}`;
      maskEnd = Math.max(maskEnd, at + chars);
      copied = maskEnd;
    }
  }
  return copied === 0 ? text : clean + text.slice(copied);
}

/** The forms in which a secret may come back, in lower case. */
function formsOf(secret: string): string[] {
  if (secret.length < SECRET_CHARS_MIN) return [];
  const bytes = Buffer.from(secret);
  const forms = [secret, encodeURIComponent(secret), JSON.stringify(secret).slice(1, -1)];
  // In base64, three bytes make four characters. What stands before the secret decides how its bytes are grouped.
  for (let before = 0; before < 3; before++) {
    const first = Math.ceil((8 * before) / 6);
    const end = Math.floor((8 * (before + bytes.length)) / 6);
    const base64 = Buffer.concat([Buffer.alloc(before), bytes])
      .toString("base64")
      .slice(first, end);
    forms.push(base64, base64.replaceAll("+", "-").replaceAll("/", "_"));
  }
  forms.push(bytes.toString("hex"));
  return [...new Set(forms.map(lowered))].filter((form) => form.length >= SECRET_CHARS_MIN);
}

/** In lower case and of the same length, unlike `toLowerCase`, which lengthens some letters. */
function lowered(text: string): string {
  return text.replace(/[A-Z]+/g, (letters) => letters.toLowerCase());
}

/** The parts of a URL that may be secrets: user, password, and the values of its query. */
export function urlSecrets(url: string): string[] {
  if (!URL.canParse(url)) return [];
  const { username, password, searchParams, hash } = new URL(url);
  const parts = [username, password, ...searchParams.values(), hash.slice(1)];
  return parts.map(decoded).filter((part) => part !== "");
}

/** The URL without the parts that may be secrets, to show it. */
export function shownUrl(url: string): string {
  if (!URL.canParse(url)) return "(no valid address)";
  const { protocol, host, pathname } = new URL(url);
  return host === "" ? `(an address of ${protocol})` : `${protocol}//${host}${pathname}`;
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
