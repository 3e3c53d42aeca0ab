/** What the user has done (`Ui`), and what a key or a click changes in it: (state, key) → state and actions. */
import { edit, insert, type Line } from "./line.ts";
import type { Action, Command, DashboardSnapshot, EventRow, KeyPress, Tab, Ui } from "./model.ts";
import type { Size, Target } from "./screen.ts";
import { TABS } from "./tabs/tabs.ts";

const HISTORY_MAX = 50;
/** More lines than the help ever has. */
const HELP_LINES_MAX = 100;
/** Older rows are requested when the selection comes this close to the oldest one. */
const OLDER_WITHIN_ROWS = 50;
export const WINDOWS: readonly number[] = [32, 64, 128, 256, 512];
export const SPANS_MINUTES: readonly number[] = [1, 10, 60];
const COLOR_BY = ["intent", "sentiment", "conversation"] as const;
export type ColorBy = (typeof COLOR_BY)[number];

/** The result of a key, a click or a paste. */
export interface Reduced {
  readonly ui: Ui;
  readonly actions: readonly Action[];
}

interface Surroundings {
  readonly snapshot: DashboardSnapshot;
  readonly size: Size;
}

/** The state at the start: following the newest event, nothing focused. */
export function firstUi(colors = true): Ui {
  return {
    tab: "events",
    help: false,
    helpScroll: 0,
    drawer: false,
    drawerScroll: 0,
    mouse: true,
    colors,
    input: null,
    filter: "",
    following: true,
    selectedSeq: null,
    detail: null,
    window: 256,
    colorBy: null,
    selectedFrame: null,
    schema: null,
    schemaOpen: false,
    schemaScroll: 0,
    chatDraft: { text: "", cursor: 0 },
    chatScroll: 0,
    chatHistory: [],
    chatRecalled: null,
    spanMinutes: 1,
  };
}

/** The rows that match the filter, newest first. A row matches if what it shows contains every word of the filter. */
export function shownRows(snapshot: DashboardSnapshot, filter: string): readonly EventRow[] {
  const { rows, history } = snapshot.events;
  const words = folded(filter)
    .split(/\s+/)
    .filter((word) => word !== "");
  const newestFirst: EventRow[] = [];
  for (let at = rows.length - 1; at >= 0; at--) {
    const row = rows[at] as EventRow;
    if (words.length === 0 || matches(row, words)) newestFirst.push(row);
  }
  // The store has already filtered these.
  for (let at = history.length - 1; at >= 0; at--) newestFirst.push(history[at] as EventRow);
  return newestFirst;
}

/** A text without the differences that a search ignores, as in the store: capitals, and composed or decomposed letters. */
function folded(text: string): string {
  return text.normalize("NFC").toUpperCase().toLowerCase();
}

/** The folded text of each row, built once. An enrichment makes a new row object, so a text never goes stale. */
const haystacks = new WeakMap<EventRow, string>();

function matches(row: EventRow, words: readonly string[]): boolean {
  let text = haystacks.get(row);
  if (text === undefined) {
    const { type, intent, conversation, message } = row;
    text = folded(`${type ?? ""} ${intent ?? ""} ${conversation ?? ""} ${message}`);
    haystacks.set(row, text);
  }
  return words.every((word) => text.includes(word));
}

/** How many rows a list has between header and footer. A page is one row less. */
export function listRows(size: Size, ui: Ui): number {
  const body = size.height - 4 - (ui.drawer ? drawerRows(size) : 0);
  return Math.max(1, body - 3);
}

export function drawerRows(size: Size): number {
  return Math.max(6, Math.floor(size.height / 3));
}

function reduced(ui: Ui, ...actions: Action[]): Reduced {
  return { ui, actions };
}

