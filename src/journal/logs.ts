/**
 * Reads and writes the three logs of the journal across their generations. A row of `answers` is an update of an event.
 * Part of the journal. It does not begin or end transactions and has no state of its own.
 */

import type { SQLQueryBindings } from "bun:sqlite";
import { decidedChecksum, isDamage } from "../row-damage.ts";
import type { Damage } from "./damage.ts";
import type { Row } from "./file.ts";
import type { Generation, Generations } from "./generations.ts";
import {
  type ConversationMotion,
  type DecidedFrame,
  EVENT_COLUMNS,
  eventOf,
  FRAME_READ,
  frameOf,
  type JournalCursors,
  type JournalEvent,
  type StoredFrame,
  type StoredUpdate,
  UPDATE_READ,
  updateOf,
} from "./rows.ts";

/** A frame that may leave the journal, with its event's newest update. */
export interface Leaving extends JournalCursors {
  readonly generation: Generation;
}

/** The highest number of each log that was ever written; 0 if none was. */
export interface Heads {
  headSeq: number;
  headFrameId: number;
  headAnswerId: number;
  /** The newest event whose frame is in the journal. */
  framedMax: number;
}

export class Logs {
  readonly #generations: Generations;
  readonly #damage: Damage;

  constructor(generations: Generations, damage: Damage) {
    this.#generations = generations;
    this.#damage = damage;
  }

  /** The heads by SQLite's own sequences, which never go back. */
  heads(): Heads {
    const heads = { headSeq: 0, headFrameId: 0, headAnswerId: 0, framedMax: 0 };
    const sql = `SELECT (SELECT seq FROM sqlite_sequence WHERE name = 'events' || ?1) AS events,
      (SELECT seq FROM sqlite_sequence WHERE name = 'frames' || ?1) AS frames,
      (SELECT seq FROM sqlite_sequence WHERE name = 'answers' || ?1) AS answers,
      (SELECT max(seq) FROM {frames}) AS framed`;
    for (const generation of this.#generations.all) {
      const row = generation.query(sql).get(generation.suffix);
      heads.headSeq = Math.max(heads.headSeq, (row?.events as number | null) ?? 0);
      heads.headFrameId = Math.max(heads.headFrameId, (row?.frames as number | null) ?? 0);
      heads.headAnswerId = Math.max(heads.headAnswerId, (row?.answers as number | null) ?? 0);
      heads.framedMax = Math.max(heads.framedMax, (row?.framed as number | null) ?? 0);
    }
    return heads;
  }

  /** Writes a row at the end of each log, in a transaction that is rolled back. @throws what SQLite throws if a page there is damaged */
  tryToWrite({ headSeq, headFrameId, headAnswerId }: Heads): void {
    const { current } = this.#generations;
    const event = "INSERT INTO {events}(seq, received_us, id, source, body) VALUES (?, 0, '', '', x'')";
    const decided = "seq, decided_us, physics, provenance) VALUES (?, ?, 0, x'', '')";
    current.query(event).run(headSeq + 1);
    current.query(`INSERT INTO {frames}(frame_id, ${decided}`).run(headFrameId + 1, headSeq + 1);
    current.query(`INSERT INTO {answers}(answer_id, ${decided}`).run(headAnswerId + 1, headSeq + 1);
  }

  /** Lets the next numbers begin above `to`. A log that is already there keeps its numbers. */
  raise(to: JournalCursors): void {
    const { current } = this.#generations;
    const logs = { events: to.seq, frames: to.frameId, answers: to.answerId };
    for (const [name, number] of Object.entries(logs)) {
      const log = `${name}${current.suffix}`;
      const raised = current.query("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?");
      if (raised.run(number, log).changes > 0) continue;
      current.query("INSERT INTO sqlite_sequence(name, seq) VALUES (?, ?)").run(log, number);
    }
  }

