/**
 * What `http` counts itself, and how /metrics says it together with the pipeline's Snapshot: as Prometheus
 * text (exposition format 0.0.4) or as JSON. Counting is plain additions into arrays: it stands on the hot path.
 */
import type { ErrorCode } from "../errors.ts";
import type { Snapshot } from "../pipeline/snapshot.ts";

/** Upper bound of bucket i is 0.1 ms × 2^i; the last bucket has none. 19 bounds end at 26 s. */
const BUCKET_BOUNDS = 19;

/** Counts durations in buckets that double; a few ns an observation. */
export class LatencyHistogram {
  readonly #counts = new Float64Array(BUCKET_BOUNDS + 1);
  #sumMs = 0;

  observe(elapsedMs: number): void {
    const tenths = Math.min(elapsedMs * 10, 0x7fffffff) | 0;
    const bucket = Math.min(32 - Math.clz32(tenths), BUCKET_BOUNDS);
    this.#counts[bucket] = (this.#counts[bucket] as number) + 1;
    this.#sumMs += elapsedMs;
  }

  get count(): number {
    return this.#counts.reduce((sum, count) => sum + count, 0);
  }

  get sumMs(): number {
    return this.#sumMs;
  }

  /** Upper bound in ms of the bucket that holds the given share (0 to 1) of what was observed; 0 for none. */
  quantileMs(share: number): number {
    const target = this.count * share;
    let seen = 0;
    for (let bucket = 0; bucket <= BUCKET_BOUNDS && target > 0; bucket++) {
      seen += this.#counts[bucket] as number;
      if (seen >= target) return 0.1 * 2 ** bucket;
    }
    return 0;
  }

  /** A copy of the buckets, to be compared with a later one. */
  counts(): Float64Array {
    return this.#counts.slice();
  }

  /** The lines of a Prometheus histogram in seconds. */
  lines(name: string): string[] {
    const lines: string[] = [];
    let seen = 0;
    for (let bucket = 0; bucket < BUCKET_BOUNDS; bucket++) {
      seen += this.#counts[bucket] as number;
      lines.push(`${name}_bucket{le="${(2 ** bucket / 10_000).toString()}"} ${seen}`);
    }
    const count = this.count;
    lines.push(
      `${name}_bucket{le="+Inf"} ${count}`,
      `${name}_sum ${this.#sumMs / 1000}`,
      `${name}_count ${count}`,
    );
    return lines;
  }
}

/** The counters of `http`. Events are counted when their transaction has committed. */
export class HttpMetrics {
  acceptedEvents = 0;
  duplicateEvents = 0;
  rejectedEvents = 0;
  ignoredFields = 0;
  /** Bytes of request bodies that were read. */
  bodyBytes = 0;
  /** Clients that went away before their answer. */
  aborted = 0;
  /** From a request's head to its acknowledgement, of single events. */
  readonly ackLatency = new LatencyHistogram();
  readonly #routeNames: readonly string[];
  /** Row: route; column: the status' first digit. */
  readonly #requests: Float64Array;
  readonly #refusals = new Map<ErrorCode, number>();

  /** @param routeNames under which requests are counted. */
  constructor(routeNames: readonly string[]) {
    this.#routeNames = routeNames;
    this.#requests = new Float64Array(routeNames.length * 6);
  }

  /** @param route index into the names of routes. */
  request(route: number, status: number): void {
    const at = route * 6 + ((status / 100) | 0);
    this.#requests[at] = (this.#requests[at] as number) + 1;
  }

  refusal(code: ErrorCode): void {
    this.#refusals.set(code, (this.#refusals.get(code) ?? 0) + 1);
  }

  /** By name without prefix, as in {@link Snapshot.counters}. */
  counters(): Record<string, number> {
    return {
      accepted_events_total: this.acceptedEvents,
      duplicate_events_total: this.duplicateEvents,
      rejected_events_total: this.rejectedEvents,
      ignored_fields_total: this.ignoredFields,
      http_body_bytes_total: this.bodyBytes,
      http_aborted_requests_total: this.aborted,
    };
  }

  requests(): { route: string; status: string; count: number }[] {
    return this.#routeNames.flatMap((route, row) =>
      [1, 2, 3, 4, 5].flatMap((digit) => {
        const count = this.#requests[row * 6 + digit] as number;
        return count === 0 ? [] : [{ route, status: `${digit}xx`, count }];
      }),
    );
  }

  refusals(): { code: ErrorCode; count: number }[] {
    return [...this.#refusals].map(([code, count]) => ({ code, count }));
  }
}

