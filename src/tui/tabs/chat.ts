/** Tab 4: a chat with the brain. */

import { viewNothing } from "../edges.ts";
import type { ChatTurn, DashboardSnapshot, Ui } from "../model.ts";
import { type Area, STYLE, type Style } from "../screen.ts";
import { count, cut, fit, safe, widthOf, wrap } from "../text.ts";

const SIDE_COLUMNS = 30;
const INPUT_ROWS_MAX = 6;
/** Lines shown of one turn. */
const TURN_LINES_MAX = 400;

export function viewChat(area: Area, snapshot: DashboardSnapshot, ui: Ui): void {
  const { chat } = snapshot;
  if (!chat.available && chat.turns.length === 0) {
    viewNothing(area.box([["chat", STYLE.title]]), ["No model to talk to", chat.advice]);
    return;
  }
  const left = area.sub(0, 0, area.width - SIDE_COLUMNS);
  const text = ui.input?.kind === "chat" ? ui.input.text : ui.chatDraft.text;
  const inputLines = layInput(text, left.width - 6);
  const advice = chat.available || text !== "" ? [] : wrap(chat.advice, left.width - 6, INPUT_ROWS_MAX);
  const inputRows = Math.min(INPUT_ROWS_MAX, Math.max(1, inputLines.length, advice.length)) + 2;
  viewTurns(left.sub(0, 0, left.width, left.height - inputRows), snapshot, ui);
  viewInput(left.sub(0, left.height - inputRows), snapshot, ui, inputLines, advice);
  viewUnderstood(area.sub(area.width - SIDE_COLUMNS, 0), chat.turns);
}

function viewTurns(area: Area, { chat }: DashboardSnapshot, ui: Ui): void {
  const inside = area
    .box([["chat", STYLE.title]], ui.chatScroll > 0 ? "G goes to the newest" : "")
    .sub(1, 0, area.width - 4);
  const lines: (readonly [string, Style])[] = [];
  for (const turn of chat.turns) {
    if (lines.length > 0) lines.push(["", STYLE.plain]);
    lines.push(turn.from === "you" ? ["you", STYLE.key] : ["gateway", STYLE.title]);
    const style = turn.state === "failed" ? STYLE.bad : STYLE.plain;
    const waiting = turn.state === "streaming";
    const text = waiting ? `${turn.text}▌` : turn.text;
    for (const line of wrap(text, inside.width, TURN_LINES_MAX)) lines.push([line, style]);
  }
  if (lines.length === 0) {
    viewNothing(inside, ["Ask the gateway", "Press i or Enter to write"]);
    return;
  }
  const scroll = Math.min(ui.chatScroll, Math.max(0, lines.length - inside.height));
  const top = Math.max(0, lines.length - inside.height - scroll);
  for (let y = 0; y < inside.height && top + y < lines.length; y++) {
    const [text, style] = lines[top + y] ?? ["", STYLE.plain];
    inside.put(0, y, text, style);
  }
}

interface InputLine {
  readonly text: string;
  /** The index in the input at which the line begins. */
  readonly from: number;
}

const segmenter = new Intl.Segmenter(undefined, { granularity: "grapheme" });

/** Breaks the input into lines that fit. Every letter keeps its index, which places the cursor. */
function layInput(text: string, columns: number): InputLine[] {
  const lines: InputLine[] = [];
  let from = 0;
  for (const paragraph of text.split("\n")) {
    let line = "";
    let start = from;
    let width = 0;
    for (const { segment, index } of segmenter.segment(paragraph)) {
      const letterColumns = widthOf(safe(segment));
      if (width + letterColumns > columns) {
        lines.push({ text: line, from: start });
        line = "";
        width = 0;
        start = from + index;
      }
      line += segment;
      width += letterColumns;
    }
    lines.push({ text: line, from: start });
    from += paragraph.length + 1;
  }
  return lines;
}

/** @param advice what to do; shown instead of the text if no model replies and nothing is written */
function viewInput(
  area: Area,
  { chat }: DashboardSnapshot,
  ui: Ui,
  lines: readonly InputLine[],
  advice: readonly string[],
): void {
  const focused = ui.input?.kind === "chat";
  const writes = chat.available ? (focused ? "Enter sends" : "i writes") : "no model replies now";
  const state = chat.answering ? `a reply is coming; ${focused ? "Esc, then x" : "x"} stops it` : writes;
  const inside = area.box([["you", focused ? STYLE.key : STYLE.dim]], state, focused ? STYLE.key : STYLE.dim);
  advice.forEach((line, y) => {
    inside.put(2, y, line, STYLE.warn);
  });
  const cursor = ui.input?.cursor ?? 0;
  let row = 0;
  lines.forEach((line, index) => {
    if (line.from <= cursor) row = index;
  });
  const top = Math.max(0, Math.min(row, lines.length - inside.height));
  for (let y = 0; y < inside.height; y++) {
    const line = lines[top + y];
    if (line !== undefined) inside.put(2, y, line.text, focused ? STYLE.strong : STYLE.dim);
  }
  inside.put(0, 0, "›", STYLE.key);
  const line = lines[row];
  if (focused && line !== undefined)
    inside.cursor(2 + widthOf(safe(line.text.slice(0, cursor - line.from))), row - top);
}

/** Draws intent and slots as the newest reply left them; a failed reply changes nothing. */
function viewUnderstood(area: Area, turns: readonly ChatTurn[]): void {
  const inside = area.box([["understood", STYLE.title]]).sub(1, 0, area.width - 3);
  // Intent and slots come with the first part of a reply.
  const turn = turns.findLast(
    ({ from, state, text }) => from === "brain" && state !== "failed" && text !== "",
  );
  if (turn === undefined) return void inside.put(0, 0, "nothing yet", STYLE.dim);
  let y = 0;
  const put = (text: string, style: Style): void => {
    inside.put(0, y, text, style);
    y += 1;
  };
  put(fit(turn.intent ?? "no intent yet", inside.width), STYLE.accent);
  const filled = Object.entries(turn.slots);
  put("", STYLE.plain);
  put(`slots filled ${count(filled.length)}`, STYLE.dim);
  for (const [name, value] of filled) {
    const text = typeof value === "string" ? value : (JSON.stringify(value) ?? "");
    put(cut(`✓ ${name}: ${text}`, inside.width), STYLE.good);
  }
  if (turn.missing.length === 0) return;
  put("", STYLE.plain);
  put(`missing ${count(turn.missing.length)}`, STYLE.dim);
  for (const name of turn.missing) put(cut(`○ ${name}`, inside.width), STYLE.warn);
}
