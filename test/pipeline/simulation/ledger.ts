/**
 * Remembers what happened over all restarts, and throws a Violation as soon as a promise of DESIGN.md is broken. It sees what
 * is committed, published, stored, pruned and returned, and nothing of the pipeline's insides.
 */
import {
  decodePhysics,
  FLAG,
  FRAME_BYTES,
  OFFSET,
  PHYSICS_OFFSET,
  SEMANTIC_DIM_MAX,
  UNKNOWN_EVENT,
} from "../../../src/frame.ts";
import type { DecidedFrame, JournalCursors } from "../../../src/journal/journal.ts";
import type { DecidedRow } from "./journal-reader.ts";
import { HASHING, replyFor, vectorFor } from "./models.ts";

/** A promise was broken. */
export class Violation extends Error {}

/** An event as the journal took it. */
export interface KnownEvent {
  readonly seq: number;
  readonly id: string;
  readonly message: string | null;
  readonly conversationId: string | null;
  readonly body: Uint8Array;
}

/** What a frame or an update says, with its vector, wherever that is kept. */
export interface Content {
  readonly seq: number;
  readonly physics: Uint8Array;
  readonly vector: Float32Array | null;
  readonly eventType: string | null;
  readonly intent: string | null;
  readonly provenance: string;
}

/** A frame may be late by this much, because framing groups commits and pauses for ingest. */
const SLACK_MS = 200;
/** The longest pause between two attempts to write to a journal that fails. */
const JOURNAL_RETRY_MS = 2000;
const FLAGS_AT = OFFSET.flags - PHYSICS_OFFSET;

export class Ledger {
  readonly events = new Map<number, KnownEvent>();
  readonly acknowledged = new Set<number>();
  /** The frame with frame_id n is element n − 1. */
  readonly frames: Content[] = [];
  readonly frameOf = new Map<number, number>();
  /** The update with answer_id n is element n − 1. */
  readonly updates: Content[] = [];
  readonly #newest = new Map<number, Content>();
  /** By conversation, the newest seq that has its frame. */
  readonly #framedTo = new Map<string, number>();
  /** Events on which the language model has said something after their frame. */
  readonly #answered = new Set<number>();
  /** Events whose vector is known and whose frame may wait for the language model only, since the last start. */
  #ready = new Map<number, { readonly atMs: number; readonly mayWait: boolean }>();
  #frameWaitMs = 0;
  #journalFailedMs = 0;
  #verifiedFrames = 0;

  /** A process starts. */
  started(frameWaitMs: number): void {
    this.#ready = new Map();
    this.#frameWaitMs = frameWaitMs;
    this.#journalFailedMs = 0;
  }

  journalFailed(nowMs: number): void {
    this.#journalFailedMs = nowMs;
  }

  received(events: readonly KnownEvent[]): void {
    for (const event of events) {
      if (this.events.has(event.seq)) throw new Violation(`event ${event.seq} was committed twice`);
      this.events.set(event.seq, event);
    }
  }

  acknowledge(seq: number): void {
    this.#event(seq);
    this.acknowledged.add(seq);
  }

  /** An event has its vector, or is to have none; `asks`: the language model could add something. */
  ready(seq: number, asks: boolean, nowMs: number): void {
    const { conversationId } = this.#event(seq);
    let mayWait = asks;
    for (const [other, { mayWait: otherWaits }] of this.#ready)
      if (otherWaits && conversationId !== null && this.#event(other).conversationId === conversationId)
        mayWait = true;
    this.#ready.set(seq, { atMs: nowMs, mayWait });
  }

  #event(seq: number): KnownEvent {
    const event = this.events.get(seq);
    if (event === undefined) throw new Violation(`event ${seq} was never committed`);
    return event;
  }

  // ------------------------------------------------------------------------------------------ frames

  /** Rows of frames have committed, from `firstFrameId` on. */
  decided(firstFrameId: number, rows: readonly DecidedFrame[], nowMs: number): void {
    if (firstFrameId !== this.frames.length + 1)
      throw new Violation(`frame ${firstFrameId} follows frame ${this.frames.length}`);
    for (const row of rows) {
      const frameId = this.frames.length + 1;
      const content = this.#contentOf(row);
      this.#checkNew(frameId, content);
      this.frames.push(content);
      this.frameOf.set(row.seq, frameId);
      this.#newest.set(row.seq, content);
      this.#checkWait(row.seq, nowMs);
      this.#ready.delete(row.seq);
    }
  }

  #checkNew(frameId: number, content: Content): void {
    const { seq } = content;
    const { conversationId, message, body } = this.#event(seq);
    const before = this.frameOf.get(seq);
    if (before !== undefined) throw new Violation(`event ${seq} has frames ${before} and ${frameId}`);
    if (conversationId !== null) {
      const framedTo = this.#framedTo.get(conversationId) ?? 0;
      if (framedTo > seq)
        throw new Violation(
          `frame ${frameId} of event ${seq} of ${conversationId} comes after that of event ${framedTo}`,
        );
      this.#framedTo.set(conversationId, seq);
    }
    this.#checkContent(`frame ${frameId}`, content, message ?? new TextDecoder().decode(body));
  }