/** What the names of counters and gauges mean; a name that is missing here is said in its own words. */
const HELP: Readonly<Record<string, string>> = {
  accepted_events_total: "Events acknowledged as new.",
  duplicate_events_total: "Events answered with the seq of an earlier one.",
  rejected_events_total: "Events that were refused, batch elements and lines included.",
  ignored_fields_total: "Understood fields of another type or range than expected.",
  http_body_bytes_total: "Bytes of request bodies that were read.",
  http_aborted_requests_total: "Requests whose client went away before the answer.",
  http_bodies_in_flight_bytes: "Bytes of large JSON bodies that are being read or parsed.",
  frames_total: "Frames decided: their rows are committed.",
  published_total: "Frames published in the ring.",
  pruned_events_total: "Events that left the journal because DuckDB holds them for good.",
  dropped_events_total: "Events dropped by the bound of the temporary folder (without --db-path only).",
  journal_backlog_events: "Events in the journal that are not pruned.",
  store_lag_events: "Events that are acknowledged and not yet committed in DuckDB.",
  ring_reader_waiting: "1 while a reader of the ring sleeps until the next frame.",
  unframed_events: "Events that have no frame yet.",
  schema_events_total: "Events that schemas were learned from.",
  schema_unread_events_total: "Events whose body could not be read by the schemas: a mistake of the gateway.",
  schema_new_fields_total: "Fields that came to a type after its first 50 events.",
  schema_type_changes_total: "Fields that held another JSON type than before.",
  schema_gone_fields_total: "Fields that stopped coming.",
  schema_skipped_fields_total: "Keys that were not learned because a bound is reached.",
  schema_dropped_types_total: "Types that were forgotten for others.",
  schema_write_failures_total: "Writes of what was learned that failed and are tried again.",
  chat_turns_total: "Turns of chat that were answered.",
  chat_failed_turns_total: "Turns of chat that were not: no model, a failure, or the client went away.",
  chat_forgotten_sessions_total: "Conversations of chat that were forgotten for others before they expired.",
  chat_sessions: "Conversations of chat that are remembered.",
  chat_busy_turns: "Turns of chat that are being answered.",
  schema_types: "Event types with a learned schema.",
  schema_fields: "Fields of all of them.",
  head_seq: "Number of the newest acknowledged event.",
  next_frame_id: "The frame_id that is decided next.",
  intent_examples: "Labelled examples of intents.",
  intent_threshold: "Least score that gives a label, learned from the examples; 0 without any.",
  remembered_answers: "Texts of which the LLM's answer is remembered.",
  remembered_answers_hits_total: "Texts whose words the LLM had answered before.",
  resident_bytes: "Resident memory of the process, mapped pages of the ring included.",
};

function block(
  name: string,
  type: "counter" | "gauge" | "histogram",
  lines: readonly string[],
  help?: string,
): string {
  const full = `gateway_${name}`;
  const words = help ?? HELP[name] ?? `${name.replace(/_total$/, "").replaceAll("_", " ")}.`;
  return `# HELP ${full} ${words}\n# TYPE ${full} ${type}\n${lines.join("\n")}\n`;
}

/** Escapes a label's value by the exposition format. */
function label(value: string): string {
  return value.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}

/** What is of one instant and known to `http` alone. */
export interface HttpGauges {
  readonly http_bodies_in_flight_bytes: number;
  readonly http_pending_requests: number;
}

/** The body of /metrics, text/plain; version=0.0.4. Where both sides count a name, `http` is believed. */
export function prometheusText(snapshot: Snapshot, metrics: HttpMetrics, gauges: HttpGauges): string {
  const blocks: string[] = [];
  const info = `version="${label(snapshot.version)}",embedder="${label(snapshot.embedderName ?? "")}"`;
  blocks.push(block("info", "gauge", [`gateway_info{${info}} 1`], "What is running."));
  const started = [`gateway_start_time_seconds ${snapshot.startedUs / 1e6}`];
  blocks.push(block("start_time_seconds", "gauge", started, "Start of the process, Unix time."));
  const parts = Object.entries(snapshot.parts).map(
    ([part, { state }]) => `gateway_part_state{part="${part}",state="${state}"} 1`,
  );
  blocks.push(block("part_state", "gauge", parts, "1 for the state that each part is in."));
  for (const [name, value] of Object.entries({ ...snapshot.counters, ...metrics.counters() })) {
    blocks.push(block(name, "counter", [`gateway_${name} ${value}`]));
  }
  for (const [name, value] of Object.entries({ ...snapshot.gauges, ...gauges })) {
    blocks.push(block(name, "gauge", [`gateway_${name} ${value}`]));
  }
  const requests = metrics
    .requests()
    .map(
      ({ route, status, count }) =>
        `gateway_http_requests_total{route="${route}",status="${status}"} ${count}`,
    );
  if (requests.length > 0) {
    blocks.push(block("http_requests_total", "counter", requests, "Answers by route and class of status."));
  }
  const refusals = metrics
    .refusals()
    .map(({ code, count }) => `gateway_refusals_total{code="${code}"} ${count}`);
  if (refusals.length > 0) {
    blocks.push(block("refusals_total", "counter", refusals, "Requests that were refused, by code."));
  }
  const latency = metrics.ackLatency.lines("gateway_ack_seconds");
  blocks.push(
    block("ack_seconds", "histogram", latency, "From a single event's request to its acknowledgement."),
  );
  return blocks.join("");
}

/** The body of /metrics as JSON. */
export function metricsJson(snapshot: Snapshot, metrics: HttpMetrics, gauges: HttpGauges): string {
  const { ackLatency } = metrics;
  return JSON.stringify({
    ...snapshot,
    counters: { ...snapshot.counters, ...metrics.counters() },
    gauges: { ...snapshot.gauges, ...gauges },
    http: {
      requests: metrics.requests(),
      refusals: metrics.refusals(),
      ack_ms: {
        count: ackLatency.count,
        sum: ackLatency.sumMs,
        p50_max: ackLatency.quantileMs(0.5),
        p99_max: ackLatency.quantileMs(0.99),
      },
    },
  });
}
