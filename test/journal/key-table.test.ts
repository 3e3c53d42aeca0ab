/** Dedup keys in memory, against a plain Map. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { HASH_BYTES, KeyTable } from "../../src/journal/key-table.ts";

// Generous, because the machine may be busy.
setDefaultTimeout(60_000);

const seed = Number(process.env.FC_SEED ?? Math.floor(Math.random() * 0x7fffffff));
console.log(`key table: FC_SEED=${seed}`);

/** Keys with few different leading bits, so that many compete for the same slots. */
function wordsOf(key: number): Uint32Array {
  return new Uint32Array([key % 3, 0, key, 7]);
}

describe("a table of keys", () => {
  test("finds what was set last, like a Map, through growth, rollbacks and commits", () => {
    const step = fc.oneof(
      { weight: 6, arbitrary: fc.record({ do: fc.constant("set" as const), key: fc.nat(40) }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant("commit" as const), key: fc.nat() }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant("rollback" as const), key: fc.nat() }) },
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
        const table = new KeyTable(1);
        let committed = new Map<number, number>();
        let current = new Map<number, number>();
        steps.forEach(({ do: what, key }, index) => {
          if (what === "set") {
            // Reserve before a transaction, never inside one.
            if (table.mark === 0) table.reserve(120);
            table.set(wordsOf(key), 0, index + 1, 1000 + index);
            current.set(key, index + 1);
          } else if (what === "commit") {
            table.commit();
            committed = new Map(current);
          } else {
            table.rollback(0);
            current = new Map(committed);
          }
          expect(table.count).toBe(current.size);
          for (let known = 0; known <= 40; known++) {
            const seq = current.get(known);
            expect(table.find(wordsOf(known), 0)).toEqual(
              seq === undefined ? null : { seq, receivedUs: 999 + seq },
            );
          }
        });
      }),
      { seed, numRuns: 100 },
    );
  });

  test("rolls back only what was set after a mark", () => {
    const table = new KeyTable();
    table.set(wordsOf(1), 0, 1, 10);
    const { mark } = table;
    table.set(wordsOf(1), 0, 2, 20);
    table.set(wordsOf(2), 0, 3, 30);
    table.rollback(mark);
    expect([table.find(wordsOf(1), 0), table.find(wordsOf(2), 0), table.count]).toEqual([
      { seq: 1, receivedUs: 10 },
      null,
      1,
    ]);
  });

  test("returns each key once, in parts, nearly in the order of keys", () => {
    const table = new KeyTable();
    const count = 5000;
    const words = new Uint32Array(4 * count);
    crypto.getRandomValues(new Uint8Array(words.buffer));
    table.reserve(count);
    for (let index = 0; index < count; index++) table.set(words, 4 * index, index + 1, index);
    const found: string[] = [];
    let slot = 0;
    while (slot < table.slots) {
      const { rows, next } = table.rowsFrom(slot, 300, 4);
      expect(rows.length).toBeLessThanOrEqual(4 * 300);
      expect(next).toBeGreaterThan(slot);
      slot = next;
      for (let at = 0; at < rows.length; at += 4) {
        const [generation, key, seq, receivedUs] = rows.slice(at, at + 4) as [
          number,
          Uint8Array,
          number,
          number,
        ];
        const original = new Uint8Array(words.buffer, HASH_BYTES * (seq - 1), HASH_BYTES);
        expect([generation, key, receivedUs]).toEqual([4, original.slice(), seq - 1]);
        found.push(Buffer.from(key).toString("hex"));
      }
    }
    expect(new Set(found).size).toBe(count);
    const ascents = found.filter((key, index) => index > 0 && key > (found[index - 1] ?? "")).length;
    expect(ascents).toBeGreaterThan(0.7 * count);
  });

  test("knows when its newest key was received, and its empty copy has as many slots", () => {
    const table = new KeyTable();
    table.reserve(3000);
    table.set(wordsOf(1), 0, 1, 30);
    table.set(wordsOf(2), 0, 2, 20);
    expect(table.newestUs).toBe(30);
    const copy = table.emptyCopy();
    expect([copy.slots, copy.count, copy.find(wordsOf(1), 0)]).toEqual([table.slots, 0, null]);
  });
});
