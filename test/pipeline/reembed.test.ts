/** Which older events get vectors of the embedder in use, and when. */
import { expect, test } from "bun:test";
import type { Embedder } from "../../src/embed/embedder.ts";
import { GatewayError } from "../../src/errors.ts";
import { decodePhysics } from "../../src/frame.ts";
import type { DecidedFrame, StoredUpdate } from "../../src/journal/journal.ts";
import { Reembed } from "../../src/pipeline/reembed.ts";
import type { DecidedRow } from "../../src/store/protocol.ts";
import { FakeClock } from "../fake-clock.ts";
import { draftsOf, outcomeOf } from "./fixtures.ts";
import { embedderOff, hashing, vectorFor } from "./simulation/models.ts";

const EMBEDDER: Embedder = { ...hashing, kind: "remote", name: "new", modelId: 99, recomputed: false };

interface AroundOptions {
  readonly embedder?: Embedder;
  readonly meta?: string | null;
  readonly headAnswerId?: number;
  /** Updates that the journal has and the store does not. */
  readonly newer?: ReadonlyMap<number, DecidedFrame>;
}

/** Events 1 to `count` with hashing vectors are in the store, which `decided` reads. */
async function around(count: number, o: AroundOptions = {}) {
  const clock = new FakeClock();
  const texts = new Map<number, string>();
  const rows = new Map<number, DecidedRow>();
  for (const { decided, vector } of await draftsOf(clock, 1, count)) {
    const { seq, physics, eventType, intent, provenance } = decided;
    texts.set(seq, `message ${seq}`);
    const known = { eventType, intent, provenance, vector };
    rows.set(seq, { seq, message: `message ${seq}`, payload: "", physics: decodePhysics(physics), ...known });
  }
  const state = {
    ...{
      storeIsOpen: true,
      storedSeq: count,
      storedFrameId: count,
      storedAnswerId: 0,
      headAnswerId: 0,
      framedTo: count,
      busy: false,
      failures: 0,
      retryAfterMs: 0,
      writesAreGivenUp: false,
      refused: new Set<string>(),
    },
    ...{ meta: o.meta ?? null, calls: [] as number[], noted: 0 },
    /** The events up to which the journal was told that all are done, in order. */
    places: [] as number[],
    lines: [] as string[],
  };
  state.headAnswerId = o.headAnswerId ?? 0;
  const newer = new Map(o.newer);
  const written: number[] = [];
  const embedder: Embedder = {
    ...(o.embedder ?? EMBEDDER),
    embed: async (batch) => {
      state.calls.push(batch.length);
      const error = (code: "embedder_unavailable" | "embedder_invalid"): GatewayError =>
        new GatewayError({
          ...{ code, operation: "embed", object: "x", detail: code, retryAfterMs: state.retryAfterMs },
        });
      if (state.failures-- > 0) throw error("embedder_unavailable");
      if (batch.some((text) => state.refused.has(text))) throw error("embedder_invalid");
      return Float32Array.from(batch.flatMap((text) => [...vectorFor("new", text)]));
    },
  };
  const reembed = new Reembed({
    journal: {
      headSeq: () => count,
      nextFrameId: () => state.framedTo + 1,
      headAnswerId: () => state.headAnswerId,
      meta: () => state.meta,
      setMeta: (_key, value) => {
        state.meta = value;
        state.places.push(JSON.parse(value).doneSeq);
      },
      updateOf: (seq) => (newer.get(seq) ?? null) as StoredUpdate | null,
    },
    store: () =>
      state.storeIsOpen
        ? {
            cursors: { seq: state.storedSeq, frameId: state.storedFrameId, answerId: state.storedAnswerId },
            decided: async (query) => {
              if ("seqs" in query) throw new Error("not asked here");
              const found = [...rows.values()].filter(
                ({ seq, physics }) =>
                  seq > query.afterSeq && seq <= query.toSeq && physics.model_id !== query.notModel,
              );
              const page = found.slice(0, query.limit);
              const whole = page.length === found.length;
              return { rows: page, reachedSeq: whole ? query.toSeq : (page.at(-1)?.seq ?? 0) };
            },
          }
        : null,
    embedder,
    updates: {
      alone: (work) => work(),
      write: async (updates) => {
        if (state.writesAreGivenUp) return false;
        for (const { row } of updates) {
          expect(row.vector).toEqual(vectorFor("new", texts.get(row.seq) ?? ""));
          expect([decodePhysics(row.physics).model_id, JSON.parse(row.provenance).embedder]).toEqual([
            99,
            "new",
          ]);
          newer.set(row.seq, row);
          written.push(row.seq);
        }
        return true;
      },
    },
    textOf: (message) => message ?? "",
    spin: () => [1, 0, 0, 0],
    clock,
    onVectors: () => {
      state.noted += 1;
    },
    busy: () => state.busy,
    log: (_, line) => void state.lines.push(line),
  });
  return { clock, state, rows, newer, written, reembed };
}

