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

import { statSync } from "node:fs";
import { type Database, type SQLQueryBindings, SQLiteError } from "bun:sqlite";
import { GatewayError, messageOf } from "./errors.ts";
import type { EventFields, ParsedEvent } from "./event.ts";
import { PHYSICS_BYTES } from "./frame.ts";
import {
  FRAME_COLUMNS,
  Generation,
  GENERATION_SUFFIXES,
  isFileFailure,
  type JournalKind,
  journalError,
  openFile,
  type PreparedStatement,
  type Row,
} from "./journal-file.ts";
import { Keys, KEYS_SCHEMA_SQL } from "./journal-keys.ts";

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
  /** Dedup keys that wait in memory before they are sorted into their table, at least 1; tests make it small. */
  readonly keysInMemoryMax?: number;
}

/** An event as it stands in the journal. */
export interface JournalEvent {
  /** From 1, without gaps; never used again. */
  readonly seq: number;
  readonly receivedUs: number;
  /** The sender's, else a UUIDv7. */
  readonly id: string;
  readonly type: string | null;
  readonly message: string | null;
  readonly conversationId: string | null;
  readonly timestampUs: number | null;
  readonly fields: EventFields | null;
  /** The bytes that came. */
  readonly body: Uint8Array;
}

export interface AppendResult {
  /** Of a duplicate: the first one's. */
  readonly seq: number;
  readonly id: string;
  readonly duplicate: boolean;
}

/** What is decided about an event, once and for ever. */
export interface DecidedFrame {
  readonly seq: number;
  readonly decidedUs: number;
  /** PHYSICS_BYTES. */
  readonly physics: Uint8Array;
  /** The leading `semantic_dim` floats; null: none, or of an embedder whose vectors are computed again. */
  readonly vector: Float32Array | null;
  readonly eventType: string | null;
  readonly intent: string | null;
  /** JSON. */
  readonly provenance: string;
}

export interface StoredFrame extends DecidedFrame {
  /** From 1, without gaps; never used again. */
  readonly frameId: number;
}

export interface Label {
  readonly kind: "intent" | "type" | "model";
  readonly id: number;
  readonly label: string;
  /** Of a model: the width of its vectors; else 0. */
  readonly dim: number;
}

/** Up to which row of each log something holds; 0: none. */
export interface JournalCursors {
  readonly seq: number;
  readonly frameId: number;
  readonly answerId: number;
}

/** The motion of a conversation, from an event that has its frame. */
export interface ConversationMotion {
  readonly frameId: number;
  readonly conversationId: string;
  /** The event's own timestamp, else its receipt. */
  readonly timestampUs: number;
  readonly decidedUs: number;
}

/** What a `decide` rejects with when events are not in the journal (any more); nothing of that call was stored. */
export class EventsGone extends GatewayError {
  readonly seqs: readonly number[];

  constructor(path: string, seqs: readonly number[]) {
    super({
      code: "not_found",
      operation: "journal: decide",
      object: path,
      detail: `${seqs.length} of the events are not there (any more), the first is ${seqs[0]}`,
      hint: "a temporary journal drops its oldest events at its bound; decide the others without them",
    });
    this.seqs = seqs;
  }
}

/** Rows of one transaction; a single call may hold more. */
export const GROUP_ROWS_MAX = 4096;
/** Bytes of bodies and messages in one transaction; a single call may hold more. */
export const GROUP_BYTES_MAX = 16 * 1024 * 1024;
/** Events that leave in one transaction. */
export const PRUNE_EVENTS_MAX = 1000;

/** The WAL is copied back each time it has grown by this: small, since it holds up one commit (about 10 ms). */
const CHECKPOINT_BYTES = 4 * 1024 * 1024;
const KEYS_IN_MEMORY_MAX = 65_536;
/** What a row takes beside its bodies, messages and vectors, roughly. */
const ROW_BYTES = 128;

const EVENT_READ = "seq, received_us, id, type, message, conversation_id, timestamp_us, fields, body";

