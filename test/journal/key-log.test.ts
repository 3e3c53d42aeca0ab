/** The log of dedup keys on a real file. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { KeyLog } from "../../src/journal/key-log.ts";
import { HASH_BYTES } from "../../src/journal/key-table.ts";
import { openParts, rowsOf, tempFolder } from "./fixtures.ts";

// Generous, because the machine may be busy.
setDefaultTimeout(60_000);

const { newPath } = tempFolder();

/** The hashes of index 0, 1, 2 …: every byte is the index. */
const hashes = new Uint8Array(8 * HASH_BYTES).map((_, at) => Math.floor(at / HASH_BYTES));

type Entry = readonly [firstByte: number, seq: number, receivedUs: number];

function loaded(log: KeyLog): { counts: number[]; entries: Entry[] } {
  const counts: number[] = [];
  const entries: Entry[] = [];
  log.load(
    (count) => counts.push(count),
    (words, at, seq, receivedUs) => entries.push([(words[at + 3] ?? 0) & 0xff, seq, receivedUs]),
  );
  return { counts, entries };
}

describe("the log of keys", () => {
  test("is read back batch by batch, with times and numbers beyond 32 bits", () => {
    const path = newPath();
    {
      using parts = openParts(path);
      const log = new KeyLog(parts.database);
      log.append(hashes, [3, 2 ** 40 + 1, 1_790_000_000_123_456, 0, 7, 8]);
      log.append(hashes, [5, 9, 10]);
      log.commit();
      expect(log.lastBatch).toBe(2);
    }
    using parts = openParts(path);
    const log = new KeyLog(parts.database);
    expect(loaded(log)).toEqual({
      counts: [2, 1],
      entries: [
        [3, 2 ** 40 + 1, 1_790_000_000_123_456],
        [0, 7, 8],
        [5, 9, 10],
      ],
    });
    expect(log.lastBatch).toBe(2);
  });

  test("forgets a batch if its transaction was rolled back", () => {
    using parts = openParts(newPath());
    const log = new KeyLog(parts.database);
    log.append(hashes, [0, 1, 1]);
    log.commit();
    expect(() =>
      parts.transactions.run(() => {
        log.append(hashes, [1, 2, 2]);
        throw new Error("refused");
      }),
    ).toThrow("refused");
    log.rollback();
    log.commit();
    expect(log.lastBatch).toBe(1);
  });

  test("removes unwanted batches in the next transaction that commits, and only once", () => {
    const path = newPath();
    using parts = openParts(path);
    const log = new KeyLog(parts.database);
    for (const index of [0, 1, 2]) log.append(hashes, [index, index, index]);
    log.removeLater(2);
    const batches = (): unknown[] => rowsOf(path, "SELECT batch FROM dedup_log").flat();
    expect(() =>
      parts.transactions.run(() => {
        log.step();
        throw new Error("refused");
      }),
    ).toThrow("refused");
    log.rollback();
    expect(batches()).toEqual([1, 2, 3]);
    parts.transactions.run(() => log.step());
    log.commit();
    expect(batches()).toEqual([3]);
    parts.database.run("INSERT INTO dedup_log(batch, entries) VALUES (1, x'')");
    log.step();
    expect(batches()).toEqual([1, 3]);
  });
});
