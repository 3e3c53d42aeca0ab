/** Snapshots of the dashboard in the states that the tests show. Everything in them is fixed, so a screen is the same every time. */
import type {
  DashboardSnapshot,
  EventRow,
  Particle,
  SchemaView,
  Series,
  SeriesName,
} from "../../src/tui/model.ts";
import { PANELS } from "../../src/tui/tabs/panels.ts";

export const NOW_US = Date.UTC(2026, 8, 8, 12, 30, 45) * 1000;
const STARTED_US = NOW_US - 3_725e6;

const MESSAGES = [
  "Quero cancelar meu plano",
  "Perdi meu cartão no ônibus, podem bloquear?",
  "Qual é o melhor dia de compra?",
  "Obrigada, resolveu!",
  "Meu pedido está atrasado há duas semanas!!!",
];
const INTENTS = ["cancelamento", "cartao_perdido", "duvida_fatura", "elogio", "reclamacao_entrega"];

function wave(seconds: number, top: number): number[] {
  return Array.from({ length: seconds }, (_, at) => top * (0.6 + 0.4 * Math.sin((at - seconds) / 5)));
}

function series(top: Partial<Record<SeriesName, number>>): DashboardSnapshot["metrics"]["series"] {
  const of =
    (name: SeriesName) =>
    (seconds: number): readonly number[] => {
      const value = top[name];
      return value === undefined ? new Array<number>(seconds).fill(Number.NaN) : wave(seconds, value);
    };
  const entries = PANELS.map(({ name }): [string, Series] => [name, of(name)]);
  return Object.fromEntries(entries) as Record<SeriesName, Series>;
}

const OK = { state: "ok", detail: "" };

export function empty(): DashboardSnapshot {
  return {
    version: "0.1.0",
    nowUs: NOW_US,
    startedUs: NOW_US - 4e6,
    sampledUs: NOW_US,
    address: "http://127.0.0.1:9382",
    database: null,
    tokenSet: false,
    draining: false,
    embedder: "hashing-1024-v1",
    parts: { journal: OK, store: OK, ring: OK, embedder: OK },
    llm: null,
    events: { rows: [], history: [], historyState: "idle", newer: 0, total: 0, lastUs: null },
    detail: null,
    particles: { points: [], none: "No frames yet", explained: 0 },
    schemas: [],
    chat: {
      available: false,
      advice: "Start LM Studio (http://localhost:1234/v1), or name another endpoint with --llm-base-url.",
      answering: false,
      turns: [],
    },
    metrics: { series: series({}), counters: {}, gauges: {}, refusals: [] },
    log: [],
    unseen: 0,
  };
}

export function eventRow(seq: number, over: Partial<EventRow> = {}): EventRow {
  return {
    seq,
    receivedUs: NOW_US - (1000 - seq) * 250_000,
    type: seq % 3 === 0 ? "AgentReply" : "UserMessage",
    intent: INTENTS[seq % INTENTS.length] ?? null,
    sentiment: seq % 7 === 0 ? null : Math.round(100 * Math.sin(seq)) / 100,
    conversation: `conversa-${seq % 9}`,
    message: MESSAGES[seq % MESSAGES.length] ?? "",
    isMessage: true,
    frameId: seq < 999 ? seq : null,
    ...over,
  };
}

function particle(at: number): Particle {
  const angle = at * 2.399963;
  const radius = Math.sqrt(at / 200);
  return {
    frameId: at,
    seq: at,
    timeUs: NOW_US - (200 - at) * 700_000,
    x: radius * Math.cos(angle),
    y: radius * Math.sin(angle),
    intent: INTENTS[at % INTENTS.length] ?? null,
    sentiment: Math.sin(at),
    conversation: `conversa-${at % 9}`,
    message: MESSAGES[at % MESSAGES.length] ?? "",
    velocity: 4,
    deltaSeconds: at < 9 ? null : 6.3,
    interrupt: at % 5 === 0,
  };
}

function schema(name: string, events: number, drift: string | null): SchemaView {
  return {
    name,
    events,
    perMinute: events / 60,
    firstSeenUs: STARTED_US,
    lastSeenUs: NOW_US - 2e6,
    fields: [
      { path: "type", types: ["string"], fillRate: 1, drift: null },
      { path: "message", types: ["string"], fillRate: 0.98, drift: null },
      { path: "customer.city", types: ["string", "null"], fillRate: 0.61, drift },
      { path: "order.items[].price", types: ["number"], fillRate: 0.25, drift: null },
    ],
    drift: drift === null ? [] : [`customer.city: ${drift}`],
    sample: '{\n  "type": "UserMessage",\n  "order": 9007199254740993\n}',
  };
}

