/**
 * What waits for the next group commit: calls that append events, and calls that decide frames or answers. A call
 * carries what is to be stored, then its result or failure, then tells its caller. Part of the journal.
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
  /** Of bodies and messages. */
  readonly bytes: number;
  results: AppendResult[] = [];
  /** The events that are no duplicates. */
  stored: JournalEvent[] = [];
  /** Not undefined: nothing of this call was stored. */
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
  readonly kind: "decide" | "answer";
  readonly frames: readonly DecidedFrame[];
  readonly rows: number;
  /** Of physics and vectors. */
  readonly bytes: number;
  firstId = 0;
  /** Not undefined: nothing of this call was stored. */
  failure: unknown = undefined;
  readonly #settle = Promise.withResolvers<number>();

  /** @throws Error if a frame's physics have another size, which is a bug. */
  constructor(kind: "decide" | "answer", frames: readonly DecidedFrame[]) {
    let bytes = 0;
    for (const { physics, vector } of frames) {
      if (physics.byteLength !== PHYSICS_BYTES)
        throw new Error(`journal: ${physics.byteLength} bytes of physics`);
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
