import { expect, test } from "bun:test";
import type { EndpointFailure } from "../../src/llm/endpoint-contract.ts";
import { judged } from "../../src/llm/failure.ts";

function failed(kind: EndpointFailure["kind"], more: Partial<EndpointFailure> = {}): EndpointFailure {
  return { kind, detail: "so it went", status: null, retryAfterMs: null, cause: null, ...more };
}

test.each([
  [429, null, { reason: "rate_limited", retryAfterMs: 1000, weight: 1, retryable: true }],
  [429, 7000, { reason: "rate_limited", retryAfterMs: 7000 }],
  [500, null, { reason: "server_error", retryAfterMs: null, weight: 1, retryable: true }],
  [503, 7000, { reason: "server_error", retryAfterMs: 7000 }],
  [401, null, { reason: "unauthorized", weight: 3, detail: "so it went; see --llm-api-key" }],
  [403, null, { reason: "unauthorized", weight: 3 }],
  [
    404,
    7000,
    { reason: "not_found", weight: 1.5, retryAfterMs: null, detail: "so it went; see --llm-model" },
  ],
  [400, null, { reason: "refused", weight: 0.6, retryable: false }],
])("status %p with a Retry-After of %p ms has its reason and weight", (status, retryAfterMs, expected) => {
  expect(judged(failed("status", { status, retryAfterMs }))).toMatchObject({ status, ...expected });
});

test("a cancelled call counts nothing against the endpoint", () => {
  expect(judged(failed("cancelled"))).toMatchObject({ reason: "cancelled", weight: 0 });
});

test("a failure without a readable response counts in full, and has no status that could blame the form", () => {
  for (const [kind, reason] of [
    ["timeout", "timeout"],
    ["too_large", "too_large"],
    ["unreachable", "unreachable"],
    ["not_json", "no_completion"],
  ] as const) {
    const expected = { reason, detail: "so it went", weight: 1, retryable: true, status: null };
    expect(judged(failed(kind, { status: 200 }))).toMatchObject(expected);
  }
});
