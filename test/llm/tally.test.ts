import { expect, test } from "bun:test";
import { Tally } from "../../src/llm/tally.ts";

test("failures are counted by reason and together", () => {
  const tally = new Tally();
  tally.calls = 4;
  tally.corrections = 1;
  tally.succeeded(5);
  for (const reason of ["timeout", "invalid", "timeout"]) tally.failed(reason);
  expect(tally.counters).toEqual({
    llm_calls_total: 4,
    llm_answers_total: 1,
    llm_corrections_total: 1,
    llm_failed_timeout_total: 2,
    llm_failed_invalid_total: 1,
    llm_failures_total: 3,
  });
});

test("latencies are those of the newest 64 answers", () => {
  const tally = new Tally();
  expect(tally.gauges).toEqual({ llm_latency_p50_ms: 0, llm_latency_max_ms: 0 });
  tally.succeeded(9999);
  for (let ms = 64; ms >= 1; ms--) tally.succeeded(ms);
  expect(tally.gauges).toEqual({ llm_latency_p50_ms: 33, llm_latency_max_ms: 64 });
});
