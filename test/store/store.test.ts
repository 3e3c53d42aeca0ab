import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import type { GatewayError } from "../../src/errors.ts";
import {
  decodeFrame,
  encodeFrame,
  encodePhysics,
  FLAG,
  FRAME_BYTES,
  SEMANTIC_DIM_MAX,
} from "../../src/frame.ts";
import type { StoreCursors } from "../../src/store/protocol.ts";
import { Store } from "../../src/store/store.ts";
import { randomOf } from "../random.ts";
import {
  EVERYTHING,
  eventRow,
  many,
  numbered,
  physicsOf,
  rejection,
  TestJournal,
  until,
  WORKER_URL,
} from "./test-journal.ts";

setDefaultTimeout(120_000);

const ROOT = mkdtempSync(join(tmpdir(), "store-test-"));
const CAPACITY = 1000;
/** Unmounted at the end, even if a test timed out. */
const mounts: string[] = [];

afterAll(() => {
  for (const path of mounts) Bun.spawnSync(["umount", "-l", path]);
  rmSync(ROOT, { recursive: true, force: true });
});

interface Page {
  events: {
    seq: number;
    id: string;
    event_type: string;
    message: string | null;
    enrichment: null | Record<string, unknown>;
  }[];
  next: number | null;
}

async function page(store: Store, query: Parameters<Store["events"]>[0], headSeq = 0): Promise<Page> {
  return JSON.parse((await store.events(query, headSeq)).json) as Page;
}

