/** Standard output and standard error of the command line. A reader that has gone, such as `head`, is no failure. */
import { writeSync } from "node:fs";
import { systemClock } from "../clock.ts";
import { visible } from "../log.ts";
import { isWritable } from "../native/libc.ts";
import { LineWriter } from "./line-writer.ts";

const STDOUT = 1;
const STDERR = 2;
const LAST_WORDS_MS = 500;

/** Log lines, errors and progress. */
export const stderr = new LineWriter(
  { isReady: () => isWritable(STDERR, 0), write: (bytes) => writeSync(STDERR, bytes) },
  systemClock,
);

/**
 * Writes to standard output, and waits until it is written, as a Unix tool does.
 * @throws what the write throws, for example ENOSPC, but not if the reader is gone
 */
export function print(text: string): void {
  for (let rest = new TextEncoder().encode(text); rest.length > 0; ) {
    try {
      rest = rest.subarray(writeSync(STDOUT, rest));
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "EPIPE") return;
      if (code !== "EAGAIN") throw error;
      isWritable(STDOUT, -1);
    }
  }
}

/** Writes why the process ends, with the program's name before it. Waits a little for a slow reader. */
export function complain(text: string): void {
  isWritable(STDERR, LAST_WORDS_MS);
  stderr.write(`one_file_gateway: ${text.split("\n").map(visible).join("\n")}`);
}
