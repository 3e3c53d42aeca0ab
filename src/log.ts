/** The levels of a log line, and the function that every part logs through. */

export const LOG_LEVELS = ["debug", "info", "warn", "error"] as const;

export type LogLevel = (typeof LOG_LEVELS)[number];

/** Writes one line. It never throws and never waits. */
export type Log = (level: LogLevel, message: string) => void;
