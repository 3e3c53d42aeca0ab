/** What the store is offered and told. */
import { describe, expect, test } from "bun:test";
import { GatewayError } from "../../src/errors.ts";
import type { JournalCursors } from "../../src/journal/journal.ts";
import { StoreFeed } from "../../src/pipeline/store-feed.ts";
import type { Entry } from "../../src/pipeline/work.ts";
import type { StoreMemory } from "../../src/store/protocol.ts";
import type { Store } from "../../src/store/store.ts";
import { FakeClock } from "../fake-clock.ts";
import { outcomeOf } from "./fixtures.ts";

const RECOMPUTED = 7;

const entryOf = (frameId: number): Entry => ({
  ...{ frameId, physics: new Uint8Array(112), vector: null, eventType: null, intent: null },
});

class StoreDouble {
  cursors: JournalCursors;
  offered: [firstFrameId: number, count: number][] = [];
  skipped: [firstFrameId: number, count: number][] = [];
  told: string[] = [];
  checkpoints: PromiseWithResolvers<void>[] = [];
  disposed = false;
  closesInTime = true;
  onCursors: (cursors: JournalCursors) => void = () => {};
  onReopened: (cursors: JournalCursors) => void = () => {};
  onMemory: () => void = () => {};
  memory: StoreMemory = { limitBytes: 150_000_000, raisedBecause: null };
  onCheckpoint: (cursors: JournalCursors) => void = () => {};
  onFailure: (error: GatewayError) => void = () => {};

  constructor(frameId: number) {
    this.cursors = { seq: 0, frameId, answerId: 0 };
  }

  head(seq: number): void {
    this.told.push(`head ${seq}`);
  }

  updates(answerId: number): void {
    this.told.push(`updates ${answerId}`);
  }

  skip({ firstFrameId, count }: { firstFrameId: number; count: number }): void {
    this.skipped.push([firstFrameId, count]);
  }
  offer({ firstFrameId, count }: { firstFrameId: number; count: number }): void {
    this.offered.push([firstFrameId, count]);
  }

  checkpoint(): Promise<void> {
    const asked = Promise.withResolvers<void>();
    this.checkpoints.push(asked);
    return asked.promise;
  }

  async close(): Promise<boolean> {
    this.disposed = true;
    return this.closesInTime;
  }
}

/** Frames 1 to `next` − 1 are decided; the store has those up to `stored`. */
function around(next: number, stored: number) {
  const clock = new FakeClock();
  const store = new StoreDouble(stored);
  const state = {
    next,
    openAfterMs: 0,
    openFails: null as unknown,
    keptFrom: 1,
    entriesFail: 0,
    bursting: false,
    headSeq: 50,
  };
  const heard: string[] = [];
  const feed = new StoreFeed({
    journal: {
      headSeq: () => state.headSeq,
      headAnswerId: () => 6,
      framesFrom: (from) =>
        from > state.keptFrom || state.keptFrom >= state.next ? [] : [{ frameId: state.keptFrom } as never],
    },
    openStore: async () => {
      if (state.openAfterMs > 0) await clock.sleep(state.openAfterMs);
      if (state.openFails !== null) throw state.openFails;
      return store as unknown as Store;
    },
    frames: {
      entriesFrom: async (start, limit) => {
        if (state.entriesFail-- > 0) throw new Error("not now");
        if (start < state.keptFrom) return [];
        return Array.from({ length: Math.min(limit, state.next - start) }, (_, index) =>
          entryOf(start + index),
        );
      },
    },
    recent: {
      get next() {
        return state.next;
      },
      entries: [],
      forget: () => {},
    },
    recomputedModelId: RECOMPUTED,
    bursting: () => state.bursting,
    onOpen: () => heard.push("open"),
    onCheckpoint: ({ frameId }) => heard.push(`checkpoint ${frameId}`),
    onDamage: ({ log, id }) => heard.push(`damage ${log} ${id}`),
    onFatal: (error) => heard.push(`fatal ${error}`),
    clock,
    log: () => {},
  });
  return { clock, store, state, heard, feed };
}

test("once open, the store hears of the journal's head and is offered what it does not have, in order", async () => {
  const { clock, store, heard, feed } = around(3001, 10);
  expect([feed.store, feed.idle, feed.state.state]).toEqual([null, true, "starting"]);
  feed.open();
  await clock.settle();
  expect(store.told).toEqual(["head 50", "updates 6"]);
  expect(store.offered).toEqual([
    [11, 1024],
    [1035, 1024],
    [2059, 942],
  ]);
  expect([feed.offered, feed.idle, feed.state.state, heard]).toEqual([3000, true, "ok", ["open"]]);
});

test("at most 8,192 frames are on their way to the store", async () => {
  const { clock, store, feed } = around(20_001, 0);
  feed.open();
  await clock.settle();
  expect([feed.offered, feed.idle]).toEqual([8192, false]);
  store.cursors = { seq: 0, frameId: 100, answerId: 0 };
  store.onCursors(store.cursors);
  await clock.settle();
  expect([store.offered.at(-1), feed.offered]).toEqual([[8193, 100], 8292]);
});

test("what a failed store has not committed is offered again", async () => {
  const { clock, store, feed } = around(101, 0);
  feed.open();
  await clock.settle();
  store.onFailure(
    new GatewayError({ code: "store_failed", operation: "store: commit", object: "x", detail: "y" }),
  );
  expect([feed.state.state, feed.counters.store_failures_total]).toEqual(["degraded", 1]);
  store.onReopened({ seq: 0, frameId: 40, answerId: 0 });
  await clock.settle();
  expect(store.offered).toEqual([
    [1, 100],
    [41, 60],
  ]);
  store.onCursors(store.cursors);
  expect(feed.state.state).toBe("ok");
});

