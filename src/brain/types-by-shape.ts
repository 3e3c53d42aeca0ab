/**
 * Remembers which event type the model gave to events of a shape, so that it is asked once per shape and not once per
 * event. A shape is the fingerprint of a body (src/schemas/fingerprint.ts). Part of the brain.
 */
import { UNKNOWN_EVENT } from "../frame.ts";
import type { SmallTable } from "../journal/journal.ts";

/**
 * Beyond this number, the shape that was used least recently is forgotten.
 * @bound types remembered by shape | the least recently used is forgotten
 */
const SHAPES_MAX = 10_000;

export class TypesByShape {
  readonly #table: SmallTable;
  /** By fingerprint, the least recently used first. */
  readonly #types = new Map<string, string>();

  /** Reads what the table has. @throws GatewayError journal_failed */
  constructor(table: SmallTable) {
    this.#table = table;
    for (const { key, value } of table.all()) this.#types.set(key, value);
  }

  get size(): number {
    return this.#types.size;
  }

  /** The type of events of this shape; null: the model could not name it; undefined: the model was not asked. */
  recall(fingerprint: string): string | null | undefined {
    const type = this.#types.get(fingerprint);
    if (type === undefined) return undefined;
    // Moves it to the end, because the first one is forgotten next.
    this.#types.delete(fingerprint);
    this.#types.set(fingerprint, type);
    return type === UNKNOWN_EVENT ? null : type;
  }

  /** @param type null: the model could not name it. */
  remember(fingerprint: string, type: string | null): void {
    this.#types.set(fingerprint, type ?? UNKNOWN_EVENT);
    const oldest = this.#types.size > SHAPES_MAX ? this.#types.keys().next().value : undefined;
    if (oldest !== undefined) this.#types.delete(oldest);
    // A shape without a name is not written: after the next start the model, or another one, may name it.
    const named = type !== null && type !== UNKNOWN_EVENT;
    const rows = named ? [{ key: fingerprint, value: type }] : [];
    const forgotten = oldest === undefined ? [] : [{ key: oldest, value: null }];
    try {
      if (rows.length + forgotten.length > 0) this.#table.write([...forgotten, ...rows]);
    } catch {
      // The journal reports its own failures. This shape is asked about again after a restart.
    }
  }
}