const upTo = (count: number): number[] => Array.from({ length: count }, (_, index) => index + 1);

test("every older event gets a vector, eight texts at a time, and the end is noted", async () => {
  const { clock, state, written, reembed } = await around(20);
  void reembed.run();
  await clock.advance(1000);
  expect([written, state.calls]).toEqual([upTo(20), [8, 8, 4]]);
  expect(JSON.parse(state.meta ?? "")).toEqual({ model: 99, doneSeq: 20 });
  expect(reembed.gauges).toEqual({
    ...{ reembed_done_seq: 20, reembed_to_seq: 20, reembed_written_events: 20, reembed_running: 0 },
  });
  expect([state.noted, clock.pending]).toEqual([3, 0]);
});

test("it waits until the store has what the journal had at the start, and while new events need the embedder", async () => {
  const { clock, state, written, reembed } = await around(3);
  state.storeIsOpen = false;
  void reembed.run();
  await clock.advance(1000);
  Object.assign(state, { storeIsOpen: true, storedSeq: 2 });
  await clock.advance(1000);
  Object.assign(state, { storedSeq: 3, storedFrameId: 2 });
  await clock.advance(1000);
  Object.assign(state, { storedFrameId: 3, busy: true });
  await clock.advance(1000);
  expect(written).toEqual([]);
  state.busy = false;
  await clock.advance(100);
  expect(written).toEqual([1, 2, 3]);
});

test("a later start goes on where the last one stopped, but from the first event for another embedder", async () => {
  const same = await around(5, { meta: JSON.stringify({ model: 99, doneSeq: 3 }) });
  void same.reembed.run();
  await same.clock.advance(100);
  expect(same.written).toEqual([4, 5]);
  const other = await around(5, { meta: JSON.stringify({ model: 98, doneSeq: 3 }) });
  void other.reembed.run();
  await other.clock.advance(100);
  expect(other.written).toEqual([1, 2, 3, 4, 5]);
});

test("an embedder that has replaced vectors of another one voids that one's note, however early it is killed", async () => {
  const { clock, state, written, reembed } = await around(20, {
    meta: JSON.stringify({ model: 98, doneSeq: 20 }),
  });
  void reembed.run();
  await clock.settle();
  expect(written).toEqual(upTo(8));
  expect(JSON.parse(state.meta ?? "")).toEqual({ model: 99, doneSeq: 0 });
  reembed.stop();
  await clock.advance(1000);
});

test("it waits for DuckDB to hold the updates of the start, and the frames of events that had none then", async () => {
  const { clock, state, written, reembed } = await around(3, { headAnswerId: 2 });
  Object.assign(state, { storedAnswerId: 1, framedTo: 2, storedFrameId: 2, busy: true });
  void reembed.run();
  await clock.advance(1000);
  Object.assign(state, { framedTo: 3, busy: false });
  await clock.advance(1000);
  state.storedFrameId = 3;
  await clock.advance(1000);
  expect(written).toEqual([]);
  state.storedAnswerId = 2;
  await clock.advance(100);
  expect(written).toEqual([1, 2, 3]);
});

test("it waits while DuckDB is more than 1,024 updates behind", async () => {
  const { clock, state, written, reembed } = await around(3);
  state.headAnswerId = 1025;
  void reembed.run();
  await clock.advance(1000);
  expect(written).toEqual([]);
  state.storedAnswerId = 1;
  await clock.advance(100);
  expect(written).toEqual([1, 2, 3]);
});

test("an event whose update DuckDB does not hold yet is not embedded again", async () => {
  const { clock, newer, rows, written, reembed } = await around(3);
  const row = rows.get(2) as DecidedRow;
  newer.set(2, { ...(row as unknown as DecidedFrame), provenance: JSON.stringify({ embedder: "new" }) });
  void reembed.run();
  await clock.advance(100);
  expect(written).toEqual([1, 3]);
});

test("a text that the embedder refuses, and one without a direction, are left as they are", async () => {
  const { clock, state, rows, written, reembed } = await around(4);
  state.refused.add("message 2");
  rows.set(3, { ...(rows.get(3) as DecidedRow), message: "(blank)" });
  void reembed.run();
  await clock.advance(100);
  expect([written, reembed.gauges.reembed_running]).toEqual([[1, 4], 0]);
});

test("a batch that is refused as a whole does not stop the later ones", async () => {
  const { clock, state, written, reembed } = await around(20);
  for (let seq = 1; seq <= 8; seq++) state.refused.add(`message ${seq}`);
  void reembed.run();
  await clock.advance(1000);
  expect([written, reembed.gauges.reembed_running, reembed.detail]).toEqual([upTo(20).slice(8), 0, ""]);
});

