/** The journal's file as another connection sees it: what has committed, and nothing else. */
import { Database } from "bun:sqlite";

export interface EventRow {
  readonly seq: number;
  readonly id: string;
  readonly message: string | null;
  readonly conversation_id: string | null;
  readonly body: Uint8Array;
}

export interface DecidedRow {
  /** frame_id or answer_id. */
  readonly id: number;
  readonly seq: number;
  readonly physics: Uint8Array;
  readonly vector: Uint8Array | null;
  readonly event_type: string | null;
  readonly intent: string | null;
  readonly provenance: string;
}

const DECIDED = "seq, physics, vector, event_type, intent, provenance";

export class JournalReader {
  readonly #database: Database;

  constructor(path: string) {
    this.#database = new Database(path, { readonly: true });
  }

  /** Events above `afterSeq` up to `toSeq`, ascending. */
  events(afterSeq: number, toSeq: number): EventRow[] {
    const sql = `SELECT seq, id, message, conversation_id, body FROM events
      WHERE seq > ? AND seq <= ? ORDER BY seq`;
    return this.#database.query<EventRow, [number, number]>(sql).all(afterSeq, toSeq);
  }

  frames(afterFrameId: number, toFrameId: number): DecidedRow[] {
    const sql = `SELECT frame_id AS id, ${DECIDED} FROM frames WHERE frame_id > ? AND frame_id <= ? ORDER BY frame_id`;
    return this.#database.query<DecidedRow, [number, number]>(sql).all(afterFrameId, toFrameId);
  }

  updates(afterAnswerId: number, toAnswerId: number): DecidedRow[] {
    const sql = `SELECT answer_id AS id, ${DECIDED} FROM answers WHERE answer_id > ? AND answer_id <= ? ORDER BY answer_id`;
    return this.#database.query<DecidedRow, [number, number]>(sql).all(afterAnswerId, toAnswerId);
  }

  close(): void {
    this.#database.close();
  }
}
