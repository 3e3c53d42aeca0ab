import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { GatewayError } from "../../src/errors.ts";
import { Journal } from "../../src/journal/journal.ts";
import { FakeClock } from "../fake-clock.ts";
import { MemoryTable } from "../memory-table.ts";
import { Learner } from "./learner.ts";

const folder = mkdtempSync(join(tmpdir(), "schemas-test-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

setDefaultTimeout(60_000);

describe("a learned schema", () => {
  const options = (path: string) => ({
    path,
    ephemeral: null,
    nowUs: () => 1,
    randomU32: () => 7,
    bootId: "boot",
  });

  test("survives restarts in the journal, even under a hostile name", () => {
    const path = join(folder, "kept.journal");
    const names = ["Order", "__proto__", "", "Olá 😀", "'; DROP TABLE schemas; --"];
    {
      using journal = Journal.open(options(path));
      const learner = new Learner(journal.table("schemas"));
      for (const name of names) learner.repeat(60, name, (n) => ({ a: n, b: { c: ["x"] } }));
      learner.see("Order", { a: 1, fresh: true });
      learner.schemas[Symbol.dispose]();
    }
    using journal = Journal.open(options(path));
    const learner = new Learner(journal.table("schemas"));
    expect(learner.schemas.types().sort()).toEqual([...names].sort());
    expect(learner.shown("Order").events).toBe(61);
    expect(learner.field("Order", "fresh").drift).toBe("new_field");
    expect(learner.see("__proto__", { a: 1, b: { c: [""] } })).toEqual([0.5]);
    expect(learner.schemas.gauges.schema_fields).toBe(4 * names.length + 1);
  });

  test("is written some seconds after a change, and not once per event", async () => {
    const table = new MemoryTable();
    const clock = new FakeClock();
    const learner = new Learner(table, clock);
    learner.repeat(500, "T", (n) => ({ a: n }));
    expect(table.writes).toBe(0);
    await clock.advance(5000);
    expect(table.writes).toBe(1);
    expect(JSON.parse(table.rows.get("T") ?? "").events).toBe(500);
  });

  test("is written later if it cannot be written now, and learning goes on", () => {
    const table = new MemoryTable();
    const learner = new Learner(table);
    table.failWith = new GatewayError({
      code: "disk_full",
      operation: "journal: write schemas",
      object: "/x.journal",
      detail: "no space",
    });
    learner.see("T", { a: 1 });
    learner.schemas[Symbol.dispose]();
    expect(table.rows.size).toBe(0);
    expect(learner.logged[0]).toContain("no space");
    expect(learner.counter("schema_write_failures_total")).toBe(1);
    table.failWith = null;
    learner.schemas[Symbol.dispose]();
    expect(table.rows.size).toBe(1);
  });

  test("of an earlier version, full of keys that are data, is mended when it is read", () => {
    const table = new MemoryTable();
    const field = (key: string | 0, values: number[], inner: unknown[] = []): unknown => [
      ...[key === 0 ? 0 : [key], values, [60, 60, 60, 1, 60, 1, 1, 60, 0], 16, null, inner],
    ];
    const once = [0, 60, 0, 0, 0, 0, 0];
    const objects = [0, 0, 0, 0, 0, 60, 0];
    const bytes = Array.from({ length: 400 }, (_, n) => field(`${n}`, once));
    const people = Array.from({ length: 20 }, (_, n) =>
      field(`5511${n}@lid`, objects, [field("name", once)]),
    );
    const inner = [field("media", objects, [field("7z", once), ...bytes]), field("people", objects, people)];
    table.rows.set(
      "T",
      JSON.stringify({
        ...{ version: 1, events: 60, windowEvents: 60, firstUs: 1, lastUs: 60 },
        root: field(0, objects, inner),
      }),
    );
    const learner = new Learner(table);
    expect(learner.paths("T")).toEqual([
      "media",
      "media.7z",
      "media.*",
      "people",
      "people.*",
      "people.*.name",
    ]);
    expect(learner.schemas.gauges.schema_fields).toBe(6);
    expect(learner.shown("T").expected_fields).toBe(4);
    expect(learner.see("T", { media: { "7z": 1, 0: 9, 5000: 1 }, people: {}, fresh: 1 })).toHaveLength(1);
    expect(learner.field("T", "media.*").types).toEqual(["integer"]);
    expect(learner.schemas.gauges.schema_fields).toBe(7);
  });

  test("is removed from the table if its type is dropped", () => {
    const table = new MemoryTable();
    const learner = new Learner(table);
    learner.see("First", { a: 1 });
    learner.schemas[Symbol.dispose]();
    expect([...table.rows.keys()]).toEqual(["First"]);
    for (let n = 0; n < 1000; n++) learner.see(`T${n}`, {}, {});
    learner.schemas[Symbol.dispose]();
    expect(table.rows.size).toBe(1000);
    expect(table.rows.has("First")).toBe(false);
  });

  test("is learned again if its row is damaged, and the others are kept", () => {
    const table = new MemoryTable();
    const learner = new Learner(table);
    learner.see("Good", { a: 1 });
    learner.see("Bad", { a: "x" });
    learner.schemas[Symbol.dispose]();
    const good = table.rows.get("Bad") ?? "";
    const damaged = [
      "",
      "{",
      "null",
      good.replace('"version":1', '"version":2'),
      good.replace('"\\"x\\""', '"},"'),
      good.replace("[1,0,0,0,0,0,0]", "[-1,0,0,0,0,0,0]"),
      good.replace('["a"]', "[5]"),
    ];
    for (const text of damaged) {
      if (text === good) throw new Error("a damage that changes nothing");
      table.rows.set("Bad", text);
      const again = new Learner(table);
      expect({ text, types: again.schemas.types() }).toEqual({ text, types: ["Good"] });
      expect(again.logged[0]).toContain('"Bad"');
      expect(again.see("Bad", { a: "x" })).toEqual([0]);
    }
  });
});
