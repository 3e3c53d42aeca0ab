/** How far the ring at a path had come, for a start that asks whether its journal is complete. */
import { OFFSET } from "../frame.ts";
import { RingReader, RingUnreadable } from "./reader.ts";

/** @returns the newest readable frame and its journal; null if there is no ring, or none with a frame that can be read. */
export function ringEnd(path: string): { readonly frameId: number; readonly journalId: number } | null {
  try {
    using reader = RingReader.open(path);
    const newest = reader.newest();
    if (newest === null) return null;
    return { frameId: reader.range().high - 1, journalId: newest.getUint32(OFFSET.journal_id, true) };
  } catch (error) {
    // The writer replaces it, and says so.
    if (error instanceof RingUnreadable) return null;
    throw error;
  }
}
