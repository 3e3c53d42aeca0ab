/**
 * How a damaged row of the journal is found. The journal computes a checksum when it writes a row, and whoever reads the row
 * compares it, because SQLite notices a damaged page only if its structure is broken.
 */
import { SQLiteError } from "bun:sqlite";

/** Mixes the bits of numbers (an odd constant near 2³² divided by the golden ratio). */
const MIX = 0x9e3779b1;
/** What an absent value adds, so that it differs from an empty one. */
const ABSENT = 0x6e756c6c;

/**
 * @param numbers the columns with numbers, in a fixed order.
 * @param parts the texts and the BLOBs, in a fixed order. A text counts as its UTF-8 bytes.
 * @returns 0 to 2³² − 1.
 */
export function rowChecksum(
  numbers: readonly (number | null)[],
  parts: readonly (string | Uint8Array | null)[],
): number {
  let sum = 0;
  for (const number of numbers) {
    if (number === null) sum ^= ABSENT;
    else sum = Math.imul(sum ^ number, MIX) ^ (number / 2 ** 32);
  }
  for (const part of parts) {
    // Part by part, because to join texts costs more than to hash them.
    if (part === null) sum = Math.imul(sum ^ ABSENT, MIX);
    else sum = Math.imul(Bun.hash.crc32(part, sum >>> 0), MIX);
  }
  return sum >>> 0;
}

/** Whether SQLite met a page that is damaged or cannot be read. The rows on other pages can still be read. */
export function isDamage(thrown: unknown): thrown is SQLiteError {
  if (!(thrown instanceof SQLiteError)) return false;
  return /^SQLITE_(CORRUPT|IOERR_READ|IOERR_SHORT_READ|IOERR_CORRUPTFS)/.test(thrown.code ?? "");
}

/**
 * Reads the rows from `low` to `high`. If a page is damaged, reads each half of the range by itself, down to single rows.
 * @param o.read reads a range, in order; it may return the first rows only.
 * @param o.lost is told about a row, or an unused number, on a damaged page.
 */
export function readAround<T>(
  low: number,
  high: number,
  o: { read: (low: number, high: number) => T[]; lost: (id: number, why: string) => void },
): T[] {
  try {
    return o.read(low, high);
  } catch (error) {
    if (!isDamage(error)) throw error;
    if (low >= high) {
      o.lost(low, error.message);
      return [];
    }
  }
  const middle = low + Math.floor((high - low) / 2);
  return [...readAround(low, middle, o), ...readAround(middle + 1, high, o)];
}
