import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { TypesByShape } from "../../src/brain/types-by-shape.ts";
import { MemoryTable } from "../memory-table.ts";

setDefaultTimeout(60_000);

describe("types by shape", () => {
  test("are recalled after a restart", () => {
    const table = new MemoryTable();
    new TypesByShape(table).remember("shape", "Push");
    const types = new TypesByShape(table);
    expect([types.recall("shape"), types.recall("other"), types.size]).toEqual(["Push", undefined, 1]);
  });

  test("tell a shape that the model could not name from one that it was not asked about", () => {
    const table = new MemoryTable();
    const types = new TypesByShape(table);
    types.remember("odd", null);
    expect(types.recall("odd")).toBeNull();
    // Another model may be able to name it, so a restart asks again.
    expect(table.writes).toBe(0);
    expect(new TypesByShape(table).recall("odd")).toBeUndefined();
  });

  test("are at most 10,000: the least recently used is forgotten, in the table, too", () => {
    const table = new MemoryTable();
    for (let n = 0; n < 10_000; n++) table.rows.set(`shape${n}`, "Known");
    const types = new TypesByShape(table);
    types.recall("shape0");
    types.remember("new", "Push");
    expect([types.size, table.rows.size]).toEqual([10_000, 10_000]);
    expect([types.recall("shape0"), types.recall("shape1")]).toEqual(["Known", undefined]);
    types.remember("odd", null);
    expect([table.rows.has("shape2"), table.rows.size]).toEqual([false, 9999]);
  });

  test("stay in memory if they cannot be written", () => {
    const table = new MemoryTable();
    const types = new TypesByShape(table);
    table.failWith = new Error("disk full");
    types.remember("shape", "Push");
    expect(types.recall("shape")).toBe("Push");
  });
});
