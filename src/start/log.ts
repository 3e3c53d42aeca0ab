/** Writes log lines to standard error, except while the dashboard covers the terminal. */
import type { Config } from "../config/config.ts";
import { LOG_LEVELS, type Log, type LogLevel, visible } from "../log.ts";
import type { Scrub } from "../secrets.ts";
import { stderr } from "./stdio.ts";

interface LogTaker {
  /** Takes a line over. @returns whether the line must not go to standard error. */
  takes(level: LogLevel, message: string, line: string): boolean;
}

export interface LogOptions extends Pick<Config, "logLevel" | "logFormat"> {
  readonly scrub: Scrub;
  /** The desk, if there is one. */
  readonly taker: () => LogTaker | null;
}

export function makeLog({ logLevel, logFormat, scrub, taker }: LogOptions): Log {
  const least = LOG_LEVELS.indexOf(logLevel);
  return (level, text) => {
    if (LOG_LEVELS.indexOf(level) < least) return;
    const message = scrub(text);
    const time = new Date().toISOString();
    const line = visible(
      logFormat === "json"
        ? JSON.stringify({ time, level, message })
        : `${time} ${level.padEnd(5)} ${message}`,
    );
    if (taker()?.takes(level, message, line) !== true) stderr.write(line);
  };
}
