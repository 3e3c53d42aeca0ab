/**
 * Makes text from outside safe for a terminal: it stays readable, but cannot control the terminal. Also measures how many columns text
 * takes. Everything that is drawn goes through {@link safe} (src/tui/screen.ts), so no caller can forget it.
 */

/** No screen shows more. @bound one text on the screen | the rest is ignored */
const TEXT_CHARS_MAX = 4096;
/** Combining marks on one letter: enough for every living script, too few to reach into the lines above. */
const MARKS_MAX = 2;

/** Needs no change: printable ASCII, most of Latin, Greek and Cyrillic, and what the dashboard itself draws with (rules, blocks, braille, arrows). */
const HARMLESS =
  /^[\x20-\x7e\u00a1-\u00ac\u00ae-\u02ff\u0391-\u03ff\u0400-\u045f\u2010-\u2015\u2018-\u2026\u2190-\u2193\u2500-\u25fc\u2800-\u28ff]*$/;
const ASCII = /^[\x20-\x7e]*$/;

/** Zero-width joiner, variation selectors, skin tones, enclosing marks: terminals disagree on their width, and the text reads the same without them. */
const DROPPED = /[\u200d\ufe00-\ufe0f\u{e0100}-\u{e01ef}\u{1f3fb}-\u{1f3ff}\p{Me}]/gu;
const BREAKS = /[\t\n\v\f\r\u0085\u2028\u2029]+/g;
// biome-ignore lint/suspicious/noControlCharactersInRegex: it finds control characters
const CONTROLS = /[\x00-\x1f\x7f]/g;
const SPACES = /\p{Zs}/gu;
/** Private, unassigned and unpaired: the width of what a terminal shows for them is unknown. */
const UNKNOWN = /[\p{Co}\p{Cn}\p{Cs}]/gu;
/** C1 controls, direction overrides, zero-width and other invisible characters: their code point is shown instead. */
const INVISIBLE = /[\p{C}\p{Default_Ignorable_Code_Point}]/gu;
const REGIONAL = /[\u{1f1e6}-\u{1f1ff}]/gu;
const MARKS = new RegExp(`(\\p{M}{${MARKS_MAX}})\\p{M}+`, "gu");
const LEADING_MARK = /^(?=\p{M})/u;

/**
 * One line of safe text: without control, escape, direction and invisible characters. Line breaks become a space, other controls their
 * picture (␛), invisible characters their code point (‹202E›). Applying it twice changes nothing more.
 */
export function safe(text: string): string {
  if (text.length <= TEXT_CHARS_MAX && HARMLESS.test(text)) return text;
  return text
    .slice(0, TEXT_CHARS_MAX)
    .toWellFormed()
    .normalize("NFC")
    .replace(BREAKS, " ")
    .replace(CONTROLS, (control) => {
      const code = control.charCodeAt(0);
      return String.fromCharCode(code === 0x7f ? 0x2421 : 0x2400 + code);
    })
    .replace(DROPPED, "")
    .replace(SPACES, (space) => (space === "\u3000" ? "  " : " "))
    .replace(UNKNOWN, "\ufffd")
    .replace(INVISIBLE, (character) => `‹${(character.codePointAt(0) ?? 0).toString(16).toUpperCase()}›`)
    .replace(REGIONAL, (letter) => String.fromCharCode(0x41 + (letter.codePointAt(0) ?? 0) - 0x1f1e6))
    .replace(MARKS, "$1")
    .replace(LEADING_MARK, "◌");
}

/** The lines of a text, each of them safe. */
export function safeLines(text: string): string[] {
  return text.split(/\r\n|[\n\r\u0085\u2028\u2029]/).map(safe);
}

/** A letter with its marks: the smallest piece with columns of its own. For safe text only. */
const LETTERS = /\P{M}\p{M}*/gu;
/** Scripts on whose width all terminals agree. */
const CERTAIN =
  /^[\x20-\x7e\u00a1-\u00ac\u00ae-\u02ff\u0391-\u03ff\u0400-\u045f\u2010-\u2015\u2018-\u2026\u2190-\u2193\u2500-\u25fc\u2800-\u28ff\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff\uac00-\ud7a3]*$/;

/** Columns of one letter with its marks: 1 or 2. */
function letterWidth(letter: string): number {
  const base = String.fromCodePoint(letter.codePointAt(0) ?? 0x20);
  return Math.min(2, Math.max(1, Bun.stringWidth(base)));
}

