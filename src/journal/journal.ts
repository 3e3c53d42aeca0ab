/**
 * The journal: the durable truth. An event is acknowledged when its transaction here has committed,
 * and a frame is published when its row here has. One SQLite file in WAL mode, written by this class
 * only, from one thread; others read it through read-only connections of their own.
 *
 * Calls of one turn of the event loop share one transaction, which commits, synchronously, at the
 * next `setImmediate`. What a reader finds in the file:
 *
 *     events(seq, received_us, id, type, message, conversation_id, timestamp_us, fields, source, body)
 *     frames(frame_id, seq, decided_us, physics, vector, event_type, intent, provenance)
 *     answers(answer_id, seq, decided_us, physics, vector, event_type, intent, provenance)
 *
 * A temporary journal has four generations of them, `events_a` to `events_d` and so on, of which the
 * oldest is emptied at the bound; there the names above are views over all, made once and never
 * changed. A view has no rowid and no order: readers name the columns and say ORDER BY. A frame is in
 * the generation of its event, so both leave together. A reader keeps its snapshot while a generation
 * is emptied; its next transaction finds the rows gone.
 */

import { type Database, SQLiteError, type SQLQueryBindings } from "bun:sqlite";
import { statSync } from "node:fs";
import { GatewayError, messageOf } from "../errors.ts";
import type { ParsedEvent } from "../event/event.ts";
import { PHYSICS_BYTES } from "../frame.ts";
import {
  isFileFailure,
  type JournalKind,
  journalError,
  openFile,
  type PreparedStatement,
  type Row,
} from "./file.ts";
import { IntentRows } from "./intents.ts";
import { KEYS_SCHEMA_SQL, Keys } from "./keys.ts";
import { type Heads, Logs } from "./logs.ts";
import {
  type AppendResult,
  type ConversationMotion,
  type DecidedFrame,
  EventsGone,
  eventId,
  idPrefix,
  idRest,
  type JournalCursors,
  type JournalEvent,
  type Label,
  type StoredAnswer,
  type StoredFrame,
} from "./rows.ts";
import { openTable, type SmallTable, type SmallTableName } from "./tables.ts";

export type { IntentRows, RememberedRow, StoredExample } from "./intents.ts";
export type {
  AppendResult,
  ConversationMotion,
  DecidedFrame,
  JournalCursors,
  JournalEvent,
  Label,
  StoredAnswer,
  StoredFrame,
} from "./rows.ts";
export { EventsGone, eventId } from "./rows.ts";
export type { SmallTable } from "./tables.ts";

export interface JournalOptions {
  /** PATH.journal. */
  readonly path: string;
  /** Not null: nothing survives the process, and the file with its WAL stays within `limitBytes`. */
  readonly ephemeral: null | { readonly limitBytes: number };
  readonly nowUs: () => number;
  /** A random integer from 0 to 2³² − 1. */
  readonly randomU32: () => number;
  /** Changes with every boot of the machine. */
  readonly bootId: string;
  /**
   * Dedup keys that wait in memory before they are sorted into their table, at least 1; tests make it
   * small.
   */
  readonly keysInMemoryMax?: number;
}

/** Rows of one transaction; a single call may hold more. */
const GROUP_ROWS_MAX = 4096;
/** Bytes of bodies and messages in one transaction; a single call may hold more. */
const GROUP_BYTES_MAX = 16 * 1024 * 1024;
/** Events that leave in one transaction. */
const PRUNE_EVENTS_MAX = 1000;
/** A temporary journal keeps at least this part of its room for the newest events, one in so many. */
const NEWEST_SHARE = 16;

/**
 * The WAL is copied back each time it has grown by this: small, since it holds up one commit (about 10
 * ms).
 */
const CHECKPOINT_BYTES = 4 * 1024 * 1024;
const KEYS_IN_MEMORY_MAX = 65_536;
/** What a row takes beside its bodies, messages and vectors, roughly. */
const ROW_BYTES = 128;

