/** Updates from a real journal in DuckDB: each is stored once, also over restarts, and the newest one replaces the enrichment. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ParsedEvent } from "../../src/event/event.ts";
import { decodePhysics, encodePhysics, FLAG, labelId, type Physics } from "../../src/frame.ts";
import { type DecidedFrame, Journal } from "../../src/journal/journal.ts";
import type { StoreOptions } from "../../src/store/protocol.ts";
import { Store } from "../../src/store/store.ts";

setDefaultTimeout(60_000);

const root = mkdtempSync(join(tmpdir(), "store-updates-test-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const DIM = 8;

function physicsOf(seq: number, more: Partial<Physics> = {}): Physics {
  return {
    ...{
      delta_time: -1.5,
      duration_ms: 1.5,
      velocity: 2,
      interrupt: 0,
      timestamp_us: 1_700_000_000_000_000 + seq,
    },
    ...{ conversation_hash: 2n ** 63n + 5n, workflow_node: -1, case_status: 0, lead_status: 0, fill_rate: 0 },
    ...{ actor_type: 1, intent_id: -1, sentiment: 0, confidence: 0, spin: [0.5, 0.5, 0.5, -0.5] },
    ...{
      event_seq: seq,
      semantic_dim: DIM,
      flags: FLAG.semantic,
      model_id: 7,
      type_id: -1,
      journal_id: 7,
      checksum: 0n,
    },
    ...more,
  } as Physics;
}

const vectorOf = (seq: number): Float32Array => Float32Array.from({ length: DIM }, (_, at) => seq + at / 8);

function decided(
  seq: number,
  physics: Partial<Physics> = {},
  more: Partial<DecidedFrame> = {},
): DecidedFrame {
  return {
    ...{ seq, decidedUs: 1000 + seq, physics: encodePhysics(physicsOf(seq, physics)), vector: vectorOf(seq) },
    ...{ eventType: null, intent: null, provenance: '{"intent":null}' },
    ...more,
  };
}

function update(seq: number, intent: string, more: Partial<Physics> = {}): DecidedFrame {
  const physics = {
    intent_id: labelId(intent),
    confidence: 0.5,
    flags: FLAG.semantic | FLAG.intent,
    ...more,
  };
  return decided(seq, physics, { intent, eventType: intent, provenance: '{"intent":"llm"}' });
}

function event(n: number): ParsedEvent {
  const message = n % 2 === 0 ? null : `mensagem \ufeff${n}`;
  const body = new TextEncoder().encode(JSON.stringify(message === null ? { name: `n${n}` } : { message }));
  return {
    ...{ body, id: null, key: null, dedupByBody: false, type: null, message, conversationId: null },
    ...{ timestampUs: null, fields: null, ignoredFields: 0 },
  };
}

class Case {
  readonly folder = mkdtempSync(join(root, "case-"));
  readonly journal = Journal.open({
    path: join(this.folder, "events.duckdb.journal"),
    ...{ ephemeral: null, nowUs: () => 1, randomU32: () => 7, bootId: "b" },
  });
  store: Store | null = null;

  async open(more: Partial<StoreOptions> = {}): Promise<Store> {
    this.store = await Store.open({
      databasePath: join(this.folder, "events.duckdb"),
      journalPath: this.journal.path,
      journalId: this.journal.journalId,
      ...{
        memoryLimitBytes: 150_000_000,
        tempFolder: join(this.folder, "temp"),
        ephemeral: null,
        quarantine: false,
      },
      ...{
        workerUrl: new URL("../../src/store/store.worker.ts", import.meta.url),
        pruned: this.journal.pruned(),
      },
      ...more,
    });
    return this.store;
  }

  /** Puts events and their frames into journal and store. */
  async fill(count: number): Promise<Store> {
    const store = this.store ?? (await this.open());
    const events = Array.from({ length: count }, (_, index) => event(index + 1));
    await this.journal.append(events, { source: "", receivedUs: 1 });
    await this.journal.decide(Array.from({ length: count }, (_, index) => decided(index + 1)));
    store.offer({ firstFrameId: 1, count, vectors: null });
    await store.flush(count);
    return store;
  }

  async update(...updates: DecidedFrame[]): Promise<void> {
    await this.journal.update(updates);
    this.store?.updates(this.journal.headAnswerId());
  }

  async close(): Promise<void> {
    await this.store?.[Symbol.asyncDispose]();
    this.store = null;
    this.journal[Symbol.dispose]();
  }
}

async function enrichment(store: Store, seq: number): Promise<unknown> {
  return JSON.parse((await store.event(seq, 0)).json ?? "null")?.enrichment;
}

