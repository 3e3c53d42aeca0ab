/** Where decided frames are read from. */
import { expect, test } from "bun:test";
import type { Ring } from "../../collider.ts";
import { GatewayError } from "../../src/errors.ts";
import { decodeFrame, encodeFrame, FRAME_BYTES } from "../../src/frame.ts";
import { DecidedFrames } from "../../src/pipeline/frame-reader.ts";
import { RecentFrames } from "../../src/pipeline/recent.ts";
import type { Draft } from "../../src/pipeline/work.ts";
import { FakeClock } from "../fake-clock.ts";
import { draftsOf, openJournal } from "./fixtures.ts";
import { hashing, vectorFor } from "./simulation/models.ts";

const EVENTS = 300;

function rawOf(drafts: readonly Draft[], firstFrameId: number, capacity: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(drafts.length * FRAME_BYTES);
  drafts.forEach(({ decided: { physics }, vector }, index) => {
    encodeFrame(bytes, index * FRAME_BYTES, { frameId: firstFrameId + index, capacity, physics, vector });
  });
  return bytes;
}

/** Counts the turns that are left to other work. */
class TurnsClock extends FakeClock {
  turns = 0;

  override nextTurn(): Promise<void> {
    this.turns += 1;
    return super.nextTurn();
  }
}

/** Frames 1 to 300 are decided and in the journal. Memory has those from `recentFrom` on, the ring those from `ringFrom` on. */
async function around(
  o: { recentFrom?: number; ringFrom?: number; storedTo?: number; capacity?: number } = {},
) {
  const clock = new TurnsClock();
  const journal = await openJournal(clock, EVENTS);
  const drafts = await draftsOf(clock, 1, EVENTS);
  await journal.decide(drafts.map(({ decided }) => decided));
  const recentFrom = o.recentFrom ?? EVENTS + 1;
  const recent = new RecentFrames({ nextFrameId: recentFrom, takenBelow: () => 0 });
  if (recentFrom <= EVENTS) recent.add(recentFrom, drafts.slice(recentFrom - 1));
  const state = { storeIsOpen: true, storedFrom: 1 };
  const reads = { ring: 0, store: 0 };
  const { ringFrom, storedTo = 0, capacity = 1000 } = o;
  const ring: Pick<Ring, "capacity" | "head" | "read"> = {
    capacity,
    head: () => EVENTS + 1,
    read: (from, limit) => {
      if (ringFrom === undefined || from < ringFrom || from > EVENTS) return null;
      reads.ring += 1;
      return rawOf(drafts.slice(from - 1, from - 1 + limit), from, capacity);
    },
  };
  const frames = new DecidedFrames({
    journal,
    hashing,
    textOf: (message) => message ?? "",
    ring: () => (ringFrom === undefined ? null : ring),
    recent,
    clock,
    openedStore: async () => {
      if (!state.storeIsOpen)
        throw new GatewayError({ code: "store_unavailable", operation: "store", object: "x", detail: "y" });
      return {
        cursors: { seq: storedTo, frameId: storedTo, answerId: 0 },
        frameCount: async (first, limit) =>
          first < state.storedFrom ? 0 : Math.max(0, Math.min(limit, storedTo - first + 1)),
        frames: async (after, limit, capacity) => {
          reads.store += 1;
          const first = Math.max(after + 1, state.storedFrom);
          const count = Math.max(0, Math.min(limit, storedTo - first + 1));
          const bytes = rawOf(drafts.slice(first - 1, first - 1 + count), first, capacity);
          return { bytes: bytes.buffer, count, oldest: state.storedFrom };
        },
      };
    },
  });
  return { clock, journal, frames, reads, state };
}

/** Reads like /api/frames, checks each frame's vector, and returns the first and the last id. */
async function idsOf(
  frames: DecidedFrames,
  after: number | null,
  limit: number,
): Promise<[number, number] | null> {
  const { chunks, count } = await frames.run(after, limit);
  const extent = await frames.extent(after, limit);
  expect([extent?.count ?? 0, extent?.first]).toEqual([
    count,
    chunks[0] === undefined ? undefined : decodeFrame(chunks[0]).frame_id,
  ]);
  const bytes = Buffer.concat(chunks);
  expect(bytes.byteLength).toBe(count * FRAME_BYTES);
  const decoded = Array.from({ length: count }, (_, index) => decodeFrame(bytes, index * FRAME_BYTES));
  decoded.forEach(({ frame_id, event_seq, semantic }, index) => {
    expect([frame_id, event_seq]).toEqual([(decoded[0]?.frame_id ?? 0) + index, frame_id]);
    expect(semantic.subarray(0, 4)).toEqual(vectorFor(hashing.name, `message ${event_seq}`));
  });
  return count === 0 ? null : [decoded[0]?.frame_id ?? 0, decoded.at(-1)?.frame_id ?? 0];
}

