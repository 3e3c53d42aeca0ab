/** Settings of a journal outlive the process. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { openAt, tempFolder } from "./fixtures.ts";

// Generous, because the machine may be busy.
setDefaultTimeout(60_000);

const { newPath } = tempFolder();

describe("settings", () => {
  test("the journal's id, the boot, settings and the count of opening attempts outlive the process", () => {
    const path = newPath();
    {
      using journal = openAt(path, { randomU32: () => 0 });
      expect([journal.journalId, journal.sameBoot]).toEqual([1, false]);
      journal.setMeta("embedder", "hashing");
      journal.setMeta("embedder", "bge");
      journal.raiseOpenAttempts();
      journal.raiseOpenAttempts();
    }
    using journal = openAt(path, { randomU32: () => 9 });
    expect([journal.journalId, journal.sameBoot, journal.meta("embedder"), journal.meta("none")]).toEqual([
      1,
      true,
      "bge",
      null,
    ]);
    expect(journal.openAttempts()).toBe(2);
    journal.clearOpenAttempts();
    expect(journal.openAttempts()).toBe(0);
    journal[Symbol.dispose]();
    using later = openAt(path, { bootId: "next boot" });
    expect(later.sameBoot).toBe(false);
  });
});
