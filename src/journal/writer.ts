/**
 * Stores groups of calls: events with their dedup keys, then frames, then updates, all in one transaction, which also
 * assigns their numbers. Part of the journal.
 */

import { SQLiteError, type SQLQueryBindings } from "bun:sqlite";
import { GatewayError, messageOf } from "../errors.ts";
import type { ParsedEvent } from "../event/event.ts";
import { eventChecksum } from "../row-damage.ts";
import { type AppendCall, type Call, type DecideCall, isAppend, isDecide } from "./calls.ts";
import { isFileFailure } from "./file.ts";
import type { Key, Keys } from "./keys.ts";
import type { Heads, Logs } from "./logs.ts";
import { type DecidedFrame, EventsGone, eventId, idPrefix, idRest, type JournalEvent } from "./rows.ts";
import type { Settings } from "./settings.ts";
import type { Transactions } from "./transactions.ts";

const FRAMED_TO = "journal.framed_to";
/** Frames that are decided with their event are noted there this rarely. */
const FRAMED_TO_EVERY = 64;

/** The heads of the logs. A transaction works on a copy, which replaces them when it has committed. */
interface Counters extends Heads {
  /** Every event up to this seq has a frame or has left; the search for unframed events begins above it. */
  framedTo: number;
}

export interface WriterOptions {
  readonly path: string;
  readonly journalId: number;
  readonly transactions: Transactions;
  readonly settings: Settings;
  readonly logs: Logs;
  readonly keys: Keys;
  /** Decides a frame in the transaction of its event; null: later. */
  readonly frameAtOnce: (event: JournalEvent) => DecidedFrame | null;
}

export class Writer {
  readonly #o: WriterOptions;
  #counters: Counters;

