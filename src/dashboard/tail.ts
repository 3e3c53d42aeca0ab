/** The newest events without gaps, and the state of holding them while the user reads. */
import type { EventRow } from "../tui/model.ts";
import { LOOK_EVENTS_MAX } from "./intake.ts";
import { enriched, type RowEnrichment } from "./rows.ts";

/** @bound rows that follow the newest event | the oldest are dropped, 512 at a time */
const ROWS_MAX = 4096;

export class Tail {
  #rows: EventRow[] = [];
  #held: EventRow[] | null = null;

  /** The newest rows, ascending and without gaps; while held, those that were there when holding began. */
  get rows(): readonly EventRow[] {
    return this.#held ?? this.#rows;
  }

  get held(): boolean {
    return this.#held !== null;
  }

  get newestSeq(): number {
    return this.#rows.at(-1)?.seq ?? 0;
  }

  /** The `seq` of the oldest held row; null if nothing is held. */
  get heldFromSeq(): number | null {
    return this.#held?.[0]?.seq ?? null;
  }

  /** Adds new rows, ascending. If events are missing before them, the tail begins again with these rows. */
  add(rows: readonly EventRow[]): void {
    const first = rows[0];
    if (first === undefined) return;
    const last = this.#rows.at(-1);
    if (last !== undefined && first.seq !== last.seq + 1) this.#rows = [];
    for (const row of rows) this.#rows.push(row);
    // Cut only after some slack, so that memory is not moved for each event.
    if (this.#rows.length > ROWS_MAX + LOOK_EVENTS_MAX) this.#rows = this.#rows.slice(-ROWS_MAX);
  }

  /** Puts rows of before this process in front, if they lead up to the first row without a gap. */
  begin(rows: readonly EventRow[]): void {
    const first = this.#rows[0];
    const last = rows.at(-1);
    if (last === undefined || (first !== undefined && first.seq !== last.seq + 1)) return;
    this.#rows = [...rows, ...this.#rows];
  }

  enrich(seq: number, enrichment: RowEnrichment): void {
    replace(this.#rows, seq, enrichment);
    if (this.#held !== null) replace(this.#held, seq, enrichment);
  }

  /** The row of an event, held or not; null if it is older than the tail. */
  row(seq: number): EventRow | null {
    const row = this.#rows[seq - (this.#rows[0]?.seq ?? 0)];
    return row?.seq === seq ? row : null;
  }

  hold(): void {
    this.#held ??= [...this.#rows];
  }

  release(): void {
    this.#held = null;
  }
}

function replace(rows: EventRow[], seq: number, enrichment: RowEnrichment): void {
  // Rows have no gaps, so the index follows from the seq.
  const at = seq - (rows[0]?.seq ?? 0);
  const row = rows[at];
  if (row?.seq === seq) rows[at] = enriched(row, enrichment);
}
