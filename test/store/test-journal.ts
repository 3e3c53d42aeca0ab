/** A journal for tests of the store: its tables as the gateway writes them, without its code. */
import { Database } from "bun:sqlite";
import { expect } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { GatewayError } from "../../src/errors.ts";
import { encodePhysics, FLAG, type Physics, SEMANTIC_DIM_MAX } from "../../src/frame.ts";
import type { StoreCursors, StoreOptions } from "../../src/store/protocol.ts";

export const WORKER_URL = new URL("../../src/store/store.worker.ts", import.meta.url);
export const JOURNAL_ID = 0xfedcba98;
export const EVERYTHING: StoreCursors = { seq: 0, frameId: 0, answerId: 0 };
const UNTIL_MS_MAX = 45_000;

export interface EventRow {
  id: string;
  type: string | null;
  message: string | null;
  conversationId: string | null;
  timestampUs: number | null;
  body: string;
}

export function eventRow(row: Partial<EventRow> = {}): EventRow {
  const event: EventRow = {
    id: "e",
    type: null,
    message: null,
    conversationId: null,
    timestampUs: null,
    body: "{}",
  };
  return { ...event, ...row };
}

export function physicsOf(row: Partial<Physics>): Physics {
  return {
    delta_time: 0,
    duration_ms: 1.5,
    velocity: 2,
    interrupt: 0,
    timestamp_us: 1_700_000_000_000_000,
    conversation_hash: 0n,
    workflow_node: -1,
    case_status: 0,
    lead_status: 0,
    fill_rate: 0,
    actor_type: 1,
    intent_id: -1,
    sentiment: 0,
    confidence: 0,
    spin: [1, 0, 0, 0],
    event_seq: 1,
    semantic_dim: SEMANTIC_DIM_MAX,
    flags: FLAG.semantic,
    model_id: 7,
    type_id: -1,
    journal_id: JOURNAL_ID,
    checksum: 0n,
    ...row,
  };
}

export interface FrameRow {
  seq: number;
  physics: Physics;
  vector?: Float32Array | null;
  eventType?: string | null;
  intent?: string | null;
}

export class TestJournal {
  readonly folder: string;
  readonly databasePath: string;
  readonly path: string;
  readonly db: Database;

  /** @param root a folder that the test removes. */
  constructor(root: string) {
    this.folder = mkdtempSync(join(root, "case-"));
    this.databasePath = join(this.folder, "events.duckdb");
    this.path = `${this.databasePath}.journal`;
    this.db = new Database(this.path);
    this.db.run("PRAGMA journal_mode = WAL");
    this.db.run(`CREATE TABLE events(seq INTEGER PRIMARY KEY AUTOINCREMENT, received_us INTEGER, id TEXT, type TEXT,
      message TEXT, conversation_id TEXT, timestamp_us INTEGER, fields TEXT, source TEXT, body BLOB, checksum INTEGER)`);
    const decided = `seq INTEGER, decided_us INTEGER, physics BLOB, vector BLOB, event_type TEXT, intent TEXT, provenance TEXT, checksum INTEGER`;
    this.db.run(`CREATE TABLE frames(frame_id INTEGER PRIMARY KEY AUTOINCREMENT, ${decided}, UNIQUE(seq))`);
    this.db.run(`CREATE TABLE answers(answer_id INTEGER PRIMARY KEY AUTOINCREMENT, ${decided})`);
  }

  addEvents(rows: readonly EventRow[]): number {
    const insert = this.db.prepare(
      `INSERT INTO events(received_us, id, type, message, conversation_id, timestamp_us, source, body)
       VALUES (?, ?, ?, ?, ?, ?, 'test', ?)`,
    );
    this.db.transaction(() => {
      for (const row of rows) {
        const body = new TextEncoder().encode(row.body);
        insert.run(
          1_700_000_000_000_001,
          row.id,
          row.type,
          row.message,
          row.conversationId,
          row.timestampUs,
          body,
        );
      }
    })();
    return (this.db.query("SELECT max(seq) AS seq FROM events").get() as { seq: number }).seq;
  }

  addFrames(rows: readonly FrameRow[]): void {
    this.#addDecided("frames", rows);
  }

  addUpdates(rows: readonly FrameRow[]): void {
    this.#addDecided("answers", rows);
  }

  #addDecided(table: "frames" | "answers", rows: readonly FrameRow[]): void {
    const insert = this.db.prepare(
      `INSERT INTO ${table}(seq, decided_us, physics, vector, event_type, intent, provenance)
       VALUES (?, 1700000000000002, ?, ?, ?, ?, '{"embedder":"test"}')`,
    );
    this.db.transaction(() => {
      for (const row of rows) {
        const vector = row.vector == null ? null : new Uint8Array(row.vector.slice().buffer);
        insert.run(row.seq, encodePhysics(row.physics), vector, row.eventType ?? null, row.intent ?? null);
      }
    })();
  }

  options(o: Partial<StoreOptions> = {}): StoreOptions {
    return {
      databasePath: this.databasePath,
      journalPath: this.path,
      journalId: JOURNAL_ID,
      memoryLimitBytes: 150_000_000,
      tempFolder: join(this.folder, "temp"),
      ephemeral: null,
      workerUrl: WORKER_URL,
      quarantine: false,
      pruned: EVERYTHING,
      ...o,
    };
  }

  /** Rows of the database, read back after the store has closed. */
  async rows(columns: string, table: string): Promise<unknown[][]> {
    const { DuckDBInstance } = await import("../../src/native/duckdb.ts");
    const instance = await DuckDBInstance.create(this.databasePath, { access_mode: "READ_ONLY" });
    const connection = await instance.connect();
    try {
      return await (await connection.run(`SELECT ${columns} FROM ${table}`)).getRows();
    } finally {
      connection.closeSync();
      instance.closeSync();
    }
  }

  hashes(): Record<string, string> {
    const names = readdirSync(this.folder).filter(
      (name) => name.startsWith("events.duckdb") && !name.includes("journal"),
    );
    return Object.fromEntries(
      names.sort().map((name) => [name, Bun.hash(readFileSync(join(this.folder, name))).toString(16)]),
    );
  }
}

export async function rejection(promise: Promise<unknown>): Promise<GatewayError> {
  const thrown = await promise.then(
    () => null,
    (error: unknown) => error,
  );
  expect(thrown).toBeInstanceOf(GatewayError);
  return thrown as GatewayError;
}

export async function until(what: string, condition: () => boolean): Promise<void> {
  const endMs = performance.now() + UNTIL_MS_MAX;
  while (!condition()) {
    if (performance.now() > endMs) throw new Error(`waited ${UNTIL_MS_MAX / 1000} s in vain until ${what}`);
    await Bun.sleep(5);
  }
}

export function many(count: number, row: (index: number) => Partial<EventRow>): EventRow[] {
  return Array.from({ length: count }, (_, index) => eventRow(row(index)));
}

/** Events that can be told apart. */
export function numbered(count: number, from = 1): EventRow[] {
  return many(count, (index) => ({
    id: `id-${from + index}`,
    message: `message ${from + index}`,
    conversationId: `c-${(from + index) % 7}`,
    body: `{"n":${from + index}}`,
  }));
}
