/** Events that are older than the tail, read from the store page by page while the user scrolls down. */
import { messageOf } from "../errors.ts";
import type { DashboardSnapshot, EventRow } from "../tui/model.ts";
import { enriched, type RowEnrichment, rowsOfPage } from "./rows.ts";

/** @bound older rows, while the user scrolls | no more are loaded */
const ROWS_MAX = 8192;
const PAGE_ROWS = 100;
/** Stored events that the tail begins with after a restart. */
const BEGIN_EVENTS = 100;

export interface HistoryOptions {
  /** A page of `GET /api/events`, newest first; null while the store is not open. */
  readonly storedEvents: (query: { limit: number; before?: number; q?: string }) => Promise<string> | null;
  readonly warn: (message: string) => void;
  readonly changed: () => void;
}

export class History {
  readonly #o: HistoryOptions;
  /** Grows with each {@link forget}: a page that was requested before it is thrown away. */
  #turn = 0;
  #begun = false;
  /** Ascending. */
  rows: readonly EventRow[] = [];
  state: DashboardSnapshot["events"]["historyState"] = "idle";

  constructor(options: HistoryOptions) {
    this.#o = options;
  }

  /**
   * Gives the newest stored events to `add`, so that the screen is not empty after a restart. Does nothing before the store
   * is open, and nothing after it has succeeded or failed once.
   */
  async begin(headSeq: number, add: (rows: readonly EventRow[]) => void): Promise<void> {
    if (this.#begun) return;
    const page = headSeq === 0 ? null : this.#o.storedEvents({ limit: BEGIN_EVENTS });
    if (headSeq > 0 && page === null) return;
    this.#begun = true;
    if (page === null) return;
    try {
      add(rowsOfPage(await page));
    } catch (error) {
      this.#o.warn(`dashboard: reading the newest stored events failed: ${messageOf(error)}`);
    }
    this.#o.changed();
  }

  /**
   * Loads the next older page.
   * @param heldFromSeq the oldest row of the held tail; null if the tail is not held: nothing is loaded then
   */
  async loadOlder(filter: string, heldFromSeq: number | null): Promise<void> {
    if (heldFromSeq === null || this.state !== "idle") return;
    const turn = this.#turn;
    const before = this.rows[0]?.seq ?? heldFromSeq;
    this.state = "loading";
    try {
      const page = this.#o.storedEvents({
        limit: PAGE_ROWS,
        before,
        ...(filter === "" ? {} : { q: filter }),
      });
      if (page === null) throw new Error("DuckDB is not open yet");
      const rows = rowsOfPage(await page);
      if (turn === this.#turn) this.#add(rows);
    } catch (error) {
      if (turn === this.#turn) this.state = "failed";
      this.#o.warn(`dashboard: reading older events failed: ${messageOf(error)}`);
    }
    this.#o.changed();
  }

  #add(rows: readonly EventRow[]): void {
    this.rows = [...rows, ...this.rows];
    if (rows.length < PAGE_ROWS) this.state = "end";
    else this.state = this.rows.length >= ROWS_MAX ? "bound" : "idle";
  }

  /** Drops all rows: the filter changed, or the newest events are shown again. */
  forget(): void {
    this.#turn += 1;
    this.rows = [];
    this.state = "idle";
  }

  enrich(seq: number, enrichment: RowEnrichment): void {
    const at = this.rows.findLastIndex((row) => row.seq === seq);
    if (at >= 0) this.rows = this.rows.with(at, enriched(this.rows[at] as EventRow, enrichment));
  }
}
