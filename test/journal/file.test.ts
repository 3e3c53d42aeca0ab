/** The journal's file: how it is recognised, created and configured. */
import { Database } from "bun:sqlite";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { createHash, randomBytes } from "node:crypto";
import { copyFileSync, existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { event, FROM, openAt, refusal, tempFolder } from "./fixtures.ts";

// Generous, because the machine may be busy.
setDefaultTimeout(60_000);

const { newPath, root } = tempFolder();

/** Leaves the file as a kill inside a checkpoint does: page 1, with the new page count at byte 28, is copied, the rest not. */
function claimMorePages(path: string): void {
  const bytes = readFileSync(path);
  bytes.writeUInt32BE(bytes.readUInt32BE(28) + 10, 28);
  writeFileSync(path, bytes);
}

describe("the file", () => {
  test("is private, and so is its WAL", async () => {
    const path = newPath();
    const before = process.umask(0);
    try {
      using journal = openAt(path);
      await journal.append([event()], FROM);
      for (const suffix of ["", "-wal", "-shm"]) expect(statSync(path + suffix).mode & 0o777).toBe(0o600);
    } finally {
      process.umask(before);
    }
  });

  const strangers: Record<string, (path: string) => void> = {
    garbage: (path) => writeFileSync(path, randomBytes(5000)),
    "a short text": (path) => writeFileSync(path, "dear diary"),
    "an empty file": (path) => writeFileSync(path, ""),
    "another program's SQLite file": (path) => {
      const database = new Database(path);
      database.run("PRAGMA journal_mode = WAL");
      database.run("CREATE TABLE events(seq INTEGER PRIMARY KEY, body BLOB)");
      database.close(true);
    },
    "another program's SQLite file with a WAL": (path) => {
      const from = `${path}.other`;
      const database = new Database(from);
      database.run("PRAGMA journal_mode = WAL");
      database.run("CREATE TABLE t(a)");
      for (const suffix of ["", "-wal"]) copyFileSync(from + suffix, path + suffix);
      database.close(true);
    },
    "another program's SQLite file, killed in a checkpoint,": (path) => {
      const from = `${path}.other`;
      const database = new Database(from);
      database.run("PRAGMA journal_mode = WAL");
      database.run("CREATE TABLE t(a)");
      for (const suffix of ["", "-wal"]) copyFileSync(from + suffix, path + suffix);
      database.close(true);
      claimMorePages(path);
    },
    "a journal of a later version": (path) => {
      openAt(path)[Symbol.dispose]();
      const database = new Database(path);
      database.run("PRAGMA user_version = 3");
      database.close(true);
    },
    "a temporary journal": (path) => openAt(path, { ephemeral: { limitBytes: 1e8 } })[Symbol.dispose](),
  };
  for (const [name, make] of Object.entries(strangers)) {
    test(`${name} is refused by name and left as it was`, () => {
      const path = newPath();
      make(path);
      const files = (): string[] =>
        readdirSync(join(path, "..")).map(
          (file) =>
            `${file} ${createHash("sha256")
              .update(readFileSync(join(path, "..", file)))
              .digest("hex")}`,
        );
      const before = files();
      for (const ephemeral of [null, { limitBytes: 1e8 }]) {
        const error = refusal(() => openAt(path, { ephemeral }));
        expect(error.code).toBe("foreign_journal");
        expect(error.message).toContain(path);
      }
      expect(files()).toEqual(before);
    });
  }

  test("the WAL of a missing journal is not replayed into a new one", async () => {
    const path = newPath();
    const elsewhere = newPath();
    using journal = openAt(elsewhere);
    await journal.append([event()], FROM);
    copyFileSync(`${elsewhere}-wal`, `${path}-wal`);
    expect(refusal(() => openAt(path)).code).toBe("journal_missing");
    expect(existsSync(path)).toBe(false);
  });

  test("a file that a kill left shorter than its header says is opened with its WAL", async () => {
    const path = newPath();
    const image = newPath();
    using journal = openAt(path);
    await journal.append(new Array(500).fill(event({ message: "x".repeat(200) })), FROM);
    for (const suffix of ["", "-wal"]) copyFileSync(path + suffix, image + suffix);
    claimMorePages(image);
    using left = openAt(image);
    expect([left.headSeq(), left.journalId]).toEqual([500, journal.journalId]);
    expect(left.eventsAt([500])[0]?.message).toBe("x".repeat(200));
  });

  test("leftovers of an interrupted creation do not prevent the next one", () => {
    const path = newPath();
    writeFileSync(`${path}.new`, randomBytes(4096));
    writeFileSync(`${path}.new-journal`, randomBytes(512));
    openAt(path)[Symbol.dispose]();
    expect(readdirSync(join(path, ".."))).toEqual(["events.duckdb.journal"]);
  });

  test("a missing folder is a failure that names it", () => {
    const error = refusal(() => openAt(join(root, "no", "such", "journal")));
    expect([error.code, error.object]).toEqual(["journal_failed", join(root, "no", "such", "journal")]);
  });

  test("a reader sees what is committed, in one snapshot, and does not delay the writer", async () => {
    using journal = openAt(newPath());
    await journal.append([event()], FROM);
    const reader = new Database(journal.path, { readonly: true });
    reader.run("BEGIN");
    const count = (): unknown => reader.prepare("SELECT count(*) FROM events").values()[0]?.[0];
    expect(count()).toBe(1);
    await journal.append([event()], FROM);
    expect(count()).toBe(1);
    reader.run("COMMIT");
    expect(count()).toBe(2);
    reader.close();
  });
});