/** Carries out one command. */
export function perform(ui: Ui, command: Command, around: Surroundings): Reduced {
  switch (command.do) {
    case "quit":
      return reduced(ui, { kind: "quit" });
    case "suspend":
      return reduced(ui, { kind: "suspend" });
    case "redraw":
      return reduced(ui, { kind: "redraw" });
    case "mouse":
      return reduced({ ...ui, mouse: !ui.mouse }, { kind: "mouse", on: !ui.mouse });
    case "help":
      return reduced({ ...ui, help: !ui.help, helpScroll: 0 });
    case "drawer":
      return reduced({ ...ui, drawer: !ui.drawer, drawerScroll: 0 }, { kind: "log-seen" });
    case "tab":
      return toTab(ui, TABS[command.to] ?? ui.tab);
    case "tab-by":
      return toTab(ui, TABS[(TABS.indexOf(ui.tab) + command.by + TABS.length) % TABS.length] ?? ui.tab);
    case "move":
      return move(ui, command.by, around);
    case "page":
      return move(ui, command.by * Math.max(1, listRows(around.size, ui) - 1), around);
    case "edge":
      return edge(ui, command.to, around);
    case "side":
      return side(ui, command.by, around);
    case "back":
      return back(ui);
    case "open":
      return open(ui, around);
    case "filter":
      return reduced({
        ...ui,
        detail: null,
        input: { kind: "filter", text: ui.filter, cursor: ui.filter.length },
      });
    case "pause":
      return ui.following ? hold(ui, around) : reduced({ ...ui, following: true }, { kind: "release" });
    case "follow":
      return reduced({ ...ui, following: true, selectedSeq: null, detail: null }, { kind: "release" });
    case "wider":
      return reduced({ ...ui, window: step(WINDOWS, ui.window, 1) });
    case "narrower":
      return reduced({ ...ui, window: step(WINDOWS, ui.window, -1) });
    case "color":
      return reduced({ ...ui, colorBy: nextColor(ui, around.snapshot) });
    case "write":
      return around.snapshot.chat.available
        ? reduced({ ...ui, input: { kind: "chat", ...ui.chatDraft }, chatScroll: 0 })
        : reduced(ui);
    case "stop-answer":
      return reduced(ui, { kind: "chat-stop" });
  }
}

/** What particles are coloured by: the user's choice, or the first property that is known for any of them. */
export function colorBy(ui: Ui, points: DashboardSnapshot["particles"]["points"]): ColorBy {
  return ui.colorBy ?? COLOR_BY.find((name) => points.some((point) => point[name] !== null)) ?? "intent";
}

function nextColor(ui: Ui, { particles }: DashboardSnapshot): ColorBy {
  const at = COLOR_BY.indexOf(colorBy(ui, particles.points.slice(-ui.window)));
  return COLOR_BY[(at + 1) % COLOR_BY.length] ?? "intent";
}

function step(values: readonly number[], value: number, by: number): number {
  const at = values.indexOf(value) + by;
  return values[Math.min(values.length - 1, Math.max(0, at))] ?? value;
}

function toTab(ui: Ui, tab: Tab): Reduced {
  return reduced({ ...ui, tab, help: false, input: null, detail: null }, { kind: "show", tab });
}

/** Stops following: the selection stays where it is, and new events wait above it. */
function hold(ui: Ui, { snapshot }: Surroundings): Reduced {
  const selectedSeq = ui.selectedSeq ?? shownRows(snapshot, ui.filter)[0]?.seq ?? null;
  return reduced({ ...ui, following: false, selectedSeq }, { kind: "hold" });
}

function clamp(value: number, max: number): number {
  return Math.max(0, Math.min(value, max));
}

function move(ui: Ui, by: number, around: Surroundings): Reduced {
  const { snapshot } = around;
  if (ui.help) return reduced({ ...ui, helpScroll: clamp(ui.helpScroll + by, HELP_LINES_MAX) });
  if (ui.drawer) return reduced({ ...ui, drawerScroll: clamp(ui.drawerScroll - by, snapshot.log.length) });
  if (ui.detail !== null) {
    const lines = (snapshot.detail?.lines.length ?? 0) + 16;
    return reduced({ ...ui, detail: { ...ui.detail, scroll: clamp(ui.detail.scroll + by, lines) } });
  }
  switch (ui.tab) {
    case "events":
      return moveInEvents(ui, by, around);
    case "particles":
      // Down goes back in time, as in the list of events.
      return reduced(selectParticle(ui, by, snapshot));
    case "schemas":
      return reduced(moveInSchemas(ui, by, snapshot));
    case "chat":
      return reduced({ ...ui, chatScroll: clamp(ui.chatScroll - by, 100_000) });
    case "metrics":
      return reduced(ui);
  }
}

function moveInEvents(ui: Ui, by: number, around: Surroundings): Reduced {
  const { snapshot } = around;
  const rows = shownRows(snapshot, ui.filter);
  if (rows.length === 0) return reduced(ui);
  const at = Math.max(
    0,
    rows.findIndex((row) => row.seq === ui.selectedSeq),
  );
  const next = clamp(at + by, rows.length - 1);
  const actions: Action[] = ui.following ? [{ kind: "hold" }] : [];
  if (next >= rows.length - OLDER_WITHIN_ROWS && by > 0) actions.push({ kind: "older", filter: ui.filter });
  return { ui: { ...ui, following: false, selectedSeq: rows[next]?.seq ?? null }, actions };
}

