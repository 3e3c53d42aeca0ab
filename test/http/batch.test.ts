/** How the events of a batch reach the journal in groups, and what the batch's response says. */
import { expect, test } from "bun:test";
import { type Outcome, parseEvent } from "../../src/event/event.ts";
import { type Appended, Batch } from "../../src/http/batch.ts";
import { HttpMetrics } from "../../src/http/metrics.ts";
import { Gate } from "../../src/http/turns.ts";
import type { Refusal } from "../../src/pipeline/snapshot.ts";

const outcomeOf = (json: string): Outcome => parseEvent(new TextEncoder().encode(json));

/** A batch in front of a journal that commits when the test says so. */
function setUp(o: { readonly errorsMax?: number } = {}) {
  const appends: { readonly size: number; commit(): void; fail(error: unknown): void }[] = [];
  let seq = 0;
  const state = { refusal: null as Refusal | null };
  const metrics = new HttpMetrics([]);
  const batch = new Batch({
    given: { type: null, waits: false, keys: [], keysOnly: false },
    gate: new Gate(),
    metrics,
    errorsMax: o.errorsMax ?? 100,
    append: (events) => {
      const { promise, resolve, reject } = Promise.withResolvers<Appended[]>();
      const rows = events.map(({ key }) => ({
        seq: ++seq,
        id: "",
        duplicate: key === "idempotency_key:repeat",
      }));
      appends.push({ size: events.length, commit: () => resolve(rows), fail: reject });
      return promise;
    },
    admission: () => state.refusal,
    failed: (thrown) => ({ code: "internal", detail: String(thrown) }),
  });
  return { batch, appends, state, metrics };
}

test("a group is appended when it has 1,024 events or 1 MiB, and the rest at the end", async () => {
  const { batch, appends } = setUp();
  for (let index = 0; index < 2000; index++) await batch.add(outcomeOf("{}"), index);
  expect(appends.map(({ size }) => size)).toEqual([1024]);
  const large = outcomeOf(`{"m":"${"x".repeat(600_000)}"}`);
  await batch.add(large, 2000);
  await batch.add(large, 2001);
  expect(appends.map(({ size }) => size)).toEqual([1024, 978]);
  for (const append of appends) append.commit();
  await batch.add(outcomeOf("{}"), 2002);
  const ended = batch.end();
  appends.at(-1)?.commit();
  expect(JSON.parse((await ended) as string)).toMatchObject({ accepted: 2003, first_seq: 1, last_seq: 2003 });
});

test("a batch ends only when all its appends have committed", async () => {
  const { batch, appends } = setUp();
  await batch.add(outcomeOf("{}"), 0);
  let ended = false;
  const end = batch.end().then((result) => {
    ended = true;
    return result;
  });
  await new Promise((turn) => setImmediate(turn));
  expect([appends.length, ended]).toEqual([1, false]);
  appends[0]?.commit();
  expect(await end).toBeString();
});

test("the response counts new, repeated and refused events, and names a bounded number of errors", async () => {
  const { batch, appends, metrics } = setUp({ errorsMax: 1 });
  const bodies = ["{}", '{"idempotency_key":"repeat"}', "5", "6"];
  for (const [index, body] of bodies.entries()) batch.add(outcomeOf(body), index);
  const end = batch.end();
  await Promise.resolve();
  appends[0]?.commit();
  expect(JSON.parse((await end) as string)).toEqual({
    ...{ status: "received", accepted: 1, duplicates: 1, rejected: 2, first_seq: 1, last_seq: 1 },
    errors: [{ index: 2, code: "not_an_event", detail: "an event is a JSON object" }],
  });
  const { acceptedEvents, duplicateEvents, rejectedEvents } = metrics;
  expect({ acceptedEvents, duplicateEvents, rejectedEvents }).toEqual({
    ...{ acceptedEvents: 1, duplicateEvents: 1, rejectedEvents: 2 },
  });
});

test("a batch without any event is refused with its first error", async () => {
  const empty = setUp();
  expect(await empty.batch.end()).toMatchObject({
    code: "not_an_event",
    detail: "the batch contains no event",
  });
  const wrong = setUp();
  wrong.batch.add(outcomeOf("7"), 0);
  expect(await wrong.batch.end()).toMatchObject({
    code: "not_an_event",
    detail: expect.stringContaining("index 0: an event is a JSON object"),
    members: { accepted: 0, rejected: 1 },
  });
});

test("a batch that is refused in the middle keeps what was accepted and takes nothing more", async () => {
  const { batch, appends, state } = setUp();
  for (let index = 0; index < 1024; index++) await batch.add(outcomeOf("{}"), index);
  appends[0]?.commit();
  state.refusal = { code: "disk_full", detail: "the disk is full", retryAfterSeconds: 5 };
  await batch.add(outcomeOf("{}"), 1024);
  expect(await batch.end()).toMatchObject({
    code: "disk_full",
    detail: "the disk is full; 1024 events were accepted before",
    members: { accepted: 1024 },
  });
  expect(batch.add(outcomeOf("{}"), 1025)).toBeNull();
  expect(appends).toHaveLength(1);
});

test("a failed append ends the batch with its failure", async () => {
  const { batch, appends } = setUp();
  await batch.add(outcomeOf("{}"), 0);
  const end = batch.end();
  await Promise.resolve();
  appends[0]?.fail(new Error("broken"));
  expect(await end).toMatchObject({ code: "internal", detail: "Error: broken", members: { accepted: 0 } });
});