interface AppendCall {
  readonly kind: "append";
  readonly events: readonly ParsedEvent[];
  readonly source: string;
  readonly receivedUs: number;
  readonly rows: number;
  readonly bytes: number;
  results: AppendResult[];
  stored: JournalEvent[];
  failure: unknown;
  readonly settle: PromiseWithResolvers<AppendResult[]>;
}

/** Rows of frames or of answers. */
interface DecideCall {
  readonly kind: "decide" | "answer";
  readonly frames: readonly DecidedFrame[];
  readonly rows: number;
  readonly bytes: number;
  firstId: number;
  failure: unknown;
  readonly settle: PromiseWithResolvers<number>;
}

type Call = AppendCall | DecideCall;

/** What a transaction makes of the counters; taken over when it has committed. */
interface Counters extends Heads {
  /** Every event up to here has its frame, or is gone: where the search for unframed ones begins. */
  framedTo: number;
}

export class Journal implements Disposable {
  readonly path: string;
  /** From 1 to 2³² − 1. */
  readonly journalId: number;
  /** The journal was last open in this boot of the machine. */
  readonly sameBoot: boolean;
  /** Called after each commit that held new events, in order of seq, before the promises resolve. */
  onCommitted: (batch: { events: readonly JournalEvent[] }) => void = () => {};

  /** Labelled examples, and remembered answers. */
  readonly intents: IntentRows;

