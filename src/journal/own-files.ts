/**
 * Notices that files of this gateway were deleted or replaced while it runs. Its descriptors still work then, but whatever
 * is written through them is gone when it ends. Part of the journal.
 */

import { statSync } from "node:fs";
import { GatewayError } from "../errors.ts";

/** A look costs a system call for each path, about 10 µs together. */
const LOOK_EVERY_US = 1000;

export class OwnFiles {
  /** The inode that each path led to when it was first seen; null: there was no file yet. */
  readonly #inodes: Map<string, number | null>;
  readonly #nowUs: () => number;
  #lookedUs = Number.NEGATIVE_INFINITY;
  #lost: string | null = null;

  /** @param paths files that exist, or that this gateway creates once and keeps. */
  constructor(paths: readonly string[], nowUs: () => number) {
    this.#inodes = new Map(paths.map((path) => [path, null]));
    this.#nowUs = nowUs;
    this.failure();
  }

  /** Why nothing may be acknowledged: a path no longer leads to the file that was there. null if all do, as of 1 ms ago. */
  failure(): GatewayError | null {
    const nowUs = this.#nowUs();
    if (Math.abs(nowUs - this.#lookedUs) >= LOOK_EVERY_US) {
      this.#lookedUs = nowUs;
      this.#lost = this.#firstLost();
    }
    if (this.#lost === null) return null;
    return new GatewayError({
      code: "journal_failed",
      operation: "journal: keep",
      object: this.#lost,
      detail: "it was deleted or replaced while the gateway runs, so nothing more is acknowledged",
      hint: "move the file back if it still exists; otherwise stop the gateway, restore its files and start it again",
    });
  }

  #firstLost(): string | null {
    for (const [path, inode] of this.#inodes) {
      const now = statSync(path, { throwIfNoEntry: false })?.ino ?? null;
      if (now === inode) continue;
      if (inode !== null) return path;
      this.#inodes.set(path, now);
    }
    return null;
  }
}
