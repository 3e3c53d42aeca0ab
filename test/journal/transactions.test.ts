/** Transactions on a real file: all or nothing. */

import { SQLiteError } from "bun:sqlite";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { openParts, refusal, rowsOf, tempFolder } from "./fixtures.ts";

// Generous, because the machine may be busy.
setDefaultTimeout(60_000);

const { newPath } = tempFolder();

function opened() {
  const path = newPath();
  const { database, transactions, [Symbol.dispose]: dispose } = openParts(path);
  return {
    path,
    database,
    transactions,
    put: (key: string) => database.run("INSERT INTO meta VALUES (?, '')", [key]),
    keys: () => rowsOf(path, "SELECT key FROM meta ORDER BY key").flat(),
    [Symbol.dispose]: dispose,
  };
}

describe("a transaction", () => {
  test("has committed when it returns the result of its work", () => {
    using file = opened();
    const result = file.transactions.run(() => {
      file.put("a");
      expect(file.keys()).toEqual([]);
      return 7;
    });
    expect([result, file.keys()]).toEqual([7, ["a"]]);
  });

  test("that throws stores nothing, and the next one works", () => {
    using file = opened();
    expect(() =>
      file.transactions.run(() => {
        file.put("a");
        throw new Error("halfway");
      }),
    ).toThrow("halfway");
    file.transactions.run(() => file.put("b"));
    expect(file.keys()).toEqual(["b"]);
  });
});

describe("a savepoint", () => {
  test("that throws undoes its own work, not the transaction's", () => {
    using file = opened();
    file.transactions.run(() => {
      file.put("a");
      for (const name of ["b", "c"]) {
        expect(() =>
          file.transactions.savepoint(() => {
            file.put(name);
            file.put("a");
          }),
        ).toThrow(SQLiteError);
      }
      file.transactions.savepoint(() => file.put("d"));
    });
    expect(file.keys()).toEqual(["a", "d"]);
  });

  test("leaves a failure of the file to the whole transaction", () => {
    using file = opened();
    // A file that may not grow gives SQLITE_FULL, like a full disk.
    file.database.run("PRAGMA max_page_count = 1");
    expect(() =>
      file.transactions.run(() => {
        file.put("a");
        file.transactions.savepoint(() => file.put("x".repeat(1e6)));
      }),
    ).toThrow("full");
    expect([file.keys(), file.database.inTransaction]).toEqual([[], false]);
  });
});

describe("a change", () => {
  test("is a transaction of its own, and its failure is the journal's error", () => {
    using file = opened();
    file.transactions.change("put", () => file.put("a"));
    const error = refusal(() => file.transactions.change("put again", () => file.put("a")));
    expect([error.code, error.operation, error.object]).toEqual([
      "journal_failed",
      "journal: put again",
      file.path,
    ]);
    expect(file.keys()).toEqual(["a"]);
  });

  test("inside a transaction is a bug, and both are undone", () => {
    using file = opened();
    expect(() =>
      file.transactions.run(() => {
        file.put("a");
        file.transactions.change("put", () => file.put("b"));
      }),
    ).toThrow("journal: put inside a transaction");
    expect(file.keys()).toEqual([]);
  });
});

test("what a read throws is the journal's error", () => {
  using file = opened();
  const error = refusal(() => file.transactions.reading(() => file.database.run("SELECT * FROM nothing")));
  expect([error.code, error.operation]).toEqual(["journal_failed", "journal: read"]);
});
