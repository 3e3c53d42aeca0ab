/** Which failures to open DuckDB count against its write-ahead log. */
import { expect, test } from "bun:test";
import { type ErrorCode, GatewayError } from "../../src/errors.ts";
import type { Journal } from "../../src/journal/journal.ts";
import { openStore } from "../../src/start/open-store.ts";
import type { StoreOptions } from "../../src/store/protocol.ts";
import type { Store } from "../../src/store/store.ts";

const CONFIG = { dbPath: "/d/e.duckdb", tempLimitBytes: 1, memoryLimitBytes: 150_000_000 };
const HOME = {
  ...{
    databasePath: "/d/e.duckdb",
    journalPath: "/d/e.duckdb.journal",
    headsPath: "",
    lockPath: "",
    tempFolder: "/d/e.duckdb.tmp",
  },
  [Symbol.dispose]: () => {},
};
const STORE = {} as Store;

const failure = (code: ErrorCode): GatewayError =>
  new GatewayError({ code, operation: "store: open", object: "/d/e.duckdb", detail: "it failed" });

/** @param attempts that earlier processes began and did not end. @param outcomes of the attempts to come. */
async function opened(attempts: number, outcomes: readonly (Store | GatewayError)[]) {
  let count = attempts;
  const quarantined: boolean[] = [];
  const journal = {
    ...{ journalId: 1, pruned: () => ({ seq: 0, frameId: 0, answerId: 0 }) },
    openAttempts: () => count,
    raiseOpenAttempts: () => {
      count++;
    },
    clearOpenAttempts: () => {
      count = 0;
    },
  } as unknown as Journal;
  const open = async ({ quarantine }: StoreOptions): Promise<Store> => {
    const outcome = outcomes[quarantined.length];
    quarantined.push(quarantine);
    if (outcome instanceof GatewayError) throw outcome;
    return outcome as Store;
  };
  const result = await openStore(CONFIG, HOME, journal, () => {}, open).catch(
    (error: GatewayError) => error.code,
  );
  return { result, quarantined, attempts: count };
}

test("two failures to replay the log set it aside", async () => {
  const broken = failure("store_log_unreadable");
  expect(await opened(0, [broken, broken, STORE])).toEqual({
    ...{ result: STORE, quarantined: [false, false, true], attempts: 0 },
  });
  expect(await opened(0, [broken, STORE])).toEqual({
    result: STORE,
    quarantined: [false, false],
    attempts: 0,
  });
});

test("two processes that ended while they replayed the log have it set aside by the third", async () => {
  expect(await opened(2, [STORE])).toEqual({ result: STORE, quarantined: [true], attempts: 0 });
});

test("any other failure ends the start at once and does not count against the log", async () => {
  for (const code of ["store_failed", "foreign_store", "store_behind", "temp_folder", "disk_full"] as const) {
    expect(await opened(1, [failure(code)])).toEqual({ result: code, quarantined: [false], attempts: 0 });
  }
});