  constructor(options: WriterOptions) {
    this.#o = options;
    this.#counters = this.#readCounters();
    // A damaged page at the end of a log would refuse every row from now on.
    options.transactions.undone(() => options.logs.tryToWrite(this.#counters));
  }

  /** The newest committed event, frame and update; 0 before the first of each. */
  get heads(): Readonly<Counters> {
    return this.#counters;
  }

  /** Reads the heads again, after numbers were skipped. */
  reload(): void {
    this.#counters = this.#readCounters();
  }

  /** Notes that all events before `seq` have left. */
  startsAt(seq: number): void {
    this.#counters = { ...this.#counters, framedTo: Math.max(this.#counters.framedTo, seq - 1) };
  }

  #readCounters(): Counters {
    return { ...this.#o.logs.heads(), framedTo: Number(this.#o.settings.get(FRAMED_TO) ?? 0) };
  }

  /**
   * Stores a group in one transaction. If SQLite refuses a row, only the call with that row fails.
   * @throws what SQLite throws about the file; then nothing is stored.
   */
  store(group: readonly Call[]): void {
    this.#o.keys.reserve(group.reduce((sum, call) => sum + (isAppend(call) ? call.rows : 0), 0));
    try {
      this.#transact(() => this.#storeCalls(group, this.#counters, { framesAtOnce: true }));
    } catch (error) {
      if (isFileFailure(error)) throw error;
      // SQLite refused a row. Store each call by itself, so that only the call with that row fails.
      this.#transact(() => this.#storeOneByOne(group));
    }
  }

  /** Runs `store` in a transaction. Adopts the counters that it returns after the commit, or undoes everything. */
  #transact(store: () => Counters): void {
    const { transactions, keys } = this.#o;
    try {
      this.#counters = transactions.run(() => {
        const counters = store();
        keys.step();
        return counters;
      });
    } catch (error) {
      keys.rollback(0);
      this.#counters = this.#readCounters();
      throw error;
    }
    keys.commit();
  }

  #storeOneByOne(group: readonly Call[]): Counters {
    const { transactions, keys } = this.#o;
    let counters = this.#counters;
    const order = ["append", "decide", "update"] as const;
    for (const call of order.flatMap((kind) => group.filter((one) => one.kind === kind))) {
      const mark = keys.mark;
      try {
        transactions.savepoint(() => {
          counters = this.#storeCalls([call], counters, { framesAtOnce: false });
        });
      } catch (error) {
        if (isFileFailure(error)) throw error;
        call.failure = rowFailure(call.kind, error);
        keys.rollback(mark);
      }
    }
    return counters;
  }

  /** Stores events first, then frames, then updates. */
  #storeCalls(calls: readonly Call[], before: Counters, o: { framesAtOnce: boolean }): Counters {
    const counters = { ...before };
    const appends = calls.filter(isAppend);
    const decides = calls.filter(isDecide);
    if (appends.length > 0) this.#storeEvents(appends, counters);
    for (const call of appends) call.frameId = null;
    const [only] = appends;
    if (o.framesAtOnce && only !== undefined && calls.length === 1) this.#frameAtOnce(only, counters);
    if (decides.length > 0) this.#storeFrames(decides, counters);
    for (const call of calls) {
      if (call.kind !== "update") continue;
      call.firstId = counters.headAnswerId + 1;
      this.#o.logs.insertUpdates(call.frames, call.firstId);
      counters.headAnswerId += call.frames.length;
    }
    return counters;
  }

  #storeEvents(calls: readonly AppendCall[], counters: Counters): void {
    const { logs, keys: dedup, journalId } = this.#o;
    const keys: Key[] = [];
    for (const { events, source } of calls) {
      for (const event of events) if (isKeyed(event)) keys.push(keyOf(event, source));
    }
    dedup.begin(keys);
    const cells: SQLQueryBindings[] = [];
    const nameless: { call: AppendCall; index: number; receivedUs: number }[] = [];
    let keyIndex = -1;
    for (const call of calls) {
      const { receivedUs, source } = call;
      const prefix = idPrefix(receivedUs, journalId);
      call.results = [];
      call.stored = [];
      for (const event of call.events) {
        const { type, message, conversationId, timestampUs, fields, body } = event;
        if (isKeyed(event)) {
          const first = dedup.find(++keyIndex, receivedUs);
          if (first !== null) {
            if (event.id === null)
              nameless.push({ call, index: call.results.length, receivedUs: first.receivedUs });
            call.results.push({ seq: first.seq, id: event.id ?? "", duplicate: true });
            continue;
          }
          dedup.put(keyIndex, counters.headSeq + 1, receivedUs);
        }
        const seq = ++counters.headSeq;
        const id = event.id ?? prefix + idRest(journalId, seq);
        const json = fields === null ? null : JSON.stringify(fields);
        const texts = { id, type, message, conversationId, fields: json, source };
        const sum = eventChecksum({ seq, receivedUs, timestampUs, ...texts, body });
        cells.push(seq, receivedUs, id, type, message, conversationId, timestampUs, json, source, body, sum);
        call.stored.push({ seq, receivedUs, id, type, message, conversationId, timestampUs, fields, body });
        call.results.push({ seq, id, duplicate: false });
      }
    }
    logs.insertEvents(cells);
    dedup.log();
    for (const { call, index, receivedUs } of nameless) {
      const seq = call.results[index]?.seq ?? 0;
      const id = logs.idOf(seq) ?? eventId(receivedUs, journalId, seq);
      call.results[index] = { seq, id, duplicate: true };
    }
  }

  /** Stores the frame of a single event with it, if every earlier event has one and the pipeline can make it now. */
  #frameAtOnce(call: AppendCall, counters: Counters): void {
    const [event] = call.stored;
    if (event === undefined || call.stored.length > 1 || event.seq !== counters.framedTo + 1) return;
    const frame = this.#o.frameAtOnce(event);
    if (frame === null) return;
    const frameId = counters.headFrameId + 1;
    this.#o.logs.insertFrames([frame], frameId);
    counters.headFrameId = frameId;
    counters.framedTo = event.seq;
    counters.framedMax = Math.max(counters.framedMax, event.seq);
    call.frameId = frameId;
    // A start searches from there on, so that it may be a little behind.
    if (event.seq % FRAMED_TO_EVERY === 0) this.#o.settings.put(FRAMED_TO, String(counters.framedTo));
  }

  #storeFrames(calls: readonly DecideCall[], counters: Counters): void {
    const { logs, settings, path } = this.#o;
    for (const call of calls) {
      const missing = logs.missing(call.frames.map(({ seq }) => seq));
      if (missing.length > 0) throw new EventsGone(path, missing);
      call.firstId = counters.headFrameId + 1;
      counters.headFrameId += call.frames.length;
    }
    const frames = calls.flatMap((call) => call.frames);
    logs.insertFrames(frames, counters.headFrameId - frames.length + 1);
    const before = counters.framedTo;
    for (const seq of frames.map((frame) => frame.seq).sort((a, b) => a - b)) {
      if (seq === counters.framedTo + 1) counters.framedTo = seq;
      counters.framedMax = Math.max(counters.framedMax, seq);
    }
    counters.framedTo = logs.framedTo(counters.framedTo, counters.framedMax);
    if (counters.framedTo > before) settings.put(FRAMED_TO, String(counters.framedTo));
  }
}

function isKeyed(event: ParsedEvent): boolean {
  return event.key !== null || event.dedupByBody;
}

/** No kind of a given key is empty, so that a body cannot be mistaken for a key. */
function keyOf({ key, body }: ParsedEvent, source: string): Key {
  return key === null ? { scope: `${source}\0\0`, body } : { scope: `${source}\0${key}`, body: null };
}

/** The error of a call with a row that SQLite or its binding refused. */
function rowFailure(kind: Call["kind"], thrown: unknown): unknown {
  if (kind === "decide" && thrown instanceof SQLiteError && thrown.code === "SQLITE_CONSTRAINT_UNIQUE") {
    return new Error(`journal: decide: an event already has a frame: ${messageOf(thrown)}`);
  }
  return thrown instanceof SQLiteError || !(thrown instanceof GatewayError)
    ? new Error(`journal: ${kind}: ${messageOf(thrown)}`, { cause: thrown })
    : thrown;
}
