/** The types of the dashboard: what it shows (`DashboardSnapshot`), what the user has done (`Ui`) and asks for (`Action`). */
import type { LogLevel } from "../log.ts";
import type { PANELS } from "./tabs/panels.ts";
import type { TABS } from "./tabs/tabs.ts";

/** What a key means. The table KEYS of tui.ts assigns keys to commands. */
export type Command =
  | { readonly do: "tab"; readonly to: number }
  | { readonly do: "tab-by"; readonly by: number }
  | { readonly do: "move"; readonly by: number }
  | { readonly do: "page"; readonly by: number }
  | { readonly do: "edge"; readonly to: "first" | "last" }
  | { readonly do: "side"; readonly by: number }
  | {
      readonly do:
        | ("quit" | "suspend" | "redraw" | "mouse" | "help" | "drawer" | "open" | "back")
        | ("filter" | "pause" | "follow" | "wider" | "narrower" | "color" | "write" | "stop-answer");
    };

export type Tab = (typeof TABS)[number];

/** The state of one part of the gateway. */
export interface PartView {
  /** One word, shown as it is. */
  readonly state: string;
  /** What is wrong, since when, and what to do; empty if nothing is. */
  readonly detail: string;
}

/** One event in the list. The row is replaced, never changed, when its frame or an update comes. */
export interface EventRow {
  readonly seq: number;
  readonly receivedUs: number;
  readonly type: string | null;
  readonly intent: string | null;
  /** −1 to 1; null: unknown. */
  readonly sentiment: number | null;
  readonly conversation: string | null;
  /** The event's message; if it has none, the beginning of its body. */
  readonly message: string;
  readonly isMessage: boolean;
  /** Null: no frame yet. */
  readonly frameId: number | null;
}

/** One event in full, loaded by the action `detail`. */
export interface EventDetail {
  readonly seq: number;
  readonly state: "loading" | "ready" | "gone";
  /** Label and value, in the order in which they are shown. */
  readonly facts: readonly (readonly [string, string])[];
  /** The lines of the indented payload. */
  readonly lines: readonly string[];
}

/** One frame as a point on a plane. */
export interface Particle {
  readonly frameId: number;
  readonly seq: number;
  readonly timeUs: number;
  /** −1 to 1; a few points lie outside. */
  readonly x: number;
  readonly y: number;
  readonly intent: string | null;
  readonly sentiment: number | null;
  readonly conversation: string | null;
  readonly message: string;
  /** Messages a minute in its conversation. */
  readonly velocity: number;
  /** Seconds since the previous event of its conversation; null for the first. */
  readonly deltaSeconds: number | null;
  readonly interrupt: boolean;
}

/** The learned schema of one type of event. */
export interface SchemaView {
  readonly name: string;
  readonly events: number;
  /** Null: not known yet. */
  readonly perMinute: number | null;
  readonly firstSeenUs: number;
  readonly lastSeenUs: number;
  readonly fields: readonly {
    readonly path: string;
    readonly types: readonly string[];
    /** The share of the type's events that fill this field, 0 to 1. */
    readonly fillRate: number;
    /** What changed in this field recently; null: nothing. */
    readonly drift: string | null;
  }[];
  /** Recent changes, newest first. */
  readonly drift: readonly string[];
  /** The JSON of one event, indented; null: none was kept. */
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
  readonly level: LogLevel;
  readonly message: string;
}

/** The newest samples of one figure, one a second, the newest last; NaN if the figure was unknown in that second. */
export type Series = (seconds: number) => readonly number[];

/** The figures that the dashboard keeps as a series. */
export type SeriesName = (typeof PANELS)[number]["name"];

/** Everything that the dashboard shows at one instant. */
export interface DashboardSnapshot {
  readonly version: string;
  readonly nowUs: number;
  readonly startedUs: number;
  /** When the figures were sampled. It falls behind `nowUs` if the gateway is too busy to sample, or was stopped. */
  readonly sampledUs: number;
  readonly address: string;
  /** The path of the database; null: events are kept in a temporary folder. */
  readonly database: string | null;
  readonly tokenSet: boolean;
  readonly draining: boolean;
  readonly embedder: string | null;
  readonly parts: Readonly<Record<string, PartView>>;
  /** Null: there is no brain in this gateway. */
  readonly llm: LlmView | null;
  readonly events: {
    /** The newest rows, ascending and without gaps; while held, those that were there when holding began. */
    readonly rows: readonly EventRow[];
    /** Older rows that match the filter, ascending, from the store. */
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
    /** Why there are no points; only meaningful if there are none. */
    readonly none: string;
    /** The share of the vectors' variance that lies in the plane, 0 to 1. */
    readonly explained: number;
  };
  /** Null: this gateway learns no schemas. */
  readonly schemas: readonly SchemaView[] | null;
  readonly chat: {
    readonly available: boolean;
    /** What to do if it is not available. */
    readonly advice: string;
    /** Whether a reply is coming. */
    readonly answering: boolean;
    readonly turns: readonly ChatTurn[];
  };
  readonly metrics: {
    readonly series: Readonly<Record<SeriesName, Series>>;
    readonly counters: Readonly<Record<string, number>>;
    readonly gauges: Readonly<Record<string, number>>;
    readonly refusals: readonly { readonly code: string; readonly count: number }[];
  };
  readonly log: readonly LogLine[];
  /** Warnings and errors since the drawer was last open. */
  readonly unseen: number;
}

/** What the user asks for. The result comes back in the next snapshot. */
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
  /** Lines above the newest. */
  readonly drawerScroll: number;
  readonly mouse: boolean;
  /** Whether the terminal shows colours; if not, particles are letters. */
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
  /** How many of the newest particles are shown. */
  readonly window: number;
  /** Null: by the first of these that is known for any particle. */
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

/** A pressed key. `id` is its name with its modifiers: "ctrl+c", "shift+tab", "G"; `text` is what it writes into an input. */
export interface KeyPress {
  readonly id: string;
  readonly text: string | null;
}

export interface KeyRow {
  readonly keys: readonly string[];
  /** The keys as the help shows them. */
  readonly label: string;
  /** Null: on all tabs. */
  readonly tab: Tab | null;
  readonly help: string;
  /** Its text in the footer, if there is room; null: only in the help. */
  readonly footer: string | null;
  readonly command: Command;
}
