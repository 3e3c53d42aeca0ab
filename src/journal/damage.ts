/**
 * Reads around what is damaged: a row whose checksum differs, and rows on pages that SQLite cannot read. Each is named and
 * counted once, and the rows around it are read. Part of the journal.
 */
import { readAround } from "../row-damage.ts";
import type { Row } from "./file.ts";
import { isWhole } from "./rows.ts";

type LogName = "events" | "frames" | "answers";
/** @bound damaged rows of the journal that are named and counted | further ones are passed over without a word */
const NAMED_ROWS_MAX = 10_000;

export class Damage {
  /** Called when a damaged row is seen for the first time. */
  onDamage: (message: string) => void = () => {};
  readonly #seen = new Set<string>();
  /** The first damaged row and why it is; null if none was seen. */
  first: string | null = null;
  /** Rows up to this number may have no checksum. */
  uncheckedTo = 0;

  /** Damaged rows that were read since the start, each counted once. */
  get rows(): number {
    return this.#seen.size;
  }

  /** Whether a row is as it was written. Notes it if it is not. */
  isWhole(log: LogName, row: Row, id: unknown): boolean {
    if (row.checksum === null ? Number(id) <= this.uncheckedTo && hasForm(row) : isWhole(row)) return true;
    this.note(log, id, "its checksum differs");
    return false;
  }

  /** Reads a range, and notes the rows on damaged pages; see {@link readAround}. */
  around(
    log: LogName,
    [low, high]: readonly [number, number],
    read: (low: number, high: number) => Row[],
  ): Row[] {
    return readAround(low, high, { read, lost: (id, why) => this.note(log, id, why) });
  }

  /** Notes a damaged row, whoever has found it. */
  note(log: LogName, id: unknown, why: string): void {
    const name = `row ${String(id)} of ${log}`;
    if (this.#seen.has(name) || this.#seen.size >= NAMED_ROWS_MAX) return;
    this.#seen.add(name);
    const message = `${name} is damaged (${why})`;
    this.first ??= message;
    this.onDamage(`${message}; it is passed over`);
  }
}

/** Whether what every row has is there. */
function hasForm(row: Row): boolean {
  return "body" in row
    ? row.body instanceof Uint8Array && typeof row.id === "string"
    : row.physics instanceof Uint8Array && typeof row.provenance === "string";
}