/** How many columns a safe text takes. */
export function widthOf(text: string): number {
  if (HARMLESS.test(text)) return text.length;
  let columns = 0;
  for (const [letter] of text.matchAll(LETTERS)) columns += letterWidth(letter);
  return columns;
}

/** A piece of a line that can be drawn at once, and how many columns it takes. */
export interface Run {
  readonly text: string;
  readonly columns: number;
}

/**
 * Splits a safe text into pieces that are placed one by one, so that a terminal that disagrees on the width of a letter misplaces only
 * that letter.
 */
export function runsOf(text: string): Run[] {
  if (HARMLESS.test(text)) return [{ text, columns: text.length }];
  const runs: { text: string; columns: number }[] = [];
  let open: { text: string; columns: number } | null = null;
  for (const [letter] of text.matchAll(LETTERS)) {
    const columns = letterWidth(letter);
    if (!CERTAIN.test(letter)) {
      runs.push({ text: letter, columns });
      open = null;
    } else if (open === null) {
      open = { text: letter, columns };
      runs.push(open);
    } else {
      open.text += letter;
      open.columns += columns;
    }
  }
  return runs;
}

/** As much of any text as fits, made safe, with an ellipsis if something is missing. */
export function cut(text: string, columns: number): string {
  // Each letter takes at least one column, so more than this never fits.
  const clean = safe(text.length > 8 * columns + 64 ? text.slice(0, 8 * columns + 64) : text);
  if (columns <= 0) return "";
  if (ASCII.test(clean)) return clean.length <= columns ? clean : `${clean.slice(0, columns - 1)}…`;
  if (widthOf(clean) <= columns) return clean;
  let taken = "";
  let left = columns - 1;
  for (const [letter] of clean.matchAll(LETTERS)) {
    left -= letterWidth(letter);
    if (left < 0) break;
    taken += letter;
  }
  return `${taken}…`;
}

/** {@link cut}, filled with spaces to exactly `columns` columns. */
export function fit(text: string, columns: number, align: "left" | "right" = "left"): string {
  const piece = cut(text, columns);
  const space = " ".repeat(Math.max(0, columns - widthOf(piece)));
  return align === "left" ? piece + space : space + piece;
}

/** Lines of at most `columns` columns, broken at spaces if possible; at most `linesMax` lines. */
export function wrap(text: string, columns: number, linesMax = 1000): string[] {
  const lines: string[] = [];
  for (const line of safeLines(text)) {
    if (lines.length >= linesMax) break;
    wrapLine(line, Math.max(2, columns), lines);
  }
  return lines.slice(0, linesMax);
}

function wrapLine(text: string, columns: number, lines: string[]): void {
  let line = "";
  let width = 0;
  // A mark after a space belongs to the space.
  for (const word of text.split(/(?<= )(?!\p{M})/u)) {
    const wordWidth = widthOf(word.trimEnd());
    if (width > 0 && width + wordWidth > columns) {
      lines.push(line.trimEnd());
      line = "";
      width = 0;
    }
    for (const [letter] of word.matchAll(LETTERS)) {
      const letterColumns = letterWidth(letter);
      if (width + letterColumns > columns && letter !== " ") {
        lines.push(line);
        line = "";
        width = 0;
      }
      line += letter;
      width += letterColumns;
    }
  }
  lines.push(line.trimEnd());
}

/** A whole number with thousands separators: 12,345. */
export function count(value: number): string {
  return Math.round(value).toLocaleString("en-US");
}

/** A number in at most five characters: 7, 9.3, 12.3k, 4.5M. */
export function short(value: number): string {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e9) return `${(value / 1e9).toFixed(1)}G`;
  if (size >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
  if (size >= 10_000) return `${(value / 1000).toFixed(1)}k`;
  if (size >= 100 || Number.isInteger(value)) return String(Math.round(value));
  return value.toFixed(size >= 10 ? 1 : 2);
}

/** A span of time: 45 s, 3m 05s, 2h 04m, 5d 03h. */
export function duration(us: number): string {
  const seconds = Math.max(0, Math.floor(us / 1e6));
  const two = (value: number): string => String(value).padStart(2, "0");
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m ${two(seconds % 60)}s`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)}h ${two(Math.floor(seconds / 60) % 60)}m`;
  return `${Math.floor(seconds / 86_400)}d ${two(Math.floor(seconds / 3600) % 24)}h`;
}

/** The local time of day of an instant. */
export function clock(us: number, withMs = false): string {
  const date = new Date(us / 1000);
  const two = (value: number): string => String(value).padStart(2, "0");
  const time = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return withMs ? `${time}.${String(date.getMilliseconds()).padStart(3, "0")}` : time;
}
