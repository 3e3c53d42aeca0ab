/** Which failures to open a database speak against its write-ahead log. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DuckDBInstance } from "../../src/native/duckdb.ts";
import { type DatabaseOptions, openDatabase } from "../../src/store/database.ts";
import { EVERYTHING, rejection } from "./test-journal.ts";

setDefaultTimeout(60_000);

const ROOT = mkdtempSync(join(tmpdir(), "store-open-test-"));
afterAll(() => rmSync(ROOT, { recursive: true, force: true }));

const HOW = { quarantine: false, nowUs: 0, notice: () => {} };

/** A database with two commits in its log. */
async function withLog(): Promise<DatabaseOptions> {
  const folder = mkdtempSync(join(ROOT, "case-"));
  const options = {
    ...{ path: join(folder, "events.duckdb"), journalId: 1, memoryLimitBytes: 150_000_000 },
    ...{ tempFolder: join(folder, "temp"), pruned: EVERYTHING, generations: false, rowGroupRows: 8192 },
  };
  const database = await openDatabase(options, HOW);
  for (const seq of [5, 6]) await database.writes.run(`INSERT INTO cursors VALUES (1, 1, ${seq}, 0, 0)`);
  database.close();
  return options;
}

test("a log with a flipped byte is what cannot be read", async () => {
  const options = await withLog();
  const log = readFileSync(`${options.path}.wal`);
  const middle = log.length >> 1;
  log[middle] = (log[middle] ?? 0) ^ 0xff;
  writeFileSync(`${options.path}.wal`, log);
  expect((await rejection(openDatabase(options, HOW))).code).toBe("store_log_unreadable");
});

test("a database that is cut short or differs from its checksums is named as damaged, and left alone", async () => {
  const options = await withLog();
  const whole = readFileSync(options.path);
  const flipped = Buffer.from(whole).fill(0xff, 4200, 4210).fill(0xff, 8300, 8310);
  for (const [bytes, words] of [
    [whole.subarray(0, 5000), /could not read enough bytes/i],
    [flipped, /checksum/i],
  ] as const) {
    writeFileSync(options.path, bytes);
    const refused = await rejection(openDatabase(options, HOW));
    expect(refused.code).toBe("store_failed");
    expect(refused.message).toMatch(words);
    expect(refused.message).toContain("put back a copy of this database with its journal");
  }
});

test("a SQLite file and a text are not called damaged", async () => {
  for (const bytes of [`SQLite format 3\0${"\0".repeat(5000)}`, "a text ".repeat(2000)]) {
    const options = await withLog();
    writeFileSync(options.path, bytes);
    const refused = await rejection(openDatabase(options, HOW));
    expect(refused.message).toContain("it is not a DuckDB database");
  }
});

test("a database that another program has open has nothing wrong with its log", async () => {
  const options = await withLog();
  const script = `const { DuckDBInstance } = await import(${JSON.stringify(join(import.meta.dir, "../../src/native/duckdb.ts"))});
    await DuckDBInstance.create(${JSON.stringify(options.path)}); console.log("open"); await Bun.sleep(60_000);`;
  const other = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe" });
  const reader = other.stdout.getReader();
  await reader.read();
  const refused = await rejection(openDatabase(options, HOW));
  other.kill();
  expect(refused.message).toContain("lock");
  expect(refused.code).toBe("store_failed");
});

test("memory that does not suffice to replay a log is not a fault of the log", async () => {
  const options = await withLog();
  const instance = await DuckDBInstance.create(":memory:", { memory_limit: "1GB" });
  const connection = await instance.connect();
  await connection.run(`ATTACH '${options.path}' AS store`);
  await connection.run("PRAGMA disable_checkpoint_on_shutdown");
  await connection.run("SET checkpoint_threshold = '1TB'");
  await connection.run(
    "INSERT INTO store.events(seq, payload) SELECT range, repeat('x', 1000000) FROM range(40)",
  );
  instance.closeSync();
  const refused = await rejection(openDatabase({ ...options, memoryLimitBytes: 3_000_000 }, HOW));
  expect(refused.code).toBe("store_failed");
});