describe("events", () => {
  test("a read sees what the journal held when it came, newest first, each field as sent", async () => {
    const journal = new TestJournal(ROOT);
    await using store = await Store.open(journal.options());
    const body = '{"z":1, "big":12345678901234567890,"e":1e400,\n"a":"\\ud800"}';
    journal.addEvents([
      eventRow({
        id: "first",
        type: "UserMessage",
        message: "olá \u0000 \ufeff“x”",
        conversationId: "c",
        timestampUs: 5,
        body,
      }),
      eventRow({ id: "\ufeffsecond", body: '{"é":"ü😀"}' }),
    ]);
    const { json, lag } = await store.events({ limit: 10 }, 2);
    expect(lag).toBe(0);
    expect(json).toContain(`"payload":${body},`);
    expect(JSON.parse(json.replace("1e400", "0"))).toEqual({
      events: [
        {
          seq: 2,
          id: "\ufeffsecond",
          received_us: 1_700_000_000_000_001,
          timestamp_us: null,
          event_type: "UnknownEvent",
          conversation_id: null,
          message: null,
          payload: { é: "ü😀" },
          enrichment: null,
        },
        {
          seq: 1,
          id: "first",
          received_us: 1_700_000_000_000_001,
          timestamp_us: 5,
          event_type: "UserMessage",
          conversation_id: "c",
          message: "olá \u0000 \ufeff“x”",
          payload: expect.anything(),
          enrichment: null,
        },
      ],
      next: null,
    });
    expect((await store.event(2, 2)).json).toContain('"seq":2');
    expect((await store.event(3, 2)).json).toBeNull();
  });

  test("an enrichment appears with its event: unknown values are null, floats are as short as they were written", async () => {
    const journal = new TestJournal(ROOT);
    await using store = await Store.open(journal.options());
    const head = journal.addEvents(numbered(2));
    const known = FLAG.intent | FLAG.sentiment;
    journal.addFrames([
      {
        seq: 2,
        physics: physicsOf({ event_seq: 2, flags: known, sentiment: 0.8, confidence: 0.35 }),
        eventType: "Order",
        intent: "buy",
      },
      { seq: 1, physics: physicsOf({ event_seq: 1, flags: 0 }) },
    ]);
    store.offer({ firstFrameId: 1, count: 2, vectors: null });
    await store.flush(head);
    const { events } = await page(store, { limit: 5 });
    expect(events.map((event) => event.enrichment)).toEqual([
      { frame_id: 1, intent: "buy", sentiment: 0.8, confidence: 0.35, provenance: { embedder: "test" } },
      { frame_id: 2, intent: null, sentiment: null, confidence: null, provenance: { embedder: "test" } },
    ]);
    expect(events.map((event) => event.event_type)).toEqual(["Order", "UnknownEvent"]);
  });

  test("pages join without gap or overlap, downwards and upwards", async () => {
    const journal = new TestJournal(ROOT);
    await using store = await Store.open(journal.options());
    const head = journal.addEvents(numbered(5000));
    const seen: number[] = [];
    for (let before: number | null = 5001; before !== null; ) {
      const got: Page = await page(store, { limit: 999, before }, head);
      seen.push(...got.events.map((event) => event.seq));
      before = got.next;
    }
    expect(seen).toEqual(Array.from({ length: 5000 }, (_, index) => 5000 - index));
    const upwards = await page(store, { limit: 3, after: 10 });
    expect(upwards.events.map((event) => event.seq)).toEqual([11, 12, 13]);
    expect(upwards.next).toBe(13);
    expect((await page(store, { limit: 5, after: 4998 })).next).toBeNull();
    expect(await page(store, { limit: 5, before: 1 })).toEqual({ events: [], next: null });
  });

  test("filters find by type, intent, conversation and text, even far back", async () => {
    const journal = new TestJournal(ROOT);
    await using store = await Store.open(journal.options());
    journal.addEvents([
      eventRow({ id: "a", type: "Order", message: "ÄPFEL kaufen", conversationId: "x" }),
      eventRow({ id: "b", message: "no needle", body: '{"needle":"Needle"}' }),
      eventRow({ id: "c", body: '{"thing":"100% Needle"}' }),
      eventRow({ id: "d", message: "Meu cartão, ΟΔΟΣ".normalize("NFC") }),
      eventRow({ id: "e", message: "Meu cartão, οδος".normalize("NFD") }),
    ]);
    const head = journal.addEvents(numbered(140_000, 6));
    journal.addFrames([{ seq: 1, physics: physicsOf({ flags: FLAG.intent }), intent: "buy" }]);
    store.offer({ firstFrameId: 1, count: 1, vectors: null });
    await store.flush(head);
    const found = async (query: object): Promise<string[]> =>
      (await page(store, { limit: 50, ...query }, head)).events.map((event) => event.id);
    expect(await found({ type: "Order" })).toEqual(["a"]);
    expect(await found({ intent: "buy" })).toEqual(["a"]);
    expect(await found({ intent: "sell" })).toEqual([]);
    expect(await found({ conversationId: "x" })).toEqual(["a"]);
    expect(await found({ q: "äpfel" })).toEqual(["a"]);
    for (const q of ["cartão", "CARTÃO", "οδος", "ΟΔΟΣ"]) {
      expect(await found({ q: q.normalize("NFC") })).toEqual(["e", "d"]);
      expect(await found({ q: q.normalize("NFD") })).toEqual(["e", "d"]);
    }
    expect(await found({ q: "NEEDLE" })).toEqual(["c", "b"]);
    expect(await found({ q: "0% n" })).toEqual(["c"]);
    expect(await found({ q: "' OR 1=1 --" })).toEqual([]);
    expect(await found({ type: "UnknownEvent", before: 4 })).toEqual(["c", "b"]);
  });

  test("if the store cannot catch up, a read says by how many events it lags", async () => {
    const journal = new TestJournal(ROOT);
    await using store = await Store.open(journal.options());
    journal.addEvents(numbered(3));
    await store.flush(3);
    journal.db.run("BEGIN EXCLUSIVE");
    journal.db.run("ALTER TABLE events RENAME TO hidden");
    journal.db.run("COMMIT");
    const failures: GatewayError[] = [];
    store.onFailure = (error) => failures.push(error);
    const { json, lag } = await store.events({ limit: 1 }, 10).catch(() => ({ json: null, lag: -1 }));
    if (json !== null) expect(lag).toBe(7);
    await until("the failure is reported", () => failures.length > 0);
    journal.db.run("ALTER TABLE hidden RENAME TO events");
    journal.addEvents(numbered(7, 4));
    await until("the store has recovered", () => store.cursors.seq === 10);
    expect((await page(store, { limit: 50 }, 10)).events.length).toBe(10);
  });
});

