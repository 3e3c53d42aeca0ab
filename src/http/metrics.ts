/** What `http` counts itself. Counting is nothing but additions, because it is part of the hot path. */
import type { ErrorCode } from "../errors.ts";

/** The upper bound of bucket i is 0.1 ms × 2^i, so the last of 19 bounds is 26 s. One more bucket has no bound. */
const BUCKET_BOUNDS = 19;

/** Counts durations in buckets, each twice as wide as the one before. An observation takes a few ns. */
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

  /** Upper bound in ms of the bucket in which the given share (0 to 1) of the observations ends; 0 without observations. */
  quantileMs(share: number): number {
    const target = this.count * share;
    let seen = 0;
    for (let bucket = 0; bucket <= BUCKET_BOUNDS && target > 0; bucket++) {
      seen += this.#counts[bucket] as number;
      if (seen >= target) return 0.1 * 2 ** bucket;
    }
    return 0;
  }

  /** A copy of the buckets, to compare with a later one. */
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

/** The counters of `http`. An event is counted when its transaction has committed. */
export class HttpMetrics {
  acceptedEvents = 0;
  duplicateEvents = 0;
  rejectedEvents = 0;
  ignoredFields = 0;
  /** Bytes of request bodies that were read. */
  bodyBytes = 0;
  /** Requests whose client closed the connection before the response. */
  aborted = 0;
  /** Responses that were ended because their clients took nothing. */
  stuckClients = 0;
  /** How often connections had taken all file descriptors. */
  descriptorExhaustions = 0;
  /** Of single events, from the head of the request to its acknowledgement. */
  readonly ackLatency = new LatencyHistogram();
  readonly #routeNames: readonly string[];
  /** Row: route; column: the status' first digit. */
  readonly #requests: Float64Array;
  readonly #refusals = new Map<ErrorCode, number>();

  /** @param routeNames the names under which requests are counted. */
  constructor(routeNames: readonly string[]) {
    this.#routeNames = routeNames;
    this.#requests = new Float64Array(routeNames.length * 6);
  }

  /** @param route its index among the names. */
  request(route: number, status: number): void {
    const at = route * 6 + ((status / 100) | 0);
    this.#requests[at] = (this.#requests[at] as number) + 1;
  }

  refusal(code: ErrorCode): void {
    this.#refusals.set(code, (this.#refusals.get(code) ?? 0) + 1);
  }

  /** By name without prefix, as in the Snapshot's counters. */
  counters(): Record<string, number> {
    return {
      accepted_events_total: this.acceptedEvents,
      duplicate_events_total: this.duplicateEvents,
      rejected_events_total: this.rejectedEvents,
      ignored_fields_total: this.ignoredFields,
      http_body_bytes_total: this.bodyBytes,
      http_aborted_requests_total: this.aborted,
      http_stuck_clients_total: this.stuckClients,
      http_descriptor_exhaustions_total: this.descriptorExhaustions,
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
