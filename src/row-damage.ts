/**
 * How a damaged row of the journal is found. The journal computes a checksum when it writes a row, and whoever reads the row
 * compares it, because SQLite notices a damaged page only if its structure is broken.
 */
import { SQLiteError } from "bun:sqlite";

/** Mixes the bits of a sum (an odd constant near 2³² divided by the golden ratio). */
const MIX = 0x9e3779b1;
/** What an absent value adds, so that it differs from an empty one. */
const ABSENT = 0x6e756c6c;

/** Adds a number to a checksum. A damaged row can hold a value of any type, which counts as NaN does. */
function withNumber(sum: number, value: unknown): number {
  if (value === null) return Math.imul(sum ^ ABSENT, MIX);
  const number = typeof value === "number" ? value : Number.NaN;
  return Math.imul(sum ^ number, MIX) ^ (number / 2 ** 32);
}

/** The checksum of three numbers, with which every row's begins. */
function ofNumbers(first: unknown, second: unknown, third: unknown): number {
  return withNumber(withNumber(withNumber(0, first), second), third);
}

/** Adds a text, as its UTF-8 bytes, or a BLOB to a checksum. Anything else counts as empty. */
function withBytes(sum: number, value: unknown): number {
  if (value === null) return Math.imul(sum ^ ABSENT, MIX);
  return Bun.hash.crc32(typeof value === "string" || value instanceof Uint8Array ? value : "", sum >>> 0);
}

/** The columns of an event's row under its checksum. Those of a damaged row can have any value. */
export interface EventCells {
  readonly seq: unknown;
  readonly receivedUs: unknown;
  readonly timestampUs: unknown;
  readonly id: unknown;
  readonly type: unknown;
  readonly message: unknown;
  readonly conversationId: unknown;
  readonly fields: unknown;
  readonly source: unknown;
  /** UTF-8, as bytes or as text. */
  readonly body: unknown;
}

/** @returns the checksum of an event's row, 0 to 2³² − 1. */
export function eventChecksum(cells: EventCells): number {
  let sum = ofNumbers(cells.seq, cells.receivedUs, cells.timestampUs);
  // One call for all short texts, because the call costs more than the bytes.
  const { id, type, message, conversationId, fields, source } = cells;
  sum = withBytes(sum, `${id}\0${type}\0${message}\0${conversationId}\0${fields}\0${source}`);
  return withBytes(sum, cells.body) >>> 0;
}

/** The columns of the row of a frame or an update under its checksum. Those of a damaged row can have any value. */
export interface DecidedCells {
  /** The frame_id or answer_id. */
  readonly id: unknown;
  readonly seq: unknown;
  readonly decidedUs: unknown;
  readonly physics: unknown;
  readonly vector: unknown;
  readonly eventType: unknown;
  readonly intent: unknown;
  readonly provenance: unknown;
}

/** @returns the checksum of the row of a frame or an update, 0 to 2³² − 1. */
export function decidedChecksum(cells: DecidedCells): number {
  let sum = ofNumbers(cells.id, cells.seq, cells.decidedUs);
  sum = withBytes(sum, cells.physics);
  sum = withBytes(sum, cells.vector);
  return withBytes(sum, `${cells.eventType}\0${cells.intent}\0${cells.provenance}`) >>> 0;
}

/** Why a row is damaged whose page could be read. */
export const CHECKSUM_DIFFERS = "its checksum differs";

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
