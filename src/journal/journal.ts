/**
 * The journal: the durable truth. An event is acknowledged when its transaction here has committed, and a frame is
 * published when its row here has committed. The journal is one SQLite file in WAL mode. Only this class writes it, from
 * one thread; others read it through read-only connections of their own.
 *
 * Calls of one turn of the event loop share one transaction, which commits synchronously at the next `setImmediate`. A
 * reader finds these tables in the file:
 *
 *     events(seq, received_us, id, type, message, conversation_id, timestamp_us, fields, source, body)
 *     frames(frame_id, seq, decided_us, physics, vector, event_type, intent, provenance)
 *     answers(answer_id, seq, decided_us, physics, vector, event_type, intent, provenance)
 *
 * A row of `answers` is an update: what is learned about an event after its frame.
 *
 * A temporary journal has four generations of each table, `events_a` to `events_d` and so on, and empties the oldest
 * generation at its bound. There the names above are views over all generations, made once and never changed. A view has
 * no rowid and no order, so readers must name the columns and use ORDER BY. A frame is in the generation of its event, so
 * that both leave together. A reader keeps its snapshot while a generation is emptied; its next transaction no longer
 * sees those rows.
 */

import type { Database } from "bun:sqlite";
import { existsSync } from "node:fs";
import { GatewayError } from "../errors.ts";
import type { ParsedEvent } from "../event/event.ts";
import { isDamage } from "../row-damage.ts";
import { AppendCall, type Call, DecideCall, isAppend } from "./calls.ts";
import { Damage } from "./damage.ts";
import { type JournalKind, journalError, openFile, pagesInUse, UNCHECKED_TO } from "./file.ts";
import { Generations } from "./generations.ts";
import { GroupCommit } from "./group-commit.ts";
import { type Acknowledged, HeadsFile } from "./heads-file.ts";
import { IntentRows } from "./intents.ts";
import { KEYS_SCHEMA_SQL, Keys } from "./keys.ts";
import { Labels } from "./labels.ts";
import { Logs } from "./logs.ts";
import { Numbers } from "./numbers.ts";
import { OwnFiles } from "./own-files.ts";
import { Pruning } from "./pruning.ts";
import { checkStructure, Damaged, markOf, type Rebuilt, rebuild } from "./rebuild.ts";
import { boundsOf, type Dropped, Room } from "./room.ts";
import type {
  AppendResult,
  ConversationMotion,
  DecidedFrame,
  JournalCursors,
  JournalEvent,
  Label,
  StoredFrame,
  StoredUpdate,
} from "./rows.ts";
import { Settings } from "./settings.ts";
import { openTable, type SmallTable, type SmallTableName } from "./tables.ts";
import { Transactions } from "./transactions.ts";
import { Writer } from "./writer.ts";

export type { Acknowledged } from "./heads-file.ts";
export type { IntentRows, RememberedRow, StoredExample } from "./intents.ts";
export type {
  AppendResult,
  ConversationMotion,
  DecidedFrame,
  JournalCursors,
  JournalEvent,
  Label,
  StoredFrame,
  StoredUpdate,
} from "./rows.ts";
export { EventsGone, eventId } from "./rows.ts";
export type { SmallTable } from "./tables.ts";

export interface JournalOptions {
  /** PATH.journal. */
  readonly path: string;
  /** Not null: a temporary journal. Nothing survives the process, and the file with its WAL stays within `limitBytes`. */
  readonly ephemeral: null | { readonly limitBytes: number };
  readonly nowUs: () => number;
  /** A random integer from 0 to 2³² − 1. */
  readonly randomU32: () => number;
  /** Differs after every boot of the machine. */
  readonly bootId: string;
  /** The file that says how far the journal has acknowledged; null: there is none. */
  readonly headsPath?: string | null;
  /** Files of the gateway without which nothing is acknowledged, besides the journal's own. */
  readonly needs?: readonly string[];
  /** Dedup keys that wait in memory before they are sorted into their table, at least 1. Tests make it small. */
  readonly keysInMemoryMax?: number;
}

/**
 * Rows in one transaction; a single call may hold more.
 * @bound rows in one commit of the journal (one call may have more) | the rest goes into the next
 */
const GROUP_ROWS_MAX = 4096;
/** @bound dedup keys in memory | they are looked up on disk */
const KEYS_IN_MEMORY_MAX = 65_536;

export class Journal implements Disposable {
  readonly path: string;
  /** From 1 to 2³² − 1. */
  readonly journalId: number;
  /** Whether the machine has not booted since the journal was last open. */
  readonly sameBoot: boolean;
  /** Called after each commit with new events, in order of seq, before the promises of their calls resolve. */
  onCommitted: (batch: { events: readonly JournalEvent[]; frameId: number | null }) => void = () => {};
  /**
   * Decides the frame of an event in the event's own transaction, if the event is alone in its group and everything before it is framed.
   * It must change nothing that a failed transaction would have to undo. Null: the frame is decided later.
   */
  frameAtOnce: (event: JournalEvent) => DecidedFrame | null = () => null;

