/** Large events: what the store does so that DuckDB's vectors of them fit its memory limit. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DuckDBInstance } from "../../src/native/duckdb.ts";
import { Conductor } from "../../src/store/conductor.ts";
import type { FromWorker, StoreOptions } from "../../src/store/protocol.ts";
import { FakeClock } from "../fake-clock.ts";
import { many, TestJournal, until } from "./test-journal.ts";

setDefaultTimeout(120_000);

const CLOSE = { withinMs: 10_000 };
const ROOT = mkdtempSync(join(tmpdir(), "store-large-test-"));
afterAll(() => rmSync(ROOT, { recursive: true, force: true }));

const MIB = 1024 * 1024;
const LEAST_BYTES = 64_000_000;

function addLarge(journal: TestJournal, count: number, bytes: number, kind: "message" | "payload"): number {
  return journal.addEvents(
    many(count, (index) => {
      const text = `${index} `.padEnd(bytes, "xyz ");
      const body = JSON.stringify({ n: index, [kind]: text });
      return { id: `id-${index}`, message: kind === "message" ? text : "short", body };
    }),
  );
}

class Case {
  readonly clock = new FakeClock();
  readonly posted: FromWorker[] = [];

  constructor(
    readonly journal = new TestJournal(ROOT),
    readonly options: Partial<StoreOptions> = {},
  ) {}

  async open(availableBytes = Number.MAX_SAFE_INTEGER): Promise<Conductor> {
    const { workerUrl: _url, ...options } = this.journal.options(this.options);
    return Conductor.open(options, {
      clock: this.clock,
      availableBytes: () => availableBytes,
      post: (message) => this.posted.push(message),
    });
  }

  of<E extends FromWorker["event"]>(event: E): Extract<FromWorker, { event: E }>[] {
    return this.posted.filter((message) => message.event === event) as Extract<FromWorker, { event: E }>[];
  }
}

/** Moves the clock while the store works, so that its pauses pass. */
async function stored(one: Case, store: Conductor, seq: number): Promise<void> {
  let done = false;
  const ticking = (async () => {
    while (!done) {
      await one.clock.advance(50);
      await Bun.sleep(5);
    }
  })();
  await until(`events up to ${seq} are stored`, () => store.cursors.seq >= seq).finally(() => {
    done = true;
  });
  await ticking;
}

for (const memoryLimitBytes of [150_000_000, LEAST_BYTES]) {
  for (const kind of ["message", "payload"] as const) {
    test(`200 events of 1 MiB (${kind}) are stored and read within ${memoryLimitBytes / 1e6} MB`, async () => {
      const one = new Case(new TestJournal(ROOT), { memoryLimitBytes });
      const head = addLarge(one.journal, 200, MIB, kind);
      const store = await one.open();
      store.head(head);
      await stored(one, store, head);
      expect([one.of("failure"), one.of("memory")]).toEqual([[], []]);
      const seen: number[] = [];
      for (let before: number | undefined; ; ) {
        const query = { limit: 1000, ...(before === undefined ? {} : { before }) };
        const { json } = await store.events({ query, headSeq: head });
        const page = JSON.parse(json);
        seen.push(...page.events.map(({ seq }: { seq: number }) => seq));
        if (page.next === null) break;
        before = page.next;
      }
      expect(seen).toEqual(Array.from({ length: 200 }, (_, index) => 200 - index));
      const search = await store.events({ query: { limit: 10, q: "no such text" }, headSeq: head });
      expect(JSON.parse(search.json)).toEqual({ events: [], next: null });
      await store.close(CLOSE);
    });
  }
}

test("large events between small ones, and reopened databases of them, stay readable", async () => {
  const journal = new TestJournal(ROOT);
  const options = { memoryLimitBytes: LEAST_BYTES };
  for (let round = 0; round < 3; round++) {
    const one = new Case(journal, options);
    const store = await one.open();
    journal.addEvents(many(3000, (index) => ({ id: `s-${round}-${index}`, body: "{}" })));
    const head = addLarge(journal, 30, MIB, "message");
    store.head(head);
    await stored(one, store, head);
    await store.checkpoint();
    expect([one.of("failure"), one.of("memory")]).toEqual([[], []]);
    const { json } = await store.events({ query: { limit: 10, q: "no such text" }, headSeq: head });
    expect(JSON.parse(json).events).toEqual([]);
    await store.close(CLOSE);
  }
});

describe("if memory does not suffice", () => {
  /** A database as an older gateway left it: large rows in its log, beside large rows in its last row group. */
  async function stuck(): Promise<TestJournal> {
    const journal = new TestJournal(ROOT);
    const one = new Case(journal);
    const store = await one.open();
    const head = addLarge(journal, 200, MIB, "message");
    await store.close(CLOSE);
    const instance = await DuckDBInstance.create(":memory:", { threads: "1" });
    const connection = await instance.connect();
    await connection.run(`ATTACH '${journal.databasePath}' AS store (ROW_GROUP_SIZE 8192)`);
    await connection.run("PRAGMA disable_checkpoint_on_shutdown");
    await connection.run("SET checkpoint_threshold = '1TB'");
    const rows = journal.db.query("SELECT seq, id, message, CAST(body AS TEXT) FROM events").values();
    const insert = async (from: number, to: number): Promise<void> => {
      for (const [seq, id, message, body] of rows.slice(from, to) as [number, string, string, string][])
        await connection.run(
          "INSERT INTO store.events(seq, id, message, payload) VALUES ($seq, $id, $message, $body)",
          { seq: BigInt(seq), id, message, body },
        );
    };
    const owner = journal.options().journalId;
    await insert(0, 20);
    await connection.run("CHECKPOINT store");
    await insert(20, 180);
    await connection.run(`INSERT INTO store.cursors VALUES (${owner}, 1, 180, 0, 0)`);
    connection.closeSync();
    instance.closeSync();
    expect(head).toBe(200);
    return journal;
  }

  test("a log of large rows that an older gateway left is checkpointed with a raised limit, which is told", async () => {
    const one = new Case(await stuck());
    const store = await one.open();
    expect(store.cursors.seq).toBe(180);
    store.head(200);
    await stored(one, store, 200);
    expect(one.of("memory").at(-1)?.state).toEqual({
      limitBytes: 300_000_000,
      raisedBecause:
        "DuckDB ran out of memory with 150MB and now has 300MB; pass --memory-limit 300MB or more to keep it",
    });
    expect(one.of("notice").at(-1)?.message).toContain("pass --memory-limit 300MB");
    expect(
      JSON.parse((await store.events({ query: { limit: 1000 }, headSeq: 200 })).json).events,
    ).not.toEqual([]);
    await store.close(CLOSE);
    const next = new Case(one.journal);
    const again = await next.open();
    expect([again.cursors.seq, next.of("failure"), next.of("memory")]).toEqual([200, [], []]);
    const rows = await one.journal.rows("count(*)::INT, count(DISTINCT seq)::INT", "events");
    expect(rows).toEqual([[200, 200]]);
    await again.close(CLOSE);
  });

  test("and the machine has none either, the store goes on trying and says that it failed", async () => {
    const one = new Case(await stuck());
    const store = await one.open(0);
    store.head(200);
    await one.clock.advance(200);
    await until("it has failed", () => one.of("failure").length > 0);
    expect(one.of("failure")[0]?.error.detail).toMatch(/allocate|pin/);
    expect(one.of("memory")).toEqual([]);
    await store.close(CLOSE);
  });
});
