/**
 * The dashboard's face: `view` turns one snapshot, a size and what the user has done into a screen, and nothing else; KEYS is the one
 * table of what keys do, behind the reducer, the footer, the help and the README. The terminal itself is src/tui/terminal.ts;
 * what is shown is collected by src/dashboard/dashboard.ts.
 */

import { viewDrawer, viewFooter, viewHeader, viewHelp, viewTooSmall } from "./src/tui/edges.ts";
import { Area, type Screen, type Size, type Target } from "./src/tui/screen.ts";
import {
  type Command,
  click,
  drawerRows,
  firstUi,
  paste,
  perform,
  type Reduced,
  type,
} from "./src/tui/state.ts";
import { viewChat } from "./src/tui/tabs/chat.ts";
import { viewDetail, viewEvents } from "./src/tui/tabs/events.ts";
import { viewMetrics } from "./src/tui/tabs/metrics.ts";
import { viewParticles } from "./src/tui/tabs/particles.ts";
import { viewSchemas } from "./src/tui/tabs/schemas.ts";
import { openTerminal, type Terminal, type TerminalOptions } from "./src/tui/terminal.ts";

export { type Terminal, whyNoTerminal } from "./src/tui/terminal.ts";

export const TABS = ["events", "particles", "schemas", "chat", "metrics"] as const;
export type Tab = (typeof TABS)[number];

export const LEAST: Size = { width: 80, height: 24 };

// ------------------------------------------------------------------------------------------------ snapshot

/** A state, in a word that is shown, and what is to be known about it. */
export interface PartView {
  readonly state: string;
  /** What, since when, what to do; empty where all is well. */
  readonly detail: string;
}

/** One event of the tail. It is replaced, never changed, when its frame or an answer comes. */
export interface EventRow {
  readonly seq: number;
  readonly receivedUs: number;
  readonly type: string | null;
  readonly intent: string | null;
  /** −1 to 1; null: unknown. */
  readonly sentiment: number | null;
  readonly conversation: string | null;
  /** Its message, else the beginning of its body. */
  readonly message: string;
  readonly isMessage: boolean;
  /** Null: no frame yet. */
  readonly frameId: number | null;
}

/** One event in full, as the action `detail` asked for it. */
export interface EventDetail {
  readonly seq: number;
  readonly state: "loading" | "ready" | "gone";
  /** Label and value, in the order in which they are shown. */
  readonly facts: readonly (readonly [string, string])[];
  /** The payload, pretty, one line each. */
  readonly lines: readonly string[];
}

export interface Particle {
  readonly frameId: number;
  readonly seq: number;
  readonly timeUs: number;
  /** −1 to 1 each, seldom more. */
  readonly x: number;
  readonly y: number;
  readonly intent: string | null;
  readonly sentiment: number | null;
  readonly conversation: string | null;
  readonly message: string;
  /** Messages a minute of its conversation. */
  readonly velocity: number;
  /** Seconds since its conversation's previous event; null: it is the first. */
  readonly deltaSeconds: number | null;
  readonly interrupt: boolean;
}

export interface SchemaView {
  readonly name: string;
  readonly events: number;
  readonly perMinute: number | null;
  readonly firstSeenUs: number;
  readonly lastSeenUs: number;
  readonly fields: readonly {
    readonly path: string;
    readonly types: readonly string[];
    /** 0 to 1. */
    readonly fillRate: number;
    /** What changed in this field lately; null: nothing. */
    readonly drift: string | null;
  }[];
  /** What changed lately, newest first. */
  readonly drift: readonly string[];
  /** JSON. */
  readonly sample: string | null;
}

export interface ChatTurn {
  readonly from: "you" | "brain";
  readonly text: string;
  readonly state: "streaming" | "done" | "failed";
  readonly intent: string | null;
  readonly slots: Readonly<Record<string, unknown>>;
  readonly missing: readonly string[];
}

export interface LlmView extends PartView {
  readonly model: string | null;
  readonly calls: number;
  readonly failures: number;
  readonly breaker: string;
  /** Calls a day; null: no limit. */
  readonly budget: { readonly used: number; readonly limit: number | null };
}

export interface LogLine {
  readonly timeUs: number;
  readonly level: "debug" | "info" | "warn" | "error";
  readonly message: string;
}

/** Samples of one figure, a second apart, the newest last; NaN: not known then. */
export type Series = (seconds: number) => readonly number[];

