/** The newest log lines, for the dashboard's drawer. */
import type { LogLevel } from "../log.ts";
import type { LogLine } from "../tui/model.ts";

/** @bound the log drawer | the older half is dropped */
const LINES_MAX = 500;
/** @bound one line of the log drawer | it is cut */
const LINE_CHARS_MAX = 2000;

export class LogLines {
  #lines: LogLine[] = [];
  #unseen = 0;

  get lines(): readonly LogLine[] {
    return this.#lines;
  }

  /** Warnings and errors since {@link seen}. */
  get unseen(): number {
    return this.#unseen;
  }

  add(timeUs: number, level: LogLevel, message: string): void {
    this.#lines.push({ timeUs, level, message: message.slice(0, LINE_CHARS_MAX) });
    if (this.#lines.length > LINES_MAX) this.#lines = this.#lines.slice(-LINES_MAX / 2);
    if (level === "warn" || level === "error") this.#unseen += 1;
  }

  /** The user has opened or closed the drawer. */
  seen(): void {
    this.#unseen = 0;
  }
}