function selectParticle(ui: Ui, by: number, { particles }: DashboardSnapshot): Ui {
  const points = particles.points.slice(-ui.window);
  const last = points.length - 1;
  if (last < 0) return ui;
  const found = points.findIndex((point) => point.frameId === ui.selectedFrame);
  const at = found < 0 ? last : clamp(found - by, last);
  return { ...ui, selectedFrame: points[at]?.frameId ?? null };
}

function moveInSchemas(ui: Ui, by: number, { schemas }: DashboardSnapshot): Ui {
  if (ui.schemaOpen) return { ...ui, schemaScroll: clamp(ui.schemaScroll + by, 10_000) };
  if (schemas === null || schemas.length === 0) return ui;
  const at = Math.max(
    0,
    schemas.findIndex(({ name }) => name === ui.schema),
  );
  return { ...ui, schema: schemas[clamp(at + by, schemas.length - 1)]?.name ?? null };
}

function edge(ui: Ui, to: "first" | "last", around: Surroundings): Reduced {
  const { snapshot } = around;
  if (ui.tab === "events" && ui.detail === null && !ui.drawer) {
    if (to === "first") return perform(ui, { do: "follow" }, around);
    return moveInEvents(ui, Number.MAX_SAFE_INTEGER, around);
  }
  if (ui.tab === "chat" && !ui.drawer) return reduced({ ...ui, chatScroll: to === "last" ? 0 : 100_000 });
  if (ui.tab === "particles" && ui.detail === null && !ui.drawer && to === "first")
    return reduced({ ...ui, selectedFrame: snapshot.particles.points.at(-1)?.frameId ?? null });
  return move(ui, to === "first" ? -1_000_000 : 1_000_000, around);
}

function side(ui: Ui, by: number, { snapshot }: Surroundings): Reduced {
  if (ui.tab === "metrics") return reduced({ ...ui, spanMinutes: step(SPANS_MINUTES, ui.spanMinutes, by) });
  if (ui.tab === "particles" && ui.detail === null) return reduced(selectParticle(ui, -by, snapshot));
  return reduced(ui);
}

function back(ui: Ui): Reduced {
  if (ui.help) return reduced({ ...ui, help: false });
  if (ui.detail !== null) return reduced({ ...ui, detail: null });
  if (ui.drawer) return reduced({ ...ui, drawer: false });
  if (ui.tab === "schemas" && ui.schemaOpen) return reduced({ ...ui, schemaOpen: false, schemaScroll: 0 });
  if (ui.tab === "events" && ui.filter !== "") return withoutFilter(ui);
  if (ui.tab === "particles") return reduced({ ...ui, selectedFrame: null });
  return reduced(ui);
}

function open(ui: Ui, around: Surroundings): Reduced {
  const { snapshot } = around;
  if (ui.help) return reduced({ ...ui, help: false });
  switch (ui.tab) {
    case "events": {
      const rows = shownRows(snapshot, ui.filter);
      const row = rows.find(({ seq }) => seq === ui.selectedSeq) ?? rows[0];
      return row === undefined ? reduced(ui) : openEvent(ui, row.seq);
    }
    case "particles": {
      const { points } = snapshot.particles;
      const point = points.find(({ frameId }) => frameId === ui.selectedFrame) ?? points.at(-1);
      return point === undefined
        ? reduced(ui)
        : openEvent({ ...ui, selectedFrame: point.frameId }, point.seq);
    }
    case "schemas": {
      const schema = ui.schema ?? snapshot.schemas?.[0]?.name ?? null;
      return reduced({ ...ui, schema, schemaOpen: schema !== null, schemaScroll: 0 });
    }
    case "chat":
      return perform(ui, { do: "write" }, around);
    case "metrics":
      return reduced(ui);
  }
}

function openEvent(ui: Ui, seq: number): Reduced {
  const selectedSeq = ui.tab === "events" ? seq : ui.selectedSeq;
  const actions: Action[] = [{ kind: "detail", seq }];
  if (ui.tab === "events" && ui.following) actions.unshift({ kind: "hold" });
  const following = ui.tab === "events" ? false : ui.following;
  return { ui: { ...ui, selectedSeq, following, detail: { seq, scroll: 0 } }, actions };
}