  /** The rows that were found damaged. They are passed over; the rest of the journal goes on. */
  readonly damage: Damage;

  /** Labelled examples, and remembered replies of the language model. */
  readonly intents: IntentRows;

  readonly #database: Database;
  readonly #transactions: Transactions;
  readonly #settings: Settings;
  readonly #labels: Labels;
  readonly #logs: Logs;
  readonly #writer: Writer;
  readonly #pruning: Pruning;
  readonly #numbers: Numbers;
  readonly #headsFile: HeadsFile | null;
  readonly #files: OwnFiles;
  /** Null for a kept journal, which has no bound. */
  readonly #room: Room | null;
  readonly #group: GroupCommit<Call>;
  readonly #usedBytes: () => number;

  /**
   * Opens the journal at `path`, or creates one (mode 0600) if there is no file.
   * @throws GatewayError foreign_journal: the file is not a journal, or a journal of another kind or of a later version
   *   (it is left as it is); journal_missing: only the WAL of a journal exists; disk_full, journal_failed: it cannot be
   *   created or read.
   */
  static open(options: JournalOptions): Journal {
    const { path } = options;
    const kept = options.ephemeral === null;
    if (kept && existsSync(markOf(path)) && existsSync(path)) return rebuiltJournal(options);
    try {
      return new Journal(options);
    } catch (error) {
      const cause = error instanceof GatewayError ? error.cause : null;
      if (kept && (cause instanceof Damaged || isDamage(cause))) return rebuiltJournal(options);
      throw error;
    }
  }

  constructor(o: JournalOptions) {
    const { path, nowUs } = o;
    const kind: JournalKind = o.ephemeral === null ? "kept" : "temporary";
    const limitBytes = o.ephemeral?.limitBytes ?? Number.POSITIVE_INFINITY;
    const bounds = boundsOf(limitBytes);
    const meta = { "journal.id": String(o.randomU32() >>> 0 || 1), "journal.created_us": String(nowUs()) };
    const database = openFile(path, kind, { walBytes: bounds.walBytes, schemaSql: KEYS_SCHEMA_SQL, meta });
    this.path = path;
    this.#database = database;
    this.damage = new Damage(kind === "kept" ? markOf(path) : null);
    try {
      if (kind === "kept") checkStructure(database);
      const transactions = new Transactions(database, path, (thrown) => this.damage.failed(thrown));
      const settings = new Settings(database, transactions);
      const generations = new Generations(database, kind);
      this.damage.uncheckedTo = Number(settings.get(UNCHECKED_TO) ?? 0);
      const logs = new Logs(generations, this.damage);
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
      const headsPath = o.headsPath ?? null;
      const owner = { journalId: this.journalId, bootId: o.bootId };
      this.#headsFile = headsPath === null ? null : new HeadsFile({ path: headsPath, ...owner });
      this.#files = new OwnFiles([path, `${path}-wal`, ...(o.needs ?? [])], nowUs);
      const shared = { path, database, transactions, settings, generations, logs, keys, damage: this.damage };
      const frameAtOnce = (event: JournalEvent): DecidedFrame | null => this.frameAtOnce(event);
      this.#writer = new Writer({ ...shared, journalId: this.journalId, frameAtOnce });
      this.#pruning = new Pruning({ ...shared, nowUs, onLeft: (leaving) => this.#room?.left(leaving) });
      this.#numbers = new Numbers({ ...shared, writer: this.#writer, pruning: this.#pruning });
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
   * Stores events in the group of this turn of the event loop. An event is a duplicate, and not stored, if its key,
   * or the body of an event with `dedupByBody` and no key, is known or is that of an earlier event of the group.
   * @param o.receivedUs Unix µs, the same for all events.
   * @returns one result for each event, in order, after the commit. Rejects with GatewayError disk_full or
   *   journal_failed; then nothing of this call is stored.
   */
  append(events: readonly ParsedEvent[], o: { source: string; receivedUs: number }): Promise<AppendResult[]> {
    return this.#add(new AppendCall(events, o));
  }

  /**
   * Stores the frames of committed events in the group of this turn of the event loop. Frame ids are consecutive, in the
   * order of calls and of frames.
   * @returns the id of the first frame, after the commit. Rejects with EventsGone if events are not in the journal (any
   *   more), with GatewayError disk_full or journal_failed, or with Error if an event already has a frame, which is a
   *   bug. Then nothing of this call is stored.
   */
  decide(frames: readonly DecidedFrame[]): Promise<number> {
    return this.#add(new DecideCall("decide", frames));
  }

  /**
   * Stores updates. An update replaces, as a whole, what is known of an event that has a frame; the event and its frame
   * may have left the journal. Update ids are consecutive, in the order of calls and of updates.
   * @returns the id of the first update, after the commit. Rejects with GatewayError disk_full or journal_failed; then
   *   nothing of this call is stored.
   */
  update(updates: readonly DecidedFrame[]): Promise<number> {
    return this.#add(new DecideCall("update", updates));
  }

  #add<T>(call: Call & { readonly promise: Promise<T> }): Promise<T> {
    this.#group.add(call);
    return call.promise;
  }

  #store(group: readonly Call[]): void {
    const lost = this.#files.failure();
    if (lost !== null) throw lost;
    this.#room?.make(group, this.headSeq() + 1);
    this.#writer.store(group);
    this.#headsFile?.note(this.heads());
    this.#room?.stored(group);
  }

