/** Puts the dashboard on the terminal, and gives the terminal back whatever happens. */

import { openTui, type Terminal, whyNoTerminal } from "../../tui.ts";
import type { Brain, Chat, ChatPart } from "../brain/brain.ts";
import type { Config } from "../config/config.ts";
import { Dashboard } from "../dashboard/dashboard.ts";
import { messageOf } from "../errors.ts";
import type { GatewayServer } from "../http/http.ts";
import type { Journal } from "../journal/journal.ts";
import type { Log, LogLevel } from "../log.ts";
import type { Pipeline } from "../pipeline/pipeline.ts";
import type { Schemas } from "../schemas/schemas.ts";
import type { LlmView } from "../tui/model.ts";
import { complain, stderr } from "./stdio.ts";

/** How many of the warnings that were withheld from the terminal are printed once the dashboard has closed. */
const WITHHELD_LINES_MAX = 20;

/** The model's states in words that need no knowledge of circuit breakers. */
const LLM_STATE_TEXT: Readonly<Record<Brain["llm"]["state"]["name"], string>> = {
  ...{ off: "off", unknown: "starting", away: "away", ok: "ok" },
  ...{ open: "failing", "half-open": "failing", budget: "used up" },
};

/** The language model as the dashboard shows it. */
function llmView({ state, counters, gauges }: Brain["llm"], limit: number | null): LlmView {
  const left = gauges.llm_budget_left_calls;
  return {
    state: LLM_STATE_TEXT[state.name],
    detail: state.detail,
    model: state.model,
    calls: counters.llm_calls_total ?? 0,
    failures: counters.llm_failures_total ?? 0,
    breaker: state.name === "open" || state.name === "half-open" ? state.name : "closed",
    budget: { used: limit === null || left === undefined ? 0 : limit - left, limit },
  };
}

/** What to do so that a model answers the chat. */
function chatAdvice({ name, detail }: Brain["llm"]["state"]): string {
  return name === "off"
    ? "The gateway runs with --llm-base-url off. Start LM Studio, Ollama or another OpenAI-compatible server, load a chat model, and start the gateway again with --llm-base-url and its address"
    : detail;
}

/** Why no dashboard opens; null if one does. */
export function whyHeadless(config: Pick<Config, "tui">): string | null {
  const { stdin, stdout, env } = process;
  const why = whyNoTerminal({ stdinIsTty: stdin.isTTY, stdoutIsTty: stdout.isTTY, term: env.TERM });
  if (why !== null) return why;
  return config.tui ? null : "--no-tui";
}

export interface DeskOptions {
  readonly version: string;
  readonly config: Config;
  readonly journal: Journal;
  readonly schemas: Schemas;
  readonly brain: Brain;
  readonly chat: Chat;
  readonly pipeline: () => Pipeline;
  readonly server: () => GatewayServer;
  readonly quit: () => void;
  readonly log: Log;
}

/** The dashboard with its terminal. */
export class Desk implements Disposable {
  readonly dashboard: Dashboard;
  readonly #o: DeskOptions;
  #terminal: Terminal | null = null;
  #closed = false;
  /** The id of the dashboard's one conversation; null before its first turn. */
  #session: string | null = null;
  /** Warnings and errors that came while the dashboard covered the terminal. */
  #withheld: string[] = [];

  constructor(options: DeskOptions) {
    this.#o = options;
    const { config, journal, schemas, brain, pipeline, server } = options;
    this.dashboard = new Dashboard({
      version: options.version,
      database: config.dbPath,
      tokenSet: config.token !== null,
      address: () => server().url,
      snapshot: () => pipeline().snapshot(),
      metrics: () => server().metrics,
      draining: () => pipeline().draining,
      journalEvent: (seq) => journal.eventsAt([seq])[0] ?? null,
      enrichment: (seq) => pipeline().enrichedWithin(seq, 0),
      storedEvent: async (seq) => (await pipeline().store()?.event(seq, 0))?.json ?? null,
      storedEvents: (query) => {
        const store = pipeline().store();
        return store === null ? null : store.events(query, journal.headSeq()).then(({ json }) => json);
      },
      frames: (after, limit) => pipeline().frames(after, limit),
      schemas,
      llm: () => llmView(brain.llm, config.llmBudgetCalls),
      chat: () => (brain.llm.usable ? (message, signal) => this.#talk(message, signal) : null),
      chatAdvice: () => chatAdvice(brain.llm.state),
    });
  }

  /** One turn of the dashboard's conversation. If its session was forgotten meanwhile, it starts again under the same id. */
  async *#talk(message: string, signal: AbortSignal): AsyncGenerator<ChatPart> {
    for await (const part of this.#o.chat.turn(message, this.#session, signal)) {
      if (part.kind === "state") this.#session = part.state.session_id;
      yield part;
    }
  }

  /** Opens the dashboard over the terminal. If that fails, the gateway goes on headless. */
  async open(): Promise<void> {
    this.dashboard.start();
    try {
      this.#terminal = await openTui({
        feed: this.dashboard,
        noColor: (process.env.NO_COLOR ?? "") !== "",
        quit: this.#o.quit,
        failed: (error) => this.#goHeadless(error),
      });
    } catch (error) {
      this.#goHeadless(error);
      return;
    }
    // OpenTUI listens to these two itself and would leave the terminal in the alternate screen.
    for (const event of ["uncaughtException", "unhandledRejection"])
      process.on(event, (error) => void this.#crash(error));
    process.on("exit", () => {
      if (!this.#closed) this.#terminal?.restoreNow();
    });
  }

  /**
   * Shows a log line in the dashboard's drawer.
   * @returns true if the line must not be written to the terminal. If standard error is a file, it is written there too.
   */
  takes(level: LogLevel, message: string, line: string): boolean {
    this.dashboard.note(level, message);
    if (this.#terminal === null || this.#closed || !process.stderr.isTTY) return false;
    if (level === "warn" || level === "error")
      this.#withheld = [...this.#withheld.slice(1 - WITHHELD_LINES_MAX), line];
    return true;
  }

  #goHeadless(error: unknown): void {
    this.#closed = true;
    const trace = error instanceof Error ? (error.stack ?? error.message) : String(error);
    this.#o.log("error", `dashboard: ${trace}; the gateway goes on without it`);
  }

  async #crash(error: unknown): Promise<void> {
    await this.close();
    complain(error instanceof Error ? (error.stack ?? error.message) : messageOf(error));
    process.exit(1);
  }

  /** Gives the terminal back and prints the withheld lines. */
  async close(): Promise<void> {
    await this.#terminal?.close();
    this.#closed = true;
    for (const line of this.#withheld) stderr.write(line);
    this.#withheld = [];
  }

  [Symbol.dispose](): void {
    this.dashboard[Symbol.dispose]();
  }
}
