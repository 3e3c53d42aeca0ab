/** Tab 1: the newest events as a list, and one event in full. */

import { viewNothing } from "../edges.ts";
import type { DashboardSnapshot, EventRow, Ui } from "../model.ts";
import { signedBar } from "../pictures.ts";
import { type Area, STYLE, type Style } from "../screen.ts";
import { shownRows } from "../state.ts";
import { clock, count, cut, duration, fit, widthOf } from "../text.ts";

interface Column {
  readonly name: string;
  readonly columns: number;
  readonly draw: (area: Area, x: number, y: number, row: EventRow, columns: number) => void;
}

const NO_FRAME = "…";
const NO_VALUE = "–";

function sentimentStyle(value: number): Style {
  if (value > 0.15) return STYLE.good;
  return value < -0.15 ? STYLE.bad : STYLE.dim;
}

/** The columns that fit. The message takes the rest of the width, and never less than 20 columns. */
function columnsFor(width: number): Column[] {
  const wide = width >= 150;
  const roomy = width >= 105;
  const text =
    (of: (row: EventRow) => string, style: Style) =>
    (area: Area, x: number, y: number, row: EventRow, columns: number): void => {
      const value = of(row);
      area.put(x, y, fit(value, columns), value === NO_VALUE || value === NO_FRAME ? STYLE.dim : style);
    };
  const intent = (row: EventRow): string => row.intent ?? (row.frameId === null ? NO_FRAME : NO_VALUE);
  const fixed: Column[] = [
    {
      name: "time",
      columns: wide ? 12 : 8,
      draw: text(({ receivedUs }) => clock(receivedUs, wide), STYLE.dim),
    },
    { name: "type", columns: roomy ? 16 : 12, draw: text(({ type }) => type ?? NO_VALUE, STYLE.accent) },
    { name: "intent", columns: wide ? 24 : roomy ? 18 : 11, draw: text(intent, STYLE.plain) },
    {
      name: "sentiment",
      columns: wide ? 13 : 9,
      draw: (area, x, y, { sentiment }) => {
        if (sentiment === null) return void area.put(x, y, "   –", STYLE.dim);
        const style = sentimentStyle(sentiment);
        const sign = sentiment < 0 ? "−" : "+";
        area.put(x, y, signedBar(sentiment), style);
        if (wide) area.put(x + 8, y, `${sign}${Math.abs(sentiment).toFixed(2)}`, style);
      },
    },
    {
      name: roomy ? "conversation" : "conv",
      columns: wide ? 20 : roomy ? 16 : 8,
      draw: text(({ conversation }) => conversation ?? NO_VALUE, STYLE.dim),
    },
  ];
  const taken = fixed.reduce((sum, { columns }) => sum + columns + 1, 0);
  const message: Column = {
    name: "message",
    columns: Math.max(20, width - taken),
    draw: (area, x, y, row, columns) => {
      area.put(x, y, cut(row.message, columns), row.isMessage ? STYLE.plain : STYLE.dim);
    },
  };
  return [...fixed, message];
}

export function viewEvents(area: Area, snapshot: DashboardSnapshot, ui: Ui): void {
  const rows = shownRows(snapshot, ui.filter);
  const filtering = ui.input?.kind === "filter";
  const inside = area.box(titleOf(snapshot, ui, rows.length), rightOf(snapshot));
  if (filtering) viewFilter(area, ui);
  if (rows.length === 0) {
    viewNone(inside, snapshot, ui);
    return;
  }
  const columns = columnsFor(inside.width - 2);
  let x = 1;
  for (const { name, columns: width } of columns) {
    inside.put(x, 0, fit(name, width), STYLE.dim);
    x += width + 1;
  }
  const list = inside.sub(0, 1);
  const found = ui.following ? 0 : rows.findIndex(({ seq }) => seq === ui.selectedSeq);
  const selected = Math.max(0, found);
  const top = Math.max(0, Math.min(selected - Math.floor(list.height / 2), rows.length - list.height));
  for (let y = 0; y < list.height && top + y < rows.length; y++) {
    const row = rows[top + y] as EventRow;
    viewRow(list, y, row, columns, !ui.following && top + y === selected);
    list.zone(0, y, list.width, 1, { kind: "row", id: row.seq });
  }
}

function viewRow(list: Area, y: number, row: EventRow, columns: readonly Column[], selected: boolean): void {
  if (selected) list.put(0, y, "▶", STYLE.title);
  let x = 1;
  for (const column of columns) {
    const width = Math.min(column.columns, list.width - x);
    column.draw(list, x, y, row, width);
    x += column.columns + 1;
  }
}

