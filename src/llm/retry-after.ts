/** Reads Retry-After headers. */

/** A longer wait is a mistake of the endpoint, and is not believed. */
const RETRY_AFTER_MS_MAX = 86_400_000;

/**
 * Reads seconds or a date (RFC 9110 §10.2.3). It also accepts fractions of a second, because some servers send them.
 * @returns milliseconds from `nowMs`; null if the header cannot be read, or names no time between now and a day later.
 */
export function retryAfterMs(header: string | null, nowMs: number): number | null {
  const text = header?.trim() ?? "";
  const isNumber = /^\d+(\.\d+)?$/.test(text);
  // Date.parse takes "-5" for a date. Every form of a date in HTTP begins with the name of a day.
  const ms = isNumber ? 1000 * Number(text) : /^[a-z]{3}/i.test(text) ? Date.parse(text) - nowMs : Number.NaN;
  return ms > 0 && ms <= RETRY_AFTER_MS_MAX ? ms : null;
}
