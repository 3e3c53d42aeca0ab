/** The writer on a real file: groups of calls in one transaction. */

import { SQLiteError } from "bun:sqlite";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { AppendCall, type Call, DecideCall } from "../../src/journal/calls.ts";
import { Damage } from "../../src/journal/damage.ts";
import { Generations } from "../../src/journal/generations.ts";
import { type DecidedFrame, EventsGone, type JournalEvent } from "../../src/journal/journal.ts";
import { Keys } from "../../src/journal/keys.ts";
import { Logs } from "../../src/journal/logs.ts";
import { Settings } from "../../src/journal/settings.ts";
import { Writer } from "../../src/journal/writer.ts";
import { event, FROM, frame, frames, keyed, openParts, rowsOf, tempFolder } from "./fixtures.ts";

// Generous, because the machine may be busy.
setDefaultTimeout(60_000);

const { newPath } = tempFolder();

function opened(path = newPath(), frameAtOnce: (event: JournalEvent) => DecidedFrame | null = () => null) {
  const { database, transactions, [Symbol.dispose]: dispose } = openParts(path);
  const settings = new Settings(database, transactions);
  const logs = new Logs(new Generations(database, "kept"), new Damage(null));
  const keys = new Keys(database, { inMemoryMax: 100, forgetful: false });
  const writer = new Writer({ path, journalId: 7, transactions, settings, logs, keys, frameAtOnce });
  const rows = (table: string): unknown => rowsOf(path, `SELECT count(*) FROM ${table}`)[0]?.[0];
  return {
    writer,
    database,
    heads: () => [writer.heads.headSeq, writer.heads.headFrameId, writer.heads.headAnswerId],
    rows: () => [rows("events"), rows("frames"), rows("answers")],
    [Symbol.dispose]: dispose,
  };
}

const failuresOf = (calls: readonly Call[]): string[] =>
  calls.map(({ failure }) => (failure === undefined ? "stored" : String(failure)));

describe("a group", () => {
  test("is stored as events, then frames, then updates, whatever the order of its calls", () => {
    const path = newPath();
    {
      using file = opened(path);
      const answer = new DecideCall("update", frames(2, 1));
      const decide = new DecideCall("decide", frames(1, 2));
      const append = new AppendCall([event(), event()], FROM);
      file.writer.store([answer, decide, append]);
      expect(failuresOf([answer, decide, append])).toEqual(["stored", "stored", "stored"]);
      expect([append.results.map(({ seq }) => seq), decide.firstId, answer.firstId]).toEqual([[1, 2], 1, 1]);
      file.writer.store([new AppendCall([event()], FROM), new DecideCall("update", frames(1))]);
      expect([file.heads(), file.rows()]).toEqual([
        [3, 2, 3],
        [3, 2, 3],
      ]);
    }
    using again = opened(path);
    expect(again.heads()).toEqual([3, 2, 3]);
    expect(again.writer.heads.framedTo).toBe(2);
  });

  test("with refused rows stores its other calls without a gap and forgets the keys of the refused ones", () => {
    using file = opened();
    const bad = new AppendCall([event({ key: "k" }), event({ fields: { actor: 1n as never } })], FROM);
    const calls: Call[] = [
      new DecideCall("update", [frame(1, { provenance: null as never })]),
      new DecideCall("decide", frames(9)),
      bad,
      new AppendCall(keyed("k", "l"), FROM),
      new DecideCall("decide", frames(1)),
      new DecideCall("decide", frames(1)),
      new DecideCall("update", frames(1)),
    ];
    file.writer.store(calls);
    expect(failuresOf(calls)).toEqual([
      expect.stringContaining("NOT NULL"),
      expect.stringContaining("the first is 9"),
      expect.stringContaining("BigInt"),
      "stored",
      "stored",
      expect.stringContaining("already has a frame"),
      "stored",
    ]);
    expect(calls[1]?.failure).toBeInstanceOf(EventsGone);
    expect((calls[3] as AppendCall).results).toMatchObject([
      { seq: 1, duplicate: false },
      { seq: 2, duplicate: false },
    ]);
    expect([file.heads(), file.rows()]).toEqual([
      [2, 1, 1],
      [2, 1, 1],
    ]);
  });

  test("that does not fit the file leaves numbers and keys unchanged, and the next group continues", () => {
    using file = opened();
    file.writer.store([new AppendCall(keyed("a"), FROM)]);
    const pages = file.database.prepare("PRAGMA max_page_count").values()[0]?.[0];
    file.database.run("PRAGMA max_page_count = 1");
    const large = new AppendCall([event({ key: "b", body: new Uint8Array(1e6) })], FROM);
    expect(() => file.writer.store([large])).toThrow(SQLiteError);
    expect([file.heads(), file.rows(), large.failure]).toEqual([[1, 0, 0], [1, 0, 0], undefined]);
    file.database.run(`PRAGMA max_page_count = ${pages}`);
    const again = new AppendCall(keyed("b", "a"), FROM);
    file.writer.store([again]);
    expect(again.results).toMatchObject([
      { seq: 2, duplicate: false },
      { seq: 1, duplicate: true },
    ]);
  });
});

