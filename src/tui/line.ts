/** Text that the user is writing, with its cursor, and what keys do to it. */
import type { KeyPress } from "./model.ts";

/** More than this is no filter and no chat message. @bound an input | the rest is not taken */
const CHARS_MAX = 8000;

export interface Line {
  readonly text: string;
  /** In UTF-16 units, never inside a letter. */
  readonly cursor: number;
}

/** Inserts a text at the cursor, as much of it as there is room for. */
export function insert({ text, cursor }: Line, piece: string): Line {
  const room = CHARS_MAX - text.length;
  const added = piece.slice(0, Math.max(0, room)).toWellFormed();
  return { text: text.slice(0, cursor) + added + text.slice(cursor), cursor: cursor + added.length };
}

const segmenter = new Intl.Segmenter(undefined, { granularity: "grapheme" });

/** Where the letter before `cursor` begins. A letter may have many code units. */
function before(text: string, cursor: number): number {
  let last = 0;
  for (const { index } of segmenter.segment(text.slice(0, cursor))) last = index;
  return last;
}

/** Where the letter at `cursor` ends. */
function after(text: string, cursor: number): number {
  for (const { segment } of segmenter.segment(text.slice(cursor))) return cursor + segment.length;
  return cursor;
}

/** What a key does to a line. @param lines whether the text may have more than one line */
export function edit(line: Line, key: KeyPress, lines: boolean): Line {
  const { text, cursor } = line;
  const lineStart = text.lastIndexOf("\n", cursor - 1) + 1;
  const lineEnd = text.indexOf("\n", cursor) < 0 ? text.length : text.indexOf("\n", cursor);
  const without = (from: number, to: number): Line => ({
    text: text.slice(0, from) + text.slice(to),
    cursor: from,
  });
  switch (key.id) {
    case "backspace":
    case "ctrl+h":
      return without(before(text, cursor), cursor);
    case "delete":
      return { ...without(cursor, after(text, cursor)), cursor };
    case "ctrl+w":
      return without(/\S*\s*$/.exec(text.slice(0, cursor))?.index ?? cursor, cursor);
    case "ctrl+u":
      return without(lineStart, cursor);
    case "left":
      return { text, cursor: before(text, cursor) };
    case "right":
      return { text, cursor: after(text, cursor) };
    case "home":
    case "ctrl+a":
      return { text, cursor: lineStart };
    case "end":
    case "ctrl+e":
      return { text, cursor: lineEnd };
    case "up":
    case "down":
      return lines ? vertically(line, key.id === "up" ? -1 : 1) : line;
    case "alt+enter":
    case "ctrl+j":
    case "shift+enter":
      return lines ? insert(line, "\n") : line;
    default:
      return key.text === null ? line : insert(line, key.text);
  }
}

/** Moves the cursor `by` lines, in the same column if the line is long enough. */
function vertically({ text, cursor }: Line, by: number): Line {
  const lines = text.split("\n");
  const upTo = text.slice(0, cursor).split("\n");
  const row = upTo.length - 1;
  const column = upTo[row]?.length ?? 0;
  const target = row + by;
  if (target < 0 || target >= lines.length) return { text, cursor: target < 0 ? 0 : text.length };
  const start = lines.slice(0, target).reduce((sum, part) => sum + part.length + 1, 0);
  return { text, cursor: start + Math.min(column, lines[target]?.length ?? 0) };
}
