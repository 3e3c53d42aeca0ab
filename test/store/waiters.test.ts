import { expect, test } from "bun:test";
import { GatewayError } from "../../src/errors.ts";
import { Waiters } from "../../src/store/waiters.ts";
import { EVERYTHING } from "./test-journal.ts";

/** Notes which of the named waiters have been settled, and how. */
function noted(waiters: Waiters, targets: Record<string, Parameters<Waiters["reached"]>[0]>): string[] {
  const settled: string[] = [];
  for (const [name, target] of Object.entries(targets)) {
    waiters.reached(target, EVERYTHING).then(
      () => settled.push(name),
      (error) => settled.push(`${name}: ${error.code}`),
    );
  }
  return settled;
}

test("whoever waits for what is stored already does not wait", async () => {
  const waiters = new Waiters();
  await waiters.reached({ seq: 3, frameId: 0, answerId: 1 }, { seq: 3, frameId: 7, answerId: 1 });
  expect(waiters.count).toBe(0);
});

test("a waiter resolves when all three cursors reach its target, not before", async () => {
  const waiters = new Waiters();
  const settled = noted(waiters, {
    event: { seq: 2, frameId: 0, answerId: 0 },
    frame: { seq: 2, frameId: 5, answerId: 0 },
    update: { seq: 2, frameId: 5, answerId: 1 },
  });
  for (const [cursors, expected] of [
    [{ seq: 1, frameId: 9, answerId: 9 }, []],
    [{ seq: 2, frameId: 4, answerId: 9 }, ["event"]],
    [{ seq: 9, frameId: 5, answerId: 0 }, ["event", "frame"]],
    [{ seq: 9, frameId: 9, answerId: 1 }, ["event", "frame", "update"]],
  ] as const) {
    waiters.wake(cursors);
    await Promise.resolve();
    expect(settled).toEqual([...expected]);
    expect(waiters.count).toBe(3 - expected.length);
  }
});

test("a failure rejects everybody who waits", async () => {
  const waiters = new Waiters();
  const settled = noted(waiters, {
    first: { seq: 1, frameId: 0, answerId: 0 },
    second: { seq: 0, frameId: 0, answerId: 1 },
  });
  waiters.fail(
    new GatewayError({ code: "store_failed", operation: "store: write", object: "x", detail: "y" }),
  );
  expect(waiters.count).toBe(0);
  await Promise.resolve();
  expect(settled).toEqual(["first: store_failed", "second: store_failed"]);
});