test("the search for unframed events skips events that have left, and never moves back", () => {
  using file = opened();
  file.writer.startsAt(10);
  expect(file.writer.heads.framedTo).toBe(9);
  file.writer.startsAt(5);
  expect(file.writer.heads.framedTo).toBe(9);
});

describe("a frame at once", () => {
  const made = ({ seq }: JournalEvent): DecidedFrame => frame(seq);

  test("is stored with its event, in one transaction, if every earlier event has a frame", () => {
    using file = opened(newPath(), made);
    const calls = [1, 2].map(() => new AppendCall([event()], FROM));
    for (const call of calls) file.writer.store([call]);
    expect(calls.map(({ frameId }) => frameId)).toEqual([1, 2]);
    expect([file.heads(), file.rows()]).toEqual([
      [2, 2, 0],
      [2, 2, 0],
    ]);
    expect(file.writer.heads.framedTo).toBe(2);
  });

  test("is not asked for by several events, a repeated one, or one behind an event without a frame", () => {
    const asked: number[] = [];
    using file = opened(newPath(), ({ seq }) => {
      asked.push(seq);
      return null;
    });
    file.writer.store([new AppendCall(keyed("a"), FROM)]);
    file.writer.store([new AppendCall(keyed("a"), FROM)]);
    file.writer.store([new AppendCall([event()], FROM)]);
    file.writer.store([new DecideCall("decide", frames(1, 2))]);
    file.writer.store([new AppendCall([event(), event()], FROM)]);
    file.writer.store([new DecideCall("decide", frames(3, 4))]);
    file.writer.store([new AppendCall([event()], FROM), new AppendCall([event()], FROM)]);
    file.writer.store([new DecideCall("decide", frames(5, 6))]);
    file.writer.store([new AppendCall([event()], FROM), new DecideCall("update", frames(1))]);
    file.writer.store([new DecideCall("decide", frames(7))]);
    file.writer.store([new AppendCall([event()], FROM)]);
    expect(asked).toEqual([1, 8]);
  });

  test("that SQLite refuses does not fail its event", () => {
    using file = opened(newPath(), ({ seq }) => frame(seq, { eventType: {} as string }));
    const call = new AppendCall([event()], FROM);
    file.writer.store([call]);
    expect([call.failure, call.frameId, file.rows()]).toEqual([undefined, null, [1, 0, 0]]);
    file.writer.store([new DecideCall("decide", frames(1))]);
    expect(file.rows()).toEqual([1, 1, 0]);
  });

  test("leaves with its event if the file fails", () => {
    using file = opened(newPath(), ({ seq }) => frame(seq, { vector: new Float32Array(1e6) }));
    const pages = file.database.prepare("PRAGMA max_page_count").values()[0]?.[0];
    file.database.run("PRAGMA max_page_count = 1");
    expect(() => file.writer.store([new AppendCall([event()], FROM)])).toThrow(SQLiteError);
    expect([file.heads(), file.rows(), file.writer.heads.framedTo]).toEqual([[0, 0, 0], [0, 0, 0], 0]);
    file.database.run(`PRAGMA max_page_count = ${pages}`);
    const again = new AppendCall([event()], FROM);
    file.writer.store([again]);
    expect([again.results[0]?.seq, again.frameId]).toEqual([1, 1]);
  });

  test("is found after a restart, although it is noted only now and then", () => {
    const path = newPath();
    {
      using file = opened(path, made);
      for (let n = 0; n < 70; n++) file.writer.store([new AppendCall([event()], FROM)]);
    }
    using file = opened(path, made);
    expect(file.writer.heads.framedTo).toBe(64);
    file.writer.store([new AppendCall([event()], FROM)]);
    file.writer.store([new DecideCall("decide", frames(71))]);
    expect(file.writer.heads.framedTo).toBe(71);
    const call = new AppendCall([event()], FROM);
    file.writer.store([call]);
    expect(call.frameId).toBe(72);
  });
});
