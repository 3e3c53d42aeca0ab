/**
 * Prepares the ring's file before there is a {@link Ring}: the file at the path is adopted if it fits; otherwise a new one
 * takes its place.
 *
 * A file under a live mapping is never truncated, and no missing page is touched: either would end a
 * process by SIGBUS.
 */
import { closeSync } from "node:fs";
import { adoptFile } from "./adopt.ts";
import type { MappedRing, NewestFrames, RingOptions } from "./contract.ts";
import { createFile } from "./create.ts";
import { asFailure } from "./failures.ts";
import { openFound, removeLeftovers } from "./found.ts";

/** Does all of {@link openRing} except making the Ring; same errors. The caller owns `fd` and `mapping`. */
export async function prepareRingFile(o: RingOptions, newest: NewestFrames): Promise<MappedRing> {
  try {
    removeLeftovers(o.path);
    const found = openFound(o.path);
    if (found !== null && o.adopt) {
      const adopted = await adoptFile(o, found);
      if (adopted !== null) return adopted;
    }
    if (found !== null) closeSync(found.fd);
    return await createFile(o, newest);
  } catch (error) {
    throw asFailure("open", o.path, error);
  }
}
