/** The memory that an NDJSON body takes while it is read: its newest chunk and its unfinished line. */
import type { Clock } from "../clock.ts";
import { BUSY, isTooSlow, TOO_SLOW } from "./body.ts";
import type { Refused } from "./contract.ts";
import type { Hold } from "./held.ts";

/** Up to this much is not counted. */
const LARGE_CHUNK_BYTES = 64 * 1024;
/** What a long line gets at first: enough for one of 1 MiB, with its copies and the chunk that ends it. */
const LINE_ROOM_BYTES = 4 * 1024 * 1024;
/** @bound an NDJSON body that stops arriving | the connection is closed */
export const READ_TIMEOUT_SECONDS = 300;
/** @bound an NDJSON body that stops arriving within a line over 64 KiB | the connection is closed */
const LINE_TIMEOUT_SECONDS = 30;

export type KeepOpen = (seconds: number) => void;

export interface LineRoomOptions {
  readonly hold: Hold;
  /** Sets the request's idle timeout. */
  readonly keepOpen: KeepOpen;
  readonly clock: Clock;
  readonly lineBytesMax: number;
}

/** The room that an NDJSON body needs while it is read. */
export class LineRoom {
  readonly #o: LineRoomOptions;
  /** When the unfinished line became long; null if it is not. */
  #longSinceMs: number | null = null;
  /** What the unfinished line has after this chunk, if the chunk does not end it. */
  #unendedBytes = 0;

  constructor(options: LineRoomOptions) {
    this.#o = options;
  }

  /** Takes room before a chunk is cut into lines. @param lineBytes of the unfinished line before it. @returns why there is none. */
  async before(lineBytes: number, chunkBytes: number): Promise<Refused | null> {
    const { hold, clock, lineBytesMax } = this.#o;
    this.#unendedBytes = lineBytes + chunkBytes;
    if (lineBytes + chunkBytes <= LARGE_CHUNK_BYTES) return null;
    if (
      this.#longSinceMs !== null &&
      isTooSlow(lineBytes + chunkBytes, clock.monotonicMs() - this.#longSinceMs)
    )
      return TOO_SLOW;
    // The line and the chunk, and a copy of each. A very long line gets room for the longest one at once, so that it can be completed.
    const needBytes = 2 * (lineBytes + chunkBytes);
    const isLong = lineBytes > LARGE_CHUNK_BYTES;
    const longBytes = needBytes <= LINE_ROOM_BYTES ? LINE_ROOM_BYTES : 2 * lineBytesMax + chunkBytes;
    return (await hold.grow(isLong ? longBytes : needBytes)) ? null : BUSY;
  }

  /** Gives the room back unless an unfinished line needs it. */
  after(lineBytes: number): void {
    const { hold, keepOpen, clock } = this.#o;
    if (lineBytes <= LARGE_CHUNK_BYTES) {
      hold[Symbol.dispose]();
      if (this.#longSinceMs !== null) keepOpen(READ_TIMEOUT_SECONDS);
      this.#longSinceMs = null;
      return;
    }
    // The line before may have been longer.
    if (2 * lineBytes <= LINE_ROOM_BYTES / 2) hold.shrink(LINE_ROOM_BYTES);
    // Each long line has its own time, even if one follows the other.
    if (this.#longSinceMs !== null && lineBytes === this.#unendedBytes) return;
    if (this.#longSinceMs === null) keepOpen(LINE_TIMEOUT_SECONDS);
    this.#longSinceMs = clock.monotonicMs();
  }
}
