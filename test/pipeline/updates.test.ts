/** What is written and returned about an event after its frame. */
import { expect, test } from "bun:test";
import { GatewayError } from "../../src/errors.ts";
import { decodePhysics } from "../../src/frame.ts";
import type { DecidedFrame, Journal } from "../../src/journal/journal.ts";
import { withUnderstanding } from "../../src/pipeline/frames.ts";
import { type Latest, Updates } from "../../src/pipeline/updates.ts";
import type { DecidedRow } from "../../src/store/protocol.ts";
import { FakeClock } from "../fake-clock.ts";
import { draftsOf, openJournal, outcomeOf, UNKNOWN } from "./fixtures.ts";
import { hashing, vectorFor } from "./simulation/models.ts";

const SAID = { ...UNKNOWN, intent: "Cancel", intentFrom: "llm", confidence: 0.5 } as const;

/** Events 1 to 3, of which 1 and 2 have frames. */
async function around() {
  const clock = new FakeClock();
  const journal = await openJournal(clock, 3);
  await journal.decide((await draftsOf(clock, 1, 2)).map(({ decided }) => decided));
  const state = {
    failures: 0,
    stored: [] as DecidedRow[],
    json: null as string | null,
    storeIsOpen: true,
    readsFail: false,
  };
  const told: number[] = [];
  const written: DecidedFrame[] = [];
  const facade: Pick<Journal, "eventsAt" | "updateOf" | "frameOf" | "update" | "headAnswerId"> = {
    eventsAt: (seqs) => journal.eventsAt(seqs),
    updateOf: (seq) => journal.updateOf(seq),
    frameOf: (seq) => {
      if (state.readsFail) throw new Error("the journal cannot be read");
      return journal.frameOf(seq);
    },
    headAnswerId: () => journal.headAnswerId(),
    update: async (rows) => {
      if (state.failures-- > 0)
        throw new GatewayError({
          code: "disk_full",
          operation: "journal: update",
          object: "x",
          detail: "full",
        });
      return journal.update(rows);
    },
  };
  const updates = new Updates({
    journal: facade,
    store: () =>
      !state.storeIsOpen
        ? null
        : {
            decided: async (query) => ({
              rows: state.stored.filter(({ seq }) => "seqs" in query && query.seqs.includes(seq)),
              reachedSeq: 0,
            }),
            updates: (answerId) => told.push(answerId),
            event: async () => ({ json: state.json, lag: 0 }),
          },
    hashing,
    textOf: (message, body) => message ?? new TextDecoder().decode(body),
    onWritten: (row) => written.push(row),
    clock,
    log: () => {},
  });
  return { clock, journal, state, told, written, updates };
}

const rowOf = (latest: Latest | null): DecidedFrame => withUnderstanding((latest as Latest).row, SAID, 5);

test("the newest row of an event is its newest update, else its frame, else nothing", async () => {
  const { journal, updates } = await around();
  using _journal = journal;
  const latest = await updates.latest(1);
  expect([latest?.row.intent, latest?.message]).toEqual([null, "message 1"]);
  await updates.write([{ latest: latest as Latest, row: rowOf(latest) }]);
  expect((await updates.latest(1))?.row.intent).toBe("Cancel");
  expect([await updates.latest(3), await updates.latest(99)]).toEqual([null, null]);
});

test("an update carries its vector, is told to the store, and counts", async () => {
  const { journal, updates, told, written } = await around();
  using _journal = journal;
  const latest = await updates.latest(2);
  expect(latest?.row.vector).toBeNull();
  await updates.write([{ latest: latest as Latest, row: rowOf(latest) }]);
  expect(journal.updateOf(2)?.vector).toEqual(vectorFor(hashing.name, "message 2"));
  expect([told, updates.written, written.map(({ seq }) => seq)]).toEqual([[1], 1, [2]]);
});

test("a journal that cannot write is tried again, until the end gives up", async () => {
  const { clock, journal, state, updates } = await around();
  using _journal = journal;
  const latest = (await updates.latest(1)) as Latest;
  state.failures = 3;
  const first = outcomeOf(updates.write([{ latest, row: rowOf(latest) }]));
  await clock.advance(50 + 100 + 199);
  expect([first.settled, journal.headAnswerId()]).toEqual([false, 0]);
  await clock.advance(1);
  expect([first.value, journal.headAnswerId()]).toEqual([true, 1]);
  state.failures = 1000;
  const second = outcomeOf(updates.write([{ latest, row: rowOf(latest) }]));
  await clock.settle();
  updates.stop();
  await clock.advance(5000);
  expect([second.value, second.error, journal.headAnswerId()]).toEqual([false, null, 1]);
});

