/** Cuts a stream of bytes into the lines of NDJSON. Part of the event room. */

import { LIMITS } from "./fields.ts";
import { isSpace, markBytes, NEWLINE } from "./scan.ts";

export interface NdjsonLine {
  /** From 1. Blank lines count, too. */
  readonly lineNumber: number;
  /** null if the line is longer than an event may be; its bytes are not kept. */
  readonly bytes: Uint8Array | null;
}

/** Besides its event, a line may hold a byte order mark and a carriage return. */
const LINE_BYTES_MAX = LIMITS.eventBytesMax + 4;

/**
 * Cuts a stream of chunks into lines, without the blank ones. A line inside one chunk is a view of it, any other line a
 * copy. At most one unfinished line, of the longest event, is kept in memory.
 */
export class NdjsonSplitter {
  private lineNumber = 1;
  /** The first `lineBytes` bytes are the beginning of an unfinished line. */
  private held = new Uint8Array(0);
  private lineBytes = 0;
  /** True inside a line that is too long and has been reported. */
  private skipping = false;

  /** Bytes of the unfinished line that are kept. */
  get heldBytes(): number {
    return this.lineBytes;
  }

  /** The lines that end in `chunk`. The caller must not change the chunk afterwards. */
  push(chunk: Uint8Array): NdjsonLine[] {
    const lines: NdjsonLine[] = [];
    let start = 0;
    while (start < chunk.length) {
      const newline = chunk.indexOf(NEWLINE, start);
      const end = newline < 0 ? chunk.length : newline;
      if (!this.skipping) this.take(chunk.subarray(start, end), newline >= 0, lines);
      if (newline < 0) break;
      this.skipping = false;
      this.lineNumber++;
      start = newline + 1;
    }
    return lines;
  }

  /** The last line, if no newline ended it. */
  end(): NdjsonLine | null {
    const lines: NdjsonLine[] = [];
    if (!this.skipping) this.take(new Uint8Array(0), true, lines);
    return lines[0] ?? null;
  }

  private take(part: Uint8Array, complete: boolean, lines: NdjsonLine[]): void {
    const sizeBytes = this.lineBytes + part.length;
    if (sizeBytes > LINE_BYTES_MAX) {
      lines.push({ lineNumber: this.lineNumber, bytes: null });
      this.skipping = true;
      this.release();
      return;
    }
    if (!complete) {
      this.hold(part, sizeBytes);
      return;
    }
    let bytes = part;
    if (this.lineBytes > 0) {
      bytes = new Uint8Array(sizeBytes);
      bytes.set(this.held.subarray(0, this.lineBytes));
      bytes.set(part, this.lineBytes);
      this.release();
    }
    if (!isBlank(bytes)) lines.push({ lineNumber: this.lineNumber, bytes });
  }

  private hold(part: Uint8Array, sizeBytes: number): void {
    // Doubling the buffer keeps a line that arrives byte by byte from being copied thousands of times.
    if (sizeBytes > this.held.length) {
      const more = new Uint8Array(Math.min(LINE_BYTES_MAX, Math.max(2 * this.held.length, sizeBytes, 1024)));
      more.set(this.held.subarray(0, this.lineBytes));
      this.held = more;
    }
    this.held.set(part, this.lineBytes);
    this.lineBytes = sizeBytes;
  }

  private release(): void {
    this.lineBytes = 0;
    if (this.held.length > LIMITS.sliceBytes) this.held = new Uint8Array(0);
  }
}

function isBlank(bytes: Uint8Array): boolean {
  let at = markBytes(bytes);
  while (at < bytes.length && isSpace(bytes[at])) at++;
  return at === bytes.length;
}
