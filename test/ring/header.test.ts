import { expect, test } from "bun:test";
import { claimRing, markState, RingHeader, writeHeader } from "../../src/ring/header.ts";
import { MappedFile } from "./mapped-file.ts";

const headAndTail = (file: MappedFile): bigint[] => [file.u64(24), file.u64(32)];

test("head and tail are stored in the header, and a lower tail changes nothing", () => {
  using file = new MappedFile(1);
  const header = new RingHeader(file.mapping, { head: 1, tail: 1 });
  header.show(9);
  header.raiseTail(5);
  header.raiseTail(4);
  expect(headAndTail(file)).toEqual([9n, 5n]);
  expect([header.head(), header.tail()]).toEqual([9, 5]);
});

test("head and tail carry into their high words once, and continue from there", () => {
  using file = new MappedFile(1);
  const start = 2 ** 32 - 2;
  writeHeader(file.mapping, { capacity: 1, head: start, tail: start - 1, epoch: 1, nowUs: 0 });
  const header = new RingHeader(file.mapping, { head: start, tail: start - 1 });
  for (let id = start; id < start + 5; id++) {
    header.raiseTail(id);
    header.show(id + 1);
    expect(headAndTail(file)).toEqual([BigInt(id + 1), BigInt(id)]);
  }
  header.show(3 * 2 ** 32 + 7);
  header.raiseTail(3 * 2 ** 32 + 6);
  expect(headAndTail(file)).toEqual([3n * 2n ** 32n + 7n, 3n * 2n ** 32n + 6n]);
});

test("the waiters flag is seen until the next frame is published", () => {
  using file = new MappedFile(1);
  const header = new RingHeader(file.mapping, { head: 1, tail: 1 });
  expect(header.readerWaits()).toBe(false);
  new Uint32Array(file.mapping.view(56, 4))[0] = 1;
  expect(header.readerWaits()).toBe(true);
  header.raiseTail(1);
  expect(header.readerWaits()).toBe(true);
  header.show(2);
  expect([header.readerWaits(), file.u32(56)]).toEqual([false, 0]);
});

test("a change of state clears the waiters flag, too", () => {
  using file = new MappedFile(1);
  const header = new RingHeader(file.mapping, { head: 1, tail: 1 });
  for (const [state, number] of [
    ["closed", 2],
    ["superseded", 3],
    ["running", 1],
  ] as const) {
    new Uint32Array(file.mapping.view(56, 4))[0] = 1;
    header.setState(state);
    expect([file.u32(60), file.u32(56)]).toEqual([number, 0]);
  }
  markState(file.mapping, "superseded");
  expect(file.u32(60)).toBe(3);
});

test("a heartbeat is whole microseconds", () => {
  using file = new MappedFile(1);
  new RingHeader(file.mapping, { head: 1, tail: 1 }).beat(5_000_000.9);
  expect(file.u64(48)).toBe(5_000_000n);
});

test("a released header no longer touches the file", () => {
  using file = new MappedFile(1);
  const header = new RingHeader(file.mapping, { head: 1, tail: 1 });
  header.release();
  header.show(9);
  header.raiseTail(9);
  header.beat(5);
  header.setState("closed");
  expect(header.readerWaits()).toBe(false);
  expect(new Uint8Array(file.view().buffer).every((byte) => byte === 0)).toBe(true);
});

test("a written header has every field, and this process as its writer", () => {
  using file = new MappedFile(1);
  writeHeader(file.mapping, { capacity: 1, head: 7, tail: 6, epoch: 3, nowUs: 5_000_000.5 });
  expect([file.u64(0), file.u32(8), file.u32(12), file.u64(16)]).toEqual([0x5048595349435300n, 1, 4224, 1n]);
  expect(headAndTail(file)).toEqual([7n, 6n]);
  expect([file.u32(40), file.u32(44), file.u64(48), file.u32(60)]).toEqual([3, process.pid, 5_000_000n, 1]);
});

test("an adopted ring keeps its frames and gets the next epoch, which wraps at 2³²", () => {
  using file = new MappedFile(1);
  writeHeader(file.mapping, { capacity: 1, head: 7, tail: 6, epoch: 3, nowUs: 0 });
  markState(file.mapping, "closed");
  claimRing(file.mapping, { epoch: 2 ** 32, nowUs: 9 });
  expect(headAndTail(file)).toEqual([7n, 6n]);
  expect([file.u32(40), file.u64(48), file.u32(60)]).toEqual([0, 9n, 1]);
});