describe("updates", () => {
  test("the newest update replaces the enrichment, under the id of its frame", async () => {
    const one = new Case();
    const store = await one.fill(3);
    await one.update(update(1, "First"), update(2, "Other"));
    await one.update(update(1, "Second", { confidence: 0.75 }));
    await store.flush(3);
    expect(store.cursors).toEqual({ seq: 3, frameId: 3, answerId: 3 });
    expect(await enrichment(store, 1)).toEqual({
      ...{ frame_id: 1, intent: "Second", sentiment: null, confidence: 0.75, provenance: { intent: "llm" } },
    });
    const page = JSON.parse((await store.events({ limit: 5, intent: "Other" }, 3)).json);
    expect(
      page.events.map(({ seq, event_type }: { seq: number; event_type: string }) => [seq, event_type]),
    ).toEqual([[2, "Other"]]);
    expect(await enrichment(store, 3)).toMatchObject({ intent: null, provenance: { intent: null } });
    await one.close();
  });

  test("each update is stored once, also over a restart, and the journal gives it up when it is safe", async () => {
    const one = new Case();
    const first = await one.fill(2);
    await one.update(update(1, "A"));
    await first.flush(2);
    await first[Symbol.asyncDispose]();
    // Another update comes while the store is closed.
    await one.journal.update([update(2, "B")]);
    const store = await one.open();
    expect(store.cursors.answerId).toBe(1);
    const held: number[] = [];
    store.onCheckpoint = (cursors) => held.push(cursors.answerId);
    store.updates(one.journal.headAnswerId());
    await store.flush(2);
    await store.checkpoint();
    expect(held).toEqual([2]);
    expect(one.journal.prune({ seq: 2, frameId: 2, answerId: 2 })).toBe(2);
    await one.update(update(1, "C"));
    await store.flush(2);
    expect(await enrichment(store, 1)).toMatchObject({ intent: "C" });
    expect(await enrichment(store, 2)).toMatchObject({ intent: "B" });
    await one.close();
    const { DuckDBInstance } = await import("../../src/native/duckdb.ts");
    const instance = await DuckDBInstance.create(join(one.folder, "events.duckdb"), {
      access_mode: "READ_ONLY",
    });
    const connection = await instance.connect();
    const rows = await (
      await connection.run("SELECT answer_id, seq, intent FROM answers ORDER BY answer_id")
    ).getRows();
    expect(rows).toEqual([
      [1n, 1n, "A"],
      [2n, 2n, "B"],
      [3n, 1n, "C"],
    ]);
    connection.closeSync();
    instance.closeSync();
  });

  test("many updates at once are stored in several commits, also in an ephemeral database", async () => {
    const one = new Case();
    await one.open({ ephemeral: { limitBytes: 200_000_000 } });
    const store = await one.fill(10);
    const many = Array.from({ length: 5000 }, (_, index) => update((index % 10) + 1, `I${index}`));
    await one.update(...many);
    await store.flush(10);
    expect(store.cursors.answerId).toBe(5000);
    expect(await enrichment(store, 10)).toMatchObject({ intent: "I4999" });
    await one.close();
  });
});

describe("the newest enrichment", () => {
  test("of given events has text, labels, physics and vector of the newest update or, without one, of the frame", async () => {
    const one = new Case();
    const store = await one.fill(4);
    await one.update(update(1, "Late", { model_id: 9, semantic_dim: DIM }));
    await store.flush(4);
    const { rows } = await store.decided({ seqs: [4, 1, 99] });
    expect(rows.map(({ seq, message, payload }) => [seq, message, payload])).toEqual([
      [1, "mensagem \ufeff1", ""],
      [4, null, '{"name":"n4"}'],
    ]);
    const [first, fourth] = rows;
    expect(first).toMatchObject({ intent: "Late", eventType: "Late", provenance: '{"intent":"llm"}' });
    expect(first?.physics).toEqual(decodePhysics(update(1, "Late", { model_id: 9 }).physics));
    expect(fourth?.physics).toEqual(physicsOf(4));
    expect(fourth?.vector).toEqual(vectorOf(4));
    await one.close();
  });

  test("is found for all events whose newest vector is of another model, from first to last", async () => {
    const one = new Case();
    const store = await one.fill(300);
    await one.update(update(2, "L", { model_id: 9 }), update(5, "L"), update(150, "L", { model_id: 9 }));
    await store.flush(300);
    const seen: number[] = [];
    for (let afterSeq = 0; afterSeq < 290; ) {
      const reply = await store.decided({ afterSeq, toSeq: 290, limit: 64, notModel: 9 });
      expect(reply.rows.length).toBeLessThanOrEqual(64);
      seen.push(...reply.rows.map(({ seq }) => seq));
      expect(reply.reachedSeq).toBeGreaterThan(afterSeq);
      afterSeq = reply.reachedSeq;
    }
    const expected = Array.from({ length: 290 }, (_, index) => index + 1).filter(
      (seq) => seq !== 2 && seq !== 150,
    );
    expect(seen).toEqual(expected);
    await one.close();
  });
});
