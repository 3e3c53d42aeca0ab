/**
 * Measures the throughput of the journal on this disk: `bun bench/journal.ts [--json]`. The baseline of each figure is
 * bun:sqlite alone with the same durability, batches and bodies, one row (seq, body) per statement.
 * JOURNAL_BENCH_EVENTS sets the number of small events (default 300,000).
 */

import { Database } from "bun:sqlite";
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ParsedEvent } from "../src/event/event.ts";
import { PHYSICS_BYTES } from "../src/frame.ts";
import { Journal } from "../src/journal/journal.ts";
import { print } from "./support/load.ts";

const SMALL = Number(process.env.JOURNAL_BENCH_EVENTS ?? 300_000);

function show(name: string, value: number, unit: string, baseline: number | null): void {
  print({ name: `journal/${name}`, value, unit, baseline });
}

async function inFolder<T>(run: (folder: string) => Promise<T> | T): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), "journal-bench-"));
  try {
    return await run(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function openAt(folder: string, limitBytes: number | null = null): Journal {
  return Journal.open({
    path: join(folder, "journal"),
    ephemeral: limitBytes === null ? null : { limitBytes },
    nowUs: () => Date.now() * 1000,
    randomU32: () => 0x1234_5678,
    bootId: "bench",
  });
}

/** An event with a body of about `bytes`. */
function eventOf(bytes: number, key: string | null, index: number): ParsedEvent {
  const message = "a message as people write it "
    .repeat(Math.ceil(bytes / 28))
    .slice(0, Math.max(0, bytes - 62));
  const body = new TextEncoder().encode(
    JSON.stringify({ type: "UserMessage", conversation_id: `c-${index % 997}`, message }),
  );
  return {
    body,
    id: null,
    key,
    dedupByBody: false,
    type: "UserMessage",
    message,
    conversationId: `c-${index % 997}`,
    timestampUs: null,
    fields: null,
    ignoredFields: 0,
  };
}

/** Events per second, and the longest turns of the event loop with a commit, in ms. */
async function appended(
  journal: Journal,
  o: { total: number; batch: number; bytes: number; keys: boolean },
): Promise<{ perSecond: number; msP99: number; msMax: number }> {
  const events = Array.from({ length: o.batch }, (_, index) => eventOf(o.bytes, null, index));
  const turnsMs: number[] = [];
  let busyMs = 0;
  for (let done = 0; done < o.total; done += o.batch) {
    // The keys are made outside the measured time, because parsing is not the journal's work.
    const batch = o.keys ? events.map((event) => ({ ...event, key: `id:${crypto.randomUUID()}` })) : events;
    const startedMs = performance.now();
    await journal.append(batch, { source: "ingest", receivedUs: Date.now() * 1000 });
    turnsMs.push(performance.now() - startedMs);
    busyMs += turnsMs.at(-1) ?? 0;
  }
  turnsMs.sort((a, b) => a - b);
  return {
    perSecond: (o.total / busyMs) * 1000,
    msP99: turnsMs[Math.floor(turnsMs.length * 0.99)] ?? 0,
    msMax: turnsMs.at(-1) ?? 0,
  };
}

/** Events per second of the same batches with bun:sqlite alone. */
function bare(folder: string, o: { total: number; batch: number; bytes: number }): number {
  const database = new Database(join(folder, "bare"));
  database.run("PRAGMA journal_mode = WAL");
  database.run("PRAGMA synchronous = FULL");
  database.run("CREATE TABLE events(seq INTEGER PRIMARY KEY, body BLOB)");
  const insert = database.prepare("INSERT INTO events VALUES (?, ?)");
  const begin = database.prepare("BEGIN IMMEDIATE");
  const commit = database.prepare("COMMIT");
  const { body } = eventOf(o.bytes, null, 1);
  const startedMs = performance.now();
  for (let seq = 1; seq <= o.total; ) {
    begin.run();
    for (let row = 0; row < o.batch; row++) insert.run(seq++, body);
    commit.run();
  }
  const perSecond = (o.total / (performance.now() - startedMs)) * 1000;
  database.close();
  return perSecond;
}

async function appending(
  name: string,
  o: { total: number; batch: number; bytes: number; keys: boolean },
): Promise<void> {
  await inFolder(async (folder) => {
    const baseline = bare(folder, o);
    using journal = openAt(folder);
    const { perSecond, msP99, msMax } = await appended(journal, o);
    show(name, perSecond, "events/s", baseline);
    show(`${name}, commit p99`, msP99, "ms", null);
    show(`${name}, commit worst`, msMax, "ms", null);
  });
}

await appending("append, 500 a commit, 110 B", { total: SMALL, batch: 500, bytes: 110, keys: false });
await appending("append, 500 a commit, 110 B, keys", { total: SMALL, batch: 500, bytes: 110, keys: true });
await appending("append, 45 a commit, 750 B", { total: SMALL / 5, batch: 45, bytes: 750, keys: false });
await appending("append, 45 a commit, 750 B, keys", { total: SMALL / 5, batch: 45, bytes: 750, keys: true });
await appending("append, 1 a commit, 750 B", { total: 2000, batch: 1, bytes: 750, keys: false });

await inFolder(async (folder) => {
  const total = Math.min(SMALL, 100_000);
  const baseline = bare(folder, { total, batch: 256, bytes: PHYSICS_BYTES });
  using journal = openAt(folder);
  await appended(journal, { total, batch: 500, bytes: 110, keys: false });
  const physics = new Uint8Array(PHYSICS_BYTES);
  let framed = 0;
  let startedMs = performance.now();
  while (framed < total) {
    const seqs = Array.from({ length: Math.min(256, total - framed) }, (_, index) => framed + index + 1);
    const frames = seqs.map((seq) => ({
      seq,
      decidedUs: 1,
      physics,
      vector: null,
      eventType: "UserMessage",
      intent: null,
      provenance: "{}",
    }));
    await journal.decide(frames);
    framed += frames.length;
  }
  show(
    "decide, 256 a commit, no vector",
    (total / (performance.now() - startedMs)) * 1000,
    "frames/s",
    baseline,
  );
  startedMs = performance.now();
  let worstMs = 0;
  let steps = 0;
  for (;;) {
    const stepMs = performance.now();
    if (journal.prune({ seq: total, frameId: total, answerId: 0 }) === 0) break;
    worstMs = Math.max(worstMs, performance.now() - stepMs);
    steps += 1;
  }
  show("prune, 1,000 a commit", (total / (performance.now() - startedMs)) * 1000, "events/s", baseline);
  show(`prune, worst of ${steps} commits`, worstMs, "ms", null);
});

await inFolder(async (folder) => {
  const limitBytes = 100_000_000;
  using journal = openAt(folder, limitBytes);
  const { perSecond, msMax } = await appended(journal, {
    total: 4 * SMALL,
    batch: 500,
    bytes: 110,
    keys: false,
  });
  show("temporary, 100 MB, 500 a commit, 110 B", perSecond, "events/s", null);
  show("temporary, worst commit (drops included)", msMax, "ms", null);
  const bytes = statSync(join(folder, "journal")).size + statSync(join(folder, "journal-wal")).size;
  show("temporary, file and WAL at the end", bytes / 1e6, "MB", null);
});
