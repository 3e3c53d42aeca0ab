/** Reads Retry-After headers. */

/**
 * Reads seconds or a date (RFC 9110 §10.2.3). It also accepts fractions of a second, because some servers send them.
 * @returns milliseconds from `nowMs`, without an upper bound; null if the header cannot be read.
 */
export function retryAfterMs(header: string | null, nowMs: number): number | null {
  if (header === null || header.trim() === "") return null;
  const ms = /^\s*\d+(\.\d+)?\s*$/.test(header) ? 1000 * Number(header) : Date.parse(header) - nowMs;
  return Number.isFinite(ms) ? Math.max(0, ms) : null;
}