describe("frames", () => {
  const f32 = fc.oneof(
    fc.float({ noNaN: true, noDefaultInfinity: true }),
    fc.constantFrom(0, -0, 1e-45, -1e-45, 1.1754942106924411e-38, 3.4028234663852886e38),
  );
  const i32 = fc.integer({ min: -0x80000000, max: 0x7fffffff });
  const u32 = fc.integer({ min: 0, max: 0xffffffff });
  const u64 = fc.bigInt({ min: 0n, max: 0xffffffffffffffffn });
  const physics = fc.record({
    delta_time: f32,
    duration_ms: f32,
    velocity: f32,
    interrupt: f32,
    timestamp_us: fc.maxSafeInteger(),
    conversation_hash: u64,
    workflow_node: i32,
    case_status: i32,
    lead_status: i32,
    fill_rate: f32,
    actor_type: i32,
    intent_id: i32,
    sentiment: f32,
    confidence: f32,
    spin: fc.tuple(f32, f32, f32, f32),
    event_seq: fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER }),
    semantic_dim: fc.integer({ min: 0, max: 0xffff }),
    flags: fc.integer({ min: 0, max: 0xffff }),
    model_id: u32,
    type_id: i32,
    journal_id: u32,
    checksum: u64,
  });
  const vector = fc.oneof(
    fc.array(f32, { minLength: 1, maxLength: SEMANTIC_DIM_MAX, size: "max" }),
    fc
      .tuple(f32, fc.integer({ min: 1, max: SEMANTIC_DIM_MAX }))
      .map(([value, dim]) => new Array<number>(dim).fill(value)),
  );

  test("every field and the vector come back bit for bit, before and after CHECKPOINT and reopening", async () => {
    const property = fc.asyncProperty(
      fc.array(fc.tuple(physics, vector), { minLength: 1, maxLength: 12 }),
      fc.boolean(),
      async (given, offered) => {
        const journal = new TestJournal(ROOT);
        const rows = given.map(([fields, values], index) => ({
          seq: index + 1,
          physics: fields,
          vector: (fields.flags & FLAG.semantic) === 0 ? null : new Float32Array(values),
        }));
        journal.addFrames(offered ? rows.map((row) => ({ ...row, vector: null })) : rows);
        const expected = new Uint8Array(rows.length * FRAME_BYTES);
        const vectors = new Float32Array(rows.length * SEMANTIC_DIM_MAX);
        rows.forEach((row, index) => {
          const frame = {
            frameId: index + 1,
            capacity: CAPACITY,
            physics: encodePhysics(row.physics),
            vector: row.vector,
          };
          encodeFrame(expected, index * FRAME_BYTES, frame);
          // An offered row of a frame without a vector is ignored.
          vectors.fill(9, index * SEMANTIC_DIM_MAX, (index + 1) * SEMANTIC_DIM_MAX);
          if (row.vector !== null) {
            vectors.fill(0, index * SEMANTIC_DIM_MAX, (index + 1) * SEMANTIC_DIM_MAX);
            vectors.set(row.vector, index * SEMANTIC_DIM_MAX);
          }
        });
        const stored = async (store: Store): Promise<void> => {
          const { bytes, count, oldest } = await store.frames(0, 100, CAPACITY);
          expect([count, oldest]).toEqual([rows.length, 1]);
          expect(Buffer.from(bytes).equals(Buffer.from(expected))).toBe(true);
        };
        {
          await using store = await Store.open(journal.options());
          store.offer({ firstFrameId: 1, count: rows.length, vectors: offered ? vectors : null });
          await store.flush(0);
          await stored(store);
          await store.checkpoint();
          await stored(store);
        }
        await using again = await Store.open(journal.options());
        await stored(again);
        journal.db.close();
      },
    );
    await fc.assert(property, { numRuns: Number(process.env.STORE_RUNS ?? 6) });
  });

  test("signs of zero survive in thousands of frames that compress to constants and runs", async () => {
    const journal = new TestJournal(ROOT);
    await using store = await Store.open(journal.options());
    const count = 5000;
    const sign = (index: number): number => (index % 3 === 0 ? -0 : 0);
    journal.addFrames(
      Array.from({ length: count }, (_, index) => ({
        seq: index + 1,
        physics: physicsOf({ delta_time: sign(index), spin: [0, -0, sign(index), 0] }),
      })),
    );
    const vectors = new Float32Array(count * SEMANTIC_DIM_MAX).map((_, index) => (index % 5 === 0 ? -0 : 0));
    const kept = vectors.slice();
    store.offer({ firstFrameId: 1, count, vectors });
    await store.checkpoint();
    await store.flush(0);
    await store.checkpoint();
    const { bytes } = await store.frames(0, count, CAPACITY);
    for (let index = 0; index < count; index += 97) {
      const frame = decodeFrame(new Uint8Array(bytes), index * FRAME_BYTES);
      expect(frame.frame_id).toBe(index + 1);
      expect(Object.is(frame.delta_time, sign(index))).toBe(true);
      expect(frame.spin.map((value) => Object.is(value, -0))).toEqual([
        false,
        true,
        Object.is(sign(index), -0),
        false,
      ]);
      const expected = kept.subarray(index * SEMANTIC_DIM_MAX, (index + 1) * SEMANTIC_DIM_MAX);
      expect(Buffer.from(frame.semantic.buffer).equals(Buffer.from(expected.slice().buffer))).toBe(true);
    }
  });

  test("a run of frames has no gap, begins behind the given frame_id, and ends at the newest stored frame", async () => {
    const journal = new TestJournal(ROOT);
    await using store = await Store.open(journal.options());
    expect(await store.frames(0, 10, CAPACITY)).toEqual({ bytes: new ArrayBuffer(0), count: 0, oldest: 0 });
    journal.addFrames(
      Array.from({ length: 30 }, (_, index) => ({
        seq: index + 1,
        physics: physicsOf({ flags: 0, event_seq: index + 1 }),
      })),
    );
    store.offer({ firstFrameId: 1, count: 10, vectors: null });
    // Of an offer that overlaps only the new part is taken; an offer behind a gap is not taken.
    store.offer({ firstFrameId: 5, count: 16, vectors: new Float32Array(16 * SEMANTIC_DIM_MAX) });
    const asked: StoreCursors[] = [];
    store.onReopened = (cursors) => asked.push(cursors);
    store.offer({ firstFrameId: 22, count: 2, vectors: null });
    await until("the main thread is asked to offer again", () => asked.length > 0);
    store.offer({
      firstFrameId: store.cursors.frameId + 1,
      count: 20 - store.cursors.frameId,
      vectors: null,
    });
    await store.flush(0);
    const { bytes, count, oldest } = await store.frames(14, 100, CAPACITY);
    expect([count, oldest]).toEqual([6, 1]);
    const seqs = Array.from(
      { length: count },
      (_, index) => decodeFrame(new Uint8Array(bytes), index * FRAME_BYTES).event_seq,
    );
    expect(seqs).toEqual([15, 16, 17, 18, 19, 20]);
    expect((await store.frames(20, 5, CAPACITY)).count).toBe(0);
    expect((await store.frames(2, 3, CAPACITY)).count).toBe(3);
  });

  test("a frame whose vector is missing everywhere is a reported failure, not a frame without a vector", async () => {
    const journal = new TestJournal(ROOT);
    await using store = await Store.open(journal.options());
    journal.addFrames([{ seq: 1, physics: physicsOf({ flags: FLAG.semantic }), vector: null }]);
    const failures: string[] = [];
    store.onFailure = (error) => failures.push(error.message);
    const reoffers: StoreCursors[] = [];
    store.onReopened = (cursors) => reoffers.push(cursors);
    store.offer({ firstFrameId: 1, count: 1, vectors: null });
    await until("the store asks for the frame again", () => reoffers.length > 0);
    expect(failures[0]).toContain("frame 1");
    expect(reoffers[0]).toEqual(EVERYTHING);
    store.offer({ firstFrameId: 1, count: 1, vectors: new Float32Array(SEMANTIC_DIM_MAX).fill(0.25) });
    await store.flush(0);
    expect(store.cursors.frameId).toBe(1);
  });
});