  readonly #database: Database;
  /** Of a temporary journal: what its tables, its WAL and a group may take. */
  readonly #bounds: {
    readonly tablesBytes: number;
    readonly walBytes: number;
    readonly groupBytes: number;
  } | null;
  readonly #logs: Logs;
  readonly #keys: Keys;
  readonly #begin: PreparedStatement;
  readonly #commit: PreparedStatement;
  readonly #rollback: PreparedStatement;
  readonly #size: PreparedStatement;
  readonly #getMeta: PreparedStatement;
  readonly #putMeta: PreparedStatement;
  #counters: Counters;
  #pruned: JournalCursors;
  /** Events that left the journal, pruned or dropped: with seq dense, the others are there. */
  #gone: number;
  #dropped = 0;
  #queue: Call[] = [];
  #scheduled: ReturnType<typeof setImmediate> | null = null;
  #closed = false;

  /**
   * Opens the journal at `path`, or makes one (mode 0600) where there is none.
   * @throws GatewayError foreign_journal: the file is no journal, of another kind or of a later version (it
   *   is left as it is); journal_missing: only the WAL of one is there; disk_full, journal_failed: it cannot
   *   be made or read.
   */
  static open(options: JournalOptions): Journal {
    return new Journal(options);
  }

  private constructor(o: JournalOptions) {
    const kind: JournalKind = o.ephemeral === null ? "kept" : "temporary";
    const limitBytes = o.ephemeral?.limitBytes ?? Number.POSITIVE_INFINITY;
    const walBytes = Math.min(CHECKPOINT_BYTES, limitBytes / 16);
    const groupBytes = Math.min(GROUP_BYTES_MAX, limitBytes / 16);
    // Beside the tables: a full WAL, which a group more may exceed, and the group's own pages.
    const tablesBytes = limitBytes - 2 * walBytes - 2 * groupBytes;
    this.path = o.path;
    this.#bounds = o.ephemeral === null ? null : { tablesBytes, walBytes, groupBytes };
    const meta = { "journal.id": String(o.randomU32() >>> 0 || 1), "journal.created_us": String(o.nowUs()) };
    const database = openFile(o.path, kind, { walBytes, schemaSql: KEYS_SCHEMA_SQL, meta });
    this.#database = database;
    try {
      const prepare = (sql: string): PreparedStatement => database.prepare<Row, SQLQueryBindings[]>(sql);
      this.#begin = prepare("BEGIN IMMEDIATE");
      this.#commit = prepare("COMMIT");
      this.#rollback = prepare("ROLLBACK");
      this.#size = prepare(
        `SELECT (page_count - freelist_count) * page_size AS bytes
         FROM pragma_page_count, pragma_freelist_count, pragma_page_size`,
      );
      this.#getMeta = prepare("SELECT value FROM meta WHERE key = ?");
      this.#putMeta = prepare(
        "INSERT INTO meta(key, value) VALUES(?, ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value",
      );
      this.intents = new IntentRows(database, (operation, change) => this.#change(operation, change));
      this.#logs = new Logs(database, kind);
      this.#keys = new Keys(database, {
        inMemoryMax: o.keysInMemoryMax ?? Math.min(KEYS_IN_MEMORY_MAX, Math.ceil(limitBytes / 1024)),
        forgetful: o.ephemeral !== null,
      });
      this.journalId = Number(this.meta("journal.id"));
      this.sameBoot = this.meta("journal.boot") === o.bootId;
      if (!this.sameBoot) this.setMeta("journal.boot", o.bootId);
      const pruned = JSON.parse(
        this.meta("journal.pruned") ?? '{"seq":0,"frameId":0,"answerId":0,"events":0}',
      );
      this.#pruned = { seq: pruned.seq, frameId: pruned.frameId, answerId: pruned.answerId };
      this.#gone = pruned.events;
      this.#counters = this.#readCounters();
    } catch (error) {
      database.close(true);
      throw journalError("open", o.path, error);
    }
  }

  #readCounters(): Counters {
    return { ...this.#logs.heads(), framedTo: Number(this.meta("journal.framed_to") ?? 0) };
  }

  // ------------------------------------------------------------------------------------------ groups

  /**
   * Stores events in the group of this turn of the event loop.
   * An event whose key is known, or stands earlier in the group, is a duplicate of that one and is not
   * stored.
   * @param o.receivedUs Unix µs, one for all of them.
   * @returns one result for each event, in order, after the commit. Rejects with GatewayError disk_full or
   *   journal_failed: then nothing of this call was stored.
   */
  append(events: readonly ParsedEvent[], o: { source: string; receivedUs: number }): Promise<AppendResult[]> {
    let bytes = 0;
    for (const event of events) bytes += event.body.byteLength + (event.message?.length ?? 0);
    const settle = Promise.withResolvers<AppendResult[]>();
    const { source, receivedUs } = o;
    const rows = events.length;
    this.#enqueue({
      kind: "append",
      events,
      source,
      receivedUs,
      rows,
      bytes,
      results: [],
      stored: [],
      failure: undefined,
      settle,
    });
    return settle.promise;
  }

  /**
   * Stores the frames of committed events in the group of this turn of the event loop. Ids follow one another
   * in the order of frames and of calls.
   * @returns the id of the first, after the commit. Rejects with EventsGone where events are not there (any
   *   more), with GatewayError disk_full or journal_failed, or with Error where an event has its frame
   *   already, which is a bug: then nothing of this call was stored.
   */
  decide(frames: readonly DecidedFrame[]): Promise<number> {
    return this.#enqueueDecided("decide", frames);
  }

  /**
   * Stores answers, which say anew, each as a whole, what is known of an event that has its frame; both may have left the
   * journal. Ids follow one another in the order of answers and of calls.
   * @returns the id of the first, after the commit. Rejects with GatewayError disk_full or journal_failed: then
   *   nothing of this call was stored.
   */
  answer(answers: readonly DecidedFrame[]): Promise<number> {
    return this.#enqueueDecided("answer", answers);
  }

  #enqueueDecided(kind: DecideCall["kind"], frames: readonly DecidedFrame[]): Promise<number> {
    let bytes = 0;
    for (const { physics, vector } of frames) {
      if (physics.byteLength !== PHYSICS_BYTES)
        throw new Error(`journal: ${physics.byteLength} bytes of physics`);
      bytes += PHYSICS_BYTES + (vector?.byteLength ?? 0);
    }
    const settle = Promise.withResolvers<number>();
    this.#enqueue({
      kind,
      frames,
      rows: frames.length,
      bytes,
      firstId: 0,
      failure: undefined,
      settle,
    });
    return settle.promise;
  }

  #enqueue(call: Call): void {
    if (this.#closed) {
      call.settle.reject(journalError(call.kind, this.path, new Error("the journal is closed")));
      return;
    }
    this.#queue.push(call);
    this.#scheduled ??= setImmediate(() => this.#commitGroup());
  }

  /** One group: as many calls as fit, in order, in one transaction; then everybody is told. */
  #commitGroup(): void {
    const group = this.#nextGroup();
    this.#scheduled = this.#queue.length > 0 ? setImmediate(() => this.#commitGroup()) : null;
    try {
      this.#store(group);
    } catch (error) {
      for (const call of group) call.failure ??= journalError(call.kind, this.path, error);
    }
    try {
      const events = group.flatMap((call) =>
        call.kind === "append" && call.failure === undefined ? call.stored : [],
      );
      if (events.length > 0) this.onCommitted({ events });
    } finally {
      // What is committed is acknowledged, whatever the listener makes of it.
      for (const call of group) {
        if (call.failure !== undefined) call.settle.reject(call.failure);
        else if (call.kind === "append") call.settle.resolve(call.results);
        else call.settle.resolve(call.firstId);
      }
    }
  }

  #nextGroup(): Call[] {
    const bytesMax = this.#bounds?.groupBytes ?? GROUP_BYTES_MAX;
    let [count, rows, bytes] = [0, 0, 0];
    for (const call of this.#queue) {
      rows += call.rows;
      bytes += call.bytes;
      if (count > 0 && (rows > GROUP_ROWS_MAX || bytes > bytesMax)) break;
      count += 1;
    }
    return this.#queue.splice(0, count);
  }

  #store(group: readonly Call[]): void {
    this.#makeRoom(group);
    const appends = group.filter((call) => call.kind === "append");
    const decides = group.filter((call): call is DecideCall => call.kind === "decide");
    this.#keys.reserve(appends.reduce((sum, call) => sum + call.rows, 0));
    try {
      this.#transact(() => this.#storeCalls(group, this.#counters));
    } catch (error) {
      if (isFileFailure(error)) throw error;
      // A row was refused. Now each call stands for itself, and only that row's call fails.
      this.#transact(() => this.#storeOneByOne(group));
    }
    const { current } = this.#logs;
    for (const call of appends) {
      current.bytes += call.bytes + call.rows * ROW_BYTES;
      if (call.failure !== undefined) continue;
      current.events += call.stored.length;
      current.unframed += call.stored.length;
    }
    for (const call of decides) {
      // Frames stand beside their events, mostly older ones: they are no reason to begin a new generation.
      if (call.failure !== undefined) continue;
      for (const { seq } of call.frames) {
        const generation = this.#logs.of(seq);
        if (generation !== undefined) generation.unframed -= 1;
      }
    }
  }

  #storeOneByOne(group: readonly Call[]): Counters {
    let counters = this.#counters;
    const order = ["append", "decide", "answer"] as const;
    for (const call of order.flatMap((kind) => group.filter((one) => one.kind === kind))) {
      const mark = this.#keys.mark;
      this.#database.run("SAVEPOINT one_call");
      try {
        counters = this.#storeCalls([call], counters);
      } catch (error) {
        if (isFileFailure(error)) throw error;
        call.failure = rowFailure(call.kind, error);
        this.#keys.rollback(mark);
        this.#database.run("ROLLBACK TO one_call");
      }
      this.#database.run("RELEASE one_call");
    }
    return counters;
  }

  /**
   * Runs `store` in a transaction; takes its counters over after the commit, or leaves everything as it
   * was.
   */
  #transact(store: () => Counters): void {
    let counters: Counters;
    try {
      this.#begin.run();
      counters = store();
      this.#keys.step();
      this.#commit.run();
    } catch (error) {
      this.#keys.rollback(0);
      this.#undo();
      throw error;
    }
    this.#counters = counters;
    this.#keys.commit();
  }

  #undo(): void {
    // After some failures SQLite has rolled back by itself.
    if (this.#database.inTransaction) this.#rollback.run();
    this.#counters = this.#readCounters();
  }

  /** One small change as a transaction of its own. No group is ever open here: everything is synchronous. */
  #change<T>(operation: string, change: () => T): T {
    if (this.#database.inTransaction) throw new Error(`journal: ${operation} inside a transaction`);
    try {
      this.#begin.run();
      const result = change();
      this.#commit.run();
      return result;
    } catch (error) {
      if (this.#database.inTransaction) this.#rollback.run();
      throw journalError(operation, this.path, error);
    }
  }

  /** Events first, then frames, then answers. */
  #storeCalls(calls: readonly Call[], before: Counters): Counters {
    const counters = { ...before };
    const appends = calls.filter((call) => call.kind === "append");
    const decides = calls.filter((call): call is DecideCall => call.kind === "decide");
    if (appends.length > 0) this.#storeEvents(appends, counters);
    if (decides.length > 0) this.#storeFrames(decides, counters);
    for (const call of calls) {
      if (call.kind !== "answer") continue;
      call.firstId = counters.headAnswerId + 1;
      this.#logs.insertAnswers(call.frames, call.firstId);
      counters.headAnswerId += call.frames.length;
    }
    return counters;
  }

  #storeEvents(calls: readonly AppendCall[], counters: Counters): void {
    const keys: string[] = [];
    for (const { events, source } of calls) {
      for (const { key } of events) if (key !== null) keys.push(`${source}\0${key}`);
    }
    this.#keys.begin(keys);
    const cells: SQLQueryBindings[] = [];
    const nameless: { call: AppendCall; index: number; receivedUs: number }[] = [];
    let keyIndex = -1;
    for (const call of calls) {
      const { receivedUs, source } = call;
      const prefix = idPrefix(receivedUs, this.journalId);
      call.results = [];
      call.stored = [];
      for (const event of call.events) {
        const { type, message, conversationId, timestampUs, fields, body } = event;
        if (event.key !== null) {
          const first = this.#keys.find(++keyIndex, receivedUs);
          if (first !== null) {
            if (event.id === null)
              nameless.push({ call, index: call.results.length, receivedUs: first.receivedUs });
            call.results.push({ seq: first.seq, id: event.id ?? "", duplicate: true });
            continue;
          }
          this.#keys.put(keyIndex, counters.headSeq + 1, receivedUs);
        }
        const seq = ++counters.headSeq;
        const id = event.id ?? prefix + idRest(this.journalId, seq);
        const json = fields === null ? null : JSON.stringify(fields);
        cells.push(seq, receivedUs, id, type, message, conversationId, timestampUs, json, source, body);
        call.stored.push({ seq, receivedUs, id, type, message, conversationId, timestampUs, fields, body });
        call.results.push({ seq, id, duplicate: false });
      }
    }
    this.#logs.insertEvents(cells);
    this.#keys.log();
    for (const { call, index, receivedUs } of nameless) {
      const seq = call.results[index]?.seq ?? 0;
      const id = this.#logs.idOf(seq) ?? eventId(receivedUs, this.journalId, seq);
      call.results[index] = { seq, id, duplicate: true };
    }
  }

  #storeFrames(calls: readonly DecideCall[], counters: Counters): void {
    for (const call of calls) {
      const gone = this.#logs.missing(call.frames.map(({ seq }) => seq));
      if (gone.length > 0) throw new EventsGone(this.path, gone);
      call.firstId = counters.headFrameId + 1;
      counters.headFrameId += call.frames.length;
    }
    const frames = calls.flatMap((call) => call.frames);
    this.#logs.insertFrames(frames, counters.headFrameId - frames.length + 1);
    const before = counters.framedTo;
    for (const seq of frames.map((frame) => frame.seq).sort((a, b) => a - b)) {
      if (seq === counters.framedTo + 1) counters.framedTo = seq;
      counters.framedMax = Math.max(counters.framedMax, seq);
    }
    counters.framedTo = this.#logs.framedTo(counters.framedTo, counters.framedMax);
    if (counters.framedTo > before) this.#putMeta.run("journal.framed_to", String(counters.framedTo));
  }

  // ------------------------------------------------------------------------------------------- bound

  /**
   * Empties the oldest generation of a temporary journal when the bound would be passed or the newest has
   * its share.
   */
  #makeRoom(group: readonly Call[]): void {
    if (this.#bounds === null) return;
    const { tablesBytes, walBytes, groupBytes } = this.#bounds;
    const incoming = group.reduce((sum, call) => sum + call.bytes + call.rows * ROW_BYTES, 0);
    for (let turn = 0; turn < this.#logs.generations; turn++) {
      const full = this.#usedBytes() + incoming > tablesBytes;
      const shareReached = this.#logs.current.bytes >= tablesBytes / this.#logs.generations;
      if (!full && !shareReached) break;
      // Frames of the newest events may fill the room by themselves: these events are not what has to go.
      if (!shareReached && this.#logs.bytesBesideOldest < tablesBytes / NEWEST_SHARE) break;
      this.#rotate();
    }
    // A reader that sat on the WAL kept it from starting over; it is cut as soon as nobody does.
    const wal = statSync(`${this.path}-wal`, { throwIfNoEntry: false })?.size ?? 0;
    if (wal > walBytes + groupBytes) this.#database.run("PRAGMA wal_checkpoint(TRUNCATE)");
  }

  #rotate(): void {
    this.#change("drop the oldest events", () => this.#logs.emptyOldest());
    const { events, unframed, oldestSeq } = this.#logs.rotate(this.#counters.headSeq + 1);
    this.#gone += events;
    this.#dropped += unframed;
    this.#counters = { ...this.#counters, framedTo: Math.max(this.#counters.framedTo, oldestSeq - 1) };
  }

  #usedBytes(): number {
    return this.#size.get()?.bytes as number;
  }

  // ----------------------------------------------------------------------------------------- reading

  /** The newest committed seq; 0 where there never was one. */
  headSeq(): number {
    return this.#counters.headSeq;
  }

  /** The id of the next frame. */
  nextFrameId(): number {
    return this.#counters.headFrameId + 1;
  }

  /** Events above `seq` that have no frame, ascending, at most `limit`. */
  unframedAfter(seq: number, limit: number): JournalEvent[] {
    const after = Math.max(seq, this.#counters.framedTo);
    return this.#reading(() => this.#logs.unframedAfter(after, limit));
  }

  /** The events of these numbers, in their order; null where there is none (any more). */
  eventsAt(seqs: readonly number[]): (JournalEvent | null)[] {
    return this.#reading(() => seqs.map((seq) => this.#logs.eventAt(seq)));
  }

  /** Frames from `frameId` on that are still here, ascending, at most `limit`. */
  framesFrom(frameId: number, limit: number): StoredFrame[] {
    return this.#reading(() => this.#logs.framesFrom(frameId, limit));
  }

  /** The frame of event `seq`; null where there is none (yet, or any more). */
  frameOf(seq: number): StoredFrame | null {
    return this.#reading(() => this.#logs.frameOf(seq));
  }

  /** The newest answer on event `seq` that is still here; null where there is none. */
  answerOf(seq: number): StoredAnswer | null {
    return this.#reading(() => this.#logs.answerOf(seq));
  }

  /** The id of the newest answer that was ever stored; 0 where there never was one. */
  headAnswerId(): number {
    return this.#counters.headAnswerId;
  }

  /**
   * Events whose frame says less than a language model could tell, and that no answer followed: of the frames from
   * `fromFrameId` to before `toFrameId` those that are still here, the newest first.
   */
  unanswered(fromFrameId: number, toFrameId: number): number[] {
    return this.#reading(() => this.#logs.unanswered(fromFrameId, toFrameId));
  }

  /**
   * How conversations moved, ascending by frame: the newest `limit` of them, or, with `afterFrameId`, the
   * first `limit` above it.
   */
  recentConversations(limit: number, afterFrameId?: number): ConversationMotion[] {
    return this.#reading(() => this.#logs.recentConversations(limit, afterFrameId));
  }

  /**
   * What has not left the journal. `events` costs nothing; `bytes`, of pages in use, is asked of SQLite
   * when read.
   */
  backlog(): { readonly events: number; readonly bytes: number } {
    const usedBytes = (): number => this.#reading(() => this.#usedBytes());
    return {
      events: this.#counters.headSeq - this.#gone,
      get bytes() {
        return usedBytes();
      },
    };
  }

  /** Events that a temporary journal dropped at its bound before they had a frame. */
  dropped(): number {
    return this.#dropped;
  }

  #reading<T>(read: () => T): T {
    try {
      return read();
    } catch (error) {
      throw journalError("read", this.path, error);
    }
  }

  // ----------------------------------------------------------------------------------------- leaving

  /**
   * Lets the oldest frames go, together with their events and answers, in one commit: ascending by frame_id,
   * up to the first that is above one of the cursors.
   * @param maxEvents 1 to PRUNE_EVENTS_MAX.
   * @returns how many events left.
   * @throws GatewayError disk_full, journal_failed
   */
  prune(to: JournalCursors, maxEvents = PRUNE_EVENTS_MAX): number {
    const limit = Math.min(Math.max(1, maxEvents), PRUNE_EVENTS_MAX);
    const leaving = this.#reading(() => this.#logs.leaving(to, limit));
    if (leaving.length === 0) return 0;
    const pruned = leaving.reduce(
      (sum, { frameId, seq, answerId }) => ({
        seq: Math.max(sum.seq, seq),
        frameId: Math.max(sum.frameId, frameId),
        answerId: Math.max(sum.answerId, answerId),
      }),
      this.#pruned,
    );
    const events = this.#gone + leaving.length;
    this.#change("prune", () => {
      this.#logs.remove(leaving);
      this.#putMeta.run("journal.pruned", JSON.stringify({ ...pruned, events }));
    });
    for (const { generation } of leaving) generation.events -= 1;
    this.#gone = events;
    this.#pruned = pruned;
    return leaving.length;
  }

  /**
   * Lets answers go whose event and frame have gone before, up to `answerId`.
   * @returns how many left, at most `max`.
   * @throws GatewayError disk_full, journal_failed
   */
  pruneAnswers(answerId: number, max = PRUNE_EVENTS_MAX): number {
    const limit = Math.min(Math.max(1, max), PRUNE_EVENTS_MAX);
    const ids = this.#reading(() => this.#logs.lonelyAnswers(this.#pruned.seq, answerId, limit));
    const newest = ids.at(-1);
    if (newest === undefined) return 0;
    const pruned = { ...this.#pruned, answerId: Math.max(this.#pruned.answerId, newest) };
    this.#change("prune answers", () => {
      this.#logs.removeAnswers(ids);
      this.#putMeta.run("journal.pruned", JSON.stringify({ ...pruned, events: this.#gone }));
    });
    this.#pruned = pruned;
    return ids.length;
  }

  /** Up to which row of each log something has left by `prune`; 0: nothing. */
  pruned(): JournalCursors {
    return this.#pruned;
  }

  /**
   * Forgets keys that were received before `olderThanUs`, once all of their generation (4 days) were.
   * @returns how many, at most `max`; 0: there are none now.
   * @throws GatewayError disk_full, journal_failed
   */
  pruneDedup(olderThanUs: number, max = PRUNE_EVENTS_MAX): number {
    if (!this.#keys.hasOlder(olderThanUs)) return 0;
    const { removed, done } = this.#change("forget keys", () => this.#keys.prune(olderThanUs, max));
    done();
    return removed;
  }

  // ---------------------------------------------------------------------------------------- settings

  /** How many times in a row the store was about to open and did not say that it had. */
  openAttempts(): number {
    return Number(this.meta("journal.open_attempts") ?? 0);
  }

  /** @throws GatewayError disk_full, journal_failed */
  raiseOpenAttempts(): void {
    this.setMeta("journal.open_attempts", String(this.openAttempts() + 1));
  }

  /** @throws GatewayError disk_full, journal_failed */
  clearOpenAttempts(): void {
    this.setMeta("journal.open_attempts", "0");
  }

  /** A small setting; keys that begin with "journal." are the journal's own. */
  meta(key: string): string | null {
    return this.#reading(() => (this.#getMeta.get(key)?.value as string | undefined) ?? null);
  }

  /**
   * Durable when it returns.
   * @throws GatewayError disk_full, journal_failed
   */
  setMeta(key: string, value: string): void {
    this.#change("write a setting", () => this.#putMeta.run(key, value));
  }

  /** A table for what is small and changes. @throws GatewayError disk_full, journal_failed */
  table(name: SmallTableName): SmallTable {
    return openTable(name, {
      database: this.#database,
      reading: (read) => this.#reading(read),
      change: (operation, change) => this.#change(operation, change),
    });
  }

  /** All labels, in the order of kind and id. */
  labels(): Label[] {
    const rows = this.#reading(() =>
      this.#logs.current.query("SELECT * FROM labels ORDER BY kind, id").all(),
    );
    return rows.map((row) => ({
      kind: row.kind as Label["kind"],
      id: row.id as number,
      label: row.label as string,
      dim: row.dim as number,
    }));
  }

  /**
   * Adds labels; a kind and id that is there keeps its label. How many there may be is the caller's bound.
   * @throws GatewayError disk_full, journal_failed
   */
  addLabels(labels: readonly Label[]): void {
    if (labels.length === 0) return;
    this.#change("add labels", () => {
      const insert = this.#logs.current.query(
        "INSERT OR IGNORE INTO labels(kind, id, label, dim) VALUES (?, ?, ?, ?)",
      );
      for (const { kind, id, label, dim } of labels) insert.run(kind, id, label, dim);
    });
  }

  /** Commits what waits and closes the file. A second time it does nothing. */
  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    try {
      while (this.#queue.length > 0) {
        if (this.#scheduled !== null) clearImmediate(this.#scheduled);
        this.#commitGroup();
      }
    } finally {
      if (this.#scheduled !== null) clearImmediate(this.#scheduled);
      // Finalizes the statements too; without it the file would stay open.
      this.#database.close(true);
    }
  }
}

/** What a call is told whose row SQLite or its binding refused. */
function rowFailure(kind: Call["kind"], thrown: unknown): unknown {
  if (kind === "decide" && thrown instanceof SQLiteError && thrown.code === "SQLITE_CONSTRAINT_UNIQUE") {
    return new Error(`journal: decide: an event has its frame already: ${messageOf(thrown)}`);
  }
  return thrown instanceof SQLiteError || !(thrown instanceof GatewayError)
    ? new Error(`journal: ${kind}: ${messageOf(thrown)}`, { cause: thrown })
    : thrown;
}