test("a store whose memory limit was raised is degraded, and says why, however well it works", async () => {
  const { clock, store, feed } = around(101, 0);
  feed.open();
  await clock.settle();
  store.memory = { limitBytes: 300_000_000, raisedBecause: "more was needed" };
  store.onMemory();
  store.onCursors(store.cursors);
  expect(feed.state).toEqual({ state: "degraded", detail: "more was needed" });
});

test("the store hears which frames no place has, and is offered those that follow", async () => {
  const { clock, store, state, feed } = around(31, 0);
  state.keptFrom = 21;
  feed.open();
  await clock.settle();
  expect([store.skipped, store.offered, feed.idle]).toEqual([[[1, 20]], [[21, 10]], true]);
});

test("if frames cannot be read, the feed tries again after half a second", async () => {
  const { clock, store, state, feed } = around(3, 0);
  state.entriesFail = 1;
  feed.open();
  await clock.settle();
  expect(store.offered).toEqual([]);
  await clock.advance(500);
  expect(store.offered).toEqual([[1, 2]]);
});

test("a checkpoint is asked for once until it has completed or failed", async () => {
  const { clock, store, heard, feed } = around(1, 0);
  feed.checkpoint();
  feed.open();
  await clock.settle();
  feed.checkpoint();
  feed.checkpoint();
  expect(store.checkpoints).toHaveLength(1);
  store.onCheckpoint({ seq: 5, frameId: 5, answerId: 0 });
  feed.checkpoint();
  expect([store.checkpoints.length, heard]).toEqual([2, ["open", "checkpoint 5"]]);
  store.checkpoints[1]?.reject(new Error("no room"));
  await clock.settle();
  feed.checkpoint();
  expect(store.checkpoints).toHaveLength(3);
});

test("a read waits up to 2 s for the store to open", async () => {
  const { clock, state, feed } = around(1, 0);
  state.openAfterMs = 3000;
  feed.open();
  const early = outcomeOf(feed.opened());
  await clock.advance(2100);
  expect(early.error).toMatchObject({ code: "store_unavailable" });
  const late = outcomeOf(feed.opened());
  await clock.advance(1000);
  expect(late.value).toBe(feed.store);
});

test("a store that cannot be opened is a fatal failure", async () => {
  const { clock, state, heard, feed } = around(1, 0);
  state.openFails = new Error("broken");
  feed.open();
  await clock.settle();
  expect([heard, feed.store]).toEqual([["fatal Error: broken"], null]);
});

test("close waits up to 2 s for the store to open, and closes it; nothing is offered any more", async () => {
  const { clock, store, state, feed } = around(9, 0);
  state.openAfterMs = 1500;
  feed.open();
  const closing = outcomeOf(feed.close());
  await clock.advance(1499);
  expect(closing.settled).toBe(false);
  await clock.advance(2);
  expect([closing.settled, store.disposed, store.offered]).toEqual([true, true, []]);

  const slow = around(9, 0);
  slow.state.openAfterMs = 60_000;
  slow.feed.open();
  const given = outcomeOf(slow.feed.close());
  await slow.clock.advance(2000);
  expect([given.settled, slow.store.disposed]).toEqual([true, false]);
  await slow.clock.advance(60_000);
  expect([slow.store.disposed, slow.feed.store, slow.heard]).toEqual([true, null, []]);
});

describe("what is new is told together", () => {
  test("100 ms after the first of it", async () => {
    const { clock, store, state, feed } = around(1, 0);
    feed.open();
    await clock.settle();
    store.told.length = 0;
    for (let turn = 0; turn < 5; turn++) {
      state.headSeq += 1;
      state.next += 1;
      feed.tellSoon();
      await clock.advance(10);
    }
    expect([store.told, store.offered]).toEqual([[], []]);
    await clock.advance(50);
    expect(store.told).toEqual(["head 55"]);
    expect(store.offered).toEqual([[1, 5]]);
    await clock.advance(10_000);
    expect(store.told).toEqual(["head 55"]);
  });

  test("at once before a read", async () => {
    const { clock, store, state, feed } = around(1, 0);
    feed.open();
    await clock.settle();
    store.told.length = 0;
    state.headSeq = 51;
    state.next = 3;
    feed.tellSoon();
    feed.tellNow();
    feed.tellNow();
    await clock.settle();
    expect(store.told).toEqual(["head 51"]);
    expect(store.offered).toEqual([[1, 2]]);
  });

  test("at once if many frames wait", async () => {
    const { clock, store, state, feed } = around(1, 0);
    feed.open();
    await clock.settle();
    state.next = 513;
    feed.tellSoon();
    await clock.settle();
    expect(store.offered).toEqual([[1, 512]]);
  });

  test("in a burst, without the events: these are told at the next beat or read", async () => {
    const { clock, store, state, feed } = around(1, 0);
    feed.open();
    await clock.settle();
    store.told.length = 0;
    state.bursting = true;
    state.headSeq = 51;
    state.next = 2;
    feed.tellSoon();
    await clock.advance(200);
    expect(store.told).toEqual([]);
    expect(store.offered).toHaveLength(1);
  });

  test("before the store closes", async () => {
    const { clock, store, state, feed } = around(1, 0);
    feed.open();
    await clock.settle();
    store.told.length = 0;
    state.headSeq = 51;
    feed.tellSoon();
    await feed.close(1000);
    expect(store.told[0]).toBe("head 51");
  });
});
