/** Reads the gateway's figures once a second and keeps an hour of each. */
import type { Clock } from "../clock.ts";
import type { HttpMetrics } from "../http/http.ts";
import type { Snapshot } from "../pipeline/snapshot.ts";
import type { LlmView, Series, SeriesName } from "../tui/model.ts";
import { quantileBetween, SECONDS_MAX, SeriesRing } from "./series.ts";

const SAMPLE_MS = 1000;

export interface FiguresOptions {
  readonly clock: Clock;
  readonly snapshot: () => Snapshot;
  readonly metrics: () => Pick<HttpMetrics, "acceptedEvents" | "ackLatency" | "refusals">;
  /** Null: there is no brain. */
  readonly llm: (() => LlmView) | null;
  /** Called after each sample. */
  readonly sampled: () => void;
}

/** Counters at one instant; they only grow. */
interface Counts {
  readonly events: number;
  readonly frames: number;
  readonly batches: number;
  readonly refusals: number;
  readonly llm: number;
  /** Acknowledgements by latency: bucket b ends at 0.1 · 2^b ms. */
  readonly acks: Float64Array;
}

/** What lies between two samples; at the first one everything since the start. */
interface Interval {
  /** Null at the first sample: a rate needs two. */
  readonly seconds: number | null;
  readonly before: Counts;
  readonly now: Counts;
  readonly gauges: Snapshot["gauges"];
}

type Counter = Exclude<keyof Counts, "acks">;

function rate({ seconds, before, now }: Interval, of: Counter): number {
  return seconds === null ? Number.NaN : Math.max(0, (now[of] - before[of]) / seconds);
}

function ackMs({ before, now }: Interval, share: number): number {
  return quantileBetween(before.acks, now.acks, share, (bucket) => 0.1 * 2 ** bucket);
}

function ringFillPercent({ gauges }: Interval): number {
  const capacity = gauges.ring_capacity_frames ?? 0;
  const held = (gauges.ring_head_frame_id ?? 0) - (gauges.ring_tail_frame_id ?? 0);
  return capacity === 0 ? Number.NaN : (100 * Math.max(0, held)) / capacity;
}

const batchesOf = ({ before, now }: Interval): number => now.batches - before.batches;

/** Each figure from an interval; NaN if it is unknown. */
const FIGURES: Readonly<Record<SeriesName, (interval: Interval) => number>> = {
  ingest_rate: (interval) => rate(interval, "events"),
  ack_p50_ms: (interval) => ackMs(interval, 0.5),
  ack_p99_ms: (interval) => ackMs(interval, 0.99),
  unframed_events: ({ gauges }) => gauges.unframed_events ?? Number.NaN,
  store_lag_events: ({ gauges }) => gauges.store_lag_events ?? Number.NaN,
  frames_rate: (interval) => rate(interval, "frames"),
  ring_fill: ringFillPercent,
  embed_batch: (interval) => {
    const { seconds, before, now } = interval;
    const batches = batchesOf(interval);
    return seconds === null || batches <= 0 ? Number.NaN : (now.frames - before.frames) / batches;
  },
  embed_ms: (interval) =>
    batchesOf(interval) <= 0 ? Number.NaN : (interval.gauges.embed_batch_ms ?? Number.NaN),
  llm_rate: (interval) => rate(interval, "llm"),
  refusals_rate: (interval) => rate(interval, "refusals"),
  resident_bytes: ({ gauges }) => gauges.resident_bytes ?? Number.NaN,
};

const NAMES = Object.keys(FIGURES) as SeriesName[];

const STARTING: Snapshot = {
  version: "",
  startedUs: 0,
  nowUs: 0,
  embedderName: null,
  parts: {
    journal: { state: "ok", detail: "" },
    store: { state: "starting", detail: "" },
    ring: { state: "starting", detail: "" },
    embedder: { state: "starting", detail: "" },
    llm: { state: "starting", detail: "" },
  },
  counters: {},
  gauges: {},
  drift: [],
};

export class Figures implements Disposable {
  readonly #o: FiguresOptions;
  readonly #rings: ReadonlyMap<SeriesName, SeriesRing>;
  readonly series: Readonly<Record<SeriesName, Series>>;
  #timer: Disposable | null = null;
  #before: Counts = { events: 0, frames: 0, batches: 0, refusals: 0, llm: 0, acks: new Float64Array(0) };
  #sample = STARTING;
  #sampledMs = 0;

  constructor(options: FiguresOptions) {
    this.#o = options;
    const rings = NAMES.map((name) => [name, new SeriesRing()] as const);
    this.#rings = new Map(rings);
    const series = rings.map(([name, ring]): [string, Series] => [name, (seconds) => ring.newest(seconds)]);
    this.series = Object.fromEntries(series) as Record<SeriesName, Series>;
  }

  /** The gateway's state at the newest sample. */
  get sample(): Snapshot {
    return this.#sample;
  }

  /** How long ago that was. */
  get ageMs(): number {
    return this.#o.clock.monotonicMs() - this.#sampledMs;
  }

  start(): void {
    this.#take();
    this.#timer = this.#o.clock.every(SAMPLE_MS, () => this.#take());
  }

  #take(): void {
    const { snapshot, clock, sampled } = this.#o;
    const sample = snapshot();
    const now = this.#counts(sample);
    const first = this.#sample === STARTING;
    const nowMs = clock.monotonicMs();
    const seconds = Math.max(0.001, (nowMs - this.#sampledMs) / 1000);
    // If the process was stopped or far too busy, the seconds without a sample become gaps, so that time keeps its scale.
    const missed = first ? 0 : Math.min(SECONDS_MAX, Math.round(seconds) - 1);
    const interval = { seconds: first ? null : seconds, before: this.#before, now, gauges: sample.gauges };
    for (const [name, ring] of this.#rings) {
      for (let gap = 0; gap < missed; gap++) ring.push(Number.NaN);
      ring.push(FIGURES[name](interval));
    }
    this.#before = now;
    this.#sample = sample;
    this.#sampledMs = nowMs;
    sampled();
  }

  #counts({ counters }: Snapshot): Counts {
    const http = this.#o.metrics();
    return {
      events: http.acceptedEvents,
      frames: counters.frames_total ?? 0,
      batches: counters.embed_batches_total ?? 0,
      refusals: http.refusals().reduce((sum, { count }) => sum + count, 0),
      llm: this.#o.llm?.().calls ?? Number.NaN,
      acks: http.ackLatency.counts(),
    };
  }

  [Symbol.dispose](): void {
    this.#timer?.[Symbol.dispose]();
  }
}