/** The first part of a UUIDv7, up to 14 bits of the journal; the same for all events of one receipt. */
function idPrefix(receivedUs: number, journalId: number): string {
  const ms = Math.floor(receivedUs / 1000)
    .toString(16)
    .padStart(12, "0");
  const us = (receivedUs % 1000).toString(16).padStart(3, "0");
  const variant = (0x8000 | (journalId >>> 18)).toString(16);
  return `${ms.slice(0, 8)}-${ms.slice(8)}-7${us}-${variant}-`;
}

/** The rest: 18 bits of the journal, 30 of seq. */
function idRest(journalId: number, seq: number): string {
  return ((journalId & 0x3ffff) * 2 ** 30 + (seq % 2 ** 30)).toString(16).padStart(12, "0");
}

/**
 * The id of an event whose sender gave none: a UUIDv7 (RFC 9562) of nothing but these three, so that a
 * repeat is told the same id when the event itself has left the journal. Its random bits are the µs
 * of the receipt (12 bits), the journal (32) and seq (30).
 */
export function eventId(receivedUs: number, journalId: number, seq: number): string {
  return idPrefix(receivedUs, journalId) + idRest(journalId, seq);
}

function eventOf(row: Row): JournalEvent {
  return {
    seq: row.seq as number,
    receivedUs: row.received_us as number,
    id: row.id as string,
    type: row.type as string | null,
    message: row.message as string | null,
    conversationId: row.conversation_id as string | null,
    timestampUs: row.timestamp_us as number | null,
    fields: row.fields === null ? null : (JSON.parse(row.fields as string) as EventFields),
    body: row.body as Uint8Array,
  };
}

function frameOf(row: Row): StoredFrame {
  const vector = row.vector as Uint8Array | null;
  return {
    frameId: row.frame_id as number,
    seq: row.seq as number,
    decidedUs: row.decided_us as number,
    physics: row.physics as Uint8Array,
    vector: vector === null ? null : new Float32Array(vector.slice().buffer),
    eventType: row.event_type as string | null,
    intent: row.intent as string | null,
    provenance: row.provenance as string,
  };
}

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

interface DecideCall {
  readonly kind: "decide";
  readonly frames: readonly DecidedFrame[];
  readonly rows: number;
  readonly bytes: number;
  firstFrameId: number;
  failure: unknown;
  readonly settle: PromiseWithResolvers<number>;
}

type Call = AppendCall | DecideCall;

/** What a transaction makes of the counters; taken over when it has committed. */
interface Counters {
  headSeq: number;
  headFrameId: number;
  /** Every event up to here has its frame, or is gone: where the search for unframed ones begins. */
  framedTo: number;
  /** The newest event that ever got a frame. */
  framedMax: number;
}

export class Journal implements Disposable {
  readonly path: string;
  /** From 1 to 2³² − 1. */
  readonly journalId: number;
  /** The journal was last open in this boot of the machine. */
  readonly sameBoot: boolean;
  /** Called after each commit that held new events, in order of seq, before the promises resolve. */
  onCommitted: (batch: { events: readonly JournalEvent[] }) => void = () => {};

