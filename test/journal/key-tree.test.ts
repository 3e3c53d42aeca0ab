/** Dedup keys in generations on a real file. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { HASH_BYTES, KeyTable, type KnownKey } from "../../src/journal/key-table.ts";
import { KeyTree } from "../../src/journal/key-tree.ts";
import { openParts, rowsOf, tempFolder } from "./fixtures.ts";

// Generous, because the machine may be busy.
setDefaultTimeout(60_000);

const { newPath } = tempFolder();

/** In these tests a generation takes keys for 100 µs. */
const GENERATION_US = 100;
const KEYS = 64;
const hashes = new Uint8Array(KEYS * HASH_BYTES);
for (let index = 0; index < KEYS; index++) hashes[HASH_BYTES * index] = index;
const words = new Uint32Array(hashes.buffer);

/** A table with the keys from `from` to before `to`; key n made event n + 1. */
function tableOf(from: number, to: number, receivedUs: number): KeyTable {
  const table = new KeyTable();
  for (let index = from; index < to; index++) table.set(words, 4 * index, index + 1, receivedUs);
  table.commit();
  return table;
}

function opened(path = newPath()) {
  const parts = openParts(path);
  const tree = new KeyTree(parts.database, GENERATION_US);
  return {
    path,
    tree,
    /** Moves all of a table in one transaction. */
    add: (table: KeyTable) => {
      parts.transactions.run(() => expect(tree.add(table, 0, KEYS)).toBe(table.slots));
      tree.commit();
    },
    find: (...indices: number[]) => {
      const known = new Map<number, KnownKey>();
      tree.find(hashes, indices, known);
      return Object.fromEntries([...known].map(([index, { seq, receivedUs }]) => [index, [seq, receivedUs]]));
    },
    prune: (max: number) => {
      const { removed, done } = parts.transactions.run(() => tree.prune(max));
      done();
      return removed;
    },
    transactions: parts.transactions,
    [Symbol.dispose]: parts[Symbol.dispose],
  };
}

const generationsOf = (path: string): unknown[][] =>
  rowsOf(path, "SELECT generation, started_us, newest_us FROM dedup_generations ORDER BY generation");

describe("a tree of keys", () => {
  test("finds many keys at once, before and after a restart, and no others", () => {
    const path = newPath();
    const all = Array.from({ length: KEYS }, (_, index) => index);
    const expected = Object.fromEntries(all.slice(0, 40).map((index) => [index, [index + 1, 7]]));
    {
      using file = opened(path);
      file.add(tableOf(0, 40, 7));
      expect(file.find(...all)).toEqual(expected);
    }
    using file = opened(path);
    expect(file.find(...all)).toEqual(expected);
  });

  test("begins a generation when the newest has taken keys for its time, and the newest use of a key counts", () => {
    using file = opened();
    file.add(tableOf(0, 2, 1000));
    file.add(tableOf(2, 4, 1099));
    expect(generationsOf(file.path)).toEqual([[1, 1000, 1099]]);
    file.add(tableOf(1, 3, 1100));
    expect(generationsOf(file.path)).toEqual([
      [1, 1000, 1099],
      [2, 1100, 1100],
    ]);
    expect(file.find(0, 1, 2, 3)).toEqual({ 0: [1, 1000], 1: [2, 1100], 2: [3, 1100], 3: [4, 1099] });
  });

  test("keys of a clock that was far ahead are pruned when later ones are, and do not swallow those", () => {
    using file = opened();
    file.add(tableOf(0, 2, 900_000));
    file.add(tableOf(2, 4, 1000));
    file.add(tableOf(4, 6, 1100));
    expect(generationsOf(file.path)).toEqual([
      [1, 900_000, 900_000],
      [2, 1000, 1000],
      [3, 1100, 1100],
    ]);
    expect(file.tree.hasOlder(1000, false)).toBe(false);
    expect(file.tree.hasOlder(1001, false)).toBe(true);
    expect(file.prune(64)).toBe(2);
    expect(file.find(0, 2, 4)).toEqual({ 2: [3, 1000], 4: [5, 1100] });
  });

  test("takes a table in parts, and takes a part again after a rollback", () => {
    using file = opened();
    const table = tableOf(0, 10, 5);
    expect(() =>
      file.transactions.run(() => {
        file.tree.add(table, 0, 4);
        throw new Error("refused");
      }),
    ).toThrow("refused");
    file.tree.rollback();
    file.tree.commit();
    expect(file.tree.hasOlder(1000, false)).toBe(false);
    let slot = 0;
    while (slot < table.slots) {
      slot = file.transactions.run(() => file.tree.add(table, slot, 4));
      file.tree.commit();
    }
    expect(rowsOf(file.path, "SELECT count(*) FROM dedup")).toEqual([[10]]);
  });

  test("prunes its oldest generation in small steps, unless that generation is taking keys", () => {
    using file = opened();
    file.add(tableOf(0, 10, 1000));
    expect([file.tree.hasOlder(1000, false), file.tree.hasOlder(1001, false)]).toEqual([false, true]);
    expect(file.tree.hasOlder(1001, true)).toBe(false);
    file.add(tableOf(20, 25, 2000));
    expect(file.tree.hasOlder(1001, true)).toBe(true);
    expect([file.prune(4), file.prune(4), file.prune(4)]).toEqual([4, 4, 2]);
    expect(generationsOf(file.path)).toEqual([[2, 2000, 2000]]);
    expect(file.tree.hasOlder(1001, false)).toBe(false);
    expect(file.find(0, 9, 20)).toEqual({ 20: [21, 2000] });
  });
});
