import type { SmallTable } from "../src/journal/journal.ts";

/** A table of the journal in memory. It fails on request. */
export class MemoryTable implements SmallTable {
  readonly rows = new Map<string, string>();
  /** Commits that succeeded. */
  writes = 0;
  failWith: Error | null = null;

  all(): { key: string; value: string }[] {
    return [...this.rows].map(([key, value]) => ({ key, value }));
  }

  write(rows: readonly { readonly key: string; readonly value: string | null }[]): void {
    if (this.failWith !== null) throw this.failWith;
    this.writes += 1;
    for (const { key, value } of rows) {
      if (value === null) this.rows.delete(key);
      else this.rows.set(key, value);
    }
  }
}
