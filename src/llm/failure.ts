/** Why a question failed, and how much that counts against the endpoint. */
import type { EndpointFailure } from "./endpoint-contract.ts";

/** How long to wait after a 429 without Retry-After. */
const RATE_LIMIT_MS = 1000;

export interface Failure {
  /** One word, as in the metrics. */
  readonly reason: string;
  readonly detail: string;
  /** Whether the same question may succeed later. */
  readonly retryable: boolean;
  /** How much it counts against the endpoint in the breaker: 1 is one failure, 0 is none. */
  readonly weight: number;
  readonly retryAfterMs: number | null;
  /** The error status of the response; null for other failures. */
  readonly status: number | null;
}

export type Outcome<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly failure: Failure };

export function failure(reason: string, detail: string, more: Partial<Failure> = {}): Failure {
  return { reason, detail, retryable: true, weight: 1, retryAfterMs: null, status: null, ...more };
}

export const STOPPED = failure("stopped", "the gateway stops", { weight: 0 });
export const NO_BUDGET = failure("budget", "today's calls are used up", { weight: 0 });

/** Turns a failure of the endpoint into its meaning for the question and for the breaker. */
export function judged(failed: EndpointFailure): Failure {
  switch (failed.kind) {
    case "cancelled":
      return failure("cancelled", "the caller cancelled it", { weight: 0 });
    case "not_json":
      return failure("no_completion", failed.detail);
    case "status":
      // An error that nothing says more about may pass.
      return failed.status === null
        ? failure("server_error", failed.detail, { retryAfterMs: failed.retryAfterMs })
        : judgedByStatus(failed, failed.status);
    case "timeout":
    case "too_large":
    case "unreachable":
      return failure(failed.kind, failed.detail);
  }
}

function judgedByStatus({ detail, retryAfterMs }: EndpointFailure, status: number): Failure {
  if (status === 429) {
    return failure("rate_limited", detail, { status, retryAfterMs: retryAfterMs ?? RATE_LIMIT_MS });
  }
  if (status >= 500) return failure("server_error", detail, { status, retryAfterMs });
  // A wrong key or model does not correct itself within a few calls, so these count for more than one failure.
  if (status === 401 || status === 403) {
    return failure("unauthorized", `${detail}; see --llm-api-key`, { status, weight: 3 });
  }
  // An account without credit, and a server that is busy with itself.
  if (status === 402) return failure("refused", detail, { status, weight: 3 });
  if ([408, 409, 425].includes(status)) return failure("server_error", detail, { status, retryAfterMs });
  if (status === 404) return failure("not_found", `${detail}; see --llm-model`, { status, weight: 1.5 });
  return failure("refused", detail, { status, retryable: false, weight: 0.6 });
}
