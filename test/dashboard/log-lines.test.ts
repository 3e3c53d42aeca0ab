import { expect, test } from "bun:test";
import { LogLines } from "../../src/dashboard/log-lines.ts";
import { NOW_US } from "./fixtures.ts";

test("log lines and their lengths are bounded, and the newest stay", () => {
  const log = new LogLines();
  for (let line = 1; line <= 1200; line++) {
    log.add(NOW_US + line, "info", `${line} ${"x".repeat(5000)}`);
    expect(log.lines.length).toBeLessThanOrEqual(500);
  }
  expect(log.lines.length).toBeGreaterThanOrEqual(250);
  expect(log.lines.at(-1)).toMatchObject({ timeUs: NOW_US + 1200, level: "info" });
  expect(log.lines.at(-1)?.message).toStartWith("1200 ");
  expect(log.lines.at(-1)?.message.length).toBe(2000);
});

test("warnings and errors are unseen until the drawer is opened", () => {
  const log = new LogLines();
  for (const level of ["debug", "info", "warn", "error"] as const) log.add(NOW_US, level, "m");
  expect(log.unseen).toBe(2);
  log.seen();
  expect([log.unseen, log.lines.length]).toEqual([0, 4]);
});