  /** Events in the journal. */
  count(): number {
    const rows = this.#generations.each((generation) =>
      generation.query("SELECT count(*) AS count FROM {events}").all(),
    );
    return rows.reduce((sum, row) => sum + (row.count as number), 0);
  }

  removeEvents(seqs: readonly number[]): void {
    const sql = "DELETE FROM {events} WHERE seq IN (SELECT value FROM json_each(?))";
    for (const generation of this.#generations.all) generation.query(sql).run(JSON.stringify(seqs));
  }

  /** @param cells the values of EVENT_COLUMNS of one event after another. */
  insertEvents(cells: SQLQueryBindings[]): void {
    this.#generations.current.insertEvents.insert(cells);
  }

  /** Stores frames with consecutive ids from `frameId` on. Their events must be in the journal. */
  insertFrames(frames: readonly DecidedFrame[], frameId: number): void {
    const cells = new Map<Generation, SQLQueryBindings[]>();
    let next = frameId;
    for (const frame of frames) {
      const generation = this.#generations.of(frame.seq);
      if (generation === undefined) throw new Error(`journal: event ${frame.seq} has no generation`);
      const rows = cells.get(generation) ?? [];
      rows.push(next, ...cellsOf(next, frame));
      next++;
      cells.set(generation, rows);
    }
    for (const [generation, rows] of cells) generation.insertFrames.insert(rows);
  }

  /**
   * Stores updates with consecutive ids from `answerId` on, each in the generation of its event. If that was emptied, the
   * update goes to the current generation.
   */
  insertUpdates(updates: readonly DecidedFrame[], answerId: number): void {
    updates.forEach((update, index) => {
      const generation = this.#generations.of(update.seq) ?? this.#generations.current;
      generation.insertUpdates.insert([answerId + index, ...cellsOf(answerId + index, update)]);
    });
  }

  updateOf(seq: number): StoredUpdate | null {
    const sql = `SELECT ${UPDATE_READ} FROM {answers} WHERE seq = ? ORDER BY answer_id DESC LIMIT 1`;
    const rows = this.#damage.around("answers", [seq, seq], () =>
      this.#generations.each((generation) => generation.query(sql).all(seq)),
    );
    const [newest] = rows.sort((a, b) => (b.answer_id as number) - (a.answer_id as number));
    return newest === undefined || !this.#damage.isWhole("answers", newest, newest.answer_id)
      ? null
      : updateOf(newest);
  }

  /** The ids, ascending, of readable updates up to `answerId` of events up to `seq` whose frame is not in the journal. */
  lonelyUpdates(seq: number, answerId: number, limit: number): number[] {
    const sql = `SELECT answer_id FROM {answers} a WHERE a.seq <= ? AND answer_id >= ? AND answer_id <= ?
      AND NOT EXISTS (SELECT 1 FROM {frames} f WHERE f.seq = a.seq) ORDER BY answer_id LIMIT ?`;
    const rows = this.#damage.around("answers", [1, answerId], (low, high) =>
      this.#generations.each((generation) => generation.query(sql).all(seq, low, high, limit)),
    );
    const ids = rows.map((row) => row.answer_id as number);
    return ids.sort((a, b) => a - b).slice(0, limit);
  }

  removeUpdates(ids: readonly number[]): void {
    const sql = "DELETE FROM {answers} WHERE answer_id IN (SELECT value FROM json_each(?))";
    for (const generation of this.#generations.all) generation.query(sql).run(JSON.stringify(ids));
  }

  /**
   * Events of frames that a language model could add to, newest first: the provenance of a message's intent or sentiment,
   * or of the type of an event without message, is null, and the event has no update.
   */
  withoutUpdate(fromFrameId: number, toFrameId: number): number[] {
    const sql = `SELECT f.frame_id, f.seq AS seq FROM {frames} f JOIN {events} e ON e.seq = f.seq
      WHERE f.frame_id >= ? AND f.frame_id < ? AND CASE WHEN e.message IS NULL
        THEN json_extract(f.provenance, '$.type') IS NULL
        ELSE json_extract(f.provenance, '$.intent') IS NULL OR json_extract(f.provenance, '$.sentiment') IS NULL END
      AND NOT EXISTS (SELECT 1 FROM {answers} a WHERE a.seq = f.seq)`;
    const rows = this.#generations.each((generation) => generation.query(sql).all(fromFrameId, toFrameId));
    return rows
      .sort(byFrameId)
      .reverse()
      .map((row) => row.seq as number);
  }

  /** The id of event `seq`; undefined if the event has left the journal, or its page is damaged. */
  idOf(seq: number): string | undefined {
    const sql = "SELECT id FROM {events} WHERE seq = ?";
    const row = this.#readable(() => this.#generations.of(seq)?.query(sql).get(seq) ?? null);
    return typeof row?.id === "string" ? row.id : undefined;
  }

  /** Those of `seqs` whose event is not in the journal. */
  missing(seqs: readonly number[]): number[] {
    const present = "FROM json_each(?) j CROSS JOIN {events} e ON e.seq = j.value";
    const json = JSON.stringify(seqs);
    const counts = this.#readable(() =>
      this.#generations.each((generation) =>
        generation.query(`SELECT count(*) AS count ${present}`).all(json),
      ),
    );
    // The events of a damaged page were read before the damage. Their frames can be decided.
    if (counts === null) return [];
    if (counts.reduce((sum, row) => sum + (row.count as number), 0) === seqs.length) return [];
    const rows = this.#generations.each((generation) =>
      generation.query(`SELECT e.seq AS seq ${present}`).all(json),
    );
    const there = new Set(rows.map((row) => row.seq));
    return seqs.filter((seq) => !there.has(seq));
  }

  /**
   * Searches upwards from `from` for the first event without a frame, with a bounded number of look-ups, and returns how
   * far every event has its frame. No event above `framedMax` has one.
   */
  framedTo(from: number, framedMax: number): number {
    const step = 64;
    const sql = `SELECT seq, EXISTS(SELECT 1 FROM {frames} f WHERE f.seq = e.seq) AS framed
      FROM {events} e WHERE seq > ? ORDER BY seq LIMIT ${step}`;
    let reached = from;
    for (let turn = 0; turn < 64 && reached < framedMax; turn++) {
      const rows = this.#readable(() =>
        this.#generations.each((generation) => generation.query(sql).all(reached)).slice(0, step),
      );
      if (rows === null) return reached;
      const open = rows.find((row) => row.framed === 0);
      if (open !== undefined) return (open.seq as number) - 1;
      reached = rows.length < step ? framedMax : (rows.at(-1)?.seq as number);
    }
    return reached;
  }

  /** What `read` returns; null if it meets a damaged page. */
  #readable<T>(read: () => T): T | null {
    try {
      return read();
    } catch (error) {
      if (!isDamage(error)) throw error;
      return null;
    }
  }

  /**
   * Events above `seq` and up to `headSeq` that have no frame, at most `limit` and `bytesMax` of bodies, but at least one.
   * Passes over damaged rows.
   */
  unframedAfter(seq: number, o: { headSeq: number; limit: number; bytesMax: number }): JournalEvent[] {
    const { headSeq, limit, bytesMax } = o;
    const unframed = "NOT EXISTS (SELECT 1 FROM {frames} f WHERE f.seq = e.seq)";
    // SQLite tells the length of a body without reading it.
    const lengths = `SELECT seq, length(body) AS bytes FROM {events} e WHERE seq >= ? AND seq <= ? AND ${unframed}
      ORDER BY seq LIMIT ?`;
    const sql = `SELECT ${EVENT_COLUMNS} FROM {events} e WHERE seq >= ? AND seq <= ? AND ${unframed} ORDER BY seq`;
    for (let from = seq + 1; ; ) {
      const sizes = this.#events([from, headSeq], (generation, low, high) =>
        generation.query(lengths).all(low, high, limit),
      ).slice(0, limit);
      let to = 0;
      let bytes = 0;
      for (const row of sizes) {
        bytes += row.bytes as number;
        if (to > 0 && bytes > bytesMax) break;
        to = row.seq as number;
      }
      if (to === 0) return [];
      const rows = this.#events([from, to], (generation, low, high) => generation.query(sql).all(low, high));
      const whole = rows.filter((row) => this.#damage.isWhole("events", row, row.seq));
      if (whole.length > 0) return whole.map(eventOf);
      from = to + 1;
    }
  }

  #events(
    range: readonly [number, number],
    read: (generation: Generation, low: number, high: number) => Row[],
  ): Row[] {
    return this.#damage.around("events", range, (low, high) =>
      this.#generations.each((generation) => read(generation, low, high)),
    );
  }

  /** Null if the event is not in the journal (any more), or if its row is damaged. */
  eventAt(seq: number): JournalEvent | null {
    const sql = `SELECT ${EVENT_COLUMNS} FROM {events} WHERE seq = ?`;
    const [row] = this.#damage.around("events", [seq, seq], () =>
      [this.#generations.of(seq)?.query(sql).get(seq) ?? null].filter((found) => found !== null),
    );
    return row === undefined || !this.#damage.isWhole("events", row, seq) ? null : eventOf(row);
  }

  /** Frames from `frameId` up to `headFrameId`, at most `limit`, without those whose rows are damaged. */
  framesFrom(frameId: number, headFrameId: number, limit: number): StoredFrame[] {
    const sql = `SELECT ${FRAME_READ} FROM {frames} WHERE frame_id >= ? AND frame_id <= ? ORDER BY frame_id LIMIT ?`;
    for (let from = frameId; from <= headFrameId; ) {
      const rows = this.#damage.around("frames", [from, headFrameId], (low, high) =>
        this.#generations
          .each((generation) => generation.query(sql).all(low, high, limit))
          .sort(byFrameId)
          .slice(0, limit),
      );
      const whole = rows.filter((row) => this.#damage.isWhole("frames", row, row.frame_id));
      if (whole.length > 0 || rows.length < limit) return whole.slice(0, limit).map(frameOf);
      from = (rows.at(-1)?.frame_id as number) + 1;
    }
    return [];
  }

  /** How many frames follow each other without a gap from `frameId` on, at most `limit`; 0 if that frame is not here. */
  frameCount(frameId: number, limit: number): number {
    const sql = "SELECT frame_id FROM {frames} WHERE frame_id >= ? AND frame_id < ? ORDER BY frame_id";
    const rows = this.#readable(() =>
      this.#generations.each((generation) => generation.query(sql).all(frameId, frameId + limit)),
    );
    if (rows === null) return 0;
    rows.sort(byFrameId);
    const gap = rows.findIndex((row, index) => row.frame_id !== frameId + index);
    return gap < 0 ? rows.length : gap;
  }

  frameOf(seq: number): StoredFrame | null {
    const sql = `SELECT ${FRAME_READ} FROM {frames} WHERE seq = ?`;
    const [row] = this.#damage.around("frames", [seq, seq], () =>
      [this.#generations.of(seq)?.query(sql).get(seq) ?? null].filter((found) => found !== null),
    );
    return row === undefined || !this.#damage.isWhole("frames", row, row.frame_id) ? null : frameOf(row);
  }

  recentConversations(limit: number, afterFrameId: number | undefined): ConversationMotion[] {
    const onwards = afterFrameId !== undefined;
    const sql = `SELECT frame_id, conversation_id, coalesce(timestamp_us, received_us) AS timestamp_us,
      decided_us FROM {frames} f JOIN {events} e ON e.seq = f.seq
      WHERE conversation_id IS NOT NULL AND frame_id > ?
      ORDER BY frame_id ${onwards ? "ASC" : "DESC"} LIMIT ?`;
    const rows = this.#generations.each((generation) => generation.query(sql).all(afterFrameId ?? 0, limit));
    rows.sort(byFrameId);
    return (onwards ? rows.slice(0, limit) : rows.slice(Math.max(0, rows.length - limit))).map((row) => ({
      frameId: row.frame_id as number,
      conversationId: row.conversation_id as string,
      timestampUs: row.timestamp_us as number,
      decidedUs: row.decided_us as number,
    }));
  }

  /** The oldest frames above `after`, up to the first that is above one of the cursors, at most `limit`. */
  leaving(after: number, to: JournalCursors, limit: number): Leaving[] {
    const sql = `SELECT frame_id, seq,
      (SELECT max(answer_id) FROM {answers} a WHERE a.seq = f.seq) AS answer_id
      FROM {frames} f WHERE frame_id > ? AND frame_id <= ? ORDER BY frame_id LIMIT ?`;
    const oldest = this.#generations.each((generation) =>
      generation
        .query(sql)
        .all(after, to.frameId, limit)
        .map((row) => ({
          generation,
          frameId: row.frame_id as number,
          seq: row.seq as number,
          answerId: (row.answer_id as number | null) ?? 0,
        })),
    );
    oldest.sort((a, b) => a.frameId - b.frameId);
    const stop = oldest.findIndex(({ seq, answerId }) => seq > to.seq || answerId > to.answerId);
    return oldest.slice(0, Math.min(limit, stop === -1 ? oldest.length : stop));
  }

  /** Deletes frames with their events and updates. */
  remove(leaving: readonly Leaving[]): void {
    for (const generation of this.#generations.all) {
      const seqs = leaving.filter((row) => row.generation === generation).map(({ seq }) => seq);
      if (seqs.length === 0) continue;
      for (const name of ["answers", "frames", "events"]) {
        const sql = `DELETE FROM {${name}} WHERE seq IN (SELECT value FROM json_each(?))`;
        generation.query(sql).run(JSON.stringify(seqs));
      }
    }
  }
}

/** The cells that frames and updates share, in the order of FRAME_READ and UPDATE_READ. */
function cellsOf(id: number, decided: DecidedFrame): SQLQueryBindings[] {
  const { seq, decidedUs, physics, vector: floats, eventType, intent, provenance } = decided;
  const vector = floats === null ? null : new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength);
  const sum = decidedChecksum({ id, seq, decidedUs, physics, vector, eventType, intent, provenance });
  return [seq, decidedUs, physics, vector, eventType, intent, provenance, sum];
}

function byFrameId(a: Row, b: Row): number {
  return (a.frame_id as number) - (b.frame_id as number);
}
