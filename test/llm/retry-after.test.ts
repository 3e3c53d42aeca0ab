import { expect, test } from "bun:test";
import { retryAfterMs } from "../../src/llm/retry-after.ts";

const NOW_MS = Date.parse("2026-03-01T10:00:00Z");

test.each([
  ["7", 7000],
  [" 7 ", 7000],
  ["0", null],
  ["0.0", null],
  ["-5", null],
  ["NaN", null],
  ["Infinity", null],
  ["1e9", null],
  ["99999999999", null],
  ["2026-03-01T10:00:05Z", null],
  ["5 apples", null],
  ["0.3", 300],
  ["86400", 86_400_000],
  ["Sun, 01 Mar 2026 10:00:05 GMT", 5000],
  ["Sun, 01 Mar 2026 09:00:00 GMT", null],
  ["Sun, 01 Mar 2099 09:00:00 GMT", null],
  ["soon", null],
  ["", null],
  [" ", null],
  [null, null],
])("Retry-After %p means %p ms", (header, ms) => {
  expect(retryAfterMs(header, NOW_MS)).toBe(ms);
});
