/** How much space a ring may take. */
import { accessSync, closeSync, constants, statfsSync, unlinkSync } from "node:fs";
import { dirname } from "node:path";
import { FRAME_BYTES, HEADER_BYTES, RING_CAPACITY_DEFAULT, ringBytes } from "../frame.ts";
import type { RingOptions } from "./contract.ts";
import { asFailure, noSpace } from "./failures.ts";
import { bytesOnDisk, openFound, supersede } from "./found.ts";

/** A ring that would have to shrink below this is refused: it would be of no use to a reader. */
const SHRUNK_CAPACITY_MIN = 16;

/**
 * Checks whether {@link openRing} can work, before anything is started. Changes nothing.
 * @throws GatewayError `ring_failed` for a path that is not ours to use, `ring_no_space` if the ring does not fit
 */
export function ringFits(o: { path: string; capacity: number | null }): void {
  const found = openFound(o.path);
  try {
    accessSync(dirname(o.path), constants.W_OK | constants.X_OK);
    const fits = found !== null && found.stat.size === ringBytes(o.capacity ?? found.capacity);
    if (!fits) planRing({ path: o.path, asked: o.capacity, oldBytes: bytesOnDisk(found) });
  } catch (error) {
    throw asFailure("create", o.path, error);
  } finally {
    if (found !== null) closeSync(found.fd);
  }
}

/** Returns the new ring's capacity. Removes the old file now if the new one only fits without it. */
export function makeRoom(o: RingOptions): number {
  const old = openFound(o.path);
  try {
    const plan = planRing({ path: o.path, asked: o.capacity, oldBytes: bytesOnDisk(old) });
    const { capacity, roomBytes } = plan;
    if (o.capacity === null && capacity !== RING_CAPACITY_DEFAULT) {
      const shrunk = `${capacity} frames instead of ${RING_CAPACITY_DEFAULT}`;
      o.log(
        "warn",
        `ring ${o.path}: ${shrunk}, half of the ${roomBytes} bytes that are free in ${dirname(o.path)}`,
      );
    }
    if (old !== null && plan.retireFirst) {
      supersede(old);
      unlinkSync(o.path);
    }
    return capacity;
  } finally {
    if (old !== null) closeSync(old.fd);
  }
}

/** Plans the size of a new ring. The space of the file that it replaces counts as free. */
function planRing(o: { path: string; asked: number | null; oldBytes: number }): {
  capacity: number;
  /** Whether the new ring only fits once the old file is removed. */
  retireFirst: boolean;
  roomBytes: number;
} {
  const { bavail, bsize, blocks } = statfsSync(dirname(o.path));
  // A tmpfs without a limit has no blocks.
  const freeBytes = blocks === 0 ? Number.POSITIVE_INFINITY : bavail * bsize;
  const roomBytes = freeBytes + o.oldBytes;
  let capacity = o.asked ?? RING_CAPACITY_DEFAULT;
  if (pagesOf(ringBytes(capacity)) > roomBytes) {
    const half = Math.floor((Math.floor(roomBytes / 2 / 4096) * 4096 - HEADER_BYTES) / FRAME_BYTES);
    if (o.asked !== null || half < SHRUNK_CAPACITY_MIN) {
      const needed = ringBytes(o.asked ?? SHRUNK_CAPACITY_MIN);
      throw noSpace(
        o.path,
        `${o.asked ?? SHRUNK_CAPACITY_MIN} frames need ${needed} bytes, ${roomBytes} are free`,
      );
    }
    capacity = half;
  }
  return { capacity, retireFirst: pagesOf(ringBytes(capacity)) > freeBytes, roomBytes };
}

function pagesOf(bytes: number): number {
  return Math.ceil(bytes / 4096) * 4096;
}
