import { expect, test } from "bun:test";
import { deserialiseError, GatewayError, serialiseError } from "../src/errors.ts";

const FULL = {
  code: "disk_full",
  operation: "store: write",
  object: "/tmp/events.duckdb",
  detail: "no space left",
  hint: "free some disk space",
  retryAfterMs: 1500,
} as const;

test("an error that crosses threads keeps everything but its cause", () => {
  const sent = new GatewayError({ ...FULL, cause: () => "a function cannot be cloned" });
  const received = deserialiseError(structuredClone(serialiseError(sent)));
  expect(received).toBeInstanceOf(GatewayError);
  expect({ ...received, message: received.message }).toEqual({ ...sent, message: sent.message });
  expect(received.cause).toBeUndefined();
});

test("an error without hint and pause arrives without them", () => {
  const { hint: _hint, retryAfterMs: _pause, ...rest } = FULL;
  const received = deserialiseError(structuredClone(serialiseError(new GatewayError(rest))));
  expect([received.hint, received.retryAfterMs]).toEqual([undefined, null]);
  expect(received.message).toBe("store: write /tmp/events.duckdb: no space left");
});
