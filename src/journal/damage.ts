/**
 * Reads around what is damaged: a row whose checksum differs, and rows on pages that SQLite cannot read. Each is named and
 * counted once, and the rows around it are read. Part of the journal.
 */
import { writeFileSync } from "node:fs";
import { CHECKSUM_DIFFERS, isDamage, readAround } from "../row-damage.ts";
import type { Row } from "./file.ts";
import { isWhole } from "./rows.ts";

type LogName = "events" | "frames" | "answers";
/** @bound damaged rows of the journal that are named and counted | further ones are passed over without a word */
const NAMED_ROWS_MAX = 10_000;

export class Damage {
  readonly #seen = new Set<string>();
  readonly #untold: string[] = [];
  #tell: ((message: string) => void) | null = null;
  readonly #mark: string | null;
  #marked = false;
  /** The first damaged row and why it is; null if none was seen. */
  first: string | null = null;
  /** Rows up to this number may have no checksum. */
  uncheckedTo = 0;

  /** @param mark the file that lets the next start rebuild the journal; null: nothing is rebuilt. */
  constructor(mark: string | null) {
    this.#mark = mark;
  }

  /** Is told of each damaged row that is seen for the first time, also of those that were seen before this was set. */
  set onDamage(tell: (message: string) => void) {
    this.#tell = tell;
    for (const message of this.#untold.splice(0)) tell(message);
  }

  /** Damaged rows that were read since the start, each counted once. */
  get rows(): number {
    return this.#seen.size;
  }

  /** Tells the log, or whoever sets {@link onDamage} later. */
  say(message: string): void {
    if (this.#tell === null) this.#untold.push(message);
    else this.#tell(message);
  }

  /** Looks at what SQLite has thrown. */
  failed(thrown: unknown): void {
    if (isDamage(thrown)) this.pageMet();
  }

  /** Notes that SQLite met a damaged page, so that the next start rebuilds the journal. */
  pageMet(): void {
    if (this.#mark === null || this.#marked) return;
    this.#marked = true;
    try {
      writeFileSync(this.#mark, "");
    } catch {
      // The folder cannot be written to. A start that cannot write to the journal rebuilds it all the same.
    }
    this.say(
      "a page is damaged: restart the gateway, which makes a new journal of the rows that can be read",
    );
  }

  /** Whether a row is as it was written. Notes it if it is not. */
  isWhole(log: LogName, row: Row, id: unknown): boolean {
    if (row.checksum === null ? Number(id) <= this.uncheckedTo && hasForm(row) : isWhole(row)) return true;
    this.note(log, id, CHECKSUM_DIFFERS);
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
    this.noteLost(log, id, why);
    if (why !== CHECKSUM_DIFFERS) this.pageMet();
  }

  /** Notes a row that was damaged in a journal that has been rebuilt since. */
  noteLost(log: LogName, id: unknown, why: string): void {
    const name = `row ${String(id)} of ${log}`;
    if (this.#seen.has(name) || this.#seen.size >= NAMED_ROWS_MAX) return;
    this.#seen.add(name);
    const message = `${name} is damaged (${why})`;
    this.first ??= message;
    this.say(`${message}; it is passed over`);
  }
}

/** Whether what every row has is there. */
function hasForm(row: Row): boolean {
  return "body" in row
    ? row.body instanceof Uint8Array && typeof row.id === "string"
    : row.physics instanceof Uint8Array && typeof row.provenance === "string";
}
