/** The levels of a log line, and the function that every part logs through. */

export const LOG_LEVELS = ["debug", "info", "warn", "error"] as const;

export type LogLevel = (typeof LOG_LEVELS)[number];

/** Writes one line. It never throws and never waits. */
export type Log = (level: LogLevel, message: string) => void;

/** Characters that move a cursor, end a line, hide text or turn its direction, and halves of characters. */
const INVISIBLE =
  // biome-ignore lint/suspicious/noControlCharactersInRegex: it finds control characters
  /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

/**
 * Returns the text with each character that a terminal would obey instead of showing as an escape: `\\u001b` for ESC. So a text from
 * outside can neither forge a second log line nor command the terminal.
 */
export function visible(text: string): string {
  return text.replace(INVISIBLE, (character) => {
    const code = character.charCodeAt(0);
    return `\\u${code.toString(16).padStart(4, "0")}`;
  });
}
