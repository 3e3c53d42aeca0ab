/**
 * Writes learned schemas to the journal's table, some seconds late and in bounded commits, because a schema can have
 * 100 KB and changes with every event. Part of the schemas.
 */
import { type Clock, systemClock } from "../clock.ts";
import type { SmallTable } from "../journal/journal.ts";

/**
 * How long a change waits for its commit, and about how much one commit holds.
 * @bound learned schemas on their way to the journal | a kill loses them
 */
const WRITE_DELAY_MS = 5000;
/** @bound schemas in one commit (one schema may be larger) | the rest goes into the next */
const WRITE_BYTES_MAX = 256 * 1024;

export interface LateWriterOptions {
  readonly table: SmallTable;
  /** The current text of a type's row; null: the type was dropped, so its row is deleted. */
  readonly textOf: (type: string) => string | null;
  /** Called when rows could not be written. They are written later. */
  readonly failed: (error: unknown) => void;
  readonly clock?: Clock;
}

export class LateWriter implements Disposable {
  readonly #o: LateWriterOptions;
  readonly #clock: Clock;
  /** Types whose rows are out of date, the longest waiting first; among them types that were dropped. */
  readonly #unwritten = new Set<string>();
  #timer: Disposable | null = null;

  constructor(options: LateWriterOptions) {
    this.#o = options;
    this.#clock = options.clock ?? systemClock;
  }

  /** Marks the row of a type as out of date. It is written within WRITE_DELAY_MS, or later if many are waiting. */
  changed(type: string): void {
    this.#unwritten.add(type);
    if (this.#timer === null) this.#schedule();
  }

  /** Marks the row of a type as out of date. It is written together with the next change. */
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

  /** Writes the rows that have waited longest, about `bytesMax`, in one commit. */
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
      // These are statistics: no event must wait for them, so they are written later.
      for (const { key } of rows) this.#unwritten.add(key);
      this.#o.failed(error);
    }
  }

  /** Writes everything that is not written yet. Later changes are written only by another call. */
  [Symbol.dispose](): void {
    this.#timer?.[Symbol.dispose]();
    this.#write(Number.POSITIVE_INFINITY);
  }
}
