/**
 * Measures how fast the store copies events and frames from the journal into DuckDB, and how fast it reads them.
 *
 *     bun bench/store.ts [--json]
 *
 * The database is durable, on the disk of the temporary folder. The Worker runs at its low thread priority, as in the gateway.
 */

import { Database } from "bun:sqlite";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodePhysics, FLAG, FRAME_BYTES, SEMANTIC_DIM_MAX } from "../src/frame.ts";
import { Store } from "../src/store/store.ts";
import { print } from "./support/load.ts";

const EVENTS = 200_000;
const FRAMES = 40_000;
const OFFER_FRAMES = 4096;
const JOURNAL_ID = 1;

function filledJournal(path: string): void {
  const journal = new Database(path);
  journal.run("PRAGMA journal_mode = WAL");
  journal.run(`CREATE TABLE events(seq INTEGER PRIMARY KEY AUTOINCREMENT, received_us, id TEXT, type, message,
    conversation_id, timestamp_us, fields TEXT, source TEXT, body BLOB, checksum)`);
  journal.run(`CREATE TABLE frames(frame_id INTEGER PRIMARY KEY AUTOINCREMENT, seq INTEGER UNIQUE, decided_us, physics BLOB,
    vector BLOB, event_type, intent, provenance, checksum)`);
  const encoder = new TextEncoder();
  const event = journal.prepare(
    "INSERT INTO events(received_us, id, type, message, conversation_id, source, body, checksum) VALUES (?, ?, 'UserMessage', ?, ?, 'bench', ?)",
  );
  const frame = journal.prepare(
    'INSERT INTO frames(seq, decided_us, physics, provenance) VALUES (?, 1, ?, \'{"embedder":"bench"}\')',
  );
  journal.transaction(() => {
    for (let seq = 1; seq <= EVENTS; seq++) {
      const message = `where is my card ${seq}, it has not arrived yet and I have been waiting for two weeks`;
      const body = JSON.stringify({
        message,
        conversation_id: `c-${seq % 5000}`,
        type: "UserMessage",
        extra: "x".repeat(540),
      });
      event.run(
        1_700_000_000_000_000 + seq,
        crypto.randomUUID(),
        message,
        `c-${seq % 5000}`,
        encoder.encode(body),
      );
    }
    const physics = encodePhysics({
      delta_time: 1,
      duration_ms: 1,
      velocity: 1,
      interrupt: 0,
      timestamp_us: 1,
      conversation_hash: 1n,
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
      model_id: 1,
      type_id: 1,
      journal_id: JOURNAL_ID,
      checksum: 0n,
    });
    for (let seq = 1; seq <= FRAMES; seq++) frame.run(seq, physics);
  })();
  journal.close();
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const startMs = performance.now();
  await work();
  return performance.now() - startMs;
}

const folder = mkdtempSync(join(tmpdir(), "bench-store-"));
try {
  const databasePath = join(folder, "events.duckdb");
  const journalPath = `${databasePath}.journal`;
  filledJournal(journalPath);
  await using store = await Store.open({
    databasePath,
    journalPath,
    journalId: JOURNAL_ID,
    memoryLimitBytes: 150_000_000,
    tempFolder: join(folder, "temp"),
    ephemeral: null,
    workerUrl: new URL("../src/store/store.worker.ts", import.meta.url),
    quarantine: false,
    pruned: { seq: 0, frameId: 0, answerId: 0 },
  });
  store.onFailure = (error) => {
    throw error;
  };

  const eventsMs = await timed(() => store.flush(EVENTS));
  print({ name: "store/append-events", value: (EVENTS / eventsMs) * 1000, unit: "events/s", baseline: null });

  const vectors = new Float32Array(OFFER_FRAMES * SEMANTIC_DIM_MAX).map(() => Math.random() - 0.5);
  const framesMs = await timed(async () => {
    // The next run is on its way while the last one is being stored.
    let before = Promise.resolve();
    for (let first = 1; first <= FRAMES; first += OFFER_FRAMES) {
      const count = Math.min(OFFER_FRAMES, FRAMES - first + 1);
      store.offer({ firstFrameId: first, count, vectors: vectors.slice(0, count * SEMANTIC_DIM_MAX) });
      const stored = store.flush(0);
      await before;
      before = stored;
    }
    await before;
  });
  print({ name: "store/append-frames", value: (FRAMES / framesMs) * 1000, unit: "frames/s", baseline: null });

  print({
    name: "store/checkpoint",
    value: await timed(() => store.checkpoint()),
    unit: "ms",
    baseline: null,
  });

  let read = 0;
  const readMs = await timed(async () => {
    for (let after = 0; after < FRAMES; ) {
      const { bytes, count } = await store.frames(after, OFFER_FRAMES, 100_000);
      read += bytes.byteLength / FRAME_BYTES;
      after += count;
    }
  });
  print({ name: "store/frames-read", value: (read / readMs) * 1000, unit: "frames/s", baseline: null });

  const pages: number[] = [];
  for (let round = 0; round < 20; round++) pages.push(await timed(() => store.events({ limit: 50 }, EVENTS)));
  pages.sort((a, b) => a - b);
  print({ name: "store/events-page", value: pages[10] ?? 0, unit: "ms", baseline: null });
  const filteredMs = await timed(() => store.events({ limit: 50, q: "no such text" }, EVENTS));
  print({ name: "store/events-search", value: filteredMs, unit: "ms", baseline: null });
} finally {
  rmSync(folder, { recursive: true, force: true });
}
