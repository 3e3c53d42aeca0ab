import { afterAll, afterEach, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { decodeFrame, FRAME_BYTES } from "../../src/frame.ts";
import { allowMerges, checkpointDatabase, type Database, openDatabase } from "../../src/store/database.ts";
import type { StoreCursors } from "../../src/store/protocol.ts";
import { Queries } from "../../src/store/queries.ts";
import { Reads } from "../../src/store/reads.ts";
import { PHYSICS_FIELDS } from "../../src/store/schema.ts";
import { FakeClock } from "../fake-clock.ts";
import { EVERYTHING } from "./test-journal.ts";

setDefaultTimeout(60_000);

const ROOT = mkdtempSync(join(tmpdir(), "store-queries-test-"));
afterAll(() => rmSync(ROOT, { recursive: true, force: true }));

const CAPACITY = 1000;

let database: Database;
let cursors: StoreCursors;
let path: string;

beforeEach(async () => {
  const folder = mkdtempSync(join(ROOT, "case-"));
  path = join(folder, "events.duckdb");
  cursors = EVERYTHING;
  database = await openDatabase(
    {
      ...{
        path,
        journalId: 1,
        memoryLimitBytes: 150_000_000,
        tempFolder: join(folder, "temp"),
        pruned: EVERYTHING,
      },
      generations: false,
      rowGroupRows: 8192,
    },
    { quarantine: false, nowUs: 0, notice: () => {} },
  );
});
afterEach(() => database.close());

function queriesOf(): Queries {
  const reads = new Reads({ clock: new FakeClock(), path });
  reads.open(database.reads);
  return new Queries({ reads, path, pageBytesMax: 32 * 1024 * 1024, cursors: () => cursors });
}

async function addFrames(...frameIds: number[]): Promise<void> {
  const names = PHYSICS_FIELDS.map(({ name }) => name).join(", ");
  const zeros = PHYSICS_FIELDS.map(({ count }) => (count === 1 ? "0" : `[${new Array(count).fill(0)}]`));
  for (const id of frameIds) {
    await database.writes.run(
      `INSERT INTO enrichments(frame_id, seq, ${names}) VALUES (${id}, ${id}, ${zeros.join(", ")})`,
    );
  }
}

const frameIds = ({ bytes, count }: { bytes: ArrayBuffer; count: number }): number[] =>
  Array.from(
    { length: count },
    (_, index) => decodeFrame(new Uint8Array(bytes), index * FRAME_BYTES).frame_id,
  );

describe("frames", () => {
  test("end at the cursors and at the limit, however many rows there are", async () => {
    await addFrames(1, 2, 3, 4, 5);
    const queries = queriesOf();
    cursors = { ...EVERYTHING, frameId: 4 };
    const read = async (afterFrameId: number, limit: number): Promise<number[]> =>
      frameIds(await queries.frames({ afterFrameId, limit, capacity: CAPACITY }));
    expect(await read(0, 10)).toEqual([1, 2, 3, 4]);
    expect(await read(1, 2)).toEqual([2, 3]);
    expect(await read(4, 10)).toEqual([]);
  });

  test("begin at the oldest stored one, and end where one is missing", async () => {
    await addFrames(4, 5, 7);
    cursors = { ...EVERYTHING, frameId: 7 };
    const page = await queriesOf().frames({ afterFrameId: 1, limit: 10, capacity: CAPACITY });
    expect([page.oldest, frameIds(page)]).toEqual([4, [4, 5]]);
    expect(page.bytes.byteLength).toBe(2 * FRAME_BYTES);
  });

  test("begin behind missing ones if the journal may have dropped them", async () => {
    await addFrames(4, 7, 8);
    cursors = { ...EVERYTHING, frameId: 8 };
    const range = { afterFrameId: 4, limit: 10, capacity: CAPACITY };
    expect(frameIds(await queriesOf().frames(range))).toEqual([7, 8]);
  });

  test("are counted up to the first one that is missing, to the cursor and to the limit", async () => {
    await addFrames(4, 5, 6, 8, 9);
    cursors = { ...EVERYTHING, frameId: 8 };
    const queries = queriesOf();
    const counts = await Promise.all(
      [3, 4, 6, 7, 8, 9].map((firstFrameId) => queries.frameCount({ firstFrameId, limit: 10 })),
    );
    expect(counts).toEqual([0, 3, 1, 0, 1, 0]);
    expect(await queries.frameCount({ firstFrameId: 4, limit: 2 })).toBe(2);
  });

  test("the oldest one is looked up once, and again when rows may have been dropped", async () => {
    const queries = queriesOf();
    const oldest = async (): Promise<number> =>
      (await queries.frames({ afterFrameId: 0, limit: 1, capacity: CAPACITY })).oldest;
    expect(await oldest()).toBe(0);
    await addFrames(2, 3);
    expect(await oldest()).toBe(2);
    await database.writes.run("DELETE FROM enrichments WHERE frame_id = 2");
    expect(await oldest()).toBe(2);
    queries.forgetOldest();
    expect(await oldest()).toBe(3);
  });
});

test("events end at the cursors of the instant when the query's turn comes", async () => {
  for (const seq of [1, 2, 3]) {
    await database.writes.run(`INSERT INTO events(seq, id, payload) VALUES (${seq}, 'e${seq}', '{}')`);
  }
  const queries = queriesOf();
  cursors = { ...EVERYTHING, seq: 1 };
  const asked = queries.events({ limit: 10 });
  cursors = { ...EVERYTHING, seq: 2 };
  const { events } = JSON.parse((await asked).json);
  expect(events.map(({ seq }: { seq: number }) => seq)).toEqual([2, 1]);
});

test("a page of the newest events is whole while a commit begins a row group", async () => {
  const COMMITS = 20;
  const EVENTS = 100;
  await database.writes.run(
    `INSERT INTO events(seq, id, payload) SELECT i, 'e' || i, '{}' FROM range(1, ${EVENTS + 1}) t(i)`,
  );
  cursors = { ...EVERYTHING, seq: EVENTS };
  const queries = queriesOf();
  const counts = new Map<number, number>();
  // As the gateway does while there are large bodies.
  await allowMerges(database.writes, false);
  let committing = true;
  const reading = (async () => {
    for (let reads = 0; committing; reads++) {
      const { count } = await queries.events(reads % 2 === 0 ? { limit: 10 } : { limit: 10, q: "{}" });
      counts.set(count, (counts.get(count) ?? 0) + 1);
    }
  })();
  for (let commit = 1; commit <= COMMITS; commit++) {
    // Rows that come after a checkpoint begin a row group. Large bodies make DuckDB take its time to fill it.
    while (!(await checkpointDatabase(database.writes)));
    await database.writes.run(
      `INSERT INTO events(seq, id, payload)
       SELECT ${commit * 1000} + i, 'new', repeat('x', 50000) FROM range(${EVENTS}) t(i)`,
    );
  }
  committing = false;
  await reading;
  expect([...counts.keys()]).toEqual([10]);
});

test("statistics count rows and the bytes of file and log", async () => {
  await addFrames(1, 2);
  const { events, enrichments, fileBytes } = await queriesOf().stats();
  expect([events, enrichments]).toEqual([0, 2]);
  expect(fileBytes).toBe(Bun.file(path).size + Bun.file(`${path}.wal`).size);
});
