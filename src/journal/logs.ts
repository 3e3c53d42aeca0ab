/**
 * The three logs of the journal, over the generations in which they are kept. Part of the journal; it knows nothing of
 * transactions and has no state of its own.
 */

import type { SQLQueryBindings } from "bun:sqlite";
import type { Row } from "./file.ts";
import type { Generation, Generations } from "./generations.ts";
import {
  ANSWER_READ,
  answerOf,
  type ConversationMotion,
  type DecidedFrame,
  EVENT_READ,
  eventOf,
  FRAME_READ,
  frameOf,
  type JournalCursors,
  type JournalEvent,
  type StoredAnswer,
  type StoredFrame,
} from "./rows.ts";

/** A frame that may leave, with the newest of its answers. */
export interface Leaving extends JournalCursors {
  readonly generation: Generation;
}

/** What was ever written: 0 where nothing was. */
export interface Heads {
  headSeq: number;
  headFrameId: number;
  headAnswerId: number;
  /** The newest event that ever got a frame and still has it. */
  framedMax: number;
}

export class Logs {
  readonly #generations: Generations;

  constructor(generations: Generations) {
    this.#generations = generations;
  }

  /** What SQLite's own sequences say, which never go back. */
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

  /** @param cells the values of EVENT_COLUMNS, one event after the other. */
  insertEvents(cells: SQLQueryBindings[]): void {
    this.#generations.current.insertEvents.insert(cells);
  }

  /** Stores frames whose events are there; their ids go on from `frameId`. */
  insertFrames(frames: readonly DecidedFrame[], frameId: number): void {
    const cells = new Map<Generation, SQLQueryBindings[]>();
    let next = frameId;
    for (const frame of frames) {
      const generation = this.#generations.of(frame.seq);
      if (generation === undefined) throw new Error(`journal: event ${frame.seq} has no generation`);
      const rows = cells.get(generation) ?? [];
      rows.push(next++, ...cellsOf(frame));
      cells.set(generation, rows);
    }
    for (const [generation, rows] of cells) generation.insertFrames.insert(rows);
  }

  /** Stores answers beside their events, or among the newest rows where the event has gone. */
  insertAnswers(answers: readonly DecidedFrame[], answerId: number): void {
    answers.forEach((answer, index) => {
      const generation = this.#generations.of(answer.seq) ?? this.#generations.current;
      generation.insertAnswers.insert([answerId + index, ...cellsOf(answer)]);
    });
  }

  answerOf(seq: number): StoredAnswer | null {
    const sql = `SELECT ${ANSWER_READ} FROM {answers} WHERE seq = ? ORDER BY answer_id DESC LIMIT 1`;
    const rows = this.#generations.each((generation) => generation.query(sql).all(seq));
    const [newest] = rows.sort((a, b) => (b.answer_id as number) - (a.answer_id as number));
    return newest === undefined ? null : answerOf(newest);
  }

  /** Answers up to `answerId` on events up to `seq` that have no frame here, ascending. */
  lonelyAnswers(seq: number, answerId: number, limit: number): number[] {
    const sql = `SELECT answer_id FROM {answers} a WHERE a.seq <= ? AND answer_id <= ?
      AND NOT EXISTS (SELECT 1 FROM {frames} f WHERE f.seq = a.seq) ORDER BY answer_id LIMIT ?`;
    const rows = this.#generations.each((generation) => generation.query(sql).all(seq, answerId, limit));
    const ids = rows.map((row) => row.answer_id as number);
    return ids.sort((a, b) => a - b).slice(0, limit);
  }

