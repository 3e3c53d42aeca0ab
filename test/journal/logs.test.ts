/** The logs of a journal: what is decided about an event comes back, once and in order. */
import { Database } from "bun:sqlite";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import type { ParsedEvent } from "../../src/event/event.ts";
import { type DecidedFrame, EventsGone, type Journal } from "../../src/journal/journal.ts";
import {
  event,
  FROM,
  failureOf,
  frame,
  frames,
  NOW_US,
  openAt,
  rowsOf,
  seqsOf,
  tempFolder,
} from "./fixtures.ts";

// A busy machine takes its time.
setDefaultTimeout(60_000);

const { newPath } = tempFolder();

function ofMessage(message: string | null): ParsedEvent {
  const body = new TextEncoder().encode(message === null ? '{"a":1}' : JSON.stringify({ message }));
  return event({ body, message });
}

function said(seq: number, more: Partial<DecidedFrame> = {}): DecidedFrame {
  const provenance = '{"type":null,"intent":null,"sentiment":null,"embedder":null}';
  return frame(seq, { provenance, ...more });
}

async function fill(journal: Journal, count: number): Promise<void> {
  await journal.append(
    Array.from({ length: count }, (_, n) => ofMessage(`m${n}`)),
    { source: "", receivedUs: 1 },
  );
  await journal.decide(Array.from({ length: count }, (_, n) => said(n + 1)));
}

describe("frames", () => {
  test("a frame comes back as it was decided", async () => {
    using journal = openAt(newPath());
    await journal.append([event(), event()], FROM);
    const wide = new Float32Array([9, 0.25, -1, Number.MIN_VALUE, 7]);
    const decided = frame(1, {
      vector: wide.subarray(1, 4),
      eventType: "T",
      intent: "buy",
      provenance: '{"a":1}',
    });
    expect(await journal.decide([decided, frame(2)])).toBe(1);
    expect(journal.framesFrom(1, 10)).toEqual([
      { frameId: 1, ...decided, vector: wide.slice(1, 4) },
      { frameId: 2, ...frame(2) },
    ]);
    expect(journal.frameOf(2)?.frameId).toBe(2);
    expect(journal.frameOf(3)).toBeNull();
    expect(journal.nextFrameId()).toBe(3);
  });

  test("ids are dense in the order of calls, and a refused call leaves no gap", async () => {
    const path = newPath();
    {
      using journal = openAt(path);
      await journal.append(new Array(6).fill(event()), FROM);
      const calls = await Promise.allSettled([
        journal.decide(frames(3, 1)),
        journal.decide(frames(2, 99)),
        journal.decide(frames(3)),
        journal.decide([frame(4), frame(5, { provenance: null as never })]),
        journal.decide(frames(6)),
      ]);
      expect(
        calls.map((call) => (call.status === "fulfilled" ? call.value : String(call.reason.message))),
      ).toEqual([
        1,
        expect.stringContaining("the first is 99"),
        expect.stringContaining("already has a frame"),
        expect.stringContaining("NOT NULL"),
        3,
      ]);
      expect((calls[1] as PromiseRejectedResult).reason).toBeInstanceOf(EventsGone);
      expect((calls[1] as PromiseRejectedResult).reason.seqs).toEqual([99]);
    }
    using journal = openAt(path);
    expect(seqsOf(journal.unframedAfter(0, 10))).toEqual([2, 4, 5]);
    expect(await journal.decide(frames(2, 4, 5))).toBe(4);
    expect(journal.framesFrom(1, 10).map(({ frameId, seq }) => [frameId, seq])).toEqual([
      [1, 3],
      [2, 1],
      [3, 6],
      [4, 2],
      [5, 4],
      [6, 5],
    ]);
  });

  test("an event twice in one call is refused", async () => {
    using journal = openAt(newPath());
    await journal.append([event()], FROM);
    expect(String(await failureOf(journal.decide(frames(1, 1))))).toContain("already");
    expect(journal.nextFrameId()).toBe(1);
  });

  test("unframed events are found above a number, in order, also where frames came out of order", async () => {
    const path = newPath();
    {
      using journal = openAt(path);
      await journal.append(new Array(1000).fill(event()), FROM);
      await journal.decide(
        frames(...Array.from({ length: 998 }, (_, index) => index + 1).filter((seq) => seq !== 3)),
      );
      expect(seqsOf(journal.unframedAfter(0, 10))).toEqual([3, 999, 1000]);
      expect(seqsOf(journal.unframedAfter(0, 2))).toEqual([3, 999]);
      expect(seqsOf(journal.unframedAfter(3, 10))).toEqual([999, 1000]);
      // The frames above 3 leave while event 3 still waits.
      expect(journal.prune({ seq: 500, frameId: 400, answerId: 0 })).toBe(400);
    }
    using journal = openAt(path);
    expect(seqsOf(journal.unframedAfter(0, 10))).toEqual([3, 999, 1000]);
    await journal.decide(frames(3));
    expect(seqsOf(journal.unframedAfter(0, 10))).toEqual([999, 1000]);
    await journal.decide(frames(1000, 999));
    expect(journal.unframedAfter(0, 10)).toEqual([]);
    expect(rowsOf(path, "SELECT value FROM meta WHERE key = 'journal.framed_to'")).toEqual([["1000"]]);
  });

  test("conversations are told by frame, with the event's own time where it has one", async () => {
    using journal = openAt(newPath());
    await journal.append(
      [
        event({ conversationId: "a" }),
        event(),
        event({ conversationId: "b", timestampUs: 5 }),
        event({ conversationId: "a" }),
      ],
      FROM,
    );
    await journal.decide(frames(3, 1, 2, 4));
    const all = [
      { frameId: 1, conversationId: "b", timestampUs: 5, decidedUs: NOW_US + 3 },
      { frameId: 2, conversationId: "a", timestampUs: NOW_US, decidedUs: NOW_US + 1 },
      { frameId: 4, conversationId: "a", timestampUs: NOW_US, decidedUs: NOW_US + 4 },
    ];
    expect(journal.recentConversations(10)).toEqual(all);
    expect(journal.recentConversations(2)).toEqual(all.slice(1));
    expect(journal.recentConversations(2, 0)).toEqual(all.slice(0, 2));
    expect(journal.recentConversations(2, 2)).toEqual(all.slice(2));
  });
});