describe("opening", () => {
  test("a restart goes on where the cursors say and stores nothing twice", async () => {
    const journal = new TestJournal(ROOT);
    journal.addEvents(numbered(3000));
    {
      await using store = await Store.open(journal.options());
      store.head(3000);
    }
    journal.addEvents(numbered(500, 3001));
    {
      await using store = await Store.open(journal.options());
      expect(store.cursors.seq).toBe(3000);
      store.head(3500);
      await store.flush(3500);
      expect(await store.stats()).toMatchObject({ events: 3500, enrichments: 0 });
    }
    expect(await journal.rows("count(*)::INT, count(DISTINCT seq)::INT, max(seq)::INT", "events")).toEqual([
      [3500, 3500, 3500],
    ]);
    expect(await journal.rows("count(*)::INT, count(payload)::INT", "enriched_events")).toEqual([
      [3500, 3500],
    ]);
  });

  test("a database is refused and left as it was if it belongs to another journal or program, or lacks pruned rows", async () => {
    const journal = new TestJournal(ROOT);
    journal.addEvents(numbered(10));
    {
      await using store = await Store.open(journal.options());
      await store.flush(10);
    }
    const before = journal.hashes();
    expect((await rejection(Store.open(journal.options({ journalId: 5 })))).code).toBe("foreign_store");
    const pruned = { seq: 11, frameId: 0, answerId: 0 };
    expect((await rejection(Store.open(journal.options({ pruned })))).code).toBe("store_behind");
    expect(journal.hashes()).toEqual(before);

    const other = new TestJournal(ROOT);
    const { DuckDBInstance } = await import("../../src/native/duckdb.ts");
    const instance = await DuckDBInstance.create(other.databasePath);
    const connection = await instance.connect();
    for (const sql of [
      "PRAGMA disable_checkpoint_on_shutdown",
      "CREATE TABLE t(a INT)",
      "CHECKPOINT",
      "INSERT INTO t VALUES (1)",
    ]) {
      await connection.run(sql);
    }
    connection.closeSync();
    instance.closeSync();
    const foreign = other.hashes();
    expect(Object.keys(foreign)).toEqual(["events.duckdb", "events.duckdb.wal"]);
    for (const quarantine of [false, true]) {
      expect((await rejection(Store.open(other.options({ quarantine })))).code).toBe("foreign_store");
      expect(other.hashes()).toEqual(foreign);
    }

    const text = new TestJournal(ROOT);
    writeFileSync(text.databasePath, "somebody's letter\n".repeat(1000));
    const letter = text.hashes();
    expect((await rejection(Store.open(text.options()))).code).toBe("foreign_store");
    expect(text.hashes()).toEqual(letter);
  });

  test("a pruned journal without a database is refused, and no database is created", async () => {
    const journal = new TestJournal(ROOT);
    const pruned = { seq: 1, frameId: 1, answerId: 0 };
    expect((await rejection(Store.open(journal.options({ pruned })))).code).toBe("store_behind");
    expect(existsSync(journal.databasePath)).toBe(false);
  });

  test("an empty file is replaced by a database", async () => {
    const journal = new TestJournal(ROOT);
    writeFileSync(journal.databasePath, "");
    await using store = await Store.open(journal.options());
    expect(store.cursors).toEqual(EVERYTHING);
  });
});

