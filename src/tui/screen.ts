/**
 * What a view draws on: a list of drawing operations, clipped to areas. No terminal here, so that a view is a pure function and a
 * test can look at what it drew.
 */
import { cut, fit, runsOf, safe, widthOf } from "./text.ts";

/** How text looks. Colours are places in the terminal's own palette, so that they fit its background; null is its default. */
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

/** Colours of categories: those of the palette that differ most from each other on dark and on light. */
export const CATEGORY_COLORS: readonly number[] = [6, 5, 2, 3, 12, 1];

export interface Op {
  readonly x: number;
  readonly y: number;
  /** Harmless, and not wider than what is left of its area. */
  readonly text: string;
  readonly style: Style;
}

/** What a click on a place means; the reducer knows the targets. */
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
  /** Where the text cursor blinks; null: hidden. */
  readonly cursor: { readonly x: number; readonly y: number } | null;
}

interface Sheet {
  readonly ops: Op[];
  readonly zones: Zone[];
  cursor: { x: number; y: number } | null;
}

/** A rectangle of the screen with its own origin. What does not fit into it is not drawn. */
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

  /** The part of this area that begins at (x, y) and is at most so large. */
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
   * Writes one line, cut at the area's edge (or after `columnsMax`).
   * @returns the column behind it.
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

  /** Writes pieces one after the other. @returns the column behind the last. */
  line(x: number, y: number, pieces: readonly (readonly [string, Style])[]): number {
    let at = x;
    for (const [text, style] of pieces) at = this.put(at, y, text, style);
    return at;
  }

  /** One character repeated, or spaces with a style. */
  fill(x: number, y: number, columns: number, character = " ", style: Style = STYLE.plain): void {
    const room = Math.min(columns, this.width - x);
    if (room > 0 && y >= 0 && y < this.height && x >= 0)
      this.#sheet.ops.push({ x: this.#x + x, y: this.#y + y, text: character.repeat(room), style });
  }

  /** Covers what was drawn here before. */
  clear(): void {
    for (let y = 0; y < this.height; y++) this.fill(0, y, this.width);
  }

  /** A frame with titles in its upper edge. @returns what is inside. */
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

  /** A place that can be clicked. */
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

// ------------------------------------------------------------------------------------------------ pictures

const EIGHTHS_UP = " ▁▂▃▄▅▆▇█";
const EIGHTHS_RIGHT = " ▏▎▍▌▋▊▉█";

/** A share (0 to 1) as a horizontal bar of so many columns. */
export function bar(share: number, columns: number): string {
  const eighths = Math.round(Math.min(1, Math.max(0, share)) * columns * 8);
  const full = Math.floor(eighths / 8);
  return ("█".repeat(full) + (EIGHTHS_RIGHT[eighths % 8] ?? "").trim()).padEnd(columns, "·");
}

/** −1 to 1 as a bar that grows from the middle; seven columns: ▐██│···. */
export function signedBar(value: number): string {
  const side = 3;
  const halves = Math.round(Math.min(1, Math.abs(value)) * side * 2);
  const full = "█".repeat(Math.floor(halves / 2));
  if (value < 0) return `${((halves % 2 === 1 ? "▐" : "") + full).padStart(side, "·")}│${"·".repeat(side)}`;
  return `${"·".repeat(side)}│${(full + (halves % 2 === 1 ? "▌" : "")).padEnd(side, "·")}`;
}

/** The newest `values` as columns of eighths; NaN is a gap. */
export function spark(values: readonly number[], max: number): string {
  return values
    .map((value) => {
      if (Number.isNaN(value)) return " ";
      if (max <= 0 || value <= 0) return "▁";
      return EIGHTHS_UP[Math.max(1, Math.min(8, Math.ceil((8 * value) / max)))];
    })
    .join("");
}

/** Fills an area with a graph of its values, one a column, the last at the right edge. */
export function graph(area: Area, values: readonly number[], max: number, style: Style): void {
  const { height } = area;
  const from = area.width - values.length;
  for (let row = 0; row < height; row++) {
    const floor = (height - 1 - row) * 8;
    const line = values.map((value) => {
      if (Number.isNaN(value)) return " ";
      // What is more than nothing shows at least an eighth.
      const eighths = max <= 0 || value <= 0 ? 0 : Math.max(1, Math.round((value / max) * height * 8));
      if (row === height - 1 && eighths === 0) return "▁";
      return EIGHTHS_UP[Math.max(0, Math.min(8, eighths - floor))];
    });
    area.put(Math.max(0, from), row, line.slice(Math.max(0, -from)).join(""), style);
  }
}

/** The cells of a raster of dots, two by four a cell, as Unicode's braille patterns. */
export class Dots {
  readonly columns: number;
  readonly rows: number;
  readonly #bits: Uint8Array;
  readonly #styles: (Style | null)[];
  readonly #ranks: Float64Array;

  constructor(columns: number, rows: number) {
    this.columns = columns;
    this.rows = rows;
    this.#bits = new Uint8Array(columns * rows);
    this.#styles = new Array(columns * rows).fill(null);
    this.#ranks = new Float64Array(columns * rows).fill(Number.NEGATIVE_INFINITY);
  }

  /** Sets the dot at (x, y), 0 to 2 × columns and 0 to 4 × rows. Of several in a cell the highest rank gives the style. */
  set(x: number, y: number, style: Style, rank: number): void {
    const column = Math.floor(x / 2);
    const row = Math.floor(y / 4);
    if (column < 0 || row < 0 || column >= this.columns || row >= this.rows) return;
    const cell = row * this.columns + column;
    const left = Math.floor(x) % 2 === 0;
    const line = Math.floor(y) % 4;
    // Dots 1 2 3 7 stand on the left, 4 5 6 8 on the right.
    const bit = line === 3 ? (left ? 0x40 : 0x80) : (left ? 0x01 : 0x08) << line;
    this.#bits[cell] = (this.#bits[cell] as number) | bit;
    if (rank < (this.#ranks[cell] as number)) return;
    this.#ranks[cell] = rank;
    this.#styles[cell] = style;
  }

  /** A straight line of dots between two places, the ends left out. */
  trail(from: { x: number; y: number }, to: { x: number; y: number }, style: Style, rank: number): void {
    const steps = Math.max(Math.abs(to.x - from.x), Math.abs(to.y - from.y));
    for (let step = 3; step < steps - 1; step += 3) {
      const share = step / steps;
      this.set(from.x + (to.x - from.x) * share, from.y + (to.y - from.y) * share, style, rank);
    }
  }

  draw(area: Area): void {
    for (let row = 0; row < this.rows; row++) {
      for (let column = 0; column < this.columns; column++) {
        const cell = row * this.columns + column;
        const bits = this.#bits[cell] as number;
        const style = this.#styles[cell];
        if (bits !== 0 && style != null) area.put(column, row, String.fromCharCode(0x2800 + bits), style);
      }
    }
  }
}

/** A line of keys and their meaning, as far as there is room: ` q quit  ? help`. */
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

/** The width of a label and the space behind it. */
export const FACT_COLUMNS = 15;

/** Label and value, the label dim. @returns the row behind. */
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
