/**
 * The dashboard's face. `view` turns one snapshot, a size and what the user has done into a screen, and does nothing else. KEYS is the
 * one table of keys: the reducer, the footer, the help and the README are made from it. src/tui/terminal.ts owns the terminal;
 * src/dashboard/dashboard.ts collects what is shown.
 */

import { viewDrawer, viewFooter, viewHeader, viewHelp, viewTooSmall } from "./src/tui/edges.ts";
import type { Command, DashboardSnapshot, KeyPress, KeyRow, Tab, Ui } from "./src/tui/model.ts";
import { Area, type Screen, type Size, type Target } from "./src/tui/screen.ts";
import { click, drawerRows, firstUi, paste, perform, type Reduced, type } from "./src/tui/state.ts";
import { viewChat } from "./src/tui/tabs/chat.ts";
import { viewDetail, viewEvents } from "./src/tui/tabs/events.ts";
import { viewMetrics } from "./src/tui/tabs/metrics.ts";
import { viewParticles } from "./src/tui/tabs/particles.ts";
import { viewSchemas } from "./src/tui/tabs/schemas.ts";
import { TABS } from "./src/tui/tabs/tabs.ts";
import { openTerminal, type Terminal, type TerminalOptions } from "./src/tui/terminal.ts";

export { TABS } from "./src/tui/tabs/tabs.ts";
export { type Terminal, whyNoTerminal } from "./src/tui/terminal.ts";

export const LEAST: Size = { width: 80, height: 24 };

// ---------------------------------------------------------------------------------------------------- keys

function row(
  keys: string,
  label: string,
  tab: Tab | null,
  command: Command,
  help: string,
  footer: string | null = null,
): KeyRow {
  return { keys: keys.split(" "), label, tab, help, footer, command };
}

/** The help of a row without one is in the row before it. If a key has a row for the tab and one for all tabs, the tab's row counts. */
export const KEYS: readonly KeyRow[] = [
  row("/", "/", "events", { do: "filter" }, "filter as you type; Enter keeps it, Esc clears it", "filter"),
  row(
    "enter",
    "Enter",
    "events",
    { do: "open" },
    "the event in full, with enrichment and provenance",
    "detail",
  ),
  row("p", "p", "events", { do: "pause" }, "pause; nothing is lost meanwhile", "pause"),
  row("f", "f", "events", { do: "follow" }, "follow the newest", "follow"),
  row("+ =", "+ -", "particles", { do: "wider" }, "more or fewer frames", "frames"),
  row("-", "-", "particles", { do: "narrower" }, ""),
  row("c", "c", "particles", { do: "color" }, "colour by intent, sentiment, conversation", "colour"),
  row("left", "← →", "particles", { do: "side", by: -1 }, "the previous or the next particle", "select"),
  row("right", "→", "particles", { do: "side", by: 1 }, ""),
  row("enter", "Enter", "particles", { do: "open" }, "the selected particle's event in full", "detail"),
  row("enter", "Enter", "schemas", { do: "open" }, "fields, drift and a sample", "detail"),
  row(
    "i enter",
    "i Enter",
    "chat",
    { do: "write" },
    "write; Enter sends, Alt-Enter or Ctrl-J starts a new line",
    "write",
  ),
  row("x", "x", "chat", { do: "stop-answer" }, "stop the reply that is coming", "stop"),
  row("left", "← →", "metrics", { do: "side", by: -1 }, "the last 1, 10 or 60 minutes", "time"),
  row("right", "→", "metrics", { do: "side", by: 1 }, ""),
  row("up k", "↑ ↓ k j", null, { do: "move", by: -1 }, "up, down (in events: pauses)", "move"),
  row("down j", "↓ j", null, { do: "move", by: 1 }, ""),
  row("pageup", "PgUp PgDn", null, { do: "page", by: -1 }, "a page up or down"),
  row("pagedown", "PgDn", null, { do: "page", by: 1 }, ""),
  row("g home", "g G", null, { do: "edge", to: "first" }, "first, last (g in events follows the newest)"),
  row("G end", "G", null, { do: "edge", to: "last" }, ""),
  row("escape", "Esc", null, { do: "back" }, "back, close"),
  ...TABS.map((_, to) => {
    const help = to === 0 ? `tabs: ${TABS.join(", ")}` : "";
    return row(String(to + 1), `1-${TABS.length}`, null, { do: "tab", to }, help, to === 0 ? "tabs" : null);
  }),
  row("tab", "Tab S-Tab", null, { do: "tab-by", by: 1 }, "the next or the previous tab"),
  row("shift+tab", "Shift-Tab", null, { do: "tab-by", by: -1 }, ""),
  row("l", "l", null, { do: "drawer" }, "the log, with warnings and errors", "log"),
  row("m", "m", null, { do: "mouse" }, "mouse off, so that the terminal can select text; on again"),
  row("ctrl+l", "Ctrl-L", null, { do: "redraw" }, "draw the whole screen again"),
  row("ctrl+z", "Ctrl-Z", null, { do: "suspend" }, "stop the process; fg resumes it"),
  row("?", "?", null, { do: "help" }, "this help", "help"),
  row(
    "q ctrl+c",
    "q Ctrl-C",
    null,
    { do: "quit" },
    "finish what was received and quit; again: quit at once",
    "quit",
  ),
];