test("an embedder that fails is tried again after 5 s", async () => {
  const { clock, state, written, reembed } = await around(2);
  state.failures = 2;
  void reembed.run();
  await clock.advance(4900);
  expect([written, reembed.detail]).toEqual([[], "embed x: embedder_unavailable"]);
  await clock.advance(200);
  expect([written, reembed.detail]).toEqual([[1, 2], ""]);
});

test("its place is noted every 256 events and at the end, and shown after each batch", async () => {
  const { clock, state, written, reembed } = await around(600);
  void reembed.run();
  await clock.until(() => written.length === 16);
  expect([reembed.gauges.reembed_done_seq, state.places]).toEqual([16, [0]]);
  await clock.until(() => written.length >= 248);
  expect([reembed.gauges.reembed_done_seq, state.places]).toEqual([248, [0]]);
  await clock.until(() => written.length >= 256);
  expect([reembed.gauges.reembed_done_seq, state.places]).toEqual([264, [0, 256]]);
  await clock.advance(1000);
  expect([reembed.gauges.reembed_running, state.places]).toEqual([0, [0, 256, 512, 600]]);
});

test("after a kill, a new start does what is left, in order, and embeds no text again", async () => {
  const killed = await around(600);
  void killed.reembed.run();
  await killed.clock.until(() => killed.written.length === 304);
  const { meta, calls } = killed.state;
  expect([JSON.parse(meta ?? ""), calls.length]).toEqual([{ model: 99, doneSeq: 256 }, 304 / 8]);
  // DuckDB holds the updates on events up to 280.
  const next = await around(600, { meta, newer: killed.newer });
  for (const seq of upTo(280)) {
    const { physics } = killed.newer.get(seq) as DecidedFrame;
    next.rows.set(seq, { ...(next.rows.get(seq) as DecidedRow), physics: decodePhysics(physics) });
    next.newer.delete(seq);
  }
  void next.reembed.run();
  await next.clock.advance(1000);
  expect([next.written, next.reembed.gauges.reembed_running]).toEqual([upTo(600).slice(304), 0]);
  expect(next.state.calls.reduce((sum, texts) => sum + texts)).toBe(600 - 304);
});

for (const [whose, retryAfterMs] of [
  ["its own", 0],
  ["the embedder's", 4000],
] as const) {
  test(`a stop in ${whose} wait before a retry ends it within 50 ms, and the next start goes on there`, async () => {
    const { clock, state, written, newer, reembed } = await around(600);
    const run = outcomeOf(reembed.run());
    await clock.until(() => written.length === 304);
    Object.assign(state, { failures: 1000, retryAfterMs, calls: [] });
    await clock.advance(1000);
    // Its own wait begins after a probe has failed too.
    const calls = retryAfterMs === 0 ? [8, 1] : [8];
    expect([run.settled, state.calls]).toEqual([false, calls]);
    reembed.stop();
    const said = state.lines.length;
    await clock.advance(50);
    expect([run.settled, run.error, clock.pending, state.calls]).toEqual([true, null, 0, calls]);
    expect(state.lines.slice(said)).toEqual([]);
    expect([reembed.gauges.reembed_done_seq, reembed.gauges.reembed_running]).toEqual([304, 1]);
    const next = await around(600, { meta: state.meta, newer });
    void next.reembed.run();
    await next.clock.advance(1000);
    expect(next.written).toEqual(upTo(600).slice(304));
  });
}

test("an embedder that asks for a wait gets it before the next request, up to 5 s", async () => {
  for (const [namedMs, waitMs] of [
    [120, 120],
    [60_000, 5000],
  ] as const) {
    const { clock, state, written, reembed } = await around(2);
    Object.assign(state, { failures: 1, retryAfterMs: namedMs });
    void reembed.run();
    await clock.advance(waitMs - 1);
    expect(state.calls).toEqual([2]);
    await clock.advance(1);
    expect([state.calls, written]).toEqual([
      [2, 1, 2],
      [1, 2],
    ]);
  }
});

test("events whose updates are given up at the end are not noted as done", async () => {
  const { clock, state, reembed } = await around(3);
  state.writesAreGivenUp = true;
  const run = outcomeOf(reembed.run());
  await clock.settle();
  reembed.stop();
  await clock.advance(50);
  expect([run.settled, state.places, reembed.gauges.reembed_written_events]).toEqual([true, [0], 0]);
  const next = await around(3, { meta: state.meta });
  void next.reembed.run();
  await next.clock.advance(1000);
  expect(next.written).toEqual([1, 2, 3]);
});

test("stop ends it after the batch under way; without an embedder it ends at once", async () => {
  const { clock, written, reembed } = await around(100);
  void reembed.run();
  await clock.settle();
  reembed.stop();
  await clock.advance(10_000);
  expect([written.length, reembed.gauges.reembed_running, clock.pending]).toEqual([8, 1, 0]);
  const off = await around(3, { embedder: embedderOff });
  await off.reembed.run();
  expect([off.written, off.reembed.gauges.reembed_running]).toEqual([[], 0]);
});
