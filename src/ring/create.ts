/** A new file, built aside and renamed to the path when it is complete. */
import { closeSync, constants, fchmodSync, openSync, renameSync, unlinkSync } from "node:fs";
import { systemClock } from "../clock.ts";
import { FLAG, FRAME_BYTES, OFFSET, ringBytes, wholeSequence } from "../frame.ts";
import { allocateFile, Mapping, O_CLOEXEC } from "../native/libc.ts";
import type { MappedRing, NewestFrames, RingOptions } from "./contract.ts";
import { noSpace } from "./failures.ts";
import { asidePath, openFound, supersede } from "./found.ts";
import { writeHeader } from "./header.ts";
import { NO_WINDOW, openWindow } from "./slots.ts";
import { makeRoom } from "./space.ts";
import { highWord } from "./words.ts";

const REFILL_FRAMES = 256;

/**
 * Builds a new file beside the path and renames it to the path. At the default capacity it takes less if other programs
 * took the space meanwhile.
 */
export async function createFile(o: RingOptions, newest: NewestFrames): Promise<MappedRing> {
  const aside = asidePath(o.path);
  for (let attempt = 1; ; attempt++) {
    const capacity = makeRoom(o);
    const { O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
    const fd = openSync(aside, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600);
    let mapping: Mapping | null = null;
    try {
      fchmodSync(fd, o.mode);
      if (!(await allocateFile(fd, ringBytes(capacity)))) {
        if (o.capacity !== null || attempt === 3) throw noSpace(o.path, `no room for ${capacity} frames`);
        closeSync(fd);
        unlinkSync(aside);
        continue;
      }
      mapping = new Mapping(fd, ringBytes(capacity));
      await mapping.populate();
      const filled = await refill(mapping, capacity, o, newest);
      const built: MappedRing = { fd, mapping, capacity, ...filled, adopted: false };
      takePlace(o, aside, built);
      return built;
    } catch (error) {
      mapping?.unmap();
      closeSync(fd);
      unlinkSync(aside);
      throw error;
    }
  }
}

/**
 * Finishes the header, marks the file that is replaced, and renames the new one over it, so that readers of the old file
 * find the new one at the path.
 */
function takePlace(o: RingOptions, aside: string, { mapping, capacity, head, tail }: MappedRing): void {
  const old = openFound(o.path);
  try {
    const { nowUs } = o.clock ?? systemClock;
    writeHeader(mapping, { capacity, head, tail, epoch: (old?.epoch ?? 0) + 1, nowUs: nowUs() });
    if (old !== null) supersede(old);
    renameSync(aside, o.path);
  } finally {
    if (old !== null) closeSync(old.fd);
  }
}

interface Refilled {
  readonly head: number;
  readonly tail: number;
  readonly refilled: number;
}

/**
 * Copies the newest frames before `nextFrameId` into an empty ring, ascending. Frames that are no longer kept anywhere are
 * left out, and tail is the first frame after them.
 */
async function refill(
  mapping: Mapping,
  capacity: number,
  { nextFrameId, firstFrameId = 1, clock = systemClock }: RingOptions,
  newest: NewestFrames,
): Promise<Refilled> {
  let window = NO_WINDOW;
  let tail = Math.max(firstFrameId, nextFrameId - capacity);
  let head = tail;
  while (head < nextFrameId) {
    const { bytes, count } = await newest(head, Math.min(REFILL_FRAMES, nextFrameId - head));
    if (count === 0) {
      const next = await oldestAfter(head, nextFrameId, newest);
      // After frames that were found, a gap is the publisher's to fill or to fail on: no frame is skipped silently.
      if (next === null && head > tail) break;
      head = tail = next ?? nextFrameId;
      continue;
    }
    const source = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let from = 0; from < count * FRAME_BYTES; from += FRAME_BYTES) {
      const frameId = Number(source.getBigUint64(from + OFFSET.frame_id, true));
      if (frameId !== head) throw new Error(`the refill was given frame ${frameId} instead of ${head}`);
      const slot = frameId % capacity;
      if (slot < window.first || slot >= window.end) window = openWindow(mapping, capacity, slot);
      const at = (slot - window.first) * FRAME_BYTES;
      window.bytes.set(bytes.subarray(from, from + FRAME_BYTES), at);
      window.bytes[at + OFFSET.flags] = (window.bytes[at + OFFSET.flags] as number) | FLAG.refilled;
      const sequence = wholeSequence(frameId, capacity);
      window.words[at / 4] = sequence | 0;
      window.words[at / 4 + 1] = highWord(sequence) | 0;
      head += 1;
    }
    await clock.nextTurn();
  }
  return { head, tail, refilled: head - tail };
}

/** The oldest frame after `missing` that is still kept; every frame newer than a kept one is kept, too. */
async function oldestAfter(
  missing: number,
  nextFrameId: number,
  newest: NewestFrames,
): Promise<number | null> {
  let absent = missing;
  let present = nextFrameId;
  while (present - absent > 1) {
    const middle = absent + Math.floor((present - absent) / 2);
    if ((await newest(middle, 1)).count > 0) present = middle;
    else absent = middle;
  }
  return present === nextFrameId ? null : present;
}