export const SERIES = [
  ...["ingest_rate", "ack_p50_ms", "ack_p99_ms", "backlog_events", "store_lag_events", "frames_rate"],
  ...["ring_fill", "embed_batch", "embed_ms", "llm_rate", "refusals_rate", "resident_bytes"],
] as const;

/** Everything that the dashboard shows, of one instant. */
export interface DashboardSnapshot {
  readonly version: string;
  readonly nowUs: number;
  readonly startedUs: number;
  /** When the figures were taken: behind nowUs where the gateway was too busy, or stopped. */
  readonly sampledUs: number;
  readonly address: string;
  /** Null: nothing is kept. */
  readonly database: string | null;
  readonly tokenSet: boolean;
  readonly draining: boolean;
  readonly embedder: string | null;
  readonly parts: Readonly<Record<string, PartView>>;
  /** Null: there is no brain in this gateway. */
  readonly llm: LlmView | null;
  readonly events: {
    /** The newest, ascending and without gaps; while held, those that were there then. */
    readonly rows: readonly EventRow[];
    /** Older ones that match the filter, ascending, from the store. */
    readonly history: readonly EventRow[];
    readonly historyState: "idle" | "loading" | "end" | "bound" | "failed";
    /** Events that came after the newest row, while held. */
    readonly newer: number;
    readonly total: number;
    readonly lastUs: number | null;
  };
  readonly detail: EventDetail | null;
  readonly particles: {
    readonly points: readonly Particle[];
    /** Why there is none; empty where there are. */
    readonly none: string;
    /** Share of the variance of the vectors that the picture shows, 0 to 1. */
    readonly explained: number;
  };
  /** Null: this gateway learns none. */
  readonly schemas: readonly SchemaView[] | null;
  readonly chat: {
    readonly available: boolean;
    /** What to do where it is not. */
    readonly advice: string;
    readonly answering: boolean;
    readonly turns: readonly ChatTurn[];
  };
  readonly metrics: {
    readonly series: Readonly<Record<(typeof SERIES)[number], Series>>;
    readonly counters: Readonly<Record<string, number>>;
    readonly gauges: Readonly<Record<string, number>>;
    readonly refusals: readonly { readonly code: string; readonly count: number }[];
  };
  readonly log: readonly LogLine[];
  /** Warnings and errors that came since the drawer was last open. */
  readonly unseen: number;
}

/** What the user asks for. Its result comes back in the snapshot. */
export type Action =
  | { readonly kind: "quit" | "suspend" | "redraw" }
  | { readonly kind: "mouse"; readonly on: boolean }
  | { readonly kind: "show"; readonly tab: Tab }
  | { readonly kind: "hold" | "release" | "forget-history" | "log-seen" | "chat-stop" }
  | { readonly kind: "older"; readonly filter: string }
  | { readonly kind: "detail"; readonly seq: number }
  | { readonly kind: "chat"; readonly text: string };

/** What the user has done: pure data, changed by `press` alone. */
export interface Ui {
  readonly tab: Tab;
  readonly help: boolean;
  readonly helpScroll: number;
  readonly drawer: boolean;
  /** Lines up from the newest. */
  readonly drawerScroll: number;
  readonly mouse: boolean;
  /** Whether colours can be told apart; else particles are letters. */
  readonly colors: boolean;
  readonly input: {
    readonly kind: "filter" | "chat";
    readonly text: string;
    readonly cursor: number;
  } | null;
  readonly filter: string;
  readonly following: boolean;
  readonly selectedSeq: number | null;
  readonly detail: { readonly seq: number; readonly scroll: number } | null;
  /** Newest particles shown. */
  readonly window: number;
  /** Null: the first that is known of any particle. */
  readonly colorBy: "intent" | "sentiment" | "conversation" | null;
  readonly selectedFrame: number | null;
  readonly schema: string | null;
  readonly schemaOpen: boolean;
  readonly schemaScroll: number;
  readonly chatDraft: { readonly text: string; readonly cursor: number };
  readonly chatScroll: number;
  readonly chatHistory: readonly string[];
  readonly chatRecalled: number | null;
  readonly spanMinutes: number;
}

/** A key: `id` is its name with its modifiers, as "ctrl+c", "shift+tab", "G"; `text` what it would write. */
export interface KeyPress {
  readonly id: string;
  readonly text: string | null;
}

// ---------------------------------------------------------------------------------------------------- keys

