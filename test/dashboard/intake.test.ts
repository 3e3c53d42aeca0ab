import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { Intake, LOOK_EVENTS_MAX, type Look, newest } from "../../src/dashboard/intake.ts";
import { FakeClock } from "../fake-clock.ts";
import { draft, event, events } from "./fixtures.ts";

const seed = Number(process.env.FC_SEED ?? Date.now() % 1e9);
console.log(`dashboard/intake: FC_SEED=${seed}`);

const UPDATE = { type: null, intent: "compra", sentiment: null };

function open() {
  const clock = new FakeClock();
  const looks: Look[] = [];
  const intake = new Intake(clock, (look) => void looks.push(look));
  return { clock, looks, intake };
}

const seqs = (look: Look | undefined): number[] => (look?.events ?? []).map(({ seq }) => seq);

describe("intake", () => {
  test("what is reported within a tenth of a second comes in one look", async () => {
    const { clock, looks, intake } = open();
    intake.committed(events(1, 2));
    await clock.advance(50);
    intake.committed(events(3, 3));
    intake.decided(10, [draft(event(1))]);
    intake.updated(1, UPDATE);
    await clock.advance(49);
    expect(looks).toEqual([]);
    await clock.advance(1);
    expect(looks.map(seqs)).toEqual([[1, 2, 3]]);
    expect(looks[0]?.decisions.map(([firstFrameId]) => firstFrameId)).toEqual([10]);
    expect([...(looks[0]?.updates ?? [])]).toEqual([[1, UPDATE]]);
    expect(clock.pending).toBe(0);
    intake.committed(events(4, 4));
    await clock.advance(100);
    expect(looks.map(seqs)).toEqual([[1, 2, 3], [4]]);
    expect(looks[1]?.decisions).toEqual([]);
    expect(looks[1]?.updates.size).toBe(0);
  });

  test("a look has the newest events only, and after one that dropped some the next pause is five times as long", async () => {
    const { clock, looks, intake } = open();
    for (let from = 1; from <= 5000; from += 100) intake.committed(events(from, from + 99));
    await clock.advance(100);
    expect(seqs(looks[0])).toEqual(Array.from({ length: LOOK_EVENTS_MAX }, (_, index) => 4489 + index));
    intake.committed(events(5001, 5001));
    await clock.advance(499);
    expect(looks.length).toBe(1);
    await clock.advance(1);
    expect(looks.length).toBe(2);
    intake.committed(events(5002, 5002));
    await clock.advance(100);
    expect(looks.length).toBe(3);
  });

  test("one batch that is larger than a look gives its newest events", async () => {
    const { clock, looks, intake } = open();
    intake.committed(events(1, 2000));
    await clock.advance(100);
    expect(seqs(looks[0]).length).toBe(LOOK_EVENTS_MAX);
    expect(seqs(looks[0]).at(-1)).toBe(2000);
  });

  test("decided frames are bounded; the oldest decisions are dropped", async () => {
    const { clock, looks, intake } = open();
    const drafts = Array.from({ length: 256 }, (_, index) => draft(event(index + 1)));
    for (let round = 0; round < 20; round++) intake.decided(1 + 256 * round, drafts);
    await clock.advance(100);
    expect(looks[0]?.decisions.map(([firstFrameId]) => firstFrameId)).toEqual(
      [16, 17, 18, 19].map((round) => 1 + 256 * round),
    );
  });

  test("the newest update of an event counts, and updates are bounded", async () => {
    const { clock, looks, intake } = open();
    intake.updated(1, UPDATE);
    for (let seq = 2; seq <= LOOK_EVENTS_MAX; seq++) intake.updated(seq, UPDATE);
    intake.updated(1, { ...UPDATE, intent: "desconto" });
    intake.updated(600, UPDATE);
    await clock.advance(100);
    const updates = looks[0]?.updates ?? new Map();
    expect(updates.size).toBe(LOOK_EVENTS_MAX);
    expect(updates.get(1)).toEqual({ ...UPDATE, intent: "desconto" });
    expect([updates.has(2), updates.has(600)]).toEqual([false, true]);
  });

  test("a stopped intake never looks", async () => {
    const { clock, looks, intake } = open();
    intake.committed(events(1, 1));
    intake[Symbol.dispose]();
    intake.committed(events(2, 2));
    await clock.advance(10_000);
    expect(looks).toEqual([]);
  });

  test("newest keeps the last items of all lists in their order", () => {
    const lists = fc.array(fc.array(fc.integer(), { maxLength: 8 }), { maxLength: 8 });
    fc.assert(
      fc.property(lists, fc.integer({ min: 1, max: 20 }), (all, max) => {
        expect(newest(all, max)).toEqual(all.flat().slice(-max));
      }),
      { seed },
    );
  });
});