  /** The vector and the model's reply belong to this event and no other. */
  #checkContent(what: string, content: Content, text: string): void {
    const { physics, vector, provenance, intent, eventType } = content;
    const { event_seq, flags, semantic_dim } = decodePhysics(physics);
    const { intent: intentFrom, type: typeFrom, embedder } = JSON.parse(provenance);
    if (event_seq !== content.seq)
      throw new Violation(`${what} names event ${event_seq}, not ${content.seq}`);
    if (((flags & FLAG.semantic) !== 0) !== (vector !== null) || semantic_dim !== (vector?.length ?? 0))
      throw new Violation(`${what} says another thing of its vector than it has`);
    if (vector !== null && !same(vector, vectorFor(embedder, text)))
      throw new Violation(`${what} of event ${content.seq} has another event's vector`);
    const said = replyFor(typeFrom === "llm" && intentFrom === null ? "event" : "message", text);
    if (intentFrom === "llm" && (said as { intent?: string | null }).intent !== intent)
      throw new Violation(`${what} of event ${content.seq} says ${intent}, the model did not`);
    if ("event_type" in said && said.event_type !== eventType)
      throw new Violation(`${what} of event ${content.seq} is a ${eventType}, the model did not say so`);
  }

  #contentOf({ seq, physics, vector, eventType, intent, provenance }: DecidedFrame): Content {
    return { seq, physics, vector: vector ?? this.#computed(seq, physics), eventType, intent, provenance };
  }

  /** The vector that the journal does not keep. */
  #computed(seq: number, physics: Uint8Array): Float32Array | null {
    if ((decodePhysics(physics).flags & FLAG.semantic) === 0) return null;
    const { message, body } = this.#event(seq);
    return vectorFor(HASHING, message ?? new TextDecoder().decode(body));
  }

  /** A frame waits for the model at most frame-wait, and only if it, or one before it in its conversation, has a question. */
  #checkWait(seq: number, nowMs: number): void {
    const ready = this.#ready.get(seq);
    if (ready === undefined) return;
    const dueMs = ready.atMs + (ready.mayWait ? this.#frameWaitMs : 0);
    const limitMs = Math.max(dueMs, this.#journalFailedMs + JOURNAL_RETRY_MS) + SLACK_MS;
    if (nowMs <= limitMs) return;
    const waited = Math.round(nowMs - ready.atMs);
    throw new Violation(`event ${seq} waits for its frame for ${waited} ms (mayWait: ${ready.mayWait})`);
  }

  /** No event that is ready waits for too long. */
  checkWaits(nowMs: number): void {
    for (const seq of this.#ready.keys()) this.#checkWait(seq, nowMs);
  }

  /** What another connection sees in the journal is what was decided, up to `pruned`, which has left. */
  verifyJournal(rows: readonly DecidedRow[], pruned: JournalCursors): void {
    let next = Math.max(this.#verifiedFrames, pruned.frameId) + 1;
    for (const row of rows) {
      if (row.id !== next++)
        throw new Violation(`the journal has frame ${row.id} where ${next - 1} should be`);
      this.checkFrame("the journal", row.id, this.#contentOf(decidedOf(row)));
    }
    if (next <= this.frames.length) throw new Violation(`frame ${next} is decided and not in the journal`);
    this.#verifiedFrames = this.frames.length;
  }

  get verifiedFrames(): number {
    return this.#verifiedFrames;
  }

  /** A frame that is shown, stored or returned is the one that was decided. */
  checkFrame(where: string, frameId: number, shown: Pick<Content, "physics" | "vector">): void {
    const content = this.frames[frameId - 1];
    if (content === undefined)
      throw new Violation(`${where} has frame ${frameId}, and no row of it has committed`);
    if (!samePhysics(content.physics, shown.physics))
      throw new Violation(`${where} has another frame ${frameId}`);
    const vector = content.vector ?? new Float32Array(0);
    const other = shown.vector ?? new Float32Array(0);
    if (!same(vector, other.subarray(0, vector.length)) || !isZero(other.subarray(vector.length)))
      throw new Violation(`${where} has another vector in frame ${frameId}`);
  }

  // ----------------------------------------------------------------------------------------- updates

  /** Rows of updates have committed, from `firstAnswerId` on. */
  updated(firstAnswerId: number, rows: readonly DecidedFrame[]): void {
    if (firstAnswerId !== this.updates.length + 1)
      throw new Violation(`update ${firstAnswerId} follows update ${this.updates.length}`);
    for (const row of rows) {
      const answerId = this.updates.length + 1;
      const content = this.#contentOf(row);
      const before = this.#newest.get(row.seq);
      if (before === undefined)
        throw new Violation(`update ${answerId} is about event ${row.seq}, which has no frame`);
      this.#checkUpdate(answerId, before, content);
      this.updates.push(content);
      this.#newest.set(row.seq, content);
    }
  }

  /** An update adds what the model said, or a vector of another embedder; it undoes nothing, and comes once. */
  #checkUpdate(answerId: number, before: Content, after: Content): void {
    const from = JSON.parse(before.provenance);
    const to = JSON.parse(after.provenance);
    const vectorIsNew = from.embedder !== to.embedder;
    const saidIsNew = ["type", "intent", "sentiment"].some((key) => from[key] !== to[key]);
    const what = `update ${answerId} of event ${after.seq}`;
    if (vectorIsNew === saidIsNew)
      throw new Violation(`${what} changes ${vectorIsNew ? "two things" : "nothing"}`);
    // A vector may come again once another embedder was in use; what the model said comes once.
    if (saidIsNew && this.#answered.has(after.seq)) throw new Violation(`${what} comes a second time`);
    if (saidIsNew) this.#answered.add(after.seq);
    if (vectorIsNew && (after.intent !== before.intent || after.eventType !== before.eventType))
      throw new Violation(`${what} brings a vector and changes what was said`);
    if (!vectorIsNew && !same(before.vector ?? new Float32Array(0), after.vector ?? new Float32Array(0)))
      throw new Violation(`${what} brings what the model said and changes the vector`);
    const { message, body } = this.#event(after.seq);
    this.#checkContent(what, after, message ?? new TextDecoder().decode(body));
  }

  checkUpdate(where: string, row: DecidedRow): void {
    const content = this.updates[row.id - 1];
    const held = this.#contentOf(decidedOf(row));
    if (content === undefined || content.seq !== row.seq)
      throw new Violation(`${where} has another update ${row.id}`);
    if (!samePhysics(content.physics, held.physics) || content.provenance !== held.provenance)
      throw new Violation(`${where} has another content of update ${row.id}`);
  }

  // -------------------------------------------------------------------------------------------- end

  /** What the pipeline returns of an event was decided, or updated since. */
  checkEnrichment(seq: number, said: { frame_id: number; event_type: string; intent: string | null }): void {
    const frameId = this.frameOf.get(seq);
    if (frameId !== said.frame_id)
      throw new Violation(`event ${seq} is said to have frame ${said.frame_id}, not ${frameId}`);
    const ever = [this.frames[frameId - 1], ...this.updates.filter((update) => update.seq === seq)];
    const known = ever.some(
      (content) =>
        content?.intent === said.intent && (content?.eventType ?? UNKNOWN_EVENT) === said.event_type,
    );
    if (!known) throw new Violation(`event ${seq} is said to be ${said.event_type}, ${said.intent}`);
  }
}

export function decidedOf(row: DecidedRow): DecidedFrame {
  return {
    seq: row.seq,
    decidedUs: 0,
    physics: row.physics,
    vector: row.vector === null ? null : floatsOf(row.vector),
    eventType: row.event_type,
    intent: row.intent,
    provenance: row.provenance,
  };
}

export function floatsOf(bytes: Uint8Array): Float32Array {
  return new Float32Array(bytes.slice().buffer);
}

/** Raw frames as they are checked. */
export function* framesIn(
  bytes: Uint8Array,
): Generator<{ readonly frameId: number; readonly physics: Uint8Array; readonly vector: Float32Array }> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at < bytes.byteLength; at += FRAME_BYTES) {
    yield {
      frameId: Number(view.getBigUint64(at + OFFSET.frame_id, true)),
      physics: bytes.subarray(at + PHYSICS_OFFSET, at + FRAME_BYTES),
      vector: new Float32Array(bytes.buffer, bytes.byteOffset + at + OFFSET.semantic, SEMANTIC_DIM_MAX),
    };
  }
}

const ZEROS = Buffer.alloc(4 * SEMANTIC_DIM_MAX);

function isZero({ buffer, byteOffset, byteLength }: Float32Array): boolean {
  return ZEROS.subarray(0, byteLength).equals(new Uint8Array(buffer, byteOffset, byteLength));
}

function same(a: Float32Array, b: Float32Array): boolean {
  return a.length === b.length && a.every((value, index) => value === b[index]);
}

/** The same but for the flag that says that a frame was copied into a new ring. */
function samePhysics(a: Uint8Array, b: Uint8Array): boolean {
  for (let at = 0; at < a.length; at++) {
    const mask = at === FLAGS_AT ? ~FLAG.refilled & 0xff : 0xff;
    if (((a[at] as number) & mask) !== ((b[at] as number) & mask)) return false;
  }
  return true;
}
