/**
 * Event types by the shape of their events, so that the model is asked once a shape. Part of the brain.
 */
import { UNKNOWN_EVENT } from "../frame.ts";
import type { SmallTable } from "../journal/journal.ts";

/** Beyond, the shape that was used least recently is forgotten. */
const SHAPES_MAX = 10_000;

export class TypesByShape {
  readonly #table: SmallTable;
  /** By fingerprint, the least recently used first. */
  readonly #types = new Map<string, string>();

  /** Reads what was kept. @throws GatewayError journal_failed */
  constructor(table: SmallTable) {
    this.#table = table;
    for (const { key, value } of table.all()) this.#types.set(key, value);
  }

  get size(): number {
    return this.#types.size;
  }

  /** The type of events of this shape; null: the model could not name it; undefined: it was not asked. */
  recall(fingerprint: string): string | null | undefined {
    const type = this.#types.get(fingerprint);
    if (type === undefined) return undefined;
    // Moved to the end: the least recently used is forgotten first.
    this.#types.delete(fingerprint);
    this.#types.set(fingerprint, type);
    return type === UNKNOWN_EVENT ? null : type;
  }

  /** @param type null: the model could not name it. */
  remember(fingerprint: string, type: string | null): void {
    this.#types.set(fingerprint, type ?? UNKNOWN_EVENT);
    const oldest = this.#types.size > SHAPES_MAX ? this.#types.keys().next().value : undefined;
    if (oldest !== undefined) this.#types.delete(oldest);
    // What the model could not name it may name after the next start, or another model may.
    const named = type !== null && type !== UNKNOWN_EVENT;
    const rows = named ? [{ key: fingerprint, value: type }] : [];
    const forgotten = oldest === undefined ? [] : [{ key: oldest, value: null }];
    try {
      if (rows.length + forgotten.length > 0) this.#table.write([...forgotten, ...rows]);
    } catch {
      // A full disk is the journal's affair; this shape is learned again after a restart.
    }
  }
}
