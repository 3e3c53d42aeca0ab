/** Adopting the file that is at the path. */
import { closeSync, fchmodSync } from "node:fs";
import { systemClock } from "../clock.ts";
import { FRAME_BYTES, OFFSET, RING_VERSION, ringBytes, wholeSequence } from "../frame.ts";
import { Mapping } from "../native/libc.ts";
import type { MappedRing, RingOptions } from "./contract.ts";
import type { FoundRing } from "./found.ts";
import { claimRing } from "./header.ts";
import { FRAME_ID_WORD, FRAME_WORDS, forEachWindow, type SlotWindow } from "./slots.ts";
import { readU64 } from "./words.ts";

/**
 * Adopts the file at the path. If it does not fit, returns null, leaves `found` open and changes nothing in the file.
 */
export async function adoptFile(o: RingOptions, found: FoundRing): Promise<MappedRing | null> {
  const { clock = systemClock } = o;
  const { fd, capacity, head, tail } = found;
  let why = unfit(o, found);
  if (why === null) {
    const mapping = new Mapping(fd, found.stat.size);
    try {
      await mapping.populate();
      why = await damage(mapping, o, found);
      if (why === null) {
        await forEachWindow(mapping, capacity, clock.nextTurn, clearOddSlots);
        const mode = found.stat.mode & 0o7777;
        if (mode !== o.mode) fchmodSync(fd, o.mode);
        claimRing(mapping, { epoch: found.epoch + 1, nowUs: clock.nowUs() });
        return { fd, mapping, capacity, head, tail, refilled: 0, adopted: true };
      }
    } catch (error) {
      mapping.unmap();
      closeSync(fd);
      throw error;
    }
    mapping.unmap();
  }
  o.log("info", `ring ${o.path}: not adopted, ${why}`);
  return null;
}

/** Why a file cannot be adopted, judged by its header alone; null if it can. */
function unfit(
  o: RingOptions,
  { stat, version, frameBytes, capacity, head, tail }: FoundRing,
): string | null {
  if (version !== RING_VERSION) return `it is of version ${version}`;
  if (frameBytes !== FRAME_BYTES) return `its frames have ${frameBytes} bytes`;
  if (o.capacity !== null && capacity !== o.capacity) return `its capacity is ${capacity}, not ${o.capacity}`;
  if (!Number.isSafeInteger(capacity) || capacity < 1 || stat.size !== ringBytes(capacity)) {
    return `its size is ${stat.size} bytes, which is not that of ${capacity} frames`;
  }
  if (stat.blocks * 512 < stat.size) return "some of its pages do not exist";
  if (!Number.isSafeInteger(head) || head < 1 || tail < 1 || tail > head || head - tail > capacity) {
    return `its head is ${head} and its tail ${tail}`;
  }
  if (head > o.nextFrameId) return `its head ${head} is beyond the journal's next frame ${o.nextFrameId}`;
  if (head < (o.firstFrameId ?? 1))
    return `its head ${head} is before a gap that ends at frame ${o.firstFrameId}`;
  // Publishing what is missing would overwrite every frame in it: a refill is quicker.
  if (o.nextFrameId - head > capacity) return `it ends at frame ${head - 1}, more than a lap ago`;
  // A frame names the journal that the ring belongs to. Without a frame it is unknown, unless there never was one.
  if (tail === head && head !== 1) return "it has no frame that names its journal";
  return null;
}

/**
 * Why the frames of a ring cannot be trusted: each one that readers may read must be whole, the newest one
 * this journal's.
 */
async function damage(
  mapping: Mapping,
  o: RingOptions,
  { capacity, head, tail }: FoundRing,
): Promise<string | null> {
  let why: string | null = null;
  const { clock = systemClock } = o;
  await forEachWindow(mapping, capacity, clock.nextTurn, ({ first, end, words }) => {
    for (let slot = first; slot < end && why === null; slot++) {
      // The newest frame that this slot has held; it is readable from tail on.
      const frameId = head - 1 - ((((head - 1 - slot) % capacity) + capacity) % capacity);
      if (frameId < tail || frameId < 1) continue;
      const at = (slot - first) * FRAME_WORDS;
      const whole = readU64(words, at) === wholeSequence(frameId, capacity);
      if (!whole || readU64(words, at + FRAME_ID_WORD) !== frameId)
        why = `frame ${frameId} in it is not whole`;
      const journalId = (words[at + OFFSET.journal_id / 4] as number) >>> 0;
      if (frameId === head - 1 && journalId !== o.journalId) why = `it belongs to journal ${journalId}`;
    }
  });
  return why;
}

/**
 * An odd sequence marks a frame whose writing was cut off. Its id is the head, and the slot's former
 * frame fell below tail before the sequence became odd. So nobody may read the slot, and a sequence of 0 says so until the
 * frame is published again.
 */
function clearOddSlots({ first, end, words }: SlotWindow): void {
  for (let at = 0; at < (end - first) * FRAME_WORDS; at += FRAME_WORDS) {
    if (((words[at] as number) & 1) === 0) continue;
    Atomics.store(words, at, 0);
    Atomics.store(words, at + 1, 0);
  }
}
