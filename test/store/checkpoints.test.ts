import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { GatewayError } from "../../src/errors.ts";
import { boundsOf } from "../../src/store/bounds.ts";
import { Checkpoints, type CheckpointsOptions } from "../../src/store/checkpoints.ts";
import type { Database } from "../../src/store/database.ts";
import type { FromWorker } from "../../src/store/protocol.ts";
import { Reads } from "../../src/store/reads.ts";
import { FakeClock } from "../fake-clock.ts";
import { rejection } from "./test-journal.ts";

const ROOT = mkdtempSync(join(tmpdir(), "store-checkpoints-test-"));
afterAll(() => rmSync(ROOT, { recursive: true, force: true }));

const CURSORS = { seq: 10, frameId: 8, answerId: 2 };
const IDLE_MS = 30_000;
const AGE_MS_MAX = 300_000;
const ROW_BYTES = 256 * 1024 * 1024;

/** A database of which only the checkpoints are real enough: it notes the SQL, and can refuse or fail. */
class FakeDatabase {
  readonly sql: string[] = [];
  cursorRows = 1;
  /** What the next CHECKPOINTs throw, in turn; null: it completes. */
  throws: (string | null)[] = [];

  readonly writes = {
    run: async (sql: string): Promise<{ getRows: () => Promise<number[][]> }> => {
      this.sql.push(sql);
      const detail = sql.startsWith("CHECKPOINT") ? this.throws.shift() : null;
      if (detail != null) throw new Error(detail);
      return { getRows: async () => [[this.cursorRows]] };
    },
  };

  get database(): Database {
    return this as unknown as Database;
  }

  get checkpoints(): number {
    return this.sql.filter((sql) => sql.startsWith("CHECKPOINT")).length;
  }
}

class Case {
  readonly clock = new FakeClock();
  readonly path = join(mkdtempSync(join(ROOT, "case-")), "events.duckdb");
  readonly duck = new FakeDatabase();
  readonly reads = new Reads({ clock: this.clock, path: this.path });
  readonly posted: FromWorker[] = [];
  idle = 0;
  freeBytes = Number.MAX_SAFE_INTEGER;
  readonly checkpoints: Checkpoints;

  constructor(more: Partial<CheckpointsOptions> = {}) {
    this.checkpoints = new Checkpoints({
      ...{ clock: this.clock, path: this.path, bounds: boundsOf(150_000_000, null), reads: this.reads },
      post: (message) => this.posted.push(message),
      onIdle: () => {
        this.idle++;
      },
      freeBytes: () => this.freeBytes,
      ...more,
    });
  }

  run(): Promise<GatewayError | null> {
    return this.checkpoints.run(this.duck.database, CURSORS);
  }

  log(bytes: number): void {
    writeFileSync(`${this.path}.wal`, Buffer.alloc(bytes));
  }
}

describe("a checkpoint is due", () => {
  test("when enough rows were written since the last one", async () => {
    const one = new Case();
    const { checkpoints } = one;
    expect([checkpoints.dirty, checkpoints.due]).toEqual([false, false]);
    checkpoints.committed(ROW_BYTES - 1);
    expect([checkpoints.dirty, checkpoints.due]).toEqual([true, false]);
    checkpoints.committed(1);
    expect(checkpoints.due).toBe(true);
    await one.run();
    expect([checkpoints.dirty, checkpoints.due]).toEqual([false, false]);
  });

  test("when the log is large, in an ephemeral database at an eighth of its bound", () => {
    const one = new Case({ bounds: boundsOf(150_000_000, 8000) });
    one.checkpoints.committed(1);
    one.log(999);
    expect(one.checkpoints.due).toBe(false);
    one.log(1000);
    expect(one.checkpoints.due).toBe(true);
  });

  test("when the oldest commit that none holds is 5 minutes old, however busy the store is", async () => {
    const one = new Case();
    for (let ms = 0; ms <= AGE_MS_MAX; ms += 20_000) {
      one.checkpoints.committed(1);
      expect(one.checkpoints.due).toBe(false);
      await one.clock.advance(20_000);
    }
    expect([one.checkpoints.due, one.idle]).toEqual([true, 0]);
  });

  test("when nothing was written for 30 s, and the conductor is told", async () => {
    const one = new Case();
    one.checkpoints.committed(1);
    await one.clock.advance(IDLE_MS - 1);
    one.checkpoints.committed(1);
    await one.clock.advance(IDLE_MS - 1);
    expect([one.idle, one.checkpoints.requested]).toEqual([0, false]);
    await one.clock.advance(1);
    expect([one.idle, one.checkpoints.requested]).toEqual([1, true]);
  });

  test("when a database with a log was opened, even if nothing new comes", async () => {
    const one = new Case();
    await one.checkpoints.opened(one.duck.database.writes);
    expect(one.checkpoints.dirty).toBe(false);
    one.log(1);
    await one.checkpoints.opened(one.duck.database.writes);
    expect(one.checkpoints.dirty).toBe(true);
    await one.clock.advance(IDLE_MS);
    expect(one.idle).toBe(1);
  });
});

test("after stop, the idle time does not begin again", async () => {
  const one = new Case();
  one.checkpoints.committed(1);
  one.checkpoints.stop();
  one.checkpoints.committed(1);
  expect(one.clock.pending).toBe(0);
});