export function busy(): DashboardSnapshot {
  const base = empty();
  return {
    ...base,
    startedUs: STARTED_US,
    database: "/srv/data/events.duckdb",
    tokenSet: true,
    llm: {
      state: "ok",
      detail: "",
      model: "qwen3-8b",
      calls: 321,
      failures: 4,
      breaker: "closed",
      budget: { used: 321, limit: 5000 },
    },
    events: {
      ...base.events,
      rows: Array.from({ length: 100 }, (_, index) => eventRow(index + 901)),
      total: 1000,
      lastUs: NOW_US - 250_000,
    },
    detail: {
      seq: 998,
      state: "ready",
      facts: [
        ["seq", "998"],
        ["intent", "reclamacao_entrega, confidence 0.91  (examples)"],
      ],
      lines: ["{", '  "message": "Meu pedido",', '  "id": 9007199254740993', "}"],
    },
    particles: {
      points: Array.from({ length: 200 }, (_, index) => particle(index + 1)),
      none: "",
      explained: 0.42,
    },
    schemas: [
      schema("UserMessage", 12_345, null),
      schema("OrderPaid", 321, "is a number since 12:10, was a string"),
      schema("AgentReply", 77, null),
    ],
    chat: {
      available: true,
      advice: "",
      answering: true,
      turns: [
        {
          from: "you",
          text: "Quantas reclamações hoje?",
          state: "done",
          intent: null,
          slots: {},
          missing: [],
        },
        {
          from: "brain",
          text: "Hoje vieram 12 reclamações, a maioria sobre entrega.\n\nQuer ver as últimas?",
          state: "done",
          intent: "consulta",
          slots: { tema: "reclamações", dia: "hoje" },
          missing: ["canal"],
        },
        { from: "you", text: "Sim, do app", state: "done", intent: null, slots: {}, missing: [] },
        {
          from: "brain",
          text: "As últimas do app são",
          state: "streaming",
          intent: "consulta",
          slots: { tema: "reclamações", dia: "hoje" },
          missing: ["canal"],
        },
      ],
    },
    metrics: {
      series: series({
        ingest_rate: 4812,
        frames_rate: 4801,
        ack_p50_ms: 0.8,
        ack_p99_ms: 6.4,
        unframed_events: 18_230,
        store_lag_events: 900,
        ring_fill: 100,
        embed_batch: 64,
        embed_ms: 12.5,
        llm_rate: 0.4,
        refusals_rate: 0.1,
        resident_bytes: 412e6,
      }),
      counters: { frames_without_vector_total: 3 },
      gauges: {
        ring_capacity_frames: 100_000,
        ring_head_frame_id: 250_001,
        ring_tail_frame_id: 150_001,
        ring_reader_waiting: 1,
        unframed_events: 12,
      },
      refusals: [
        { code: "unauthorized", count: 17 },
        { code: "malformed", count: 3 },
      ],
    },
    log: [
      { timeUs: NOW_US - 60e6, level: "info", message: "listening on http://127.0.0.1:9382" },
      {
        timeUs: NOW_US - 50e6,
        level: "warn",
        message: "embedder auto: hashing, as no model was found; run one_file_gateway pull-model",
      },
    ],
    unseen: 1,
  };
}

export function degraded(): DashboardSnapshot {
  const base = busy();
  return {
    ...base,
    embedder: "bge-m3",
    parts: {
      journal: OK,
      store: { state: "degraded", detail: "disk I/O error; it opens DuckDB again in 5 s" },
      ring: OK,
      embedder: { state: "down", detail: "failing for 42 s: the endpoint does not answer; start it" },
    },
    llm: {
      state: "open",
      detail: "five calls failed; tried again in 30 s",
      model: "qwen3-8b",
      calls: 9,
      failures: 9,
      breaker: "open",
      budget: { used: 9, limit: null },
    },
    particles: { points: [], none: "No embeddings: the embedder is down", explained: 0 },
    schemas: null,
    chat: { ...empty().chat, turns: [] },
  };
}

const WIDE = "日本語のメッセージ、ありがとう 🎉 한국어도 됩니다 😀👍🏽 e\u0301 ação";

/** A busy snapshot in which every string from outside is replaced. */
export function withText(text: (index: number) => string): DashboardSnapshot {
  const base = busy();
  let next = 0;
  const t = (): string => text(next++);
  return {
    ...base,
    database: t(),
    embedder: t(),
    parts: { ...base.parts, store: { state: "degraded", detail: t() } },
    events: {
      ...base.events,
      rows: base.events.rows.map((row) => ({
        ...row,
        type: t(),
        intent: t(),
        conversation: t(),
        message: t(),
      })),
    },
    detail: { seq: 998, state: "ready", facts: [["id", t()]], lines: [t(), `  "key": "${t()}"`, t()] },
    particles: {
      ...base.particles,
      points: base.particles.points.map((point, index) => ({
        ...point,
        intent: index % 3 === 0 ? t() : point.intent,
        conversation: t(),
        message: t(),
      })),
    },
    schemas: (base.schemas ?? []).map((entry) => ({
      ...entry,
      name: t(),
      fields: entry.fields.map((field) => ({ ...field, path: t(), types: [t()] })),
      drift: [t()],
      sample: t(),
    })),
    chat: {
      ...base.chat,
      turns: base.chat.turns.map((turn) => ({
        ...turn,
        text: t(),
        intent: turn.intent === null ? null : t(),
        slots: { [t()]: t() },
        missing: [t()],
      })),
    },
    metrics: { ...base.metrics, refusals: [{ code: t(), count: 1 }] },
    log: base.log.map((line) => ({ ...line, message: t() })),
  };
}

export const wide = (): DashboardSnapshot => withText((index) => WIDE.slice(index % 3));

export const HOSTILE = [
  "\x1b[31mred\x1b[2J\x1b[H",
  "\x1b]0;owned\x07 title",
  "\x9b31m\x9d0;c1\x9c",
  "a\u202egnp.exe\u202c \u2066x\u2069",
  "zero\u200bwidth\u200d\ufeff\u2060",
  "Z\u0301\u0302\u0303\u0304\u0305\u0306algo\u0489",
  "\ud800 lone \udc00",
  "🇧🇷👨‍👩‍👧‍👦❤️1️⃣",
  "مرحبا שלום",
  "tab\tline\r\nbreak\u2028para\u2029",
  "\u{e0041}\u{e0042}tags\u3164filler\u00ad",
  "\x00\x01\x08\x7f",
];

export const hostile = (): DashboardSnapshot => withText((index) => HOSTILE[index % HOSTILE.length] ?? "");