const CHILD = `
  import { Store } from ${JSON.stringify(new URL("../../src/store/store.ts", import.meta.url).href)};
  const options = JSON.parse(process.argv[2]);
  const store = await Store.open({ ...options, workerUrl: ${JSON.stringify(WORKER_URL.href)} });
  const head = Number(process.argv[3]);
  const frames = Number(process.argv[4]);
  const step = Number(process.argv[5]);
  const say = (line) => process.stdout.write(line + "\\n");
  store.onCursors = (c) => say("cursors " + c.seq + " " + c.frameId);
  store.onCheckpoint = (c) => say("checkpoint " + c.seq);
  say("open " + store.cursors.seq + " " + store.cursors.frameId);
  let checkpointing = false;
  for (let seq = store.cursors.seq, frame = store.cursors.frameId; ; ) {
    seq = Math.min(head, seq + step); store.head(seq);
    const count = Math.min(step, frames - frame);
    if (count > 0) { store.offer({ firstFrameId: frame + 1, count, vectors: null }); frame += count; }
    if (!checkpointing && Math.random() < 0.1) { checkpointing = true; store.checkpoint().catch(() => {}).then(() => { checkpointing = false; }); }
    await Bun.sleep(5);
  }
`;

describe("crash", () => {
  /**
   * Lets a child process store rows of the journal, and kills it.
   * @param o `progress`: the number of stored events and frames, together, at which it is killed, `afterMs` later; null: `afterMs`
   *   after its start.
   * @returns the lines that it wrote.
   */
  async function killedChild(
    journal: TestJournal,
    o: {
      progress: ((opened: number) => number) | null;
      afterMs: number;
      step: number;
      head: number;
      frames: number;
    },
  ): Promise<string[]> {
    const script = join(journal.folder, "child.ts");
    writeFileSync(script, CHILD);
    const { workerUrl: _, ...options } = journal.options();
    const args = [JSON.stringify(options), `${o.head}`, `${o.frames}`, `${o.step}`];
    const child = Bun.spawn([process.execPath, script, ...args], { stdout: "pipe", stderr: "inherit" });
    const killLater = (): unknown => setTimeout(() => child.kill("SIGKILL"), o.afterMs);
    if (o.progress === null) killLater();
    const lines: string[] = [];
    let target: number | null = null;
    for await (const line of linesOf(child.stdout)) {
      lines.push(line);
      const [kind, seq, frameId] = line.split(" ");
      const reached = Number(seq) + Number(frameId);
      if (kind === "open" && o.progress !== null) target = o.progress(reached);
      if (target === null || kind === "checkpoint" || reached < target) continue;
      target = null;
      killLater();
    }
    await child.exited;
    return lines;
  }

  async function* linesOf(stream: ReadableStream<Uint8Array<ArrayBuffer>>): AsyncGenerator<string> {
    let rest = "";
    for await (const text of stream.pipeThrough(new TextDecoderStream())) {
      const parts = (rest + text).split("\n");
      rest = parts.pop() ?? "";
      yield* parts;
    }
  }

  test("after SIGKILL at any instant, rows and cursors agree and no row is stored twice", async () => {
    const seed = Number(process.env.STORE_SEED ?? Date.now() % 1_000_000);
    console.log(`store crash seed ${seed}`);
    const random = randomOf(seed);
    const journal = new TestJournal(ROOT);
    const head = 60_000;
    journal.addEvents(numbered(head));
    journal.addFrames(
      Array.from({ length: head }, (_, index) => ({
        seq: index + 1,
        physics: physicsOf({ event_seq: index + 1, flags: index % 2 === 0 ? FLAG.semantic : 0 }),
        vector: index % 2 === 0 ? new Float32Array(64).fill((index % 1000) + 1) : null,
      })),
    );
    const rounds = Number(process.env.STORE_KILLS ?? 4);
    let committed = 0;
    for (let round = 0; round < rounds; round++) {
      const step = random() < 0.5 ? 40 : 2500;
      const share = 0.5 * random();
      const lines = await killedChild(journal, {
        // One in five dies while it starts. The first one has stored something before it dies.
        progress:
          round % 5 === 2 ? null : (opened) => opened + (round === 0 ? 1 : 0) + share * (2 * head - opened),
        afterMs: round % 5 === 2 ? 50 + random() * 400 : random() * 60,
        step,
        head,
        frames: head,
      });
      const opened = lines
        .find((line) => line.startsWith("open "))
        ?.split(" ")
        .map(Number);
      if (opened?.[1] !== undefined) expect(opened[1]).toBeGreaterThanOrEqual(committed);
      const last = lines
        .findLast((line) => line.startsWith("cursors "))
        ?.split(" ")
        .map(Number);
      committed = Math.max(committed, last?.[1] ?? 0, opened?.[1] ?? 0);
    }
    expect(committed).toBeGreaterThan(0);
    {
      await using store = await Store.open(journal.options());
      expect(store.cursors.seq).toBeGreaterThanOrEqual(committed);
      const { seq, frameId } = store.cursors;
      const stats = await store.stats();
      expect([stats.events, stats.enrichments]).toEqual([seq, frameId]);
      if (frameId < head) store.offer({ firstFrameId: frameId + 1, count: head - frameId, vectors: null });
      await store.flush(head);
    }
    expect(
      await journal.rows("count(*)::INT, count(DISTINCT seq)::INT, min(seq)::INT, max(seq)::INT", "events"),
    ).toEqual([[head, head, 1, head]]);
    expect(
      await journal.rows(
        "count(*)::INT, count(DISTINCT frame_id)::INT, count(DISTINCT seq)::INT, count(semantic)::INT, bool_and(semantic IS NULL OR semantic[64] = (frame_id - 1) % 1000 + 1)",
        "enrichments",
      ),
    ).toEqual([[head, head, head, head / 2, true]]);
    expect(await journal.rows("count(*)::INT", "events WHERE payload <> '{\"n\":' || seq || '}'")).toEqual([
      [0],
    ]);
  });

  test("a log that cannot be replayed is set aside with a notice, and its rows are read again from the journal", async () => {
    const journal = new TestJournal(ROOT);
    const head = journal.addEvents(numbered(4000));
    {
      await using store = await Store.open(journal.options());
      await store.flush(1000);
    }
    await killedChild(journal, { progress: (opened) => opened + 1, afterMs: 0, step: 40, head, frames: 0 });
    const log = `${journal.databasePath}.wal`;
    // If the child was killed right behind a checkpoint, there is no log, and any log will do.
    const bytes = existsSync(log) ? readFileSync(log) : Buffer.alloc(0);
    writeFileSync(log, Buffer.concat([bytes, Buffer.alloc(4096, 0xa5)]));
    const notices: string[] = [];
    await using store = await Store.open(
      journal.options({ quarantine: true, onNotice: (message) => notices.push(message) }),
    );
    expect(notices.join()).toContain("set aside");
    expect(readdirSync(journal.folder).some((name) => /\.wal\.set-aside-\d+$/.test(name))).toBe(true);
    expect(store.cursors.seq).toBeGreaterThanOrEqual(1000);
    await store.flush(head);
    expect((await store.stats()).events).toBe(head);
  });
});

