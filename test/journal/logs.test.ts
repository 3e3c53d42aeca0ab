/** The logs of a journal: frames and updates come back as they were stored, once and in order. */
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

// Generous, because the machine may be busy.
setDefaultTimeout(60_000);

const { newPath } = tempFolder();

function ofMessage(message: string | null): ParsedEvent {
  const body = new TextEncoder().encode(message === null ? '{"a":1}' : JSON.stringify({ message }));
  return event({ body, message });
}

/** A frame about which nothing is known. */
function unenriched(seq: number, more: Partial<DecidedFrame> = {}): DecidedFrame {
  const provenance = '{"type":null,"intent":null,"sentiment":null,"embedder":null}';
  return frame(seq, { provenance, ...more });
}

async function fill(journal: Journal, count: number): Promise<void> {
  await journal.append(
    Array.from({ length: count }, (_, n) => ofMessage(`m${n}`)),
    { source: "", receivedUs: 1 },
  );
  await journal.decide(Array.from({ length: count }, (_, n) => unenriched(n + 1)));
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

  test("frame ids are consecutive in the order of calls, and a refused call leaves no gap", async () => {
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

  test("a call with the same event twice is refused", async () => {
    using journal = openAt(newPath());
    await journal.append([event()], FROM);
    expect(String(await failureOf(journal.decide(frames(1, 1))))).toContain("already");
    expect(journal.nextFrameId()).toBe(1);
  });

  test("a list of unframed events ends before its bodies exceed a bound, and has at least one event", async () => {
    for (const ephemeral of [null, { limitBytes: 16 * 1024 * 1024 }]) {
      using journal = openAt(newPath(), { ephemeral });
      const sizes = [1000, 2000, 30, 9000, 10];
      await journal.append(
        sizes.map((size) => event({ body: new TextEncoder().encode(`"${"x".repeat(size - 2)}"`) })),
        FROM,
      );
      const seqsWithin = (after: number, bytesMax: number): number[] =>
        seqsOf(journal.unframedAfter(after, 10, bytesMax));
      expect(seqsWithin(0, 3029)).toEqual([1, 2]);
      expect(seqsWithin(0, 3030)).toEqual([1, 2, 3]);
      expect(seqsWithin(3, 1)).toEqual([4]);
      expect(seqsWithin(4, 1)).toEqual([5]);
      expect(seqsOf(journal.unframedAfter(0, 10))).toEqual([1, 2, 3, 4, 5]);
    }
  });

  test("unframed events above a number are found in order, even if frames were decided out of order", async () => {
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

  test("motions of conversations come in the order of frames, with the event's own time if it has one", async () => {
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

describe("updates", () => {
  test("an update comes back as it was stored, and the newest one counts", async () => {
    using journal = openAt(newPath());
    await fill(journal, 2);
    expect(journal.updateOf(1)).toBeNull();
    const first = unenriched(1, { intent: "A", provenance: '{"intent":"llm"}' });
    const vector = new Float32Array([0.25, -1]);
    const second = unenriched(1, { intent: "B", eventType: "T", vector, decidedUs: 99 });
    expect(await journal.update([first, unenriched(2)])).toBe(1);
    expect(journal.updateOf(1)).toEqual({ answerId: 1, ...first });
    expect(await journal.update([second])).toBe(3);
    expect(journal.updateOf(1)).toEqual({ answerId: 3, ...second });
    expect([journal.headAnswerId(), journal.nextFrameId(), journal.headSeq()]).toEqual([3, 3, 2]);
    // The frame stays as it was decided.
    expect(journal.frameOf(1)).toEqual({ frameId: 1, ...unenriched(1) });
  });

  test("events, frames and updates of one turn share a commit, in this order", async () => {
    const path = newPath();
    using journal = openAt(path);
    await fill(journal, 1);
    const [answer, frame, stored] = await Promise.all([
      journal.update([unenriched(2)]),
      journal.decide([unenriched(2)]),
      journal.append([ofMessage("x")], { source: "", receivedUs: 1 }),
    ]);
    expect([answer, frame, stored[0]?.seq]).toEqual([1, 2, 2]);
  });

  test("update ids continue after a restart, even if all updates have left", async () => {
    const path = newPath();
    {
      using journal = openAt(path);
      await fill(journal, 2);
      await journal.update([unenriched(1), unenriched(1), unenriched(2)]);
      expect(journal.prune({ seq: 2, frameId: 2, answerId: 3 })).toBe(2);
    }
    using journal = openAt(path);
    expect(journal.headAnswerId()).toBe(3);
    expect(journal.updateOf(1)).toBeNull();
    expect(await journal.update([unenriched(1)])).toBe(4);
  });

  test("an update of an event that has left is pruned by itself, but not before the store holds it", async () => {
    using journal = openAt(newPath());
    await fill(journal, 3);
    journal.prune({ seq: 2, frameId: 2, answerId: 0 });
    await journal.update([unenriched(1), unenriched(3), unenriched(2)]);
    expect(journal.pruneUpdates(0)).toBe(0);
    expect(journal.pruneUpdates(2)).toBe(1);
    expect(journal.updateOf(1)).toBeNull();
    // The update of event 3 stays, because its frame is still in the journal.
    expect(journal.pruneUpdates(3)).toBe(1);
    expect(journal.pruneUpdates(3)).toBe(0);
    expect(journal.updateOf(3)).not.toBeNull();
    expect(journal.pruned()).toEqual({ seq: 2, frameId: 2, answerId: 3 });
  });

  test("an update stays with its frame, even if a later event has left before", async () => {
    using journal = openAt(newPath());
    await journal.append([ofMessage("a"), ofMessage("b"), ofMessage("c")], { source: "", receivedUs: 1 });
    // The first two events waited for the model, so the third was decided before them.
    await journal.decide([unenriched(3), unenriched(1), unenriched(2)]);
    expect(journal.prune({ seq: 3, frameId: 1, answerId: 0 })).toBe(1);
    await journal.update([unenriched(1), unenriched(3)]);
    expect(journal.pruneUpdates(2)).toBe(1);
    expect([journal.updateOf(1)?.answerId, journal.updateOf(3)]).toEqual([1, null]);
  });

  test("a temporary journal keeps an update of an event that it has dropped, within its bound", async () => {
    const path = newPath();
    using journal = openAt(path, { ephemeral: { limitBytes: 8 * 1024 * 1024 } });
    await fill(journal, 1);
    const large = "x".repeat(100_000);
    while (journal.eventsAt([1])[0] !== null)
      await journal.append([ofMessage(large)], { source: "", receivedUs: 1 });
    expect(await journal.update([unenriched(1, { intent: "Late" })])).toBe(1);
    expect(journal.updateOf(1)?.intent).toBe("Late");
    using reader = new Database(path, { readonly: true });
    expect(reader.query("SELECT answer_id, seq FROM answers").values()).toEqual([[1, 1]]);
  });

  test("an update that cannot be stored fails alone", async () => {
    using journal = openAt(newPath());
    await fill(journal, 1);
    const [bad, good] = await Promise.allSettled([
      journal.update([unenriched(1, { provenance: null as never })]),
      journal.update([unenriched(1, { intent: "Good" })]),
    ]);
    expect([bad.status, good]).toEqual(["rejected", { status: "fulfilled", value: 1 }]);
    expect(journal.updateOf(1)?.intent).toBe("Good");
  });

  test("events that a model could still add to are found, newest first", async () => {
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
      unenriched(1, from("given", "examples", null)),
      // The model was asked and did not know. That counts as its reply.
      unenriched(2, from(null, "llm", "llm")),
      unenriched(3, from(null, null, null)),
      unenriched(4, from("shape", null, null)),
      unenriched(5, from("given", null, "given")),
      unenriched(6, from(null, null, null)),
    ]);
    await journal.update([unenriched(6)]);
    expect(journal.withoutUpdate(1, 7)).toEqual([5, 3, 1]);
    expect(journal.withoutUpdate(2, 5)).toEqual([3]);
  });
});
