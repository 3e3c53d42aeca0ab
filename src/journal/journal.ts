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

import type { Database } from "bun:sqlite";
import type { ParsedEvent } from "../event/event.ts";
import { AppendCall, type Call, DecideCall, isAppend } from "./calls.ts";
import { type JournalKind, journalError, openFile, pagesInUse } from "./file.ts";
import { Generations } from "./generations.ts";
import { GroupCommit } from "./group-commit.ts";
import { IntentRows } from "./intents.ts";
import { KEYS_SCHEMA_SQL, Keys } from "./keys.ts";
import { Labels } from "./labels.ts";
import { Logs } from "./logs.ts";
import { Pruning } from "./pruning.ts";
import { boundsOf, type Dropped, Room } from "./room.ts";
import type {
  AppendResult,
  ConversationMotion,
  DecidedFrame,
  JournalCursors,
  JournalEvent,
  Label,
  StoredAnswer,
  StoredFrame,
} from "./rows.ts";
import { Settings } from "./settings.ts";
import { openTable, type SmallTable, type SmallTableName } from "./tables.ts";
import { Transactions } from "./transactions.ts";
import { Writer } from "./writer.ts";

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
const KEYS_IN_MEMORY_MAX = 65_536;

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
  readonly #transactions: Transactions;
  readonly #settings: Settings;
  readonly #labels: Labels;
  readonly #logs: Logs;
  readonly #writer: Writer;
  readonly #pruning: Pruning;
  /** Of a temporary journal. */
  readonly #room: Room | null;
  readonly #group: GroupCommit<Call>;
  readonly #usedBytes: () => number;

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
    const { path, nowUs } = o;
    const kind: JournalKind = o.ephemeral === null ? "kept" : "temporary";
    const limitBytes = o.ephemeral?.limitBytes ?? Number.POSITIVE_INFINITY;
    const bounds = boundsOf(limitBytes);
    const meta = { "journal.id": String(o.randomU32() >>> 0 || 1), "journal.created_us": String(nowUs()) };
    const database = openFile(path, kind, { walBytes: bounds.walBytes, schemaSql: KEYS_SCHEMA_SQL, meta });
    this.path = path;
    this.#database = database;
    try {
      const transactions = new Transactions(database, path);
      const settings = new Settings(database, transactions);
      const generations = new Generations(database, kind);
      const logs = new Logs(generations);
      const keys = new Keys(database, {
        inMemoryMax: o.keysInMemoryMax ?? Math.min(KEYS_IN_MEMORY_MAX, Math.ceil(limitBytes / 1024)),
        forgetful: o.ephemeral !== null,
      });
      this.#transactions = transactions;
      this.#settings = settings;
      this.#logs = logs;
      this.#labels = new Labels(database, transactions);
      this.intents = new IntentRows(database, transactions);
      this.#usedBytes = pagesInUse(database);
      this.journalId = Number(settings.get("journal.id"));
      this.sameBoot = settings.get("journal.boot") === o.bootId;
      if (!this.sameBoot) settings.set("journal.boot", o.bootId);
      const shared = { path, database, transactions, settings, generations, logs, keys };
      this.#writer = new Writer({ ...shared, journalId: this.journalId });
      this.#pruning = new Pruning({ ...shared, nowUs, onLeft: (leaving) => this.#room?.left(leaving) });
      const onDropped = ({ events, oldestSeq }: Dropped): void => {
        this.#pruning.dropped(events);
        this.#writer.startsAt(oldestSeq);
      };
      this.#room =
        o.ephemeral === null ? null : new Room({ ...shared, bounds, usedBytes: this.#usedBytes, onDropped });
    } catch (error) {
      database.close(true);
      throw journalError("open", path, error);
    }
    this.#group = new GroupCommit<Call>({
      path,
      rowsMax: GROUP_ROWS_MAX,
      bytesMax: bounds.groupBytes,
      store: (group) => this.#store(group),
      stored: (group) => this.#tell(group),
    });
  }

  /**
   * Stores events in the group of this turn of the event loop.
   * An event whose key is known, or stands earlier in the group, is a duplicate of that one and is not
   * stored.
   * @param o.receivedUs Unix µs, one for all of them.
   * @returns one result for each event, in order, after the commit. Rejects with GatewayError disk_full or
   *   journal_failed: then nothing of this call was stored.
   */
  append(events: readonly ParsedEvent[], o: { source: string; receivedUs: number }): Promise<AppendResult[]> {
    return this.#add(new AppendCall(events, o));
  }

  /**
   * Stores the frames of committed events in the group of this turn of the event loop. Ids follow one another
   * in the order of frames and of calls.
   * @returns the id of the first, after the commit. Rejects with EventsGone where events are not there (any
   *   more), with GatewayError disk_full or journal_failed, or with Error where an event has its frame
   *   already, which is a bug: then nothing of this call was stored.
   */
  decide(frames: readonly DecidedFrame[]): Promise<number> {
    return this.#add(new DecideCall("decide", frames));
  }

  /**
   * Stores answers, which say anew, each as a whole, what is known of an event that has its frame; both may have left the
   * journal. Ids follow one another in the order of answers and of calls.
   * @returns the id of the first, after the commit. Rejects with GatewayError disk_full or journal_failed: then
   *   nothing of this call was stored.
   */
  answer(answers: readonly DecidedFrame[]): Promise<number> {
    return this.#add(new DecideCall("answer", answers));
  }

  #add<T>(call: Call & { readonly promise: Promise<T> }): Promise<T> {
    this.#group.add(call);
    return call.promise;
  }

  #store(group: readonly Call[]): void {
    this.#room?.make(group, this.headSeq() + 1);
    this.#writer.store(group);
    this.#room?.stored(group);
  }

  #tell(group: readonly Call[]): void {
    const events = group.flatMap((call) => (isAppend(call) && call.failure === undefined ? call.stored : []));
    if (events.length > 0) this.onCommitted({ events });
  }

  /** The newest committed seq; 0 where there never was one. */
  headSeq(): number {
    return this.#writer.heads.headSeq;
  }

  /** The id of the next frame. */
  nextFrameId(): number {
    return this.#writer.heads.headFrameId + 1;
  }

  /** Events above `seq` that have no frame, ascending, at most `limit`. */
  unframedAfter(seq: number, limit: number): JournalEvent[] {
    const after = Math.max(seq, this.#writer.heads.framedTo);
    return this.#transactions.reading(() => this.#logs.unframedAfter(after, limit));
  }

  /** The events of these numbers, in their order; null where there is none (any more). */
  eventsAt(seqs: readonly number[]): (JournalEvent | null)[] {
    return this.#transactions.reading(() => seqs.map((seq) => this.#logs.eventAt(seq)));
  }

  /** Frames from `frameId` on that are still here, ascending, at most `limit`. */
  framesFrom(frameId: number, limit: number): StoredFrame[] {
    return this.#transactions.reading(() => this.#logs.framesFrom(frameId, limit));
  }

  /** The frame of event `seq`; null where there is none (yet, or any more). */
  frameOf(seq: number): StoredFrame | null {
    return this.#transactions.reading(() => this.#logs.frameOf(seq));
  }

  /** The newest answer on event `seq` that is still here; null where there is none. */
  answerOf(seq: number): StoredAnswer | null {
    return this.#transactions.reading(() => this.#logs.answerOf(seq));
  }

  /** The id of the newest answer that was ever stored; 0 where there never was one. */
  headAnswerId(): number {
    return this.#writer.heads.headAnswerId;
  }

  /**
   * Events whose frame says less than a language model could tell, and that no answer followed: of the frames from
   * `fromFrameId` to before `toFrameId` those that are still here, the newest first.
   */
  unanswered(fromFrameId: number, toFrameId: number): number[] {
    return this.#transactions.reading(() => this.#logs.unanswered(fromFrameId, toFrameId));
  }

  /**
   * How conversations moved, ascending by frame: the newest `limit` of them, or, with `afterFrameId`, the
   * first `limit` above it.
   */
  recentConversations(limit: number, afterFrameId?: number): ConversationMotion[] {
    return this.#transactions.reading(() => this.#logs.recentConversations(limit, afterFrameId));
  }

  /**
   * What has not left the journal. `events` costs nothing; `bytes`, of pages in use, is asked of SQLite
   * when read.
   */
  backlog(): { readonly events: number; readonly bytes: number } {
    const usedBytes = (): number => this.#transactions.reading(() => this.#usedBytes());
    return {
      events: this.headSeq() - this.#pruning.gone,
      get bytes() {
        return usedBytes();
      },
    };
  }

  /** Events that a temporary journal dropped at its bound before they had a frame. */
  dropped(): number {
    return this.#room?.dropped ?? 0;
  }

  /**
   * Lets the oldest frames go, together with their events and answers, in one commit: ascending by frame_id,
   * up to the first that is above one of the cursors.
   * @param maxEvents 1 to 1000.
   * @returns how many events left.
   * @throws GatewayError disk_full, journal_failed
   */
  prune(to: JournalCursors, maxEvents?: number): number {
    return this.#pruning.events(to, maxEvents);
  }

  /**
   * Lets answers go whose event and frame have gone before, up to `answerId`.
   * @returns how many left, at most `max`.
   * @throws GatewayError disk_full, journal_failed
   */
  pruneAnswers(answerId: number, max?: number): number {
    return this.#pruning.answers(answerId, max);
  }

  /** Up to which row of each log something has left by `prune`; 0: nothing. */
  pruned(): JournalCursors {
    return this.#pruning.pruned;
  }

  /**
   * Forgets dedup keys that are past their window, once all of their generation (4 days) are.
   * @returns how many, at most `max`; 0: there are none now.
   * @throws GatewayError disk_full, journal_failed
   */
  pruneKeys(max?: number): number {
    return this.#pruning.keys(max);
  }

  /** `pruneKeys`, until the pipeline calls it by that name; the window is the journal's. */
  pruneDedup(_olderThanUs: number, max?: number): number {
    return this.pruneKeys(max);
  }

  /** How many times in a row the store was about to open and did not say that it had. */
  openAttempts(): number {
    return this.#settings.openAttempts();
  }

  /** @throws GatewayError disk_full, journal_failed */
  raiseOpenAttempts(): void {
    this.#settings.raiseOpenAttempts();
  }

  /** @throws GatewayError disk_full, journal_failed */
  clearOpenAttempts(): void {
    this.#settings.clearOpenAttempts();
  }

  /** A small setting; keys that begin with "journal." are the journal's own. */
  meta(key: string): string | null {
    return this.#settings.get(key);
  }

  /**
   * Durable when it returns.
   * @throws GatewayError disk_full, journal_failed
   */
  setMeta(key: string, value: string): void {
    this.#settings.set(key, value);
  }

  /** A table for what is small and changes. @throws GatewayError disk_full, journal_failed */
  table(name: SmallTableName): SmallTable {
    return openTable(name, this.#database, this.#transactions);
  }

  /** All labels, in the order of kind and id. */
  labels(): Label[] {
    return this.#labels.all();
  }

  /**
   * Adds labels; a kind and id that is there keeps its label. How many there may be is the caller's bound.
   * @throws GatewayError disk_full, journal_failed
   */
  addLabels(labels: readonly Label[]): void {
    this.#labels.add(labels);
  }

  /** Commits what waits and closes the file. A second time it does nothing. */
  [Symbol.dispose](): void {
    try {
      this.#group[Symbol.dispose]();
    } finally {
      // Finalizes the statements too; without it the file would stay open.
      this.#database.close(true);
    }
  }
}
