/** What the ring shows, and when it is replaced. */
import { expect, test } from "bun:test";
import type { Ring } from "../../collider.ts";
import { Publisher } from "../../src/pipeline/publisher.ts";
import type { Entry } from "../../src/pipeline/work.ts";
import { FakeClock } from "../fake-clock.ts";

const entryOf = (frameId: number): Entry => ({
  ...{ frameId, physics: new Uint8Array(112), vector: null, eventType: null, intent: null },
});

class RingDouble {
  readonly path = "ring";
  readonly capacity = 1000;
  readonly refilled = 3;
  readonly adopted = false;
  batches: number[] = [];
  closed: string | null = null;
  beats: "ok" | "superseded" = "ok";
  fails = false;
  inPlace = true;
  #head: number;

  constructor(head: number) {
    this.#head = head;
  }

  head(): number {
    return this.#head;
  }

  publishBatch(entries: readonly Entry[]): void {
    if (this.fails) throw new Error("no");
    for (const { frameId } of entries) expect(frameId).toBe(this.#head++);
    this.batches.push(entries.length);
  }

  heartbeat(): "ok" | "superseded" {
    return this.beats;
  }

  labelsInPlace(): boolean {
    return this.inPlace;
  }

  close(state: string): void {
    this.closed = state;
  }
}

/** Frames 1 to `next` − 1 are decided, and all are kept but those in `dropped`. */
function around(next: number) {
  const clock = new FakeClock();
  const state = {
    next,
    dropped: new Set<number>(),
    opensFail: 0,
    head: 1,
    laterHead: 1,
    forgotten: 0,
    shown: true,
    labelsFail: false,
  };
  const rings: RingDouble[] = [];
  /** The ring's head at each writing of the file of labels. */
  const shows: number[] = [];
  const logged: string[] = [];
  const publisher = new Publisher({
    openRing: async () => {
      if (state.opensFail-- > 0) throw new Error("no space");
      const ring = new RingDouble(rings.length === 0 ? state.head : state.laterHead);
      rings.push(ring);
      return ring as unknown as Ring;
    },
    frames: {
      entriesFrom: async (start, limit) => {
        if (state.dropped.has(start)) return [];
        return Array.from({ length: Math.min(limit, state.next - start) }, (_, index) =>
          entryOf(start + index),
        );
      },
      rawFrom: async () => ({ bytes: new Uint8Array(0), count: 0 }),
    },
    recent: {
      get next() {
        return state.next;
      },
      forget: () => {
        state.forgotten += 1;
      },
    },
    labels: {
      isShown: () => state.shown,
      show: () => {
        if (state.labelsFail) throw new Error("the labels' path is a folder");
        state.shown = true;
        shows.push(rings.at(-1)?.head() ?? 0);
      },
    },
    clock,
    log: (level, text) => logged.push(`${level}: ${text}`),
  });
  return { clock, state, rings, shows, logged, publisher };
}

test("everything decided is published in slices", async () => {
  const { clock, rings, state, publisher } = around(601);
  void publisher.open();
  await clock.settle();
  expect(rings[0]?.batches).toEqual([256, 256, 88]);
  expect([publisher.idle, publisher.state.state, state.forgotten]).toEqual([true, "ok", 3]);
  expect(publisher.counters).toEqual({
    published_frames_total: 600,
    refilled_frames_total: 3,
    rings_replaced_total: 0,
  });
});

test("a ring that cannot be opened is tried again, with pauses that double up to 5 s", async () => {
  const { clock, state, rings, publisher } = around(2);
  state.opensFail = 6;
  void publisher.open();
  await clock.settle();
  expect([publisher.ring, publisher.idle, publisher.state.state]).toEqual([null, true, "down"]);
  await clock.advance(500 + 1000 + 2000 + 4000 + 5000);
  expect(rings).toHaveLength(0);
  await clock.advance(5000);
  expect([rings[0]?.batches, publisher.state.state]).toEqual([[1], "ok"]);
});

test("a ring whose file was removed or replaced is closed, and a new one is made", async () => {
  const { clock, rings, state, publisher } = around(4);
  void publisher.open();
  await clock.settle();
  publisher.beat();
  expect(rings).toHaveLength(1);
  Object.assign(rings[0] as RingDouble, { beats: "superseded" });
  state.laterHead = 4;
  publisher.beat();
  await clock.settle();
  expect([rings[0]?.closed, rings.length, publisher.counters.rings_replaced_total]).toEqual([
    "superseded",
    2,
    1,
  ]);
  expect(publisher.ring?.head()).toBe(4);
});

test("a ring whose next frame is kept nowhere any more is replaced", async () => {
  const { clock, rings, state, publisher } = around(9);
  state.dropped.add(1);
  // The refill of the second ring begins with the oldest frame that is kept.
  state.laterHead = 5;
  void publisher.open();
  await clock.settle();
  expect([rings[0]?.closed, rings[1]?.batches]).toEqual(["superseded", [4]]);
});

test("a failure to publish is tried again after half a second, from the same frame", async () => {
  const { clock, rings, state, publisher } = around(1);
  void publisher.open();
  await clock.settle();
  Object.assign(rings[0] as RingDouble, { fails: true });
  state.next = 3;
  void publisher.publish();
  await clock.settle();
  expect([publisher.state.state, publisher.idle]).toEqual(["degraded", false]);
  Object.assign(rings[0] as RingDouble, { fails: false });
  await clock.advance(500);
  expect([rings[0]?.batches, publisher.idle, publisher.state.state]).toEqual([[2], true, "ok"]);
});

test("the file of labels is written when a ring opens, and again before the first frame with a new label", async () => {
  const { clock, state, shows, publisher } = around(2);
  void publisher.open();
  await clock.settle();
  expect(shows).toEqual([1]);
  Object.assign(state, { next: 4, shown: false });
  void publisher.publish();
  await clock.settle();
  expect(shows).toEqual([1, 2]);
});

test("labels that cannot be written hold no frame back, and are written as soon as they can be", async () => {
  const { clock, state, rings, shows, logged, publisher } = around(2);
  state.labelsFail = true;
  void publisher.open();
  await clock.settle();
  Object.assign(state, { next: 600, shown: false });
  void publisher.publish();
  await clock.settle();
  publisher.beat();
  expect([rings[0]?.batches, publisher.idle, shows]).toEqual([[1, 256, 256, 86], true, []]);
  expect(publisher.state).toEqual({
    state: "degraded",
    detail: "the labels' path is a folder; frames go on, but readers lack the texts of new labels",
  });
  expect(logged.filter((line) => line.startsWith("error"))).toEqual([
    `error: ${publisher.state.detail}; trying again`,
  ]);
  state.labelsFail = false;
  publisher.beat();
  expect([shows, publisher.state.state]).toEqual([[600], "ok"]);
  publisher.beat();
  expect(shows).toEqual([600]);
});

test("a file of labels that was removed or replaced is written again with the next heartbeat", async () => {
  const { clock, rings, shows, publisher } = around(2);
  void publisher.open();
  await clock.settle();
  Object.assign(rings[0] as RingDouble, { inPlace: false });
  publisher.beat();
  expect(shows).toEqual([1, 2]);
});

test("a ring that opens after the end is closed", async () => {
  const { clock, rings, publisher } = around(4);
  void publisher.open();
  publisher.close();
  await clock.settle();
  expect(rings.map(({ closed }) => closed)).toEqual(["closed"]);
  expect(publisher.ring).toBe(null);
});

test("after stop nothing is published, and close closes the ring", async () => {
  const { clock, rings, state, publisher } = around(1);
  void publisher.open();
  await clock.settle();
  publisher.stop();
  state.next = 3;
  void publisher.publish();
  await clock.settle();
  expect([rings[0]?.batches, rings[0]?.closed]).toEqual([[], null]);
  publisher.close();
  expect([rings[0]?.closed, publisher.ring]).toEqual(["closed", null]);
});
