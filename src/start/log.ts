/** Writes log lines to standard error, except while the dashboard covers the terminal. */
import type { Config } from "../config/config.ts";
import { LOG_LEVELS, type Log, type LogLevel, visible } from "../log.ts";
import { stderr } from "./stdio.ts";

interface LogTaker {
  /** Takes a line over. @returns whether the line must not go to standard error. */
  takes(level: LogLevel, message: string, line: string): boolean;
}

/** @param taker the desk, if there is one. */
export function makeLog(config: Pick<Config, "logLevel" | "logFormat">, taker: () => LogTaker | null): Log {
  const least = LOG_LEVELS.indexOf(config.logLevel);
  return (level, message) => {
    if (LOG_LEVELS.indexOf(level) < least) return;
    const time = new Date().toISOString();
    const line = visible(
      config.logFormat === "json"
        ? JSON.stringify({ time, level, message })
        : `${time} ${level.padEnd(5)} ${message}`,
    );
    if (taker()?.takes(level, message, line) !== true) stderr.write(line);
  };
}
