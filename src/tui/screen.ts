/**
 * What a view draws on: a list of drawing operations, clipped to areas. It knows no terminal, so a view is a pure function and a test can
 * read what it drew.
 */
import { cut, fit, runsOf, safe, widthOf } from "./text.ts";

/** How text looks. A colour is an index into the terminal's own palette, so that it suits the background; null is the default. */
export interface Style {
  readonly color: number | null;
  readonly bold?: boolean;
  readonly dim?: boolean;
  readonly inverse?: boolean;
  readonly underline?: boolean;
}

export const STYLE = {
  plain: { color: null },
  dim: { color: null, dim: true },
  strong: { color: null, bold: true },
  chosen: { color: null, inverse: true },
  accent: { color: 6 },
  title: { color: 6, bold: true },
  good: { color: 2 },
  warn: { color: 3, bold: true },
  bad: { color: 1, bold: true },
  key: { color: 5 },
} as const satisfies Record<string, Style>;

/** Colours for categories: those of the palette that differ most from each other, on dark and on light backgrounds. */
export const CATEGORY_COLORS: readonly number[] = [6, 5, 2, 3, 12, 1];

export interface Op {
  readonly x: number;
  readonly y: number;
  /** Passed through `safe`, and no wider than the rest of its area. */
  readonly text: string;
  readonly style: Style;
}

/** What a click on a zone means; the reducer carries it out. */
export type Target =
  | { readonly kind: "tab"; readonly index: number }
  | { readonly kind: "row"; readonly id: number | string }
  | { readonly kind: "particle"; readonly frameId: number }
  | { readonly kind: "input" };

export interface Zone {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
  readonly target: Target;
}

export interface Size {
  readonly width: number;
  readonly height: number;
}

/** A drawn screen. Later operations lie over earlier ones. */
export interface Screen extends Size {
  readonly ops: readonly Op[];
  readonly zones: readonly Zone[];
  /** Where the text cursor stands; null: hidden. */
  readonly cursor: { readonly x: number; readonly y: number } | null;
}

interface Sheet {
  readonly ops: Op[];
  readonly zones: Zone[];
  cursor: { x: number; y: number } | null;
}

/** A rectangle of the screen with its own origin. Whatever does not fit is not drawn. */
export class Area implements Size {
  readonly width: number;
  readonly height: number;
  readonly #x: number;
  readonly #y: number;
  readonly #sheet: Sheet;

  private constructor(sheet: Sheet, x: number, y: number, width: number, height: number) {
    this.#sheet = sheet;
    this.#x = x;
    this.#y = y;
    this.width = Math.max(0, width);
    this.height = Math.max(0, height);
  }

  static ofSize({ width, height }: Size): Area {
    return new Area({ ops: [], zones: [], cursor: null }, 0, 0, width, height);
  }

  /** The part of this area that begins at (x, y), at most `width` by `height` large. */
  sub(x: number, y: number, width = this.width - x, height = this.height - y): Area {
    return new Area(
      this.#sheet,
      this.#x + x,
      this.#y + y,
      Math.min(width, this.width - x),
      Math.min(height, this.height - y),
    );
  }

  /**
   * Writes one line, cut at the area's edge or after `columnsMax` columns.
   * @returns the column after it
   */
  put(x: number, y: number, text: string, style: Style = STYLE.plain, columnsMax = this.width - x): number {
    const room = Math.min(columnsMax, this.width - x);
    if (room <= 0 || y < 0 || y >= this.height || x < 0) return x;
    const clean = safe(text);
    const piece = widthOf(clean) <= room ? clean : cut(clean, room);
    let at = x;
    for (const run of runsOf(piece)) {
      this.#sheet.ops.push({ x: this.#x + at, y: this.#y + y, text: run.text, style });
      at += run.columns;
    }
    return at;
  }

  /** Writes pieces one after the other. @returns the column after the last */
  line(x: number, y: number, pieces: readonly (readonly [string, Style])[]): number {
    let at = x;
    for (const [text, style] of pieces) at = this.put(at, y, text, style);
    return at;
  }

  /** Repeats one character, or spaces with a style. */
  fill(x: number, y: number, columns: number, character = " ", style: Style = STYLE.plain): void {
    const room = Math.min(columns, this.width - x);
    if (room > 0 && y >= 0 && y < this.height && x >= 0)
      this.#sheet.ops.push({ x: this.#x + x, y: this.#y + y, text: character.repeat(room), style });
  }

  /** Covers everything that was drawn here before. */
  clear(): void {
    for (let y = 0; y < this.height; y++) this.fill(0, y, this.width);
  }

  /** Draws a frame with titles in its upper edge. @returns the area inside */
  box(title: readonly (readonly [string, Style])[], right = "", style: Style = STYLE.dim): Area {
    const { width, height } = this;
    if (width < 2 || height < 2) return this.sub(0, 0, 0, 0);
    this.put(0, 0, `╭${"─".repeat(width - 2)}╮`, style);
    for (let y = 1; y < height - 1; y++) {
      this.put(0, y, "│", style);
      this.put(width - 1, y, "│", style);
    }
    this.put(0, height - 1, `╰${"─".repeat(width - 2)}╯`, style);
    const edge = this.sub(2, 0, width - 4, 1);
    let at = 0;
    for (const [text, look] of title) {
      if (text !== "" && at + 2 < edge.width)
        at = edge.put(at, 0, ` ${cut(text, edge.width - at - 2)} `, look);
    }
    if (right !== "") {
      const piece = ` ${cut(right, Math.max(0, edge.width - at - 3))} `;
      if (edge.width - at >= 6) edge.put(edge.width - widthOf(piece), 0, piece, STYLE.dim);
    }
    return this.sub(1, 1, width - 2, height - 2);
  }

  /** Makes a rectangle clickable. */
  zone(x: number, y: number, width: number, height: number, target: Target): void {
    this.#sheet.zones.push({ x: this.#x + x, y: this.#y + y, width, height, target });
  }

  cursor(x: number, y: number): void {
    if (x < this.width && y < this.height) this.#sheet.cursor = { x: this.#x + x, y: this.#y + y };
  }

  /** The whole sheet that this area is part of. */
  finish(): Screen {
    const { ops, zones, cursor } = this.#sheet;
    return { width: this.width, height: this.height, ops, zones, cursor };
  }
}

/** Draws keys and their meanings, as many as fit: ` q quit  ? help`. */
export function keyLine(
  area: Area,
  x: number,
  y: number,
  keys: readonly (readonly [string, string])[],
): void {
  let at = x;
  for (const [key, meaning] of keys) {
    const columns = widthOf(key) + 1 + widthOf(meaning) + 2;
    if (at + columns > area.width + 1) return;
    at = area.put(at, y, key, STYLE.key);
    at = area.put(at, y, ` ${meaning}  `, STYLE.dim);
  }
}

/** The width of a label and the space after it. */
export const FACT_COLUMNS = 15;

/** Draws a dim label and its value. @returns the next row */
export function fact(
  area: Area,
  y: number,
  label: string,
  value: string,
  style: Style = STYLE.plain,
): number {
  area.put(0, y, fit(label, FACT_COLUMNS), STYLE.dim);
  area.put(FACT_COLUMNS, y, value, style);
  return y + 1;
}
