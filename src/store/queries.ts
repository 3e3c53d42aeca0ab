/** The queries that the main thread can ask for. Part of the store's Worker. */

import { statSync } from "node:fs";
import { FRAME_BYTES } from "../frame.ts";
import { type duckdb, logBytes, rowsOf } from "./database.ts";
import { decidedRows } from "./decided.ts";
import { eventJson, eventsPage } from "./events.ts";
import type {
  DecidedQuery,
  DecidedReply,
  EventsPage,
  EventsQuery,
  StoreCalls,
  StoreCursors,
  StoreStats,
} from "./protocol.ts";
import type { Reads } from "./reads.ts";
import { CHUNK_ROWS, FRAME_SELECT, FrameBuffer } from "./rows.ts";

const FRAMES_SLICE = CHUNK_ROWS;

export interface QueriesOptions {
  readonly reads: Reads;
  /** The database file. */
  readonly path: string;
  /** Bytes of bodies in a page of events. */
  readonly pageBytesMax: number;
  /** Returns the committed cursors. It is called when a query's turn has come. */
  readonly cursors: () => StoreCursors;
}

export class Queries {
  readonly #o: QueriesOptions;
  /** The oldest stored rows, once looked up. */
  #oldestSeq: number | null = null;
  #oldestFrameId: number | null = null;

  constructor(options: QueriesOptions) {
    this.#o = options;
  }

  /** Call when rows may have been dropped, so that the oldest ones are looked up again. */
  forgetOldest(): void {
    this.#oldestSeq = null;
    this.#oldestFrameId = null;
  }

  events(query: EventsQuery): Promise<EventsPage> {
    return this.#o.reads.run(async (connection) => {
      const min = await this.#minSeq(connection);
      const seqs = { min, max: this.#o.cursors().seq };
      return eventsPage(connection, query, { seqs, bytesMax: this.#o.pageBytesMax });
    });
  }

  event(seq: number): Promise<string | null> {
    return this.#o.reads.run((connection) => eventJson(connection, seq));
  }

  decided(query: DecidedQuery): Promise<DecidedReply> {
    return this.#o.reads.run((connection) => decidedRows(connection, query, this.#o.pageBytesMax));
  }

  frames({ afterFrameId, limit, capacity }: StoreCalls["frames"][0]): Promise<StoreCalls["frames"][1]> {
    return this.#o.reads.run(async (connection) => {
      const oldest = await this.#minFrameId(connection);
      if (oldest === 0) return { ...noFrames(), oldest };
      const first = Math.max(afterFrameId + 1, oldest);
      const found = await this.#framesFrom(connection, { first, limit, capacity });
      if (found.count > 0) return { ...found, oldest };
      // Numbers were skipped, or an ephemeral database has dropped frames.
      const next = await nextFrameId(connection, first);
      if (next === null) return { ...noFrames(), oldest };
      return { ...(await this.#framesFrom(connection, { first: next, limit, capacity })), oldest };
    });
  }

  /** Frames without a gap that begin with `first`; none if that one is not stored. */
  async #framesFrom(
    connection: duckdb.DuckDBConnection,
    { first, limit, capacity }: { first: number; limit: number; capacity: number },
  ): Promise<{ bytes: ArrayBuffer; count: number }> {
    const count = Math.max(0, Math.min(limit, this.#o.cursors().frameId - first + 1));
    const frames = new FrameBuffer(first, count, capacity);
    for (let done = 0; done < count && frames.contiguous() === done; ) {
      const slice = Math.min(FRAMES_SLICE, count - done);
      const result = await connection.run(
        `SELECT ${FRAME_SELECT} FROM enrichments
         WHERE frame_id BETWEEN ${first + done} AND ${first + done + slice - 1}`,
      );
      for (const chunk of await result.fetchAllChunks()) frames.place(chunk);
      done += slice;
    }
    const whole = frames.contiguous();
    const bytes = whole === count ? frames.buffer : frames.buffer.slice(0, whole * FRAME_BYTES);
    return { bytes, count: whole };
  }

  frameCount({ firstFrameId, limit }: StoreCalls["frameCount"][0]): Promise<number> {
    const last = Math.min(firstFrameId + limit - 1, this.#o.cursors().frameId);
    // Ids are unique, so an id is above its place exactly if one before it is missing.
    const sql = `SELECT count(*) FROM (
        SELECT frame_id - row_number() OVER (ORDER BY frame_id) AS before FROM enrichments
        WHERE frame_id BETWEEN ${firstFrameId} AND ${last}
      ) WHERE before = ${firstFrameId - 1}`;
    return this.#o.reads.run(async (connection) => (await numberOf(connection, sql)) ?? 0);
  }

  stats(): Promise<Omit<StoreStats, "checkpoints">> {
    return this.#o.reads.run(async (connection) => {
      const [row] = await rowsOf(
        connection,
        "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM enrichments)",
      );
      const file = statSync(this.#o.path, { throwIfNoEntry: false })?.size ?? 0;
      return {
        fileBytes: file + logBytes(this.#o.path),
        events: Number(row?.[0] ?? 0),
        enrichments: Number(row?.[1] ?? 0),
      };
    });
  }

  async #minSeq(connection: duckdb.DuckDBConnection): Promise<number> {
    this.#oldestSeq ??= await numberOf(connection, "SELECT min(seq) FROM events");
    return this.#oldestSeq ?? 1;
  }

  /** 0: no frame is stored. */
  async #minFrameId(connection: duckdb.DuckDBConnection): Promise<number> {
    this.#oldestFrameId ??= await numberOf(connection, "SELECT min(frame_id) FROM enrichments");
    return this.#oldestFrameId ?? 0;
  }
}

/** The only value of a result; null if it is NULL. */
async function numberOf(connection: duckdb.DuckDBConnection, sql: string): Promise<number | null> {
  const [row] = await rowsOf(connection, sql);
  return row?.[0] == null ? null : Number(row[0]);
}

/** Made each time, because its memory is transferred to the main thread. */
function noFrames(): { bytes: ArrayBuffer; count: number } {
  return { bytes: new ArrayBuffer(0), count: 0 };
}

/** The first stored frame from `from` on; null if there is none. */
function nextFrameId(connection: duckdb.DuckDBConnection, from: number): Promise<number | null> {
  return numberOf(connection, `SELECT min(frame_id) FROM enrichments WHERE frame_id >= ${from}`);
}
