/** Answers and what is remembered, in the journal on real files: once, in order, and gone when it may go. */
import { Database } from "bun:sqlite";
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ParsedEvent } from "../../src/event/event.ts";
import { PHYSICS_BYTES } from "../../src/frame.ts";
import { type DecidedFrame, Journal, type JournalOptions } from "../../src/journal/journal.ts";

const root = mkdtempSync(join(tmpdir(), "journal-answers-test-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

let files = 0;
function openJournal(
  path = join(root, `${files++}.journal`),
  options: Partial<JournalOptions> = {},
): Journal {
  return Journal.open({
    path,
    ephemeral: null,
    nowUs: () => 1_790_000_000_000_000,
    randomU32: () => 7,
    bootId: "boot",
    ...options,
  });
}

function event(message: string | null): ParsedEvent {
  return {
    body: new TextEncoder().encode(message === null ? '{"a":1}' : JSON.stringify({ message })),
    ...{ id: null, key: null, type: null, message, conversationId: null },
    ...{ timestampUs: null, fields: null, ignoredFields: 0 },
  };
}

function said(seq: number, more: Partial<DecidedFrame> = {}): DecidedFrame {
  const physics = new Uint8Array(PHYSICS_BYTES).fill(seq & 0xff);
  const nothing = '{"type":null,"intent":null,"sentiment":null,"embedder":null}';
  return {
    ...{ seq, decidedUs: 1000 + seq, physics, vector: null },
    ...{ eventType: null, intent: null, provenance: nothing },
    ...more,
  };
}

async function fill(journal: Journal, count: number): Promise<void> {
  await journal.append(
    Array.from({ length: count }, (_, n) => event(`m${n}`)),
    { source: "", receivedUs: 1 },
  );
  await journal.decide(Array.from({ length: count }, (_, n) => said(n + 1)));
}

describe("answers", () => {
  test("an answer comes back as it was given, and the newest stands", async () => {
    using journal = openJournal();
    await fill(journal, 2);
    expect(journal.answerOf(1)).toBeNull();
    const first = said(1, { intent: "A", provenance: '{"intent":"llm"}' });
    const vector = new Float32Array([0.25, -1]);
    const second = said(1, { intent: "B", eventType: "T", vector, decidedUs: 99 });
    expect(await journal.answer([first, said(2)])).toBe(1);
    expect(journal.answerOf(1)).toEqual({ answerId: 1, ...first });
    expect(await journal.answer([second])).toBe(3);
    expect(journal.answerOf(1)).toEqual({ answerId: 3, ...second });
    expect([journal.headAnswerId(), journal.nextFrameId(), journal.headSeq()]).toEqual([3, 3, 2]);
    // The frame stays as it was decided.
    expect(journal.frameOf(1)).toEqual({ frameId: 1, ...said(1) });
  });

  test("events, frames and answers of one turn share a commit, in this order", async () => {
    const path = join(root, `${files++}.journal`);
    using journal = openJournal(path);
    await fill(journal, 1);
    const [answer, frame, stored] = await Promise.all([
      journal.answer([said(2)]),
      journal.decide([said(2)]),
      journal.append([event("x")], { source: "", receivedUs: 1 }),
    ]);
    expect([answer, frame, stored[0]?.seq]).toEqual([1, 2, 2]);
  });

  test("ids go on after a restart, also where the answers have left", async () => {
    const path = join(root, `${files++}.journal`);
    {
      using journal = openJournal(path);
      await fill(journal, 2);
      await journal.answer([said(1), said(1), said(2)]);
      expect(journal.prune({ seq: 2, frameId: 2, answerId: 3 })).toBe(2);
    }
    using journal = openJournal(path);
    expect(journal.headAnswerId()).toBe(3);
    expect(journal.answerOf(1)).toBeNull();
    expect(await journal.answer([said(1)])).toBe(4);
  });

  test("an answer whose event has left goes by itself, when it is held and not before", async () => {
    using journal = openJournal();
    await fill(journal, 3);
    journal.prune({ seq: 2, frameId: 2, answerId: 0 });
    await journal.answer([said(1), said(3), said(2)]);
    expect(journal.pruneAnswers(0)).toBe(0);
    expect(journal.pruneAnswers(2)).toBe(1);
    expect(journal.answerOf(1)).toBeNull();
    // That of event 3 stays with its frame, which is still here.
    expect(journal.pruneAnswers(3)).toBe(1);
    expect(journal.pruneAnswers(3)).toBe(0);
    expect(journal.answerOf(3)).not.toBeNull();
    expect(journal.pruned()).toEqual({ seq: 2, frameId: 2, answerId: 3 });
  });

  test("an answer stays with a frame that stays, also where a later event has left before", async () => {
    using journal = openJournal();
    await journal.append([event("a"), event("b"), event("c")], { source: "", receivedUs: 1 });
    // The first two waited for the model, so that the third was decided before them.
    await journal.decide([said(3), said(1), said(2)]);
    expect(journal.prune({ seq: 3, frameId: 1, answerId: 0 })).toBe(1);
    await journal.answer([said(1), said(3)]);
    expect(journal.pruneAnswers(2)).toBe(1);
    expect([journal.answerOf(1)?.answerId, journal.answerOf(3)]).toEqual([1, null]);
  });

  test("a temporary journal keeps an answer on an event that it has dropped, within its bound", async () => {
    const path = join(root, `${files++}.journal`);
    using journal = openJournal(path, { ephemeral: { limitBytes: 8 * 1024 * 1024 } });
    await fill(journal, 1);
    const large = "x".repeat(100_000);
    while (journal.eventsAt([1])[0] !== null)
      await journal.append([event(large)], { source: "", receivedUs: 1 });
    expect(await journal.answer([said(1, { intent: "Late" })])).toBe(1);
    expect(journal.answerOf(1)?.intent).toBe("Late");
    using reader = new Database(path, { readonly: true });
    expect(reader.query("SELECT answer_id, seq FROM answers").values()).toEqual([[1, 1]]);
  });

  test("an answer that cannot be stored fails alone", async () => {
    using journal = openJournal();
    await fill(journal, 1);
    const [bad, good] = await Promise.allSettled([
      journal.answer([said(1, { provenance: null as never })]),
      journal.answer([said(1, { intent: "Good" })]),
    ]);
    expect([bad.status, good]).toEqual(["rejected", { status: "fulfilled", value: 1 }]);
    expect(journal.answerOf(1)?.intent).toBe("Good");
  });

  test("what a model could still tell is known after a restart, the newest first", async () => {
    using journal = openJournal();
    await journal.append([event("a"), event("b"), event(null), event(null), event("c"), event("d")], {
      source: "",
      receivedUs: 1,
    });
    const from = (
      type: string | null,
      intent: string | null,
      sentiment: string | null,
    ): Partial<DecidedFrame> => ({
      provenance: JSON.stringify({ type, intent, sentiment }),
    });
    await journal.decide([
      said(1, from("given", "examples", null)),
      // Asked, and the model did not know: its word all the same.
      said(2, from(null, "llm", "llm")),
      said(3, from(null, null, null)),
      said(4, from("shape", null, null)),
      said(5, from("given", null, "given")),
      said(6, from(null, null, null)),
    ]);
    await journal.answer([said(6)]);
    expect(journal.unanswered(1, 7)).toEqual([5, 3, 1]);
    expect(journal.unanswered(2, 5)).toEqual([3]);
  });
});

describe("small tables", () => {
  test("keep texts over a restart, the one that was written longest ago first", () => {
    const path = join(root, `${files++}.journal`);
    {
      using journal = openJournal(path);
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
    using journal = openJournal(path);
    expect(journal.table("shapes").all()).toEqual([
      { key: "a", value: "2" },
      { key: "b", value: "4" },
    ]);
    expect(journal.table("schemas").all()).toEqual([{ key: "a", value: "3" }]);
  });

  test("what a table without an order held is kept", () => {
    const path = join(root, `${files++}.journal`);
    openJournal(path)[Symbol.dispose]();
    const old = new Database(path);
    old.run("CREATE TABLE schemas(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID");
    old.run("INSERT INTO schemas VALUES ('b', '1'), ('a', '2')");
    old.close(true);
    for (const _open of [1, 2]) {
      using journal = openJournal(path);
      expect(journal.table("schemas").all()).toEqual([
        { key: "a", value: "2" },
        { key: "b", value: "1" },
      ]);
    }
  });

  test("a journal of before is given its table when it is asked for", () => {
    const path = join(root, `${files++}.journal`);
    openJournal(path)[Symbol.dispose]();
    const old = new Database(path);
    old.run("DROP TABLE IF EXISTS shapes");
    old.close(true);
    using journal = openJournal(path);
    journal.table("shapes").write([{ key: "a", value: "1" }]);
    expect(journal.table("shapes").all()).toHaveLength(1);
  });
});
