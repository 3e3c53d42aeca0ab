/** How batches share the thread, and the rows that may wait for a commit. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { Gate, Turns } from "../../src/http/turns.ts";
import { FakeClock } from "../fake-clock.ts";

describe("turns", () => {
  test("are over after 4 ms", async () => {
    const clock = new FakeClock();
    const turns = new Turns(clock);
    await turns.next();
    await clock.advance(4);
    expect(turns.overdue()).toBeFalse();
    await clock.advance(0.1);
    expect(turns.overdue()).toBeTrue();
    await turns.next();
    expect(turns.overdue()).toBeFalse();
  });

  test("are given to one batch each, in the order of their requests", async () => {
    const turns = new Turns(new FakeClock());
    let eventLoopTurns = 0;
    let counting = true;
    const count = (): void => {
      eventLoopTurns++;
      if (counting) setImmediate(count);
    };
    const had: [batch: number, turn: number][] = [];
    const batches = [0, 1, 2].map(async (batch) => {
      await turns.next();
      had.push([batch, eventLoopTurns]);
    });
    setImmediate(count);
    await Promise.all(batches);
    counting = false;
    expect(had.map(([batch]) => batch)).toEqual([0, 1, 2]);
    expect(new Set(had.map(([, turn]) => turn)).size).toBe(3);
  });
});

describe("the gate", () => {
  test("lets a group of any size pass alone, and the next one only when there is room", async () => {
    const gate = new Gate();
    expect(gate.enter(1, 100 * 1024 * 1024)).toBeNull();
    let entered = false;
    const waiting = gate.enter(1, 1)?.then(() => {
      entered = true;
    });
    await Promise.resolve();
    expect(entered).toBeFalse();
    gate.leave(1, 100 * 1024 * 1024);
    await waiting;
    expect(entered).toBeTrue();
  });

  test("keeps the order: a small group does not overtake a large one that waits", async () => {
    const gate = new Gate();
    gate.enter(2000, 0);
    const order: string[] = [];
    const large = gate.enter(1000, 0)?.then(() => order.push("large"));
    const small = gate.enter(1, 0)?.then(() => order.push("small"));
    gate.leave(2000, 0);
    await Promise.all([large, small]);
    expect(order).toEqual(["large", "small"]);
  });

  test("never lets several groups exceed 2,048 events or 8 MiB, and lets every group pass at last", async () => {
    const group = fc.record({
      events: fc.integer({ min: 1, max: 1500 }),
      bytes: fc.integer({ min: 0, max: 6 * 1024 * 1024 }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(group, { minLength: 1, maxLength: 40 }), async (groups) => {
        const gate = new Gate();
        let inside: { events: number; bytes: number }[] = [];
        const work = groups.map(async (entry) => {
          await gate.enter(entry.events, entry.bytes);
          inside.push(entry);
          const events = inside.reduce((sum, { events }) => sum + events, 0);
          const bytes = inside.reduce((sum, { bytes }) => sum + bytes, 0);
          if (inside.length > 1) expect(events <= 2048 && bytes <= 8 * 1024 * 1024).toBeTrue();
          await new Promise((turn) => setImmediate(turn));
          inside = inside.filter((other) => other !== entry);
          gate.leave(entry.events, entry.bytes);
        });
        await Promise.all(work);
        expect(inside).toEqual([]);
      }),
      { numRuns: 50 },
    );
  });
});
