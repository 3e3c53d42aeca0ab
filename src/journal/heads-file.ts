/**
 * A small file beside the journal that says how far the journal had come when it last acknowledged something. The journal
 * itself cannot say that: SQLite silently ignores the end of a damaged WAL, and a missing one altogether. Part of the
 * journal.
 *
 * The file is one line, written in place after each commit and before its acknowledgement. It is not synced, because a
 * killed process loses nothing of it, and after a power loss the boot id says that it may be behind.
 */

import { closeSync, constants, openSync, readFileSync, writeSync } from "node:fs";
import type { JournalCursors } from "./rows.ts";

/** The longest line: five numbers, a boot id and a checksum. */
const LINE_BYTES = 160;

/** How far the journal had come when it last acknowledged something. */
export interface Acknowledged extends JournalCursors {
  /** Whether nothing was acknowledged beyond: the machine has not booted since. */
  readonly exact: boolean;
}

export interface HeadsFileOptions {
  readonly path: string;
  readonly journalId: number;
  readonly bootId: string;
}

export class HeadsFile implements Disposable {
  /** What the file said when it was opened; null if it did not exist, is damaged or belongs to another journal. */
  readonly found: Acknowledged | null;
  readonly #prefix: string;
  readonly #line = Buffer.alloc(LINE_BYTES);
  #fd: number | null;

  constructor({ path, journalId, bootId }: HeadsFileOptions) {
    const { O_RDWR, O_CREAT, O_NOFOLLOW } = constants;
    this.#fd = openSync(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0o600);
    this.#prefix = `${journalId} ${bootId.replaceAll(/\s/g, "_")}`;
    this.found = foundIn(readFileSync(this.#fd, "utf8"), { journalId, prefix: this.#prefix });
  }

  /** Notes how far the journal has come. If that fails, the file is given up, and the next start knows less. */
  note({ seq, frameId, answerId }: JournalCursors): void {
    if (this.#fd === null) return;
    const text = `${this.#prefix} ${seq} ${frameId} ${answerId}`;
    this.#line.fill(0x20);
    this.#line.write(`${text} ${checksumOf(text)}`, "latin1");
    this.#line[LINE_BYTES - 1] = 0x0a;
    try {
      writeSync(this.#fd, this.#line, 0, LINE_BYTES, 0);
    } catch {
      this[Symbol.dispose]();
    }
  }

  [Symbol.dispose](): void {
    if (this.#fd !== null) closeSync(this.#fd);
    this.#fd = null;
  }
}

function checksumOf(text: string): string {
  return Bun.hash.crc32(text).toString(16);
}

function foundIn(line: string, own: { journalId: number; prefix: string }): Acknowledged | null {
  const [journalId, bootId, seq, frameId, answerId, checksum] = line.trim().split(" ");
  const text = [journalId, bootId, seq, frameId, answerId].join(" ");
  if (checksum !== checksumOf(text) || Number(journalId) !== own.journalId) return null;
  return {
    seq: Number(seq),
    frameId: Number(frameId),
    answerId: Number(answerId),
    exact: own.prefix === `${journalId} ${bootId}`,
  };
}
