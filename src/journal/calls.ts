/**
 * The calls that wait for the next group commit: they append events, decide frames, or store updates (`update`). A call
 * holds what is to be stored, then its result or failure, and then settles the promise of its caller. Part of the
 * journal.
 */

import type { ParsedEvent } from "../event/event.ts";
import { PHYSICS_BYTES } from "../frame.ts";
import type { AppendResult, DecidedFrame, JournalEvent } from "./rows.ts";

export class AppendCall {
  readonly kind = "append";
  readonly events: readonly ParsedEvent[];
  readonly source: string;
  readonly receivedUs: number;
  readonly rows: number;
  /** Bytes of bodies, and characters of messages. */
  readonly bytes: number;
  results: AppendResult[] = [];
  /** The events that are not duplicates. */
  stored: JournalEvent[] = [];
  /** The frame that was decided in the same transaction, if this is the only event of its group; null: there is none. */
  frameId: number | null = null;
  /** If not undefined, nothing of this call was stored. */
  failure: unknown = undefined;
  readonly #settle = Promise.withResolvers<AppendResult[]>();

  constructor(events: readonly ParsedEvent[], o: { source: string; receivedUs: number }) {
    let bytes = 0;
    for (const event of events) bytes += event.body.byteLength + (event.message?.length ?? 0);
    this.events = events;
    this.source = o.source;
    this.receivedUs = o.receivedUs;
    this.rows = events.length;
    this.bytes = bytes;
  }

  get promise(): Promise<AppendResult[]> {
    return this.#settle.promise;
  }

  settle(): void {
    if (this.failure === undefined) this.#settle.resolve(this.results);
    else this.#settle.reject(this.failure);
  }
}

export class DecideCall {
  readonly kind: "decide" | "update";
  readonly frames: readonly DecidedFrame[];
  readonly rows: number;
  /** Bytes of physics and vectors. */
  readonly bytes: number;
  /** The id of the first frame or update, once stored; the others follow it. */
  firstId = 0;
  /** If not undefined, nothing of this call was stored. */
  failure: unknown = undefined;
  readonly #settle = Promise.withResolvers<number>();

  /** @throws Error if the physics of a frame have the wrong size, which is a bug. */
  constructor(kind: "decide" | "update", frames: readonly DecidedFrame[]) {
    let bytes = 0;
    for (const { physics, vector } of frames) {
      if (physics.byteLength !== PHYSICS_BYTES)
        throw new Error(`journal: physics of ${physics.byteLength} bytes instead of ${PHYSICS_BYTES}`);
      bytes += PHYSICS_BYTES + (vector?.byteLength ?? 0);
    }
    this.kind = kind;
    this.frames = frames;
    this.rows = frames.length;
    this.bytes = bytes;
  }

  get promise(): Promise<number> {
    return this.#settle.promise;
  }

  settle(): void {
    if (this.failure === undefined) this.#settle.resolve(this.firstId);
    else this.#settle.reject(this.failure);
  }
}

export type Call = AppendCall | DecideCall;

export function isAppend(call: Call): call is AppendCall {
  return call.kind === "append";
}

export function isDecide(call: Call): call is DecideCall {
  return call.kind === "decide";
}