function titleOf(snapshot: DashboardSnapshot, ui: Ui, shown: number): (readonly [string, Style])[] {
  const { newer } = snapshot.events;
  const title: (readonly [string, Style])[] = [["events", STYLE.title]];
  if (ui.following) title.push(["following", STYLE.good]);
  else title.push([newer === 0 ? "paused" : `paused, ${count(newer)} newer`, STYLE.warn]);
  if (ui.filter !== "") title.push([`"${cut(ui.filter, 24)}" ${count(shown)} found`, STYLE.accent]);
  return title;
}

function rightOf({ nowUs, events }: DashboardSnapshot): string {
  const { historyState, lastUs } = events;
  if (historyState === "loading") return "loading older events";
  if (historyState === "end") return "the oldest event is shown";
  if (historyState === "bound") return "no more rows are kept; filter with /";
  if (historyState === "failed") return "loading older events failed (l)";
  return lastUs === null ? "" : `last event ${duration(nowUs - lastUs)} ago`;
}

function viewFilter(area: Area, ui: Ui): void {
  const { input } = ui;
  if (input === null) return;
  const line = area.sub(2, area.height - 1, area.width - 4, 1);
  const room = line.width - 6;
  const text = input.text.length > room ? input.text.slice(-room) : input.text;
  const end = line.line(0, 0, [
    [" / ", STYLE.key],
    [`${text} `, STYLE.strong],
  ]);
  line.cursor(Math.min(end - 1, 3 + widthOf(cut(input.text.slice(0, input.cursor), room))), 0);
}

function viewNone(area: Area, snapshot: DashboardSnapshot, ui: Ui): void {
  const { total, historyState } = snapshot.events;
  if (total === 0) {
    viewNothing(area, [
      "No events yet",
      `POST one to ${snapshot.address}/ingest:`,
      `curl ${snapshot.address}/ingest -H 'content-type: application/json'${snapshot.tokenSet ? " -H 'authorization: Bearer …'" : ""} -d '{"message":"Olá"}'`,
    ]);
    return;
  }
  if (ui.filter !== "") {
    const state = historyState === "loading" ? "Searching the store …" : "Nothing matches";
    const where =
      historyState === "end"
        ? "is in no event. Esc clears the filter"
        : "is in none of the newest events. Enter searches older ones too, Esc clears the filter";
    viewNothing(area, [state, `"${ui.filter}" ${where}`]);
    return;
  }
  viewNothing(area, ["Nothing here since the start", "Older events are in the database: ↓ loads them"]);
}

/** Draws one event in full: facts, then the payload. */
export function viewDetail(
  area: Area,
  snapshot: DashboardSnapshot,
  open: { readonly seq: number; readonly scroll: number },
): void {
  const { detail } = snapshot;
  const inside = area.box([[`event ${open.seq}`, STYLE.title]], "↑ ↓ scroll · Esc back").sub(1, 0);
  if (detail === null || detail.seq !== open.seq || detail.state === "loading") {
    viewNothing(inside, ["Loading …"]);
    return;
  }
  if (detail.state === "gone") {
    viewNothing(inside, [
      "This event is no longer kept",
      "Without --db-path the oldest events are dropped when the temporary folder is full",
    ]);
    return;
  }
  const labelColumns = 16;
  const lines: (readonly (readonly [string, Style])[])[] = detail.facts.map(([label, value]) => [
    [fit(label, labelColumns), STYLE.dim],
    [value, STYLE.plain],
  ]);
  lines.push([], [["payload", STYLE.title]]);
  for (const line of detail.lines) lines.push(jsonPieces(line));
  const top = Math.min(open.scroll, Math.max(0, lines.length - inside.height));
  for (let y = 0; y < inside.height; y++) {
    const line = lines[top + y];
    if (line !== undefined) inside.line(0, y, line);
  }
  const below = lines.length - top - inside.height;
  if (below > 0)
    area.put(area.width - 18, area.height - 1, fit(` ${count(below)} more below `, 16), STYLE.dim);
}

/** A line of indented JSON, with its key in another colour than its value. */
export function jsonPieces(line: string): (readonly [string, Style])[] {
  const match = /^(\s*)("(?:[^"\\]|\\.)*")(: )(.*)$/s.exec(line);
  if (match === null) return [[line, STYLE.plain]];
  const [, indent = "", key = "", colon = "", value = ""] = match;
  return [
    [indent, STYLE.plain],
    [key, STYLE.accent],
    [colon, STYLE.dim],
    [value, STYLE.plain],
  ];
}