/** Carries out a click on a target. */
export function click(ui: Ui, target: Target, around: Surroundings): Reduced {
  if (target.kind === "tab") return toTab(ui, TABS[target.index] ?? ui.tab);
  if (ui.help || ui.detail !== null) return reduced(ui);
  if (target.kind === "particle") return reduced({ ...ui, selectedFrame: target.frameId });
  if (target.kind === "input") return perform(ui, { do: "write" }, around);
  if (ui.tab === "events" && typeof target.id === "number") {
    const again = ui.selectedSeq === target.id && !ui.following;
    if (again) return openEvent(ui, target.id);
    return reduced(
      { ...ui, selectedSeq: target.id, following: false },
      ...(ui.following ? [{ kind: "hold" } as const] : []),
    );
  }
  if (ui.tab === "schemas" && typeof target.id === "string") {
    return reduced({ ...ui, schema: target.id, schemaOpen: ui.schema === target.id, schemaScroll: 0 });
  }
  return reduced(ui);
}

/** Handles a key while an input is focused: Esc, Enter and Ctrl-C are commands, all others write. */
export function type(ui: Ui, key: KeyPress, around: Surroundings): Reduced {
  const { input } = ui;
  if (input === null) return reduced(ui);
  if (key.id === "ctrl+c") return reduced(ui, { kind: "quit" });
  if (key.id === "escape") return leaveInput(ui);
  if (key.id === "enter")
    return input.kind === "filter" ? leaveFilter(ui, around) : send(ui, around.snapshot);
  if (input.kind === "chat" && (key.id === "up" || key.id === "down")) {
    if (!input.text.includes("\n")) return reduced(recall(ui, key.id === "up" ? -1 : 1));
  }
  return edited(ui, edit(input, key, input.kind === "chat"));
}

/** Inserts text that came at once: pasted, or from an input method. */
export function paste(ui: Ui, text: string): Reduced {
  if (ui.input === null) return reduced(ui);
  const allowed = ui.input.kind === "chat" ? text.replaceAll("\r\n", "\n").replaceAll("\r", "\n") : text;
  return edited(ui, insert(ui.input, ui.input.kind === "chat" ? allowed : allowed.replace(/\s+/g, " ")));
}

function edited(ui: Ui, line: Line): Reduced {
  const { input } = ui;
  if (input === null) return reduced(ui);
  const next = { kind: input.kind, text: line.text, cursor: line.cursor };
  if (input.kind === "chat") return reduced({ ...ui, input: next, chatDraft: line, chatRecalled: null });
  const changed = line.text !== input.text;
  const actions: Action[] = changed ? [{ kind: "forget-history" }] : [];
  return { ui: { ...ui, input: next, filter: line.text, selectedSeq: null }, actions };
}

function leaveInput(ui: Ui): Reduced {
  if (ui.input?.kind === "chat") return reduced({ ...ui, input: null });
  return withoutFilter(ui);
}

/** Clears the filter and follows the newest events again. */
function withoutFilter(ui: Ui): Reduced {
  return reduced({ ...ui, input: null, filter: "", following: true, selectedSeq: null }, { kind: "release" });
}

/** Keeps the filter. If the matching rows in memory do not fill the screen, older ones are requested from the store. */
function leaveFilter(ui: Ui, around: Surroundings): Reduced {
  if (ui.filter.trim() === "") return leaveInput(ui);
  const rows = shownRows(around.snapshot, ui.filter);
  if (rows.length >= listRows(around.size, ui)) return reduced({ ...ui, input: null });
  return reduced(
    { ...ui, input: null, following: false },
    { kind: "hold" },
    { kind: "older", filter: ui.filter },
  );
}

function send(ui: Ui, snapshot: DashboardSnapshot): Reduced {
  const text = ui.input?.text.trim() ?? "";
  // While a reply is coming or no model replies, the text stays in the input.
  if (text === "" || snapshot.chat.answering || !snapshot.chat.available) return reduced(ui);
  const empty = { text: "", cursor: 0 };
  const chatHistory = [...ui.chatHistory.slice(1 - HISTORY_MAX), text];
  return reduced(
    {
      ...ui,
      input: { kind: "chat", ...empty },
      chatDraft: empty,
      chatHistory,
      chatRecalled: null,
      chatScroll: 0,
    },
    { kind: "chat", text },
  );
}

function recall(ui: Ui, by: number): Ui {
  const { chatHistory } = ui;
  const at = (ui.chatRecalled ?? chatHistory.length) + by;
  if (at < 0 || ui.input === null) return ui;
  const text = chatHistory[at] ?? "";
  const line = { text, cursor: text.length };
  return {
    ...ui,
    input: { kind: "chat", ...line },
    chatDraft: line,
    chatRecalled: at >= chatHistory.length ? null : at,
  };
}
