import { describe, expect, test } from "bun:test";
import { LateWriter } from "../../src/schemas/late-writer.ts";
import { FakeClock } from "../fake-clock.ts";
import { MemoryTable } from "../memory-table.ts";

const DELAY_MS = 5000;

/** A writer for texts that the test sets. A type without a text counts as dropped. */
function open() {
  const table = new MemoryTable();
  const clock = new FakeClock();
  const texts = new Map<string, string>();
  const failures: unknown[] = [];
  const writer = new LateWriter({
    table,
    clock,
    textOf: (type) => texts.get(type) ?? null,
    failed: (error) => failures.push(error),
  });
  const change = (type: string, text: string): void => {
    texts.set(type, text);
    writer.changed(type);
  };
  return { table, clock, texts, failures, writer, change };
}

describe("a late writer", () => {
  test("writes many changes in one commit, 5 s after the first, with the texts of that moment", async () => {
    const { table, clock, change } = open();
    change("A", "1");
    await clock.advance(DELAY_MS - 1);
    change("A", "2");
    change("B", "1");
    expect(table.writes).toBe(0);
    await clock.advance(1);
    expect([...table.rows]).toEqual([
      ["A", "2"],
      ["B", "1"],
    ]);
    expect([table.writes, clock.pending]).toEqual([1, 0]);
  });

  test("deletes the row of a type that was dropped", async () => {
    const { table, clock, texts, writer, change } = open();
    change("A", "1");
    await clock.advance(DELAY_MS);
    texts.clear();
    writer.changed("A");
    await clock.advance(DELAY_MS);
    expect([...table.rows]).toEqual([]);
  });

  test("bounds each commit, and writes first what has waited longest", async () => {
    const { table, clock, change } = open();
    for (const type of ["A", "B", "C"]) change(type, "x".repeat(200 * 1024));
    await clock.advance(DELAY_MS);
    expect([...table.rows.keys()]).toEqual(["A", "B"]);
    await clock.advance(DELAY_MS);
    expect([...table.rows.keys()]).toEqual(["A", "B", "C"]);
    expect(clock.pending).toBe(0);
  });

  test("reports a failed commit and tries again until one succeeds", async () => {
    const { table, clock, failures, change } = open();
    const error = new Error("no space");
    table.failWith = error;
    change("A", "1");
    await clock.advance(2 * DELAY_MS);
    expect(failures).toEqual([error, error]);
    table.failWith = null;
    await clock.advance(DELAY_MS);
    expect([...table.rows]).toEqual([["A", "1"]]);
    expect([failures.length, clock.pending]).toEqual([2, 0]);
  });

  test("writes an outdated row only together with a change", async () => {
    const { table, clock, writer, change } = open();
    writer.outdated("Damaged");
    await clock.advance(10 * DELAY_MS);
    expect(table.writes).toBe(0);
    table.rows.set("Damaged", "{");
    change("A", "1");
    await clock.advance(DELAY_MS);
    expect([...table.rows.keys()]).toEqual(["A"]);
  });

  test("writes everything at its end, whatever its size, and leaves no timer", () => {
    const { table, clock, writer, change } = open();
    for (const type of ["A", "B", "C"]) change(type, "x".repeat(200 * 1024));
    writer[Symbol.dispose]();
    expect([table.writes, table.rows.size, clock.pending]).toEqual([1, 3, 0]);
    writer[Symbol.dispose]();
    expect(table.writes).toBe(1);
  });
});
