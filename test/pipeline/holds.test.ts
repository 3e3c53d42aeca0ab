/** Which events wait for the model and which do not: the order of a conversation, and the bounds. */
import { expect, test } from "bun:test";
import fc from "fast-check";
import type { Known, Understanding } from "../../src/brain/brain.ts";
import type { JournalEvent } from "../../src/journal/journal.ts";
import { Holds } from "../../src/pipeline/holds.ts";
import type { Item } from "../../src/pipeline/work.ts";
import { FakeClock } from "../fake-clock.ts";

const NOTHING: Understanding = {
  ...{ type: null, typeFrom: null, intent: null, intentFrom: null },
  ...{ confidence: 0, sentiment: null, sentimentFrom: null },
};
const ANSWERED: Known = {
  understanding: { ...NOTHING, intent: "Answered", intentFrom: "llm" },
  question: null,
};

function item(seq: number, conversationId: string | null, bodyBytes = 2): Item {
  const event: JournalEvent = {
    ...{ seq, receivedUs: 0, id: "", type: null, message: "m", conversationId },
    ...{ timestampUs: null, fields: null, body: new Uint8Array(bodyBytes) },
  };
  return { event, vector: null, known: { understanding: NOTHING, question: "message" } };
}

function waiting(frameWaitMs = 60_000) {
  const told = { ready: 0, vain: 0 };
  const clock = new FakeClock();
  const held = new Holds({ frameWaitMs, clock, onReady: () => told.ready++, onVain: () => told.vain++ });
  return { held, told, clock };
}

const seqs = (items: readonly Item[]): number[] => items.map(({ event }) => event.seq);

test("frames keep the order of their conversation whenever replies come, and each event is taken once", () => {
  const step = fc.oneof(
    {
      weight: 5,
      arbitrary: fc.record({ kind: fc.constant("admit" as const), of: fc.nat(3), waits: fc.boolean() }),
    },
    {
      weight: 3,
      arbitrary: fc.record({ kind: fc.constantFrom("reply" as const, "release" as const), at: fc.nat() }),
    },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant("take" as const) }) },
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      const { held } = waiting();
      const taken: Item[] = [];
      const replied = new Set<number>();
      let seq = 0;
      for (const one of steps) {
        if (one.kind === "admit") held.admit(item(++seq, one.of === 0 ? null : `c${one.of}`), one.waits);
        else if (one.kind === "take") taken.push(...held.take());
        else if (seq > 0) {
          const at = 1 + (one.at % seq);
          if (one.kind === "release") held.release(at);
          else if (held.replied(at, ANSWERED)) replied.add(at);
        }
        expect(held.held).toBe(seq - taken.length);
      }
      held.releaseAll();
      taken.push(...held.take());
      expect(seqs(taken).sort((a, b) => a - b)).toEqual(Array.from({ length: seq }, (_, index) => index + 1));
      for (const id of ["c1", "c2", "c3"]) {
        const own = seqs(taken.filter(({ event }) => event.conversationId === id));
        expect(own).toEqual([...own].sort((a, b) => a - b));
      }
      for (const { event, known } of taken) expect(known === ANSWERED).toBe(replied.has(event.seq));
      expect([held.held, held.frames]).toEqual([0, 0]);
    }),
  );
});

test("an event that waits holds back neither other conversations nor events without one", () => {
  const { held } = waiting();
  held.admit(item(1, "a"), true);
  held.admit(item(2, "a"), false);
  held.admit(item(3, "b"), false);
  held.admit(item(4, null), true);
  held.admit(item(5, null), false);
  expect(seqs(held.take())).toEqual([3, 5]);
  expect(held.frames).toBe(2);
  held.replied(1, ANSWERED);
  expect(seqs(held.take())).toEqual([1, 2]);
});

test("a frame waits no longer than its time, and a reply that comes while it stands behind others still counts", async () => {
  const { held, told, clock } = waiting(30);
  held.admit(item(1, "a"), true);
  await clock.advance(20);
  held.admit(item(2, "a"), true);
  await clock.advance(10);
  expect(told.vain).toBe(1);
  const [first] = held.take();
  expect([first?.event.seq, first?.known.question]).toEqual([1, "message"]);
  expect(held.replied(1, ANSWERED)).toBe(false);
  expect(held.replied(2, ANSWERED)).toBe(true);
  expect(held.take().map(({ known }) => known)).toEqual([ANSWERED]);
  await clock.advance(1000);
  expect(told).toEqual({ ready: 1, vain: 1 });
});

test("beyond the bound in events or in bytes no event waits any longer", () => {
  for (const [count, bodyBytes] of [
    [1024, 2],
    [15, 1024 * 1024],
  ] as const) {
    const { held } = waiting();
    held.admit(item(1, "a", bodyBytes), true);
    for (let seq = 2; seq <= count; seq++) held.admit(item(seq, "a", bodyBytes), false);
    expect(held.take()).toEqual([]);
    held.admit(item(count + 1, "a", bodyBytes * 2), false);
    expect(held.take()).toHaveLength(count + 1);
    expect(held.frames).toBe(0);
  }
});