/** What a key changes. @returns the same `ui` if the key has no meaning there. */
export function press(ui: Ui, key: KeyPress, snapshot: DashboardSnapshot, size: Size): Reduced {
  const around = { snapshot, size };
  if (ui.input !== null) return type(ui, key, around);
  const means = (tab: Tab | null): Command | undefined =>
    KEYS.find((entry) => entry.tab === tab && entry.keys.includes(key.id))?.command;
  const command = means(ui.tab) ?? means(null);
  return command === undefined ? { ui, actions: [] } : perform(ui, command, around);
}

/** What a click on a zone of the screen changes, or a turn of the wheel (`by` rows). */
export function point(
  ui: Ui,
  what: { readonly target: Target } | { readonly by: number },
  snapshot: DashboardSnapshot,
  size: Size,
): Reduced {
  const around = { snapshot, size };
  if ("target" in what) return click(ui, what.target, around);
  return perform(ui, { do: "move", by: what.by }, around);
}

// ---------------------------------------------------------------------------------------------------- view

const HEADER_ROWS = 3;

/** The screen for this snapshot. Pure: the same arguments give the same screen. */
export function view(snapshot: DashboardSnapshot, size: Size, ui: Ui): Screen {
  const screen = Area.ofSize(size);
  if (size.width < LEAST.width || size.height < LEAST.height) {
    viewTooSmall(screen, LEAST);
    return screen.finish();
  }
  const banner = viewHeader(screen.sub(0, 0, size.width, HEADER_ROWS + 1), snapshot, ui);
  const top = HEADER_ROWS + banner;
  const drawer = ui.drawer ? drawerRows(size) : 0;
  const body = screen.sub(0, top, size.width, size.height - top - 1 - drawer);
  if (ui.help) viewHelp(body, KEYS, ui);
  else if (ui.detail !== null) viewDetail(body, snapshot, ui.detail);
  else VIEWS[ui.tab](body, snapshot, ui);
  if (ui.drawer) viewDrawer(screen.sub(0, size.height - 1 - drawer, size.width, drawer), snapshot, ui);
  viewFooter(screen.sub(0, size.height - 1), snapshot, ui, KEYS);
  return screen.finish();
}

const VIEWS: Readonly<Record<Tab, (body: Area, snapshot: DashboardSnapshot, ui: Ui) => void>> = {
  events: viewEvents,
  particles: viewParticles,
  schemas: viewSchemas,
  chat: viewChat,
  metrics: viewMetrics,
};

/** Opens the dashboard over the whole terminal. @throws if OpenTUI cannot use the terminal, which is then as it was. */
export function openTui(options: TerminalOptions): Promise<Terminal> {
  return openTerminal({ view, press, point, pasted: paste, firstUi }, options);
}
