/** Numbers that a journal skips, the file with its last acknowledgement, and its deleted files. */
import { describe, expect, test } from "bun:test";
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { GatewayError } from "../../src/errors.ts";
import { event, FROM, failureOf, frames, NOW_US, openAt, seqsOf, tempFolder } from "./fixtures.ts";

const { newPath } = tempFolder();

describe("a journal that skips numbers", () => {
  test("goes on above them, counts what is lost, and still knows it when it is opened again", async () => {
    const path = newPath();
    {
      using journal = openAt(path);
      await journal.append([event(), event()], FROM);
      await journal.decide(frames(1));
      journal.raise({ seq: 50, frameId: 40, answerId: 7 }, { lostEvents: 3, why: "an older copy" });
      expect(journal.notice).toBe("an older copy");
      expect(journal.backlog().events).toBe(2);
    }
    using journal = openAt(path);
    expect(journal.heads()).toEqual({ seq: 50, frameId: 40, answerId: 7 });
    expect(journal.gaps).toEqual({ count: 1, lostEvents: 3, firstFrameId: 41 });
    expect(journal.notice).toBeNull();
    expect(seqsOf(await journal.append([event()], FROM))).toEqual([51]);
    expect(journal.unframedAfter(0, 10).map(({ seq }) => seq)).toEqual([2, 51]);
    expect(await journal.decide(frames(2, 51))).toBe(41);
    expect([journal.unframedAfter(0, 10), journal.backlog().events]).toEqual([[], 3]);
  });

  test("never goes back, even if it had no row yet", () => {
    using journal = openAt(newPath());
    journal.raise({ seq: 10, frameId: 0, answerId: 0 }, { lostEvents: 0, why: "" });
    journal.raise({ seq: 5, frameId: 3, answerId: 0 }, { lostEvents: 0, why: "" });
    expect(journal.heads()).toEqual({ seq: 10, frameId: 3, answerId: 0 });
  });

  test("forgets events that the store holds with their frames", async () => {
    using journal = openAt(newPath());
    await journal.append([event(), event(), event()], FROM);
    journal.forget([1, 3]);
    expect(journal.unframedAfter(0, 10).map(({ seq }) => seq)).toEqual([2]);
    expect(journal.backlog().events).toBe(1);
  });
});

describe("the file with the last acknowledgement", () => {
  const kept = (path: string, bootId = "boot") => openAt(path, { headsPath: `${path}.heads`, bootId });

  test("says exactly how far the journal had come, and after a boot, how far at least", async () => {
    const path = newPath();
    {
      using journal = kept(path);
      expect(journal.acknowledged).toBeNull();
      await journal.append([event(), event()], FROM);
      await journal.decide(frames(1));
    }
    using journal = kept(path);
    expect(journal.acknowledged).toEqual({ seq: 2, frameId: 1, answerId: 0, exact: true });
    using later = kept(path, "another");
    expect(later.acknowledged).toEqual({ seq: 2, frameId: 1, answerId: 0, exact: false });
  });

  test("is not believed if a byte of it is wrong, or if it is another journal's", async () => {
    const path = newPath();
    {
      using journal = kept(path);
      await journal.append([event()], FROM);
    }
    const line = readFileSync(`${path}.heads`, "latin1");
    writeFileSync(`${path}.heads`, line.replace(" 1 0 0 ", " 9 0 0 "));
    {
      using journal = kept(path);
      expect(journal.acknowledged).toBeNull();
    }
    writeFileSync(`${path}.heads`, line);
    rmSync(path);
    using other = openAt(path, { headsPath: `${path}.heads`, randomU32: () => 5 });
    expect(other.acknowledged).toBeNull();
  });
});

describe("a journal whose files are deleted", () => {
  for (const name of ["", "-wal", ".needed"]) {
    test(`acknowledges nothing more without PATH${name}, and goes on when it is back`, async () => {
      const path = newPath();
      let nowUs = NOW_US;
      writeFileSync(`${path}.needed`, "");
      using journal = openAt(path, { needs: [`${path}.needed`], nowUs: () => (nowUs += 1000) });
      await journal.append([event()], FROM);
      expect(journal.filesLost()).toBeNull();
      renameSync(path + name, `${path}.moved`);
      const failure = (await failureOf(journal.append([event()], FROM))) as GatewayError;
      expect([failure.code, failure.object]).toEqual(["journal_failed", path + name]);
      expect(journal.headSeq()).toBe(1);
      // Another file at the path is not that file.
      writeFileSync(path + name, "");
      expect(journal.filesLost()).toBeInstanceOf(GatewayError);
      renameSync(`${path}.moved`, path + name);
      expect(seqsOf(await journal.append([event()], FROM))).toEqual([2]);
    });
  }
});
