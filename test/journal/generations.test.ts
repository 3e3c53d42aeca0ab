/** The generations of the logs on a real file. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { Generations } from "../../src/journal/generations.ts";
import { openParts, rowsOf, tempFolder } from "./fixtures.ts";

// Generous, because the machine may be busy.
setDefaultTimeout(60_000);

const { newPath } = tempFolder();

describe("generations", () => {
  test("a kept journal has one generation, which holds every event", () => {
    using parts = openParts(newPath());
    const generations = new Generations(parts.database, "kept");
    expect(generations.all.map(({ suffix }) => suffix)).toEqual([""]);
    expect([generations.of(1), generations.of(1e12)]).toEqual([generations.current, generations.current]);
    expect(() => generations.rotate(2)).toThrow("only one");
  });

  test("the oldest generation is emptied and becomes the newest; an event stays in the one that took it", () => {
    const path = newPath();
    using parts = openParts(path, "temporary");
    const generations = new Generations(parts.database, "temporary");
    const suffixes = (): string => generations.all.map(({ suffix }) => suffix).join(" ");
    expect(suffixes()).toBe("_a _b _c _d");
    const put = (seq: number): void =>
      generations.current.insertEvents.insert([
        seq,
        0,
        "",
        null,
        null,
        null,
        null,
        null,
        "",
        Buffer.of(1),
        null,
      ]);
    const oldest: number[] = [];
    for (const seq of [1, 11, 21, 31, 41, 51]) {
      if (seq > 1) {
        generations.emptyOldest();
        const { emptied, oldestSeq } = generations.rotate(seq);
        expect(emptied).toBe(generations.current);
        oldest.push(oldestSeq);
      }
      put(seq);
      put(seq + 9);
    }
    // A generation that has taken no event yet begins at event 1.
    expect(oldest).toEqual([1, 1, 1, 11, 21]);
    expect(suffixes()).toBe("_b _c _d _a");
    const there = [21, 30, 31, 40, 41, 50, 51, 60];
    expect(rowsOf(path, "SELECT seq FROM events ORDER BY seq").flat()).toEqual(there);
    expect([...there, 1000].map((seq) => generations.of(seq)?.suffix).join(" ")).toBe(
      "_b _b _c _c _d _d _a _a _a",
    );
    expect(generations.of(20)).toBeUndefined();
    const rows = generations.each((generation) => generation.query("SELECT seq FROM {events}").all());
    expect(rows.map(({ seq }) => seq)).toEqual(there);
  });

  test("a statement is prepared once for each generation", () => {
    using parts = openParts(newPath(), "temporary");
    const [a, b] = new Generations(parts.database, "temporary").all;
    const sql = "SELECT count(*) FROM {frames}";
    expect(a?.query(sql)).toBe(a?.query(sql) as never);
    expect(a?.query(sql)).not.toBe(b?.query(sql) as never);
  });
});