export interface KeyRow {
  readonly keys: readonly string[];
  /** As it is shown to people. */
  readonly label: string;
  /** Null: everywhere. */
  readonly tab: Tab | null;
  readonly help: string;
  /** In the footer, where there is room; null: only in the help. */
  readonly footer: string | null;
  readonly command: Command;
}

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

/** A row without help is said by the row before it. Where a key stands for a tab and everywhere, the tab's meaning counts. */
export const KEYS: readonly KeyRow[] = [
  row(
    "/",
    "/",
    "events",
    { do: "filter" },
    "filter as you type; Enter keeps it, Esc takes it away",
    "filter",
  ),
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
  row("left", "← →", "particles", { do: "side", by: -1 }, "the particle before or after", "select"),
  row("right", "→", "particles", { do: "side", by: 1 }, ""),
  row("enter", "Enter", "particles", { do: "open" }, "the selected particle's event in full", "detail"),
  row("enter", "Enter", "schemas", { do: "open" }, "fields, drift and a sample", "detail"),
  row(
    "i enter",
    "i Enter",
    "chat",
    { do: "write" },
    "write: Enter sends, Alt-Enter or Ctrl-J breaks the line",
    "write",
  ),
  row("x", "x", "chat", { do: "stop-answer" }, "stop the answer that is coming", "stop"),
  row("left", "← →", "metrics", { do: "side", by: -1 }, "over 1, 10 or 60 minutes", "time"),
  row("right", "→", "metrics", { do: "side", by: 1 }, ""),
  row("up k", "↑ ↓ k j", null, { do: "move", by: -1 }, "up, down (pauses the tail)", "move"),
  row("down j", "↓ j", null, { do: "move", by: 1 }, ""),
  row("pageup", "PgUp PgDn", null, { do: "page", by: -1 }, "a page"),
  row("pagedown", "PgDn", null, { do: "page", by: 1 }, ""),
  row("g home", "g G", null, { do: "edge", to: "first" }, "first, last (g in events follows the newest)"),
  row("G end", "G", null, { do: "edge", to: "last" }, ""),
  row("escape", "Esc", null, { do: "back" }, "back, close, leave"),
  ...TABS.map((_, to) => {
    const help = to === 0 ? `tabs: ${TABS.join(", ")}` : "";
    return row(String(to + 1), "1-5", null, { do: "tab", to }, help, to === 0 ? "tabs" : null);
  }),
  row("tab", "Tab S-Tab", null, { do: "tab-by", by: 1 }, "the next tab, the one before"),
  row("shift+tab", "Shift-Tab", null, { do: "tab-by", by: -1 }, ""),
  row("l", "l", null, { do: "drawer" }, "log: warnings and errors", "log"),
  row("m", "m", null, { do: "mouse" }, "mouse off, so that the terminal selects text; on"),
  row("ctrl+l", "Ctrl-L", null, { do: "redraw" }, "draw everything again"),
  row("ctrl+z", "Ctrl-Z", null, { do: "suspend" }, "stop the process; fg goes on"),
  row("?", "?", null, { do: "help" }, "this help", "help"),
  row(
    "q ctrl+c",
    "q Ctrl-C",
    null,
    { do: "quit" },
    "finish what was received and leave; again: at once",
    "quit",
  ),
];

/** What a key changes. @returns the same `ui` where it means nothing. */
export function press(ui: Ui, key: KeyPress, snapshot: DashboardSnapshot, size: Size): Reduced {
  const around = { snapshot, size, tabs: TABS };
  if (ui.input !== null) return type(ui, key, around);
  const means = (tab: Tab | null): Command | undefined =>
    KEYS.find((entry) => entry.tab === tab && entry.keys.includes(key.id))?.command;
  const command = means(ui.tab) ?? means(null);
  return command === undefined ? { ui, actions: [] } : perform(ui, command, around);
}

/** A click on a zone of the screen, or a turn of the wheel (by: rows). */
export function point(
  ui: Ui,
  what: { readonly target: Target } | { readonly by: number },
  snapshot: DashboardSnapshot,
  size: Size,
): Reduced {
  const around = { snapshot, size, tabs: TABS };
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
  const banner = viewHeader(screen.sub(0, 0, size.width, HEADER_ROWS + 1), snapshot, ui, TABS);
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

/** Opens the dashboard over the whole terminal. @throws where the terminal cannot be had; it is then as it was. */
export function openTui(options: TerminalOptions): Promise<Terminal> {
  return openTerminal({ view, press, point, pasted: paste, firstUi }, options);
}