describe("checkpoint", () => {
  test("a checkpoint reports the cursors that were read before it began, and only when it has completed", async () => {
    const journal = new TestJournal(ROOT);
    const head = journal.addEvents(numbered(100));
    await using store = await Store.open(journal.options());
    const reported: StoreCursors[] = [];
    store.onCheckpoint = (cursors) => reported.push(cursors);
    await store.flush(head);
    expect(reported).toEqual([]);
    await store.checkpoint();
    expect(reported).toEqual([{ seq: head, frameId: 0, answerId: 0 }]);
    expect(existsSync(`${journal.databasePath}.wal`)).toBe(false);
    expect((await store.stats()).checkpoints).toBe(1);
  });
});

describe("reads beside checkpoints", () => {
  test("reads and checkpoints do not disturb each other", async () => {
    const journal = new TestJournal(ROOT);
    await using store = await Store.open(journal.options());
    const failures: GatewayError[] = [];
    store.onFailure = (error) => failures.push(error);
    let head = journal.addEvents(numbered(20_000));
    await store.flush(head);
    let done = false;
    const reading = (async () => {
      while (!done) {
        const { events } = await page(store, { limit: 20, q: "message 1999" });
        expect(events.length).toBeGreaterThan(0);
        await store.stats();
      }
    })();
    for (let round = 0; round < 20; round++) {
      head = journal.addEvents(numbered(300, head + 1));
      await store.flush(head);
      await store.checkpoint();
    }
    done = true;
    await reading;
    expect(failures).toEqual([]);
    expect((await store.stats()).checkpoints).toBeGreaterThanOrEqual(20);
  });
});