describe("running a checkpoint", () => {
  test("reports the cursors it was given when it has completed, and resolves everybody who asked", async () => {
    const one = new Case();
    one.checkpoints.committed(1);
    const asked = [one.checkpoints.request(), one.checkpoints.request()];
    expect(one.checkpoints.due).toBe(true);
    const running = one.run();
    expect(one.posted).toEqual([]);
    await Promise.all([running, ...asked]);
    expect(one.posted).toEqual([{ event: "checkpoint", cursors: CURSORS }]);
    expect([one.checkpoints.completed, one.checkpoints.requested]).toEqual([1, false]);
    expect([one.duck.checkpoints, one.clock.pending]).toEqual([1, 0]);
  });

  test("waits for the running query if DuckDB refuses to begin beside it", async () => {
    const one = new Case();
    one.duck.throws = [
      "TransactionContext Error: Cannot CHECKPOINT: there are other write transactions active",
    ];
    const query = Promise.withResolvers<void>();
    const reading = one.reads.exclusive(() => query.promise);
    const running = one.run();
    await one.clock.settle();
    expect([one.duck.checkpoints, one.posted]).toEqual([1, []]);
    query.resolve();
    await Promise.all([reading, running]);
    expect([one.duck.checkpoints, one.checkpoints.completed]).toEqual([2, 1]);
  });

  test("that fails rejects whoever asked, reports nothing and is thrown on", async () => {
    const one = new Case();
    const refused = rejection(one.checkpoints.request());
    one.duck.throws = ["IO Error: no space left on device"];
    await expect(one.run()).rejects.toThrow("no space left");
    expect((await refused).code).toBe("disk_full");
    expect([one.posted, one.checkpoints.completed]).toEqual([[], 0]);
  });

  test("that leaves a log is a failure, since rows may be in the log only", async () => {
    const one = new Case();
    one.log(7);
    await expect(one.run()).rejects.toThrow("left 7 bytes of log");
    expect(one.posted).toEqual([]);
  });

  test("deletes old cursors just before it, once there are many", async () => {
    const one = new Case();
    one.duck.cursorRows = 100_000;
    await one.checkpoints.opened(one.duck.database.writes);
    one.checkpoints.committed(1);
    await one.run();
    one.checkpoints.committed(1);
    await one.run();
    expect(one.duck.sql.slice(1)).toEqual([
      "DELETE FROM cursors WHERE seq < 10 OR frame_id < 8 OR answer_id < 2",
      "CHECKPOINT store",
      "CHECKPOINT store",
    ]);
  });
});

describe("without room for it, a checkpoint", () => {
  test("is not begun, and whoever asked is told why", async () => {
    const one = new Case();
    one.log(1_000_000);
    one.freeBytes = 2_000_000 + 16 * 1024 * 1024 - 1;
    const refused = rejection(one.checkpoints.request());
    await one.run();
    expect((await refused).code).toBe("disk_full");
    expect([one.duck.sql, one.posted]).toEqual([[], []]);
    one.freeBytes++;
    await expect(one.run()).rejects.toThrow("bytes of log");
    expect(one.duck.checkpoints).toBe(1);
  });

  test("that nobody asked for is told as a failure, and is tried again after the idle time", async () => {
    const one = new Case();
    one.freeBytes = 0;
    one.checkpoints.committed(ROW_BYTES);
    expect(one.checkpoints.due).toBe(true);
    await one.run();
    expect(one.posted).toMatchObject([{ event: "failure", error: { code: "disk_full" } }]);
    expect([one.checkpoints.dirty, one.checkpoints.due]).toEqual([true, false]);
    await one.clock.advance(IDLE_MS);
    expect([one.idle, one.checkpoints.due]).toEqual([1, true]);
  });
});

test("without room, a checkpoint that is due after the idle time is told as a failure", async () => {
  const one = new Case();
  one.freeBytes = 0;
  one.checkpoints.committed(1);
  await one.clock.advance(IDLE_MS);
  expect(one.checkpoints.requested).toBe(true);
  await one.run();
  expect(one.posted).toMatchObject([{ event: "failure", error: { code: "disk_full" } }]);
  expect(one.checkpoints.requested).toBe(false);
});

test("without room, a checkpoint does not become due again at once because the oldest commit is old", async () => {
  const one = new Case();
  one.freeBytes = 0;
  one.checkpoints.committed(1);
  await one.clock.advance(AGE_MS_MAX + 1);
  await one.run();
  expect(one.checkpoints.due).toBe(false);
});

test("a database that is given up rejects everybody who asked for a checkpoint", async () => {
  const { checkpoints } = new Case();
  const refused = rejection(checkpoints.request());
  checkpoints.fail(await rejection(new Reads({ clock: new FakeClock(), path: "x" }).run(async () => 1)));
  expect((await refused).code).toBe("store_unavailable");
  expect(checkpoints.requested).toBe(false);
});

test("stopped checkpoints leave no timer behind", () => {
  const { checkpoints, clock } = new Case();
  checkpoints.committed(1);
  expect(clock.pending).toBe(1);
  checkpoints.stop();
  expect(clock.pending).toBe(0);
});
