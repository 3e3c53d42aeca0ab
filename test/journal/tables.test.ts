/** Small tables of a journal: texts by key, in the order in which they were written. */
import { Database } from "bun:sqlite";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { openAt, tempFolder } from "./fixtures.ts";

// Generous, because the machine may be busy.
setDefaultTimeout(60_000);

const { newPath } = tempFolder();

describe("small tables", () => {
  test("keep texts through a restart, the one written longest ago first", () => {
    const path = newPath();
    {
      using journal = openAt(path);
      const shapes = journal.table("shapes");
      journal.table("schemas").write([{ key: "a", value: "3" }]);
      for (const [key, value] of [
        ["b", "1"],
        ["a", "2"],
        ["b", "4"],
        ["c", "5"],
      ] as const)
        shapes.write([{ key, value }]);
      shapes.write([{ key: "c", value: null }]);
    }
    using journal = openAt(path);
    expect(journal.table("shapes").all()).toEqual([
      { key: "a", value: "2" },
      { key: "b", value: "4" },
    ]);
    expect(journal.table("schemas").all()).toEqual([{ key: "a", value: "3" }]);
  });

  test("keep the rows of a table that had no order yet", () => {
    const path = newPath();
    openAt(path)[Symbol.dispose]();
    const old = new Database(path);
    old.run("CREATE TABLE schemas(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID");
    old.run("INSERT INTO schemas VALUES ('b', '1'), ('a', '2')");
    old.close(true);
    for (const _open of [1, 2]) {
      using journal = openAt(path);
      expect(journal.table("schemas").all()).toEqual([
        { key: "a", value: "2" },
        { key: "b", value: "1" },
      ]);
    }
  });

  test("are created in an older journal on first use", () => {
    const path = newPath();
    openAt(path)[Symbol.dispose]();
    const old = new Database(path);
    old.run("DROP TABLE IF EXISTS shapes");
    old.close(true);
    using journal = openAt(path);
    journal.table("shapes").write([{ key: "a", value: "1" }]);
    expect(journal.table("shapes").all()).toHaveLength(1);
  });
});