  readonly #database: Database;
  /** Of a temporary journal: what its tables, its WAL and a group may take. */
  readonly #bounds: { readonly tablesBytes: number; readonly walBytes: number; readonly groupBytes: number } | null;
  /** Oldest first. New events go to the last. */
  readonly #generations: Generation[];
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
   * @throws GatewayError foreign_journal: the file is no journal, of another kind or of a later version (it is left as
   *   it is); journal_missing: only the WAL of one is there; disk_full, journal_failed: it cannot be made or read.
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
      this.#generations = GENERATION_SUFFIXES[kind].map((suffix) => new Generation(database, suffix));
      this.#keys = new Keys(database, {
        inMemoryMax: o.keysInMemoryMax ?? Math.min(KEYS_IN_MEMORY_MAX, Math.ceil(limitBytes / 1024)),
        forgetful: o.ephemeral !== null,
      });
      this.journalId = Number(this.meta("journal.id"));
      this.sameBoot = this.meta("journal.boot") === o.bootId;
      if (!this.sameBoot) this.setMeta("journal.boot", o.bootId);
      const pruned = JSON.parse(this.meta("journal.pruned") ?? '{"seq":0,"frameId":0,"answerId":0,"events":0}');
      this.#pruned = { seq: pruned.seq, frameId: pruned.frameId, answerId: pruned.answerId };
      this.#gone = pruned.events;
      this.#counters = this.#readCounters();
    } catch (error) {
      database.close(true);
      throw journalError("open", o.path, error);
    }
  }

  #readCounters(): Counters {
    const counters = { headSeq: 0, headFrameId: 0, framedTo: Number(this.meta("journal.framed_to") ?? 0), framedMax: 0 };
    const sql = `SELECT (SELECT seq FROM sqlite_sequence WHERE name = 'events' || ?1) AS events,
      (SELECT seq FROM sqlite_sequence WHERE name = 'frames' || ?1) AS frames,
      (SELECT max(seq) FROM {frames}) AS framed`;
    for (const generation of this.#generations) {
      const row = generation.query(sql).get(generation.suffix);
      counters.headSeq = Math.max(counters.headSeq, (row?.events as number | null) ?? 0);
      counters.headFrameId = Math.max(counters.headFrameId, (row?.frames as number | null) ?? 0);
      counters.framedMax = Math.max(counters.framedMax, (row?.framed as number | null) ?? 0);
    }
    return counters;
  }

  // ------------------------------------------------------------------------------------------ groups

  /**
   * Stores events in the group of this turn of the event loop.
   * An event whose key is known, or stands earlier in the group, is a duplicate of that one and is not stored.
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
    this.#enqueue({ kind: "append", events, source, receivedUs, rows, bytes, results: [], stored: [], failure: undefined, settle });
    return settle.promise;
  }

  /**
   * Stores the frames of committed events in the group of this turn of the event loop. Ids follow one another in
   * the order of frames and of calls.
   * @returns the id of the first, after the commit. Rejects with EventsGone where events are not there (any more),
   *   with GatewayError disk_full or journal_failed, or with Error where an event has its frame already, which is
   *   a bug: then nothing of this call was stored.
   */
  decide(frames: readonly DecidedFrame[]): Promise<number> {
    let bytes = 0;
    for (const { physics, vector } of frames) {
      if (physics.byteLength !== PHYSICS_BYTES) throw new Error(`journal: ${physics.byteLength} bytes of physics`);
      bytes += PHYSICS_BYTES + (vector?.byteLength ?? 0);
    }
    const settle = Promise.withResolvers<number>();
    this.#enqueue({ kind: "decide", frames, rows: frames.length, bytes, firstFrameId: 0, failure: undefined, settle });
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
      const events = group.flatMap((call) => (call.kind === "append" && call.failure === undefined ? call.stored : []));
      if (events.length > 0) this.onCommitted({ events });
    } finally {
      // What is committed is acknowledged, whatever the listener makes of it.
      for (const call of group) {
        if (call.failure !== undefined) call.settle.reject(call.failure);
        else if (call.kind === "append") call.settle.resolve(call.results);
        else call.settle.resolve(call.firstFrameId);
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
    const decides = group.filter((call) => call.kind === "decide");
    this.#keys.reserve(appends.reduce((sum, call) => sum + call.rows, 0));
    try {
      this.#transact(() => this.#storeCalls(appends, decides, this.#counters));
    } catch (error) {
      if (isFileFailure(error)) throw error;
      // A row was refused. Now each call stands for itself, and only that row's call fails.
      this.#transact(() => this.#storeOneByOne([...appends, ...decides]));
    }
    const current = this.#current();
    for (const call of appends) {
      current.bytes += call.bytes + call.rows * ROW_BYTES;
      if (call.failure !== undefined) continue;
      current.events += call.stored.length;
      current.unframed += call.stored.length;
    }
    for (const call of decides) {
      current.bytes += call.bytes + call.rows * ROW_BYTES;
      if (call.failure !== undefined) continue;
      for (const { seq } of call.frames) {
        const generation = this.#generationOf(seq);
        if (generation !== undefined) generation.unframed -= 1;
      }
    }
  }

  #storeOneByOne(calls: readonly Call[]): Counters {
    let counters = this.#counters;
    for (const call of calls) {
      const mark = this.#keys.mark;
      this.#database.run("SAVEPOINT one_call");
      try {
        counters = this.#storeCalls(call.kind === "append" ? [call] : [], call.kind === "decide" ? [call] : [], counters);
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

  /** Runs `store` in a transaction; takes its counters over after the commit, or leaves everything as it was. */
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

  /** Events first, then frames. */
  #storeCalls(appends: readonly AppendCall[], decides: readonly DecideCall[], before: Counters): Counters {
    const counters = { ...before };
    if (appends.length > 0) this.#storeEvents(appends, counters);
    if (decides.length > 0) this.#storeFrames(decides, counters);
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
            if (event.id === null) nameless.push({ call, index: call.results.length, receivedUs: first.receivedUs });
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
    this.#current().insertEvents.insert(cells);
    this.#keys.log();
    for (const { call, index, receivedUs } of nameless) {
      const seq = call.results[index]?.seq ?? 0;
      call.results[index] = { seq, id: this.#idOf(seq, receivedUs), duplicate: true };
    }
  }

  /** The id event `seq` was given; of one that has left the journal, the derived one. */
  #idOf(seq: number, receivedUs: number): string {
    const row = this.#generationOf(seq)?.query("SELECT id FROM {events} WHERE seq = ?").get(seq);
    return (row?.id as string | undefined) ?? eventId(receivedUs, this.journalId, seq);
  }

  #storeFrames(calls: readonly DecideCall[], counters: Counters): void {
    const cells = new Map<Generation, SQLQueryBindings[]>(this.#generations.map((generation) => [generation, []]));
    for (const call of calls) {
      const gone = this.#missing(call.frames.map(({ seq }) => seq));
      if (gone.length > 0) throw new EventsGone(this.path, gone);
      call.firstFrameId = counters.headFrameId + 1;
      for (const { seq, decidedUs, physics, vector, eventType, intent, provenance } of call.frames) {
        const frameId = ++counters.headFrameId;
        const blob = vector === null ? null : new Uint8Array(vector.buffer, vector.byteOffset, vector.byteLength);
        const generation = this.#generationOf(seq);
        if (generation === undefined) throw new Error(`journal: event ${seq} has no generation`);
        cells.get(generation)?.push(frameId, seq, decidedUs, physics, blob, eventType, intent, provenance);
        if (seq > counters.framedMax) counters.framedMax = seq;
      }
    }
    for (const [generation, rows] of cells) generation.insertFrames.insert(rows);
    const before = counters.framedTo;
    const seqs = calls.flatMap((call) => call.frames.map(({ seq }) => seq)).sort((a, b) => a - b);
    for (const seq of seqs) if (seq === counters.framedTo + 1) counters.framedTo = seq;
    if (counters.framedTo < counters.framedMax) this.#advanceFramed(counters);
    if (counters.framedTo > before) this.#putMeta.run("journal.framed_to", String(counters.framedTo));
  }

  /** Those of `seqs` that have no row of events. */
  #missing(seqs: readonly number[]): number[] {
    const present = `FROM json_each(?) j CROSS JOIN {events} e ON e.seq = j.value`;
    const json = JSON.stringify(seqs);
    let count = 0;
    for (const generation of this.#generations) {
      count += generation.query(`SELECT count(*) AS count ${present}`).get(json)?.count as number;
    }
    if (count === seqs.length) return [];
    const there = this.#generations.flatMap((generation) =>
      generation.query(`SELECT e.seq AS seq ${present}`).all(json).map((row) => row.seq),
    );
    return seqs.filter((seq) => !there.includes(seq));
  }

  /** Moves `framedTo` over what was framed out of order, as far as a few look-ups reach. */
  #advanceFramed(counters: Counters): void {
    const step = 64;
    const sql = `SELECT seq, EXISTS(SELECT 1 FROM {frames} f WHERE f.seq = e.seq) AS framed
      FROM {events} e WHERE seq > ? ORDER BY seq LIMIT ${step}`;
    for (let turn = 0; turn < 64 && counters.framedTo < counters.framedMax; turn++) {
      const rows = this.#each((generation) => generation.query(sql).all(counters.framedTo)).slice(0, step);
      const open = rows.find((row) => row.framed === 0);
      if (open !== undefined) {
        counters.framedTo = (open.seq as number) - 1;
        return;
      }
      counters.framedTo = rows.length < step ? counters.framedMax : (rows.at(-1)?.seq as number);
    }
  }

  // ------------------------------------------------------------------------------------- generations

  #current(): Generation {
    const generation = this.#generations.at(-1);
    if (generation === undefined) throw new Error("journal: no generation");
    return generation;
  }

  #generationOf(seq: number): Generation | undefined {
    return this.#generations.findLast((generation) => seq >= generation.firstSeq);
  }

  /** Rows of all generations, the oldest generation's first. */
  #each<T>(read: (generation: Generation) => T[]): T[] {
    return this.#generations.flatMap(read);
  }

  /** Empties the oldest generation of a temporary journal when the bound would be passed or the newest has its share. */
  #makeRoom(group: readonly Call[]): void {
    if (this.#bounds === null) return;
    const { tablesBytes, walBytes, groupBytes } = this.#bounds;
    const incoming = group.reduce((sum, call) => sum + call.bytes + call.rows * ROW_BYTES, 0);
    for (let turn = 0; turn < this.#generations.length; turn++) {
      const full = this.#usedBytes() + incoming > tablesBytes;
      if (!full && this.#current().bytes < tablesBytes / this.#generations.length) break;
      this.#rotate();
    }
    // A reader that sat on the WAL kept it from starting over; it is cut as soon as nobody does.
    const wal = statSync(`${this.path}-wal`, { throwIfNoEntry: false })?.size ?? 0;
    if (wal > walBytes + groupBytes) this.#database.run("PRAGMA wal_checkpoint(TRUNCATE)");
  }

  #rotate(): void {
    const [oldest, next] = this.#generations;
    if (oldest === undefined || next === undefined) throw new Error("journal: there is only one generation");
    this.#change("drop the oldest events", () => {
      // Without WHERE, SQLite frees whole pages without a look at the rows.
      for (const name of ["events", "frames", "answers"]) oldest.query(`DELETE FROM {${name}}`).run();
    });
    this.#gone += oldest.events;
    this.#dropped += oldest.unframed;
    this.#counters = { ...this.#counters, framedTo: Math.max(this.#counters.framedTo, next.firstSeq - 1) };
    Object.assign(oldest, { events: 0, unframed: 0, bytes: 0, firstSeq: this.#counters.headSeq + 1 });
    this.#generations.push(...this.#generations.splice(0, 1));
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
    const sql = `SELECT ${EVENT_READ} FROM {events} e
      WHERE seq > ? AND NOT EXISTS (SELECT 1 FROM {frames} f WHERE f.seq = e.seq) ORDER BY seq LIMIT ?`;
    const rows = this.#reading(() => this.#each((generation) => generation.query(sql).all(after, limit)));
    return rows.slice(0, limit).map(eventOf);
  }

  /** The events of these numbers, in their order; null where there is none (any more). */
  eventsAt(seqs: readonly number[]): (JournalEvent | null)[] {
    const sql = `SELECT ${EVENT_READ} FROM {events} WHERE seq = ?`;
    return this.#reading(() =>
      seqs.map((seq) => {
        const row = this.#generationOf(seq)?.query(sql).get(seq) ?? null;
        return row === null ? null : eventOf(row);
      }),
    );
  }

  /** Frames from `frameId` on that are still here, ascending, at most `limit`. */
  framesFrom(frameId: number, limit: number): StoredFrame[] {
    const sql = `SELECT ${FRAME_COLUMNS} FROM {frames} WHERE frame_id >= ? ORDER BY frame_id LIMIT ?`;
    const rows = this.#reading(() => this.#each((generation) => generation.query(sql).all(frameId, limit)));
    return rows.sort(byFrameId).slice(0, limit).map(frameOf);
  }

  /** The frame of event `seq`; null where there is none (yet, or any more). */
  frameOf(seq: number): StoredFrame | null {
    const sql = `SELECT ${FRAME_COLUMNS} FROM {frames} WHERE seq = ?`;
    const row = this.#reading(() => this.#generationOf(seq)?.query(sql).get(seq) ?? null);
    return row === null ? null : frameOf(row);
  }

  /**
   * How conversations moved, ascending by frame: the newest `limit` of them, or, with `afterFrameId`, the first
   * `limit` above it.
   */
  recentConversations(limit: number, afterFrameId?: number): ConversationMotion[] {
    const onwards = afterFrameId !== undefined;
    const sql = `SELECT frame_id, conversation_id, coalesce(timestamp_us, received_us) AS timestamp_us, decided_us
      FROM {frames} f JOIN {events} e ON e.seq = f.seq WHERE conversation_id IS NOT NULL AND frame_id > ?
      ORDER BY frame_id ${onwards ? "ASC" : "DESC"} LIMIT ?`;
    const rows = this.#reading(() => this.#each((generation) => generation.query(sql).all(afterFrameId ?? 0, limit)));
    rows.sort(byFrameId);
    return (onwards ? rows.slice(0, limit) : rows.slice(Math.max(0, rows.length - limit))).map((row) => ({
      frameId: row.frame_id as number,
      conversationId: row.conversation_id as string,
      timestampUs: row.timestamp_us as number,
      decidedUs: row.decided_us as number,
    }));
  }

  /** What has not left the journal. `events` costs nothing; `bytes`, of pages in use, is asked of SQLite when read. */
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
   * Lets the oldest frames go, together with their events and answers, in one commit: ascending by frame_id, up to
   * the first that is above one of the cursors.
   * @param maxEvents 1 to PRUNE_EVENTS_MAX.
   * @returns how many events left.
   * @throws GatewayError disk_full, journal_failed
   */
  prune(to: JournalCursors, maxEvents = PRUNE_EVENTS_MAX): number {
    const limit = Math.min(Math.max(1, maxEvents), PRUNE_EVENTS_MAX);
    const sql = `SELECT frame_id, seq, (SELECT max(answer_id) FROM {answers} a WHERE a.seq = f.seq) AS answer_id
      FROM {frames} f WHERE frame_id <= ? ORDER BY frame_id LIMIT ?`;
    const oldest = this.#reading(() =>
      this.#each((generation) =>
        generation.query(sql).all(to.frameId, limit).map((row) => ({
          generation,
          frameId: row.frame_id as number,
          seq: row.seq as number,
          answerId: (row.answer_id as number | null) ?? 0,
        })),
      ),
    );
    oldest.sort((a, b) => a.frameId - b.frameId);
    const stop = oldest.findIndex(({ seq, answerId }) => seq > to.seq || answerId > to.answerId);
    const leaving = oldest.slice(0, Math.min(limit, stop === -1 ? oldest.length : stop));
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
      for (const generation of this.#generations) {
        const seqs = leaving.filter((row) => row.generation === generation).map(({ seq }) => seq);
        if (seqs.length === 0) continue;
        for (const name of ["answers", "frames", "events"]) {
          const statement = generation.query(`DELETE FROM {${name}} WHERE seq IN (SELECT value FROM json_each(?))`);
          statement.run(JSON.stringify(seqs));
        }
      }
      this.#putMeta.run("journal.pruned", JSON.stringify({ ...pruned, events }));
    });
    for (const { generation } of leaving) generation.events -= 1;
    this.#gone = events;
    this.#pruned = pruned;
    return leaving.length;
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

  /** All labels, in the order of kind and id. */
  labels(): Label[] {
    const rows = this.#reading(() => this.#current().query("SELECT * FROM labels ORDER BY kind, id").all());
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
      const insert = this.#current().query("INSERT OR IGNORE INTO labels(kind, id, label, dim) VALUES (?, ?, ?, ?)");
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

function byFrameId(a: Row, b: Row): number {
  return (a.frame_id as number) - (b.frame_id as number);
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
