/** /health, /ready, /metrics and /api/config: the state of the gateway. */
import type { Snapshot } from "../pipeline/snapshot.ts";
import type { Handled, Refused, RouteRequest } from "./contract.ts";
import { type HttpGauges, metricsJson, prometheusText } from "./exposition.ts";
import type { HttpMetrics } from "./metrics.ts";
import { RETRY_AFTER_SECONDS } from "./problems.ts";

export interface StateReadsOptions {
  readonly snapshot: () => Snapshot;
  /** Its counters and gauges are added to those of the pipeline's Snapshot. */
  readonly chat: Pick<Snapshot, "counters" | "gauges">;
  readonly metrics: HttpMetrics;
  readonly gauges: () => HttpGauges;
  /** Why no event can be accepted now; null if it can. */
  readonly admission: () => Refused | null;
  /** The body of /api/config: secrets masked. */
  readonly describeConfig: () => unknown;
}

export class StateReads {
  readonly #o: StateReadsOptions;

  constructor(options: StateReadsOptions) {
    this.#o = options;
  }

  health(): Handled {
    return { body: '{"status":"ok"}' };
  }

  /** Ready means that an event would be accepted now. The state of each part behind that is in the body. */
  ready(): Handled {
    const { parts } = this.#o.snapshot();
    const refused = this.#o.admission();
    if (refused === null && parts.journal.state !== "down")
      return { body: JSON.stringify({ status: "ready", parts }) };
    const { code, detail } = refused ?? { code: "journal_failed", detail: parts.journal.detail };
    return {
      status: 503,
      headers: { "retry-after": String(refused?.retryAfterSeconds ?? RETRY_AFTER_SECONDS) },
      body: JSON.stringify({ status: "not ready", code, detail, parts }),
    };
  }

  config(): Handled {
    return { body: JSON.stringify(this.#o.describeConfig()) };
  }

  metrics({ accept }: RouteRequest): Handled {
    const { metrics, chat } = this.#o;
    const known = this.#o.snapshot();
    const snapshot = {
      ...known,
      counters: { ...known.counters, ...chat.counters },
      gauges: { ...known.gauges, ...chat.gauges },
    };
    const headers = { vary: "Accept" };
    const gauges = this.#o.gauges();
    if (accept.includes("application/json")) return { headers, body: metricsJson(snapshot, metrics, gauges) };
    const type = "text/plain; version=0.0.4; charset=utf-8";
    return { headers, type, body: prometheusText(snapshot, metrics, gauges) };
  }
}