test("frames come from memory, or from the journal with the vectors that it does not keep", async () => {
  const { journal, frames } = await around({ recentFrom: 201 });
  using _journal = journal;
  for (const [start, limit] of [
    [1, 5],
    [250, 5],
  ] as const) {
    const entries = await frames.entriesFrom(start, limit);
    expect(entries.map(({ frameId }) => frameId)).toEqual([0, 1, 2, 3, 4].map((index) => start + index));
    expect(entries.map(({ vector }) => vector)).toEqual(
      entries.map(({ frameId }) => vectorFor(hashing.name, `message ${frameId}`)),
    );
  }
  expect((await frames.entriesFrom(299, 99)).map(({ frameId }) => frameId)).toEqual([299, 300]);
});

test("what has left the journal comes from DuckDB; what no place has, from nowhere", async () => {
  const { journal, frames, state, reads } = await around({ storedTo: 250 });
  using _journal = journal;
  journal.prune({ seq: 200, frameId: 200, answerId: 0 });
  const entries = await frames.entriesFrom(150, 10);
  expect([entries.length, entries[0]?.frameId, reads.store]).toEqual([10, 150, 1]);
  expect(entries[0]?.vector).toEqual(vectorFor(hashing.name, "message 150"));
  expect((await frames.rawFrom(150, 10)).bytes.byteLength).toBe(10 * FRAME_BYTES);
  state.storedFrom = 160;
  expect(await frames.entriesFrom(150, 10)).toEqual([]);
  state.storeIsOpen = false;
  expect((await frames.entriesFrom(201, 1)).length).toBe(1);
  await expect(frames.entriesFrom(150, 10)).rejects.toMatchObject({ code: "store_unavailable" });
});

test("a run crosses from DuckDB over the journal into the ring, without a gap", async () => {
  const { journal, frames } = await around({ storedTo: 120, ringFrom: 249 });
  using _journal = journal;
  journal.prune({ seq: 100, frameId: 100, answerId: 0 });
  expect(await idsOf(frames, 50, 1000)).toEqual([51, 300]);
  expect(await idsOf(frames, 50, 7)).toEqual([51, 57]);
  expect([await idsOf(frames, 300, 10), await idsOf(frames, 999, 10)]).toEqual([null, null]);
});

test("a run begins with the oldest frame that is kept if older ones are gone", async () => {
  const { journal, frames, state } = await around({ storedTo: 150 });
  using _journal = journal;
  journal.prune({ seq: 100, frameId: 100, answerId: 0 });
  state.storedFrom = 60;
  expect(await idsOf(frames, null, 10)).toEqual([60, 69]);
  expect(await idsOf(frames, 20, 10)).toEqual([60, 69]);

  const temporary = await around();
  using _temporary = temporary.journal;
  temporary.journal.prune({ seq: 100, frameId: 100, answerId: 0 });
  expect(await idsOf(temporary.frames, null, 10)).toEqual([101, 110]);
});

test("a run is copied in slices of 128 frames, with a turn for other work after each", async () => {
  for (const ringFrom of [1, undefined]) {
    const { clock, journal, frames, reads } = await around(ringFrom === undefined ? {} : { ringFrom });
    using _journal = journal;
    expect((await frames.run(null, 1000)).count).toBe(300);
    expect([clock.turns, reads.ring]).toEqual([3, ringFrom === undefined ? 0 : 3]);
  }
});

test("a frame's sequence is that of its lap in the ring, and of the first lap without a ring", async () => {
  for (const { ring, lap } of [
    { ring: { ringFrom: 301, capacity: 100 }, lap: 3 },
    { ring: {}, lap: 0 },
  ]) {
    const { journal, frames } = await around(ring);
    using _journal = journal;
    const { bytes, count } = await frames.rawFrom(300, 1);
    const sequence = new DataView(bytes.buffer).getBigUint64(0, true);
    expect([count, Number(sequence)]).toEqual([1, 2 * (lap + 1)]);
  }
});