  removeAnswers(ids: readonly number[]): void {
    const sql = "DELETE FROM {answers} WHERE answer_id IN (SELECT value FROM json_each(?))";
    for (const generation of this.#generations.all) generation.query(sql).run(JSON.stringify(ids));
  }

  /**
   * What a language model could add to a frame is its provenance that is null: intent and sentiment of a message, the type of
   * another event.
   */
  unanswered(fromFrameId: number, toFrameId: number): number[] {
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

  /** The id that event `seq` was given; undefined where it has left. */
  idOf(seq: number): string | undefined {
    return this.#generations.of(seq)?.query("SELECT id FROM {events} WHERE seq = ?").get(seq)?.id as
      | string
      | undefined;
  }

  /** Those of `seqs` that have no row of events. */
  missing(seqs: readonly number[]): number[] {
    const present = "FROM json_each(?) j CROSS JOIN {events} e ON e.seq = j.value";
    const json = JSON.stringify(seqs);
    const counts = this.#generations.each((generation) =>
      generation.query(`SELECT count(*) AS count ${present}`).all(json),
    );
    if (counts.reduce((sum, row) => sum + (row.count as number), 0) === seqs.length) return [];
    const rows = this.#generations.each((generation) =>
      generation.query(`SELECT e.seq AS seq ${present}`).all(json),
    );
    const there = new Set(rows.map((row) => row.seq));
    return seqs.filter((seq) => !there.has(seq));
  }

  /**
   * The last event before the first above `from` that is there without a frame, as far as a few look-ups
   * reach. Above `framedMax` none has one.
   */
  framedTo(from: number, framedMax: number): number {
    const step = 64;
    const sql = `SELECT seq, EXISTS(SELECT 1 FROM {frames} f WHERE f.seq = e.seq) AS framed
      FROM {events} e WHERE seq > ? ORDER BY seq LIMIT ${step}`;
    let reached = from;
    for (let turn = 0; turn < 64 && reached < framedMax; turn++) {
      const rows = this.#generations.each((generation) => generation.query(sql).all(reached)).slice(0, step);
      const open = rows.find((row) => row.framed === 0);
      if (open !== undefined) return (open.seq as number) - 1;
      reached = rows.length < step ? framedMax : (rows.at(-1)?.seq as number);
    }
    return reached;
  }

  unframedAfter(seq: number, limit: number): JournalEvent[] {
    const sql = `SELECT ${EVENT_READ} FROM {events} e
      WHERE seq > ? AND NOT EXISTS (SELECT 1 FROM {frames} f WHERE f.seq = e.seq) ORDER BY seq LIMIT ?`;
    const rows = this.#generations.each((generation) => generation.query(sql).all(seq, limit));
    return rows.slice(0, limit).map(eventOf);
  }

  eventAt(seq: number): JournalEvent | null {
    const row =
      this.#generations.of(seq)?.query(`SELECT ${EVENT_READ} FROM {events} WHERE seq = ?`).get(seq) ?? null;
    return row === null ? null : eventOf(row);
  }

  framesFrom(frameId: number, limit: number): StoredFrame[] {
    const sql = `SELECT ${FRAME_READ} FROM {frames} WHERE frame_id >= ? ORDER BY frame_id LIMIT ?`;
    const rows = this.#generations.each((generation) => generation.query(sql).all(frameId, limit));
    return rows.sort(byFrameId).slice(0, limit).map(frameOf);
  }

  frameOf(seq: number): StoredFrame | null {
    const row =
      this.#generations.of(seq)?.query(`SELECT ${FRAME_READ} FROM {frames} WHERE seq = ?`).get(seq) ?? null;
    return row === null ? null : frameOf(row);
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

  /** The oldest frames up to the first that is above one of the cursors, at most `limit`. */
  leaving(to: JournalCursors, limit: number): Leaving[] {
    const sql = `SELECT frame_id, seq,
      (SELECT max(answer_id) FROM {answers} a WHERE a.seq = f.seq) AS answer_id
      FROM {frames} f WHERE frame_id <= ? ORDER BY frame_id LIMIT ?`;
    const oldest = this.#generations.each((generation) =>
      generation
        .query(sql)
        .all(to.frameId, limit)
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

  /** Deletes what leaves, with events and answers. */
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

/** What a frame and an answer have in common, in the order of FRAME_READ and ANSWER_READ. */
function cellsOf({
  seq,
  decidedUs,
  physics,
  vector,
  eventType,
  intent,
  provenance,
}: DecidedFrame): SQLQueryBindings[] {
  const blob = vector === null ? null : new Uint8Array(vector.buffer, vector.byteOffset, vector.byteLength);
  return [seq, decidedUs, physics, blob, eventType, intent, provenance];
}

function byFrameId(a: Row, b: Row): number {
  return (a.frame_id as number) - (b.frame_id as number);
}
