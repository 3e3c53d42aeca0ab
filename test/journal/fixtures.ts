/** Journals and parts of journals on real files, and events and frames for them. */

import { Database } from "bun:sqlite";
import { afterAll, expect } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { GatewayError } from "../../src/errors.ts";
import type { ParsedEvent } from "../../src/event/event.ts";
import { PHYSICS_BYTES } from "../../src/frame.ts";
import { type JournalKind, openFile } from "../../src/journal/file.ts";
import { type DecidedFrame, Journal, type JournalOptions } from "../../src/journal/journal.ts";
import { KEYS_SCHEMA_SQL } from "../../src/journal/keys.ts";
import { Transactions } from "../../src/journal/transactions.ts";

export const HOUR_US = 3600 * 1e6;
export const DAY_US = 24 * HOUR_US;
export const NOW_US = 1_790_000_000_123_456;
export const FROM = { source: "ingest", receivedUs: NOW_US };

export interface TempFolder {
  readonly root: string;
  /** A path for a journal, in a folder of its own. */
  newPath(): string;
}

/** Makes a folder for the tests of one file, which is removed after them. */
export function tempFolder(): TempFolder {
  const root = mkdtempSync(join(tmpdir(), "journal-test-"));
  let folders = 0;
  afterAll(() => rmSync(root, { recursive: true, force: true }));
  const newPath = (): string => {
    const folder = join(root, String(folders++));
    mkdirSync(folder);
    return join(folder, "events.duckdb.journal");
  };
  return { root, newPath };
}

export function openAt(path: string, options: Partial<JournalOptions> = {}): Journal {
  return Journal.open({
    path,
    ephemeral: null,
    nowUs: () => NOW_US,
    randomU32: () => 0xfedc_ba98,
    bootId: "boot",
    ...options,
  });
}

/** Opens a journal's file, with all tables, for tests of one part of the journal. */
export function openParts(
  path: string,
  kind: JournalKind = "kept",
): Disposable & { readonly database: Database; readonly transactions: Transactions } {
  const database = openFile(path, kind, { walBytes: 4e6, schemaSql: KEYS_SCHEMA_SQL, meta: {} });
  const transactions = new Transactions(database, path);
  return { database, transactions, [Symbol.dispose]: () => database.close(true) };
}

export function event(fields: Partial<ParsedEvent> = {}): ParsedEvent {
  return {
    body: new TextEncoder().encode('{"message":"olá"}'),
    id: null,
    key: null,
    dedupByBody: false,
    type: null,
    message: null,
    conversationId: null,
    timestampUs: null,
    fields: null,
    ignoredFields: 0,
    ...fields,
  };
}

export function keyed(...keys: string[]): ParsedEvent[] {
  return keys.map((key) => event({ key }));
}

export function frame(seq: number, fields: Partial<DecidedFrame> = {}): DecidedFrame {
  const physics = new Uint8Array(PHYSICS_BYTES).fill(seq);
  return {
    seq,
    decidedUs: NOW_US + seq,
    physics,
    vector: null,
    eventType: null,
    intent: null,
    provenance: "{}",
    ...fields,
  };
}

export function frames(...seqs: number[]): DecidedFrame[] {
  return seqs.map((seq) => frame(seq));
}

export const seqsOf = (results: readonly { seq: number }[]): number[] => results.map(({ seq }) => seq);

export async function failureOf(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => expect.unreachable("it should have been refused"),
    (error: unknown) => error,
  );
}

export function refusal(open: () => unknown): GatewayError {
  try {
    open();
  } catch (error) {
    if (error instanceof GatewayError) return error;
    throw error;
  }
  return expect.unreachable("it should have been refused");
}

/** Reads rows through a connection of its own, as the store does. */
export function rowsOf(path: string, sql: string): unknown[][] {
  const database = new Database(path, { readonly: true });
  try {
    return database.prepare(sql).values();
  } finally {
    database.close();
  }
}
