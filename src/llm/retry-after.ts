/** What a Retry-After header asks for. */

/** Seconds or a date (RFC 9110 §10.2.3); fractions of a second, which some servers send, are taken, too. Not bounded. */
export function retryAfterMs(header: string | null, nowMs: number): number | null {
  if (header === null || header.trim() === "") return null;
  const ms = /^\s*\d+(\.\d+)?\s*$/.test(header) ? 1000 * Number(header) : Date.parse(header) - nowMs;
  return Number.isFinite(ms) ? Math.max(0, ms) : null;
}
