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
  /** Whether the sender of a request may see more than the states of parts: their details name paths and addresses. */
  readonly seesDetails: (headers: Headers) => boolean;
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

  /**
   * Ready means that an event would be accepted now. The state of each part behind that is in the body, and its details, if
   * the sender may see them.
   */
  ready({ req }: Pick<RouteRequest, "req">): Handled {
    const seesDetails = this.#o.seesDetails(req.headers);
    const known = this.#o.snapshot().parts;
    const parts = seesDetails ? known : withoutDetails(known);
    const refused = this.#o.admission();
    if (refused === null && known.journal.state !== "down")
      return { body: JSON.stringify({ status: "ready", parts }) };
    const { code, detail } = refused ?? { code: "journal_failed", detail: known.journal.detail };
    const shown = seesDetails ? detail : "send the token to see details";
    return {
      status: 503,
      headers: { "retry-after": String(refused?.retryAfterSeconds ?? RETRY_AFTER_SECONDS) },
      body: JSON.stringify({ status: "not ready", code, detail: shown, parts }),
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

function withoutDetails(parts: Snapshot["parts"]): Snapshot["parts"] {
  const bare = Object.entries(parts).map(([name, { state }]) => [name, { state, detail: "" }]);
  return Object.fromEntries(bare) as Snapshot["parts"];
}
