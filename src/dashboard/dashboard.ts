/**
 * Collects what the dashboard shows, and does what the user asks for there. It stands beside the pipeline, which reports what was
 * committed and decided. A headless gateway has none.
 */
import { type Clock, systemClock } from "../clock.ts";
import type { JournalEvent } from "../journal/journal.ts";
import type { LogLevel } from "../log.ts";
import type { Watch } from "../pipeline/snapshot.ts";
import type { Action, DashboardSnapshot } from "../tui/model.ts";
import { type ChatOptions, ChatTurns } from "./chat.ts";
import { Detail, type DetailSources } from "./detail.ts";
import { Figures, type FiguresOptions } from "./figures.ts";
import { History, type HistoryOptions } from "./history.ts";
import { type Decision, Intake, type Look, type Update } from "./intake.ts";
import { LogLines } from "./log-lines.ts";
import { Particles, type ParticlesOptions } from "./particles.ts";
import { enrichmentOfFrame, type RowEnrichment, rowOf } from "./rows.ts";
import { SchemaList, type SchemaSource } from "./schemas.ts";
import { Tail } from "./tail.ts";

/** The functions are called from {@link Dashboard.start} on, not before: until then nothing may listen yet. */
export interface DashboardOptions
  extends DetailSources,
    ChatOptions,
    Pick<FiguresOptions, "snapshot" | "metrics" | "llm">,
    Pick<HistoryOptions, "storedEvents">,
    Pick<ParticlesOptions, "frames"> {
  readonly version: string;
  readonly database: string | null;
  readonly tokenSet: boolean;
  readonly address: () => string;
  readonly draining: () => boolean;
  /** Null: this gateway learns no schemas. */
  readonly schemas: SchemaSource | null;
  readonly clock?: Clock;
}

export class Dashboard implements Watch, Disposable {
  readonly #o: DashboardOptions;
  readonly #clock: Clock;
  readonly #intake: Intake;
  readonly #tail = new Tail();
  readonly #history: History;
  readonly #detail: Detail;
  readonly #particles: Particles;
  readonly #schemas: SchemaList | null;
  readonly #chat: ChatTurns;
  readonly #figures: Figures;
  readonly #log = new LogLines();
  /** Called when something that is shown has changed. */
  onChange: () => void = () => {};

  constructor(options: DashboardOptions) {
    const { clock = systemClock, snapshot, metrics, llm, frames, journalEvent, storedEvents } = options;
    const changed = (): void => this.onChange();
    const warn = (message: string): void => this.note("warn", message);
    this.#o = options;
    this.#clock = clock;
    this.#intake = new Intake(clock, (look) => this.#look(look));
    this.#history = new History({ storedEvents, warn, changed });
    this.#detail = new Detail(options, changed);
    this.#particles = new Particles({
      clock,
      frames,
      journalEvent,
      nextFrameId: () => snapshot().gauges.next_frame_id ?? 1,
      row: (seq) => this.#tail.row(seq),
      warn,
      changed,
    });
    this.#schemas = options.schemas === null ? null : new SchemaList(options.schemas);
    this.#chat = new ChatTurns(options, changed);
    this.#figures = new Figures({ clock, snapshot, metrics, llm, sampled: () => this.#sampled() });
  }

  start(): void {
    this.#figures.start();
  }

  [Symbol.dispose](): void {
    this.#intake[Symbol.dispose]();
    this.#figures[Symbol.dispose]();
    this.#chat[Symbol.dispose]();
    this.onChange = () => {};
  }

  committed(events: readonly JournalEvent[]): void {
    this.#intake.committed(events);
  }

  decided(...decision: Decision): void {
    this.#intake.decided(...decision);
  }

  updated(seq: number, update: Update): void {
    this.#intake.updated(seq, update);
  }

  #look({ events, decisions, updates }: Look): void {
    this.#tail.add(events.map(rowOf));
    const oldestSeq = this.#tail.rows[0]?.seq ?? this.#tail.newestSeq;
    for (const [firstFrameId, drafts] of decisions) {
      drafts.forEach(({ decided }, index) => {
        if (decided.seq >= oldestSeq)
          this.#enrich(decided.seq, enrichmentOfFrame(firstFrameId + index, decided));
      });
    }
    this.#particles.decided(decisions);
    // After the frames: an update is newer than the frame of its event.
    for (const [seq, { type, intent, sentiment }] of updates)
      this.#enrich(seq, { frameId: null, type, intent, sentiment });
    this.#particles.updated(updates);
    this.#detail.updated(updates);
    this.onChange();
  }

  #enrich(seq: number, enrichment: RowEnrichment): void {
    this.#tail.enrich(seq, enrichment);
    this.#history.enrich(seq, enrichment);
  }

  #sampled(): void {
    const headSeq = this.#figures.sample.gauges.head_seq ?? 0;
    void this.#history.begin(headSeq, (rows) => this.#tail.begin(rows));
    this.onChange();
  }

  note(level: LogLevel, message: string): void {
    this.#log.add(this.#clock.nowUs(), level, message);
    this.onChange();
  }

  act(action: Action): void {
    switch (action.kind) {
      case "show":
        if (action.tab === "particles") this.#particles.show();
        else this.#particles.hide();
        break;
      case "hold":
        this.#tail.hold();
        break;
      case "release":
        this.#tail.release();
        this.#history.forget();
        break;
      case "forget-history":
        this.#history.forget();
        break;
      case "older":
        void this.#history.loadOlder(action.filter.trim(), this.#tail.heldFromSeq);
        break;
      case "detail":
        void this.#detail.open(action.seq);
        break;
      case "log-seen":
        this.#log.seen();
        break;
      case "chat":
        void this.#chat.ask(action.text);
        break;
      case "chat-stop":
        this.#chat.stop();
        break;
      case "quit":
      case "suspend":
      case "redraw":
      case "mouse":
        // The terminal does these itself.
        break;
    }
    this.onChange();
  }

  snapshot(): DashboardSnapshot {
    const { version, database, tokenSet, address, draining, llm, metrics } = this.#o;
    const { sample, series } = this.#figures;
    const { gauges, counters, embedderName } = sample;
    // The model is shown by itself.
    const { llm: _, ...parts } = sample.parts;
    const nowUs = this.#clock.nowUs();
    return {
      version,
      nowUs,
      startedUs: sample.startedUs,
      sampledUs: nowUs - this.#figures.ageMs * 1000,
      address: address(),
      database,
      tokenSet,
      draining: draining(),
      embedder: embedderName,
      parts,
      llm: llm?.() ?? null,
      events: this.#events(gauges.head_seq ?? 0),
      detail: this.#detail.shown,
      particles: this.#particles.view({
        embedder: parts.embedder?.state ?? "starting",
        nextFrameId: gauges.next_frame_id ?? 1,
      }),
      schemas: this.#schemas?.views(this.#clock.monotonicMs()) ?? null,
      chat: this.#chat.view(),
      metrics: { series, counters, gauges, refusals: metrics().refusals() },
      log: this.#log.lines,
      unseen: this.#log.unseen,
    };
  }

  #events(headSeq: number): DashboardSnapshot["events"] {
    const { rows, held, newestSeq } = this.#tail;
    const total = Math.max(headSeq, newestSeq);
    return {
      rows,
      history: this.#history.rows,
      historyState: this.#history.state,
      newer: held ? Math.max(0, total - (rows.at(-1)?.seq ?? 0)) : 0,
      total,
      lastUs: this.#tail.row(newestSeq)?.receivedUs ?? null,
    };
  }
}