test("an event that has left the journal is read from the store, under its newer update", async () => {
  const { clock, journal, state, updates } = await around();
  using _journal = journal;
  const frame = journal.frameOf(1) as DecidedFrame;
  journal.prune({ seq: 2, frameId: 2, answerId: 0 });
  expect(await updates.latest(1)).toBeNull();
  state.stored = [{ ...frame, message: "message 1", payload: "", physics: decodePhysics(frame.physics) }];
  const latest = (await updates.latest(1)) as Latest;
  expect([latest.row.intent, latest.message]).toEqual([null, "message 1"]);
  await updates.write([{ latest, row: rowOf(latest) }]);
  expect((await updates.latest(1))?.row.intent).toBe("Cancel");
  state.json = JSON.stringify({ event_type: "Order", enrichment: { frame_id: 1, intent: "Cancel" } });
  expect(await updates.stored(1)).toMatchObject({ event_type: "Order", frame_id: 1, intent: "Cancel" });
  state.json = JSON.stringify({ event_type: "Order", enrichment: null });
  expect(await updates.stored(1)).toBeNull();
  expect(clock.pending).toBe(0);
});

test("only one piece of work runs at a time, and a failure does not stop the next", async () => {
  const { clock, journal, updates } = await around();
  using _journal = journal;
  const order: string[] = [];
  const first = outcomeOf(
    updates.alone(async () => {
      order.push("first begins");
      await clock.sleep(10);
      order.push("first ends");
      throw new Error("no");
    }),
  );
  const second = outcomeOf(updates.alone(async () => order.push("second")));
  await clock.advance(10);
  expect(order).toEqual(["first begins", "first ends", "second"]);
  expect([first.error, second.value]).toEqual([new Error("no"), 3]);
});

test("whoever waits for an event resolves at tell, or after the time, to what is known by then", async () => {
  const { clock, journal, updates } = await around();
  using _journal = journal;
  const told = outcomeOf(updates.wait(1, 1000));
  const late = outcomeOf(updates.wait(1, 5000));
  const never = outcomeOf(updates.wait(3, 100));
  expect(updates.waitedFor()).toEqual([1, 3]);
  await clock.advance(500);
  expect([told.settled, never.value, never.settled]).toEqual([false, null, true]);
  updates.tell(1);
  updates.tell(2);
  await clock.settle();
  expect([told.value?.frame_id, late.value?.frame_id, updates.waitedFor()]).toEqual([1, 1, []]);
  expect([updates.known(2)?.frame_id, updates.known(3), clock.pending]).toEqual([2, null, 0]);
});

test("if the journal cannot be read, whoever waits hears of it, and whoever tells goes on", async () => {
  const { clock, journal, state, updates } = await around();
  using _journal = journal;
  const told = outcomeOf(updates.wait(1, 5000));
  const late = outcomeOf(updates.wait(2, 100));
  state.readsFail = true;
  updates.tell(1);
  await clock.advance(100);
  expect([told.error, late.error]).toMatchObject([
    { message: "the journal cannot be read" },
    { message: "the journal cannot be read" },
  ]);
  expect([updates.waitedFor(), clock.pending]).toEqual([[], 0]);
});

test("the pauses between the tries of a write double up to 5 s", async () => {
  const { clock, journal, state, updates } = await around();
  using _journal = journal;
  const latest = (await updates.latest(1)) as Latest;
  state.failures = 9;
  const write = outcomeOf(updates.write([{ latest, row: rowOf(latest) }]));
  await clock.advance(50 + 100 + 200 + 400 + 800 + 1600 + 3200 + 5000 + 4999);
  expect([write.settled, state.failures]).toEqual([false, 0]);
  await clock.advance(1);
  expect([write.settled, journal.headAnswerId()]).toEqual([true, 1]);
});

test("without a store updates are written, and what only the store has is unknown", async () => {
  const { journal, state, told, updates } = await around();
  using _journal = journal;
  state.storeIsOpen = false;
  const latest = (await updates.latest(2)) as Latest;
  await updates.write([{ latest, row: rowOf(latest) }]);
  expect([journal.headAnswerId(), told, await updates.stored(2)]).toEqual([1, [], null]);
  journal.prune({ seq: 2, frameId: 2, answerId: 0 });
  expect(await updates.latest(1)).toBeNull();
});

test("the vector of an event without message that has left the journal is that of its body", async () => {
  const { journal, state, updates } = await around();
  using _journal = journal;
  const frame = journal.frameOf(1) as DecidedFrame;
  journal.prune({ seq: 2, frameId: 2, answerId: 0 });
  const payload = '{"pedido":17,"situação":"pago"}';
  state.stored = [{ ...frame, message: null, payload, physics: decodePhysics(frame.physics) }];
  const latest = (await updates.latest(1)) as Latest;
  await updates.write([{ latest, row: rowOf(latest) }]);
  expect(journal.updateOf(1)?.vector).toEqual(vectorFor(hashing.name, payload));
});
