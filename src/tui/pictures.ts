/** Figures as pictures made of characters: bars, sparklines, graphs and rasters of dots. */
import type { Area, Style } from "./screen.ts";

const EIGHTHS_UP = " ▁▂▃▄▅▆▇█";
const EIGHTHS_RIGHT = " ▏▎▍▌▋▊▉█";

/** A share (0 to 1) as a horizontal bar of `columns` columns. */
export function bar(share: number, columns: number): string {
  const eighths = Math.round(Math.min(1, Math.max(0, share)) * columns * 8);
  const full = Math.floor(eighths / 8);
  return ("█".repeat(full) + (EIGHTHS_RIGHT[eighths % 8] ?? "").trim()).padEnd(columns, "·");
}

/** A value from −1 to 1 as a bar of seven columns that grows from the middle: ▐██│···. */
export function signedBar(value: number): string {
  const side = 3;
  const halves = Math.round(Math.min(1, Math.abs(value)) * side * 2);
  const full = "█".repeat(Math.floor(halves / 2));
  if (value < 0) return `${((halves % 2 === 1 ? "▐" : "") + full).padStart(side, "·")}│${"·".repeat(side)}`;
  return `${"·".repeat(side)}│${(full + (halves % 2 === 1 ? "▌" : "")).padEnd(side, "·")}`;
}

/** Values as columns of eighths of `max`; NaN is a gap. */
export function spark(values: readonly number[], max: number): string {
  return values
    .map((value) => {
      if (Number.isNaN(value)) return " ";
      if (max <= 0 || value <= 0) return "▁";
      return EIGHTHS_UP[Math.max(1, Math.min(8, Math.ceil((8 * value) / max)))];
    })
    .join("");
}

/** Fills an area with a graph of `values`, one in each column, the last at the right edge. */
export function graph(area: Area, values: readonly number[], max: number, style: Style): void {
  const { height } = area;
  const from = area.width - values.length;
  for (let row = 0; row < height; row++) {
    const floor = (height - 1 - row) * 8;
    const line = values.map((value) => {
      if (Number.isNaN(value)) return " ";
      // A value above zero shows at least an eighth.
      const eighths = max <= 0 || value <= 0 ? 0 : Math.max(1, Math.round((value / max) * height * 8));
      if (row === height - 1 && eighths === 0) return "▁";
      return EIGHTHS_UP[Math.max(0, Math.min(8, eighths - floor))];
    });
    area.put(Math.max(0, from), row, line.slice(Math.max(0, -from)).join(""), style);
  }
}

/** A raster of dots, two by four in each cell, drawn with Unicode's braille patterns. */
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

  /** Sets the dot at (x, y), below (2 × columns, 4 × rows). The dot with the highest rank gives its cell the style. */
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

  /** Sets dots on the straight line between two places, without its ends. */
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
