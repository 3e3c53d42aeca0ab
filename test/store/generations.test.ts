import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Database, openDatabase, rowsOf } from "../../src/store/database.ts";
import { Generations } from "../../src/store/generations.ts";
import { EVERYTHING } from "./test-journal.ts";

setDefaultTimeout(60_000);

const ROOT = mkdtempSync(join(tmpdir(), "store-generations-test-"));
afterAll(() => rmSync(ROOT, { recursive: true, force: true }));

const LIMIT_BYTES = 8000;
const TABLES = ["events", "enrichments", "answers"] as const;

async function opened(ephemeral: boolean): Promise<Database & Disposable> {
  const folder = mkdtempSync(join(ROOT, "case-"));
  const database = await openDatabase(
    {
      path: join(folder, "events.duckdb"),
      ...{
        journalId: 1,
        memoryLimitBytes: 150_000_000,
        tempFolder: join(folder, "temp"),
        pruned: EVERYTHING,
      },
      generations: ephemeral,
      rowGroupRows: 8192,
    },
    { quarantine: false, nowUs: 0, notice: () => {} },
  );
  return { ...database, [Symbol.dispose]: database.close };
}

async function loaded(database: Database, limitBytes: number | null): Promise<Generations> {
  const generations = new Generations(limitBytes);
  await generations.load(database.writes);
  return generations;
}

/** Adds an event to the newest generation. */
async function addEvent(database: Database, generations: Generations, seq: number): Promise<void> {
  await database.writes.run(`INSERT INTO ${generations.newest("events")}(seq) VALUES (${seq})`);
}

async function seqs(database: Database): Promise<number[]> {
  return (await rowsOf(database.reads, "SELECT seq FROM events ORDER BY seq")).map(([seq]) => Number(seq));
}

describe("generations", () => {
  test("a durable database has one set of tables, which is never full", async () => {
    using database = await opened(false);
    const generations = await loaded(database, null);
    generations.wrote("events", Number.MAX_SAFE_INTEGER);
    expect(TABLES.map((table) => generations.newest(table))).toEqual([...TABLES]);
    expect(generations.full()).toEqual([]);
  });

  test("a kind is full at an eighth of the bound, each by its own bytes", async () => {
    using database = await opened(true);
    const generations = await loaded(database, LIMIT_BYTES);
    expect(TABLES.map((table) => generations.newest(table))).toEqual([
      "events_1",
      "enrichments_1",
      "answers_1",
    ]);
    generations.wrote("enrichments", LIMIT_BYTES / 8 - 1);
    generations.wrote("events", LIMIT_BYTES / 8 - 2);
    expect(generations.full()).toEqual([]);
    generations.wrote("enrichments", 1);
    expect(generations.full()).toEqual(["enrichments"]);
    await generations.rotate(database.writes, "enrichments");
    expect(generations.full()).toEqual([]);
    expect(TABLES.map((table) => generations.newest(table))).toEqual([
      "events_1",
      "enrichments_2",
      "answers_2",
    ]);
  });

  test("two are kept: the views stand over both, and the third drops the first", async () => {
    using database = await opened(true);
    const generations = await loaded(database, LIMIT_BYTES);
    await addEvent(database, generations, 1);
    await generations.rotate(database.writes, "events");
    await addEvent(database, generations, 2);
    expect(await seqs(database)).toEqual([1, 2]);
    expect(await rowsOf(database.reads, "SELECT seq::INT FROM enriched_events ORDER BY 1")).toEqual([
      [1],
      [2],
    ]);
    await generations.rotate(database.writes, "events");
    await addEvent(database, generations, 3);
    expect(await seqs(database)).toEqual([2, 3]);
    const tables = "SELECT table_name FROM duckdb_tables() WHERE table_name LIKE 'events_%' ORDER BY 1";
    expect(await rowsOf(database.reads, tables)).toEqual([["events_2"], ["events_3"]]);
  });

  test("whoever opens the database again goes on with the newest", async () => {
    using database = await opened(true);
    const before = await loaded(database, LIMIT_BYTES);
    // Ten generations, so that their numbers do not sort as text.
    for (let round = 0; round < 9; round++) await before.rotate(database.writes, "events");
    const generations = await loaded(database, LIMIT_BYTES);
    expect(generations.newest("events")).toBe("events_10");
    await addEvent(database, generations, 7);
    await generations.rotate(database.writes, "events");
    expect(await seqs(database)).toEqual([7]);
  });
});