const root = process.platform === "linux" && process.getuid?.() === 0;

/** A small file system; null if the machine does not let us mount one. */
function smallDisk(folder: string, megabytes: number): string | null {
  if (!root) return null;
  const path = join(folder, "disk");
  mkdirSync(path);
  const mounted = Bun.spawnSync(["mount", "-t", "tmpfs", "-o", `size=${megabytes}m`, "tmpfs", path]);
  if (mounted.exitCode !== 0) return null;
  mounts.push(path);
  return path;
}

describe("full disk", () => {
  test.skipIf(!root)(
    "nothing is lost, and the store recovers by itself when there is room again (needs root)",
    async () => {
      const journal = new TestJournal(ROOT);
      const disk = smallDisk(journal.folder, 48);
      if (disk === null) return;
      const databasePath = join(disk, "events.duckdb");
      try {
        const failures: GatewayError[] = [];
        {
          await using store = await Store.open(journal.options({ databasePath }));
          store.onFailure = (error) => failures.push(error);
          const checkpoints: StoreCursors[] = [];
          store.onCheckpoint = (cursors) => checkpoints.push(cursors);
          let head = journal.addEvents(
            many(200, (index) => ({
              id: `${index}`,
              body: JSON.stringify({ noise: `${index}`.repeat(400) }),
            })),
          );
          await store.flush(head);
          const { bavail, bsize } = statfsSync(disk);
          writeFileSync(join(disk, "ballast"), Buffer.alloc(bavail * bsize - 300_000));
          expect((await rejection(store.checkpoint())).code).toBe("disk_full");
          expect(checkpoints).toEqual([]);
          head = journal.addEvents(
            many(3000, (index) => ({
              id: `b${index}`,
              body: JSON.stringify({ noise: crypto.randomUUID().repeat(20) }),
            })),
          );
          store.head(head);
          await until("the full disk is reported", () => failures.length > 0);
          expect(store.cursors.seq).toBeLessThan(head);
          rmSync(join(disk, "ballast"));
          await until("everything is stored", () => store.cursors.seq === head);
          await store.checkpoint();
          expect(checkpoints.at(-1)?.seq).toBe(head);
          expect((await store.stats()).events).toBe(head);
        }
        await using again = await Store.open(journal.options({ databasePath }));
        expect((await again.stats()).events).toBe(3200);
      } finally {
        Bun.spawnSync(["umount", "-l", disk]);
      }
    },
  );
});

