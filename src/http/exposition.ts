/**
 * /metrics: the pipeline's Snapshot with what `http` counts, as Prometheus text (exposition format 0.0.4) or as JSON.
 * HELP and TYPE come from the table of metrics.
 */
import type { Snapshot } from "../pipeline/snapshot.ts";
import { metricOf } from "./metric-table.ts";
import type { HttpMetrics } from "./metrics.ts";

/** One metric with its samples. A name that the table lacks has neither HELP nor TYPE, and a test fails. */
function block(name: string, lines: readonly string[]): string {
  const metric = metricOf(name);
  const samples = `${lines.join("\n")}\n`;
  if (metric === null) return samples;
  return `# HELP gateway_${name} ${metric.help}\n# TYPE gateway_${name} ${metric.type}\n${samples}`;
}

/** Escapes a label's value by the exposition format. */
function label(value: string): string {
  return value.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}

/** The gauges that only `http` knows. */
export interface HttpGauges {
  readonly http_bodies_in_flight_bytes: number;
  readonly http_responses_in_flight_bytes: number;
  readonly http_pending_requests: number;
}

/** The body of /metrics, text/plain; version=0.0.4. If the Snapshot and `http` both have a name, the value of `http` counts. */
export function prometheusText(snapshot: Snapshot, metrics: HttpMetrics, gauges: HttpGauges): string {
  const blocks: string[] = [];
  const info = `version="${label(snapshot.version)}",embedder="${label(snapshot.embedderName ?? "")}"`;
  blocks.push(block("info", [`gateway_info{${info}} 1`]));
  blocks.push(block("start_time_seconds", [`gateway_start_time_seconds ${snapshot.startedUs / 1e6}`]));
  const parts = Object.entries(snapshot.parts).map(
    ([part, { state }]) => `gateway_part_state{part="${part}",state="${state}"} 1`,
  );
  blocks.push(block("part_state", parts));
  const values = { ...snapshot.counters, ...metrics.counters(), ...snapshot.gauges, ...gauges };
  for (const [name, value] of Object.entries(values)) blocks.push(block(name, [`gateway_${name} ${value}`]));
  const requests = metrics
    .requests()
    .map(
      ({ route, status, count }) =>
        `gateway_http_requests_total{route="${route}",status="${status}"} ${count}`,
    );
  if (requests.length > 0) {
    blocks.push(block("http_requests_total", requests));
  }
  const refusals = metrics
    .refusals()
    .map(({ code, count }) => `gateway_refusals_total{code="${code}"} ${count}`);
  if (refusals.length > 0) {
    blocks.push(block("refusals_total", refusals));
  }
  blocks.push(block("ack_seconds", metrics.ackLatency.lines("gateway_ack_seconds")));
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
