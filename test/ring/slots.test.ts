import { expect, test } from "bun:test";
import { FrameWriter, forEachWindow, NO_WINDOW, openWindow } from "../../src/ring/slots.ts";
import { FRAME, HEADER, MappedFile } from "./mapped-file.ts";

const physicsOf = (id: number): Uint8Array => new Uint8Array(112).fill(id % 251);
const vectorOf = (id: number): Float32Array => new Float32Array(1024).fill(id);

function expectFrame(file: MappedFile, capacity: number, id: number): void {
  const view = file.view();
  const at = HEADER + (id % capacity) * FRAME;
  expect(view.getBigUint64(at, true)).toBe(2n * BigInt(Math.floor(id / capacity) + 1));
  expect(view.getBigUint64(at + 8, true)).toBe(BigInt(id));
  for (const index of [0, 1023]) expect(view.getFloat32(at + 16 + 4 * index, true)).toBe(Math.fround(id));
  for (const index of [0, 111]) expect(view.getUint8(at + 4112 + index)).toBe(id % 251);
}

test("frames go into their slots, lap after lap, and the header stays as it is", () => {
  using file = new MappedFile(3);
  const writer = new FrameWriter(file.mapping, 3, 5);
  for (let id = 5; id < 20; id++) {
    writer.write(id, physicsOf(id), vectorOf(id));
    for (let whole = Math.max(5, id - 2); whole <= id; whole++) expectFrame(file, 3, whole);
  }
  expect(new Uint8Array(file.view().buffer, 0, HEADER).every((byte) => byte === 0)).toBe(true);
});

test("a slot is odd until its frame is complete", () => {
  using file = new MappedFile(2);
  const writer = new FrameWriter(file.mapping, 2, 1);
  writer.write(1, physicsOf(1), vectorOf(1));
  const torn = { length: 1024, valueOf: () => 0 } as unknown as Float32Array;
  const seen: bigint[] = [];
  Object.defineProperty(torn, "0", {
    get() {
      seen.push(file.u64(HEADER), file.u64(HEADER + FRAME));
      return 1;
    },
  });
  writer.write(2, physicsOf(2), torn);
  expect(seen).toEqual([3n, 2n]);
  expect([file.u64(HEADER), file.u64(HEADER + FRAME)]).toEqual([4n, 2n]);
});

test("a shorter vector, or none, leaves zeros in the rest", () => {
  using file = new MappedFile(1);
  const writer = new FrameWriter(file.mapping, 1, 1);
  const floats = (): number[] =>
    [0, 1, 2, 1023].map((index) => file.view().getFloat32(HEADER + 16 + 4 * index, true));
  writer.write(1, physicsOf(1), vectorOf(1));
  writer.write(2, physicsOf(2), Float32Array.of(5, 6));
  expect(floats()).toEqual([5, 6, 0, 0]);
  writer.write(3, physicsOf(3), null);
  expect(floats()).toEqual([0, 0, 0, 0]);
});

test("frame ids and sequences carry into their high words", () => {
  using file = new MappedFile(1);
  // On a ring of one slot the sequence is 2·(id + 1): it carries at frame 2³¹ − 1.
  for (const [first, last] of [
    [2 ** 31 - 3, 2 ** 31 + 2],
    [2 ** 32 - 3, 2 ** 32 + 2],
  ] as const) {
    const writer = new FrameWriter(file.mapping, 1, first);
    for (let id = first; id <= last; id++) {
      writer.write(id, physicsOf(id), vectorOf(id));
      expectFrame(file, 1, id);
    }
  }
});

test("a writer continues across the edges of its windows, and can start again after a release", () => {
  const capacity = 4099;
  using file = new MappedFile(capacity);
  const writer = new FrameWriter(file.mapping, capacity, 4094);
  for (let id = 4094; id < 4104; id++) {
    writer.write(id, physicsOf(id), vectorOf(id));
    if (id === 4097) writer.release();
  }
  for (let id = 4094; id < 4104; id++) expectFrame(file, capacity, id);
});

test("windows cover every slot once, and other work gets a turn after each", async () => {
  const capacity = 2 * 4096 + 5;
  using file = new MappedFile(capacity);
  const calls: string[] = [];
  const nextTurn = async (): Promise<void> => void calls.push("turn");
  await forEachWindow(file.mapping, capacity, nextTurn, ({ first, end, words, floats, bytes }) => {
    calls.push(`${first}-${end}`);
    expect([words.byteLength, floats.byteLength, bytes.byteLength]).toEqual(
      new Array(3).fill((end - first) * FRAME),
    );
  });
  expect(calls).toEqual(["0-4096", "turn", "4096-8192", "turn", "8192-8197", "turn"]);
  expect(openWindow(file.mapping, capacity, 4096)).toMatchObject({ first: 4096, end: 8192 });
  expect(openWindow(file.mapping, capacity, 4095)).toMatchObject({ first: 0, end: 4096 });
  expect([NO_WINDOW.first, NO_WINDOW.end]).toEqual([0, 0]);
});
