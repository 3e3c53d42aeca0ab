/** What a start does with a journal that ends before what DuckDB, or its last acknowledgement, knows. */
import { expect, test } from "bun:test";
import { copyFileSync, rmSync, writeFileSync } from "node:fs";
import type { Journal, JournalCursors } from "../../src/journal/journal.ts";
import { compareStore, noteStoreLeft } from "../../src/start/compare-store.ts";
import type { Store } from "../../src/store/store.ts";
import { event, FROM, frames, openAt, seqsOf, tempFolder } from "../journal/fixtures.ts";

const { newPath } = tempFolder();

/** A DuckDB that holds what it says, and a frame for each of `framed`. */
function storeWith(cursors: JournalCursors, framed: readonly number[] = []) {
  const calls: string[] = [];
  const store = {
    cursors,
    head: (seq: number) => calls.push(`head ${seq}`),
    updates: () => {},
    flush: async () => void calls.push("flush"),
    checkpoint: async () => void calls.push("checkpoint"),
    decided: async ({ seqs }: { seqs: readonly number[] }) => ({
      rows: seqs.filter((seq) => framed.includes(seq)).map((seq) => ({ seq })),
    }),
  };
  return { store: store as unknown as Store, calls };
}

function around(path: string, journal: Journal, store: Store | null) {
  const said: string[] = [];
  const o = {
    config: { dbPath: path, ringPath: `${path}.no-ring` },
    home: { databasePath: path.replace(".journal", "") },
    journal,
    log: (level: string, message: string) => void (level === "error" && said.push(message)),
    openStore: async () => store ?? expect.unreachable("DuckDB was opened"),
  };
  return { o, said };
}

const open = (path: string, bootId = "boot"): Journal => openAt(path, { headsPath: `${path}.heads`, bootId });

/** A journal with 4 events and 4 frames, and a copy of it from when it had 2 events and 1 frame. */
async function journalAndOlderCopy(path: string): Promise<void> {
  {
    using journal = open(path);
    await journal.append([event(), event()], FROM);
    await journal.decide(frames(1));
  }
  copyFileSync(path, `${path}.older`);
  using journal = open(path);
  await journal.append([event(), event()], FROM);
  await journal.decide(frames(2, 3, 4));
}

test("a journal goes on above DuckDB and above its last acknowledgement, and the lost events are named", async () => {
  const path = newPath();
  await journalAndOlderCopy(path);
  copyFileSync(`${path}.older`, path);
  writeFileSync(path.replace(".journal", ""), "a database");
  using journal = open(path);
  const { store, calls } = storeWith({ seq: 3, frameId: 2, answerId: 0 }, [1, 2]);
  const { o, said } = around(path, journal, store);
  expect(await compareStore(o)).toBe(store);
  expect(calls).toEqual(["head 2", "flush", "checkpoint"]);
  expect(said[0]).toContain("it ends at event 2 and frame 1, but event 4 and frame 4 existed");
  expect(said[0]).toContain("events 4 to 4 are lost: send them again");
  expect([journal.gaps.lostEvents, journal.notice]).toEqual([1, said[0] as string]);
  // Event 2 has its frame in DuckDB, so it must not get another.
  expect(journal.unframedAfter(0, 10)).toEqual([]);
  expect([seqsOf(await journal.append([event()], FROM)), journal.nextFrameId()]).toEqual([[5], 5]);
});

test("if nothing says exactly how many numbers were given, many are skipped", async () => {
  const path = newPath();
  await journalAndOlderCopy(path);
  copyFileSync(`${path}.older`, path);
  rmSync(`${path}.heads`);
  writeFileSync(path.replace(".journal", ""), "a database");
  using journal = open(path);
  const { store } = storeWith({ seq: 4, frameId: 3, answerId: 0 });
  const { o, said } = around(path, journal, store);
  await compareStore(o);
  expect(said[0]).toContain("whether later ones are lost is unknown");
  expect(journal.heads()).toEqual({ seq: 1_000_004, frameId: 1_000_003, answerId: 0 });
});

test("without a database, the last acknowledgement alone says what is lost", async () => {
  const path = newPath();
  await journalAndOlderCopy(path);
  copyFileSync(`${path}.older`, path);
  using journal = open(path);
  const { o, said } = around(path, journal, null);
  expect(await compareStore(o)).toBeNull();
  expect(said[0]).toContain("events 3 to 4 are lost");
  expect(journal.heads()).toEqual({ seq: 4, frameId: 4, answerId: 0 });
});

test("DuckDB is opened first unless it is as the last clean stop left it, and nothing is said of a whole journal", async () => {
  const path = newPath();
  await journalAndOlderCopy(path);
  const database = path.replace(".journal", "");
  writeFileSync(database, "a database");
  using journal = open(path, "after a boot");
  const { store } = storeWith({ seq: 4, frameId: 4, answerId: 0 });
  const { o, said } = around(path, journal, store);
  expect(await compareStore(o)).toBe(store);
  noteStoreLeft(o);
  expect(await compareStore({ ...o, openStore: () => expect.unreachable("DuckDB was opened") })).toBeNull();
  writeFileSync(`${database}.wal`, "");
  expect(await compareStore(o)).toBe(store);
  expect([said, journal.gaps.count]).toEqual([[], 0]);
});
