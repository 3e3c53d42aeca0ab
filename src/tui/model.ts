/** What the dashboard shows (its snapshot), what the user has done (`Ui`), and what the user may ask for. */
import type { LogLevel } from "../log.ts";
import type { PANELS } from "./tabs/panels.ts";
import type { TABS } from "./tabs/tabs.ts";

/** What one key means; the table KEYS of tui.ts says which. */
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
  readonly level: LogLevel;
  readonly message: string;
}

/** Samples of one figure, a second apart, the newest last; NaN: not known then. */
export type Series = (seconds: number) => readonly number[];

/** The figures of which the dashboard keeps a series. */
export type SeriesName = (typeof PANELS)[number]["name"];

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
    readonly series: Readonly<Record<SeriesName, Series>>;
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
