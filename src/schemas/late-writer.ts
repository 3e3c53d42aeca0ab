/**
 * Writes what was learned to the journal's table, late and in bounded commits: writing with each event would cost a
 * row of up to 100 KB each. Part of the schemas.
 */
import { type Clock, systemClock } from "../clock.ts";
import type { SmallTable } from "../journal/journal.ts";

/** What was learned is written so long after it, and so much of it at a time. */
const WRITE_DELAY_MS = 5000;
const WRITE_BYTES_MAX = 256 * 1024;

export interface LateWriterOptions {
  readonly table: SmallTable;
  /** The row's text as of now; null: the type was dropped, and its row goes. */
  readonly textOf: (type: string) => string | null;
  /** Called when rows could not be written; they are written with the next ones. */
  readonly failed: (error: unknown) => void;
  readonly clock?: Clock;
}

export class LateWriter implements Disposable {
  readonly #o: LateWriterOptions;
  readonly #clock: Clock;
  /** Types of which the table lacks something, the longest waiting first; dropped ones are among them. */
  readonly #unwritten = new Set<string>();
  #timer: Disposable | null = null;

  constructor(options: LateWriterOptions) {
    this.#o = options;
    this.#clock = options.clock ?? systemClock;
  }

  /** The row of this type is out of date; it is written after WRITE_DELAY_MS. */
  changed(type: string): void {
    this.#unwritten.add(type);
    if (this.#timer === null) this.#schedule();
  }

  /** The row of this type is out of date; it is written together with the next change. */
  outdated(type: string): void {
    this.#unwritten.add(type);
  }

  #schedule(): void {
    this.#timer = this.#clock.after(WRITE_DELAY_MS, () => {
      this.#timer = null;
      this.#write(WRITE_BYTES_MAX);
      if (this.#unwritten.size > 0) this.#schedule();
    });
  }

  /** Writes what has waited longest, about `bytesMax`, in one commit. */
  #write(bytesMax: number): void {
    const rows: { key: string; value: string | null }[] = [];
    for (let bytes = 0; bytes < bytesMax; ) {
      const [type] = this.#unwritten;
      if (type === undefined) break;
      this.#unwritten.delete(type);
      const value = this.#o.textOf(type);
      rows.push({ key: type, value });
      bytes += type.length + (value?.length ?? 0);
    }
    if (rows.length === 0) return;
    try {
      this.#o.table.write(rows);
    } catch (error) {
      // Statistics that cannot be written now are written later; events are not held up by them.
      for (const { key } of rows) this.#unwritten.add(key);
      this.#o.failed(error);
    }
  }

  /** Writes all that is not written yet. What changes after it is written by the next call only. */
  [Symbol.dispose](): void {
    this.#timer?.[Symbol.dispose]();
    this.#write(Number.POSITIVE_INFINITY);
  }
}