describe("ephemeral", () => {
  test("the file stays within its bound and holds the newest rows", async () => {
    const journal = new TestJournal(ROOT);
    const limitBytes = 32 * 1024 * 1024;
    const store = await Store.open(journal.options({ ephemeral: { limitBytes } }));
    const failures: GatewayError[] = [];
    store.onFailure = (error) => failures.push(error);
    let head = 0;
    let most = 0;
    for (let round = 0; round < 8; round++) {
      head = journal.addEvents(
        many(4000, () => ({ body: JSON.stringify({ noise: crypto.randomUUID().repeat(40) }) })),
      );
      journal.addFrames(
        Array.from({ length: 4000 }, (_, index) => ({
          seq: head - 3999 + index,
          physics: physicsOf({ event_seq: head - 3999 + index, flags: 0 }),
        })),
      );
      store.offer({ firstFrameId: head - 3999, count: 4000, vectors: null });
      await store.flush(head);
      most = Math.max(most, (await store.stats()).fileBytes);
    }
    expect(most).toBeLessThan(limitBytes);
    const { events } = await page(store, { limit: 2 }, head);
    expect(events.map((event) => event.seq)).toEqual([head, head - 1]);
    expect(events[0]?.enrichment).toMatchObject({ frame_id: head });
    const stats = await store.stats();
    expect(stats.events).toBeLessThan(head);
    const { oldest, count, bytes } = await store.frames(0, 10, CAPACITY);
    expect(oldest).toBe(head - stats.enrichments + 1);
    expect(count).toBe(10);
    expect(decodeFrame(new Uint8Array(bytes)).frame_id).toBe(oldest);
    await store[Symbol.asyncDispose]();
    expect(failures).toEqual([]);
    await using again = await Store.open(journal.options({ ephemeral: { limitBytes } }));
    expect(again.cursors).toEqual({ seq: head, frameId: head, answerId: 0 });
    expect((await again.stats()).events).toBe(stats.events);
  });
});

describe("ephemeral events and frames", () => {
  test("wide frames that are stored later do not push out their events", async () => {
    const journal = new TestJournal(ROOT);
    const limitBytes = 32 * 1024 * 1024;
    await using store = await Store.open(journal.options({ ephemeral: { limitBytes } }));
    const head = journal.addEvents(numbered(6000));
    await store.flush(head);
    const vector = new Float32Array(SEMANTIC_DIM_MAX).map(() => Math.random());
    journal.addFrames(
      Array.from({ length: head }, (_, index) => ({
        seq: index + 1,
        physics: physicsOf({ event_seq: index + 1 }),
        vector,
      })),
    );
    store.offer({ firstFrameId: 1, count: head, vectors: null });
    await store.flush(head);
    const { fileBytes, enrichments } = await store.stats();
    expect(fileBytes).toBeLessThan(limitBytes);
    expect(enrichments).toBeLessThan(head);
    const { events } = await page(store, { limit: 1 }, head);
    expect(events[0]).toMatchObject({ seq: head, enrichment: { frame_id: head } });
  });
});

describe("closing", () => {
  test("the store flushes, checkpoints and lets its thread end, so that the process can end", async () => {
    const journal = new TestJournal(ROOT);
    journal.addEvents(numbered(10));
    const script = join(journal.folder, "close.ts");
    const { workerUrl: _, ...options } = journal.options();
    writeFileSync(
      script,
      `import { Store } from ${JSON.stringify(new URL("../../src/store/store.ts", import.meta.url).href)};
       const store = await Store.open({ ...JSON.parse(process.argv[2]), workerUrl: ${JSON.stringify(WORKER_URL.href)} });
       store.head(10);
       await store[Symbol.asyncDispose]();
       await store[Symbol.asyncDispose]();`,
    );
    const child = Bun.spawn([process.execPath, script, JSON.stringify(options)], { stderr: "inherit" });
    expect(await child.exited).toBe(0);
    expect(existsSync(`${journal.databasePath}.wal`)).toBe(false);
    expect(await journal.rows("count(*)::INT", "events")).toEqual([[10]]);
  });
});