  #tell(group: readonly Call[]): void {
    const appends = group.filter(isAppend).filter(({ failure }) => failure === undefined);
    const events = appends.flatMap(({ stored }) => stored);
    const frameId = appends.find((call) => call.frameId !== null)?.frameId ?? null;
    if (events.length > 0) this.onCommitted({ events, frameId });
  }

  /** Why nothing can be acknowledged now: a file of the gateway was deleted or replaced. null if none was. */
  filesLost(): GatewayError | null {
    return this.#files.failure();
  }

  /** How far the journal had acknowledged when it was last open; null if that is not known. */
  get acknowledged(): Acknowledged | null {
    return this.#headsFile?.found ?? null;
  }

  /** The newest number of each log that was ever given; 0 before the first. */
  heads(): JournalCursors {
    const { headSeq, headFrameId, headAnswerId } = this.#writer.heads;
    return { seq: headSeq, frameId: headFrameId, answerId: headAnswerId };
  }

  /**
   * Lets the next numbers begin above `to`, because numbers up to there were given that this journal does not know.
   * @param o.lostEvents acknowledged events that are known to be lost. @param o.why for the operator.
   * @throws GatewayError disk_full, journal_failed
   */
  raise(to: JournalCursors, o: { lostEvents: number; why: string }): void {
    this.#numbers.raise(to, o);
    this.#headsFile?.note(this.heads());
  }

  /**
   * Removes events without a frame that the store holds with theirs.
   * @throws GatewayError disk_full, journal_failed
   */
  forget(seqs: readonly number[]): void {
    this.#numbers.forget(seqs);
  }

  /** Why numbers were skipped since the journal was opened; null: none were. */
  get notice(): string | null {
    return this.#numbers.notice;
  }

  /** What is known of the numbers that were skipped: see {@link raise}. */
  get gaps(): Readonly<Numbers["gaps"]> {
    return this.#numbers.gaps;
  }

  /** The newest committed seq; 0 before the first event. */
  headSeq(): number {
    return this.#writer.heads.headSeq;
  }

  /** The id of the next frame. */
  nextFrameId(): number {
    return this.#writer.heads.headFrameId + 1;
  }

  /** Events above `seq` that have no frame, ascending, at most `limit` and `bytesMax` of bodies, but at least one. */
  unframedAfter(seq: number, limit: number, bytesMax = Number.MAX_SAFE_INTEGER): JournalEvent[] {
    const after = Math.max(seq, this.#writer.heads.framedTo);
    return this.#transactions.reading(() =>
      this.#logs.unframedAfter(after, { headSeq: this.headSeq(), limit, bytesMax }),
    );
  }

  /** The events with these numbers, in their order; null for an event that is not in the journal (any more). */
  eventsAt(seqs: readonly number[]): (JournalEvent | null)[] {
    return this.#transactions.reading(() => seqs.map((seq) => this.#logs.eventAt(seq)));
  }

  /** Frames from `frameId` on that are still in the journal, ascending, at most `limit`. */
  framesFrom(frameId: number, limit: number): StoredFrame[] {
    return this.#transactions.reading(() => this.#logs.framesFrom(frameId, this.nextFrameId() - 1, limit));
  }

  /** How many frames the journal has from `frameId` on without a gap, at most `limit`; 0 if it does not have that one. */
  frameCount(frameId: number, limit: number): number {
    return this.#transactions.reading(() => this.#logs.frameCount(frameId, limit));
  }

  /** The frame of event `seq`; null if it is not in the journal (yet, or any more). */
  frameOf(seq: number): StoredFrame | null {
    return this.#transactions.reading(() => this.#logs.frameOf(seq));
  }

  /** The newest update of event `seq` that is still in the journal, or null. */
  updateOf(seq: number): StoredUpdate | null {
    return this.#transactions.reading(() => this.#logs.updateOf(seq));
  }

  /** The id of the newest update that was ever stored; 0 before the first. */
  headAnswerId(): number {
    return this.#writer.heads.headAnswerId;
  }

  /**
   * The events, newest frame first, that a language model could still add to: their frame lacks something that it
   * could tell, and no update followed. Looks at the frames from `fromFrameId` to before `toFrameId` that are still in
   * the journal.
   */
  withoutUpdate(fromFrameId: number, toFrameId: number): number[] {
    return this.#transactions.reading(() => this.#logs.withoutUpdate(fromFrameId, toFrameId));
  }

  /**
   * The motions of conversations, ascending by frame: the newest `limit`, or, with `afterFrameId`, the first `limit`
   * above it.
   */
  recentConversations(limit: number, afterFrameId?: number): ConversationMotion[] {
    return this.#transactions.reading(() => this.#logs.recentConversations(limit, afterFrameId));
  }

  /**
   * What has not left the journal yet. `events` costs nothing. Reading `bytes` asks SQLite for the pages in use.
   */
  backlog(): { readonly events: number; readonly bytes: number } {
    const usedBytes = (): number => this.#transactions.reading(() => this.#usedBytes());
    return {
      events: this.headSeq() - this.#pruning.removedEvents,
      get bytes() {
        return usedBytes();
      },
    };
  }

  /** Whether rows leave only by pruning, so that a frame that is in no place was damaged. */
  get complete(): boolean {
    return this.#room === null;
  }

  /** Events that a temporary journal dropped at its bound before they had a frame. */
  dropped(): number {
    return this.#room?.dropped ?? 0;
  }

  /**
   * Removes the oldest frames with their events and updates in one commit: ascending by frame_id, up to the first that
   * is above one of the cursors.
   * @param maxEvents 1 to 1000.
   * @returns how many events were removed.
   * @throws GatewayError disk_full, journal_failed
   */
  prune(to: JournalCursors, maxEvents?: number): number {
    return this.#pruning.events(to, maxEvents);
  }

  /**
   * Removes updates up to `answerId` whose event and frame were removed before.
   * @returns how many were removed, at most `max`.
   * @throws GatewayError disk_full, journal_failed
   */
  pruneUpdates(answerId: number, max?: number): number {
    return this.#pruning.updates(answerId, max);
  }

  /** The highest row of each log that was pruned; 0 if none was. */
  pruned(): JournalCursors {
    return this.#pruning.pruned;
  }

  /**
   * Forgets dedup keys that are past their window, once all keys of their generation (7.5 days) are.
   * @returns how many, at most `max`; 0 if there are none now.
   * @throws GatewayError disk_full, journal_failed
   */
  pruneKeys(max?: number): number {
    return this.#pruning.keys(max);
  }

  /** How many times in a row the store began to open and did not report that it had succeeded. */
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

  /** A table of texts by key, for small state that changes. @throws GatewayError disk_full, journal_failed */
  table(name: SmallTableName): SmallTable {
    return openTable(name, this.#database, this.#transactions);
  }

  /** All labels, in the order of kind and id. */
  labels(): Label[] {
    return this.#labels.all();
  }

  /**
   * Adds labels. A kind and id that exists keeps its label. The caller bounds their number.
   * @throws GatewayError disk_full, journal_failed
   */
  addLabels(labels: readonly Label[]): void {
    this.#labels.add(labels);
  }

  /** Commits what waits and closes the file. A second call does nothing. */
  [Symbol.dispose](): void {
    try {
      this.#group[Symbol.dispose]();
    } finally {
      this.#headsFile?.[Symbol.dispose]();
      // `true` finalizes the statements; otherwise they would keep the file open.
      this.#database.close(true);
    }
  }
}

/** Rebuilds the journal, and opens it. What was lost is noted as damage. */
function rebuiltJournal(options: JournalOptions): Journal {
  const { path, nowUs } = options;
  const stamp = new Date(nowUs() / 1000).toISOString().replaceAll(/[-:]|\.\d+/g, "");
  let rebuilt: Rebuilt;
  try {
    rebuilt = rebuild(path, { schemaSql: KEYS_SCHEMA_SQL, stamp });
  } catch (error) {
    throw journalError("rebuild", path, error);
  }
  const journal = new Journal(options);
  const { keptAs, lost, partly } = rebuilt;
  const others = partly.length === 0 ? "" : `; of ${partly.join(", ")} only a part could be read`;
  journal.damage.say(
    `pages were damaged, so a new journal was made of the rows that can be read; ${lost.length} rows or unused numbers ` +
      `were lost${others}; the damaged file is ${keptAs}`,
  );
  for (const { log, id, why } of lost) journal.damage.noteLost(log, id, why);
  return journal;
}
