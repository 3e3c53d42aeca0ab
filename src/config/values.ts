/** The kinds of values that options take, and how each is read. */
import { isIP } from "node:net";
import { dirname, resolve } from "node:path";
import type { ConfigSources } from "./sources.ts";

/** A value, or why there is none. The fault follows the name of the flag or variable and a colon. */
export type Parsed<T> = { readonly value: T } | { readonly fault: string };

/** Reads what a user wrote. */
export type Kind<T> = (text: string, sources: ConfigSources) => Parsed<T>;

/** @param parse returns null for a bad text. @param takes completes the sentence `"TEXT" is not …`. */
function kind<T>(parse: (text: string) => T | null, takes: string): Kind<T> {
  return (text) => {
    const value = parse(text);
    return value === null ? { fault: `"${text}" is not ${takes}` } : { value };
  };
}

export const anyText: Kind<string> = (text) => ({ value: text });

/** Relative paths start at the working folder. */
export const path: Kind<string> = (text, { workingDir }) => ({ value: resolve(workingDir, text) });

export const ringPath: Kind<string> = (text, { workingDir }) => {
  const value = resolve(workingDir, text);
  return dirname(value) === value ? { fault: `"${value}" is a folder` } : { value };
};

/** A token or key must fit into a header as it is. No message repeats it. */
export const secret: Kind<string> = (text) =>
  /^[\x21-\x7e]+$/.test(text)
    ? { value: text }
    : { fault: "a token or key consists of visible ASCII characters without spaces" };

/** The token in the first line of a file. */
export const tokenFile: Kind<string> = (file, sources) => {
  let line: string;
  try {
    line = sources.readFile(resolve(sources.workingDir, file)).split("\n")[0]?.trim() ?? "";
  } catch (error) {
    // Neither the error nor the path is repeated: somebody may have given the token itself in its place.
    const why = (error as NodeJS.ErrnoException).code ?? "it failed";
    return {
      fault: `the file cannot be read (${why}); it takes the path of a file whose first line is the token`,
    };
  }
  return line === "" ? { fault: "the first line of the file is empty" } : secret(line, sources);
};

/** One of these words, in capitals or not. */
export function oneOf<const Choice extends string>(...choices: readonly Choice[]): Kind<Choice> {
  return kind(
    (text) => choices.find((choice) => choice === text.trim().toLowerCase()) ?? null,
    `one of ${choices.join(", ")}`,
  );
}

export function parseWhole(text: string, min: number, max: number): number | null {
  if (!/^\d{1,10}$/.test(text)) return null;
  const value = Number(text);
  return value >= min && value <= max ? value : null;
}

/** @param what names the number, for example "a number of events". */
export function whole(what: string, min: number, max: number): Kind<number> {
  return kind((text) => parseWhole(text, min, max), `${what} from ${min} to ${max}`);
}

export const HOUR_MS = 3_600_000;

/** "2s", "500ms", "1.5m", "1h", "0" → ms; null if it is not a duration. A bare number is seconds. */
function parseDurationMs(text: string): number | null {
  const match = /^(\d{1,9}(?:\.\d{1,3})?)\s*(ms|s|m|h)?$/i.exec(text.trim());
  if (match === null) return null;
  const unitMs = { ms: 1, s: 1000, m: 60_000, h: HOUR_MS }[(match[2] ?? "s").toLowerCase()] ?? 1000;
  return Math.round(Number(match[1]) * unitMs);
}

export function durationMs(o: {
  readonly min: number;
  readonly max: number;
  readonly takes: string;
}): Kind<number> {
  return kind((text) => {
    const ms = parseDurationMs(text);
    return ms !== null && ms >= o.min && ms <= o.max ? ms : null;
  }, o.takes);
}

/**
 * "64MiB", "150MB", "512m", "1Gi", "1.5GB", "4096" → bytes; null if it is not a size. Units are decimal (MB) or binary (MiB).
 */
export function parseSizeBytes(text: string): number | null {
  const match = /^(\d{1,15}(?:\.\d{1,9})?)(?:\s*([KMGT])(i?)B?|\s*(?:B|bytes))?$/i.exec(text.trim());
  if (match === null) return null;
  const power = "KMGT".indexOf((match[2] ?? "").toUpperCase());
  const unit = match[2] === undefined ? 1 : (match[3] === "" ? 1000 : 1024) ** (power + 1);
  const bytes = Math.floor(Number(match[1]) * unit);
  return Number.isSafeInteger(bytes) && bytes > 0 ? bytes : null;
}

export const sizeBytes: Kind<number> = kind(parseSizeBytes, "a size such as 64MiB");

/** @param least in megabytes of 10⁶ bytes. @param why the reason for `least`. */
export function sizeBytesFrom(least: number, why?: string): Kind<number> {
  const takes = `a size of at least ${least}MB`;
  return kind(
    (text) => {
      const bytes = parseSizeBytes(text);
      return bytes !== null && bytes >= least * 1e6 ? bytes : null;
    },
    why === undefined ? takes : `${takes} (${why})`,
  );
}

export const fileMode: Kind<number> = kind(
  (text) => (/^0?[0-7]{3}$/.test(text) ? Number.parseInt(text, 8) : null),
  "an octal mode such as 0600 or 0644",
);

/** The URL without slashes at its end; null for "off". No message repeats it, because it may hold a key. */
export const urlOrOff: Kind<string | null> = (text) => {
  if (text.trim().toLowerCase() === "off") return { value: null };
  const url = URL.canParse(text) ? new URL(text) : null;
  return url !== null && ["http:", "https:"].includes(url.protocol)
    ? { value: text.replace(/\/+$/, "") }
    : { fault: 'it is not an http or https URL such as http://localhost:1234/v1 (or "off")' };
};

/** Whether a host is an address, or the name of this machine that needs no look-up. */
export function isAddress(host: string): boolean {
  return isIP(host.replace(/^\[|\]$/g, "")) !== 0 || host.toLowerCase() === "localhost";
}

/** Whether an address can be reached from this machine only: localhost, 127.0.0.0/8 or ::1. */
export function isLoopback(host: string): boolean {
  const bare = host.replace(/^\[|\]$/g, "").toLowerCase();
  return bare === "localhost" || bare === "::1" || (isIP(bare) === 4 && bare.startsWith("127."));
}