describe("answers", () => {
  test("an answer comes back as it was given, and the newest stands", async () => {
    using journal = openAt(newPath());
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
    const path = newPath();
    using journal = openAt(path);
    await fill(journal, 1);
    const [answer, frame, stored] = await Promise.all([
      journal.answer([said(2)]),
      journal.decide([said(2)]),
      journal.append([ofMessage("x")], { source: "", receivedUs: 1 }),
    ]);
    expect([answer, frame, stored[0]?.seq]).toEqual([1, 2, 2]);
  });

  test("ids go on after a restart, also where the answers have left", async () => {
    const path = newPath();
    {
      using journal = openAt(path);
      await fill(journal, 2);
      await journal.answer([said(1), said(1), said(2)]);
      expect(journal.prune({ seq: 2, frameId: 2, answerId: 3 })).toBe(2);
    }
    using journal = openAt(path);
    expect(journal.headAnswerId()).toBe(3);
    expect(journal.answerOf(1)).toBeNull();
    expect(await journal.answer([said(1)])).toBe(4);
  });

  test("an answer whose event has left goes by itself, when it is held and not before", async () => {
    using journal = openAt(newPath());
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
    using journal = openAt(newPath());
    await journal.append([ofMessage("a"), ofMessage("b"), ofMessage("c")], { source: "", receivedUs: 1 });
    // The first two waited for the model, so that the third was decided before them.
    await journal.decide([said(3), said(1), said(2)]);
    expect(journal.prune({ seq: 3, frameId: 1, answerId: 0 })).toBe(1);
    await journal.answer([said(1), said(3)]);
    expect(journal.pruneAnswers(2)).toBe(1);
    expect([journal.answerOf(1)?.answerId, journal.answerOf(3)]).toEqual([1, null]);
  });

  test("a temporary journal keeps an answer on an event that it has dropped, within its bound", async () => {
    const path = newPath();
    using journal = openAt(path, { ephemeral: { limitBytes: 8 * 1024 * 1024 } });
    await fill(journal, 1);
    const large = "x".repeat(100_000);
    while (journal.eventsAt([1])[0] !== null)
      await journal.append([ofMessage(large)], { source: "", receivedUs: 1 });
    expect(await journal.answer([said(1, { intent: "Late" })])).toBe(1);
    expect(journal.answerOf(1)?.intent).toBe("Late");
    using reader = new Database(path, { readonly: true });
    expect(reader.query("SELECT answer_id, seq FROM answers").values()).toEqual([[1, 1]]);
  });

  test("an answer that cannot be stored fails alone", async () => {
    using journal = openAt(newPath());
    await fill(journal, 1);
    const [bad, good] = await Promise.allSettled([
      journal.answer([said(1, { provenance: null as never })]),
      journal.answer([said(1, { intent: "Good" })]),
    ]);
    expect([bad.status, good]).toEqual(["rejected", { status: "fulfilled", value: 1 }]);
    expect(journal.answerOf(1)?.intent).toBe("Good");
  });

  test("what a model could still tell is known after a restart, the newest first", async () => {
    using journal = openAt(newPath());
    await journal.append(
      [ofMessage("a"), ofMessage("b"), ofMessage(null), ofMessage(null), ofMessage("c"), ofMessage("d")],
      {
        source: "",
        receivedUs: 1,
      },
    );
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
