/**
 * The bounds of the store, all of which follow from DuckDB's memory limit. Part of the store's Worker.
 *
 * DuckDB reads and writes a column in vectors of 2,048 rows, and a CHECKPOINT holds a whole vector in memory. If the rows are large, a
 * vector can exceed the limit. Only the end of a row group ends a vector early, and a row group ends at a CHECKPOINT. So large rows are
 * checkpointed before they fill a vector's share, and row groups that hold large rows are never merged.
 */

/** Rows in a vector of DuckDB. */
export const VECTOR_ROWS = 2048;

const MIB = 1024 * 1024;
/** Vectors are wide: with small row groups a CHECKPOINT stays quick and needs little memory. */
const ROW_GROUP_ROWS_MAX = 8192;
/** Bytes of an enrichment's row, for the size of row groups. */
const ENRICHMENT_BYTES = 4096;
/** @bound events, or frames, in one transaction of DuckDB (a quarter of `--memory-limit` if that is less) | the rest goes into the next */
const COMMIT_BYTES_MAX = 48 * MIB;
/** @bound DuckDB's log (half of `--memory-limit` if that is less) | a checkpoint, if there is room for it */
const CHECKPOINT_LOG_BYTES = 64 * MIB;
/** @bound rows in DuckDB that no checkpoint holds (twice `--memory-limit` if that is less) | a checkpoint, if there is room for it */
const CHECKPOINT_ROW_BYTES = 256 * MIB;
/** @bound bodies in a page of events (an eighth of `--memory-limit` if that is less) | the page ends earlier; `next` leads to the next page */
const PAGE_BYTES_MAX = 32 * MIB;
/** In an ephemeral database, log and new rows are also limited to this share of its bound, and a commit to half of it. */
const EPHEMERAL_SHARE = 1 / 8;

export interface StoreBounds {
  readonly rowGroupRows: number;
  readonly commitBytesMax: number;
  /** Bytes of events that one vector may hold. Beyond it the row group must end, if one of them is wide. */
  readonly vectorBytesMax: number;
  /** Larger events are wide: a full vector of them would exceed a quarter of the memory limit. */
  readonly wideBytes: number;
  readonly checkpointLogBytes: number;
  readonly checkpointRowBytes: number;
  readonly pageBytesMax: number;
}

/** @param ephemeralBytes the bound of an ephemeral database; null: durable. */
export function boundsOf(memoryLimitBytes: number, ephemeralBytes: number | null): StoreBounds {
  const share = (ephemeralBytes ?? Number.POSITIVE_INFINITY) * EPHEMERAL_SHARE;
  const groupRows = memoryLimitBytes / 4 / ENRICHMENT_BYTES;
  const groupVectors = 2 ** Math.floor(Math.log2(groupRows / VECTOR_ROWS));
  return {
    rowGroupRows: Math.min(ROW_GROUP_ROWS_MAX, Math.max(1, groupVectors) * VECTOR_ROWS),
    commitBytesMax: Math.min(COMMIT_BYTES_MAX, memoryLimitBytes / 4, share / 2),
    vectorBytesMax: memoryLimitBytes / 8,
    wideBytes: memoryLimitBytes / 4 / VECTOR_ROWS,
    checkpointLogBytes: Math.min(CHECKPOINT_LOG_BYTES, memoryLimitBytes / 2, share),
    checkpointRowBytes: Math.min(CHECKPOINT_ROW_BYTES, 2 * memoryLimitBytes, share),
    pageBytesMax: Math.min(PAGE_BYTES_MAX, memoryLimitBytes / 8),
  };
}

/** The vectors that new events fill. It knows when large rows have used up a vector's share, so that the row group must end. */
export class VectorFill {
  /** Bytes of events that one vector may hold. */
  bytesMax: number;
  #rows = 0;
  #bytes = 0;
  #wide = false;

  constructor(bytesMax: number) {
    this.bytesMax = bytesMax;
  }

  /** How many bytes of events may be appended together. */
  get roomBytes(): number {
    return this.#bytes < this.bytesMax ? this.bytesMax - this.#bytes : this.bytesMax;
  }

  /** Whether a CHECKPOINT must complete before further events are appended. */
  get full(): boolean {
    return this.#wide && this.#bytes >= this.bytesMax;
  }

  /** Notes rows that were appended together. At most a vector's rows. */
  add(rows: { readonly rows: number; readonly bytes: number; readonly wide: boolean }): void {
    const newVector = this.#rows + rows.rows > VECTOR_ROWS;
    this.#rows = newVector ? rows.rows : this.#rows + rows.rows;
    this.#bytes = newVector ? rows.bytes : this.#bytes + rows.bytes;
    this.#wide = (this.#wide && !newVector) || rows.wide;
  }

  /** What came before is unknown, so the row group counts as full. */
  fill(): void {
    this.#bytes = this.bytesMax;
    this.#wide = true;
  }

  /** A row group begins. */
  reset(): void {
    this.#rows = 0;
    this.#bytes = 0;
    this.#wide = false;
  }
}
