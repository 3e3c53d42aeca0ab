/** The framer by itself: embeds ahead, decides in order of receipt, and retries what the journal cannot write. */
import { describe, expect, test } from "bun:test";
import type { Known } from "../../src/brain/brain.ts";
import { EventsGone, type JournalEvent } from "../../src/journal/journal.ts";
import { Kinetics } from "../../src/physics.ts";
import type { PatientEmbedder } from "../../src/pipeline/embedding.ts";
import { Framer } from "../../src/pipeline/framer.ts";
import { Holds } from "../../src/pipeline/holds.ts";
import type { Draft, Embedded, EventVector, Item } from "../../src/pipeline/work.ts";
import { FakeClock } from "../fake-clock.ts";
import { hashing } from "./simulation/models.ts";

const LIMIT_MS = 60_000;

function event(seq: number): JournalEvent {
  return {
    ...{ seq, receivedUs: 0, id: "", type: null, message: null, conversationId: null },
    ...{ timestampUs: null, fields: null, body: new Uint8Array(2) },
  };
}

const events = (from: number, to: number): JournalEvent[] =>
  Array.from({ length: to - from + 1 }, (_, index) => event(from + index));

/** @param o.waits seqs of events that wait for the language model. */
function setup(
  o: {
    inJournal?: number;
    waits?: number[];
    maxBatch?: number;
    byHand?: boolean;
    labelsKnown?: boolean;
  } = {},
) {
  const clock = new FakeClock();
  const committed: number[][] = [];
  const told: string[] = [];
  /** Seqs of the batches that were given to the embedder, and what finishes each. */
  const batches: { seqs: number[]; finish: (embedded: Embedded | null) => void }[] = [];
  const failures: unknown[] = [];
  const labelFailures: unknown[] = [];
  const readFailures: unknown[] = [];
  const stored = events(1, o.inJournal ?? 0);
  let head = stored.length;
  const understanding = {
    ...{ type: null, typeFrom: null, intent: null, intentFrom: null },
    ...{ confidence: 0, sentiment: null, sentimentFrom: null },
  };
  const restored: number[] = [];
  const nearests: [seq: number, label: string | null][] = [];
  const vectors: (Float32Array | null)[] = [];
  const kinetics = new Kinetics({});
  kinetics.restore = (rows) => void restored.push(rows.length);
  const holds = new Holds({ frameWaitMs: 60_000, clock, onReady: () => framer.wake(), onVain: () => {} });
  const motions = { count: 0 };
  const framer: Framer = new Framer({
    journal: {
      journalId: 1,
      headSeq: () => head,
      nextFrameId: () => 1 + motions.count,
      unframedAfter: (seq, limit) => {
        const failure = readFailures.shift();
        if (failure !== undefined) throw failure;
        return stored.filter((one) => one.seq > seq).slice(0, limit);
      },
      recentConversations: (limit, after = 0) =>
        Array.from({ length: Math.max(0, Math.min(limit, motions.count - after)) }, (_, index) => {
          return { frameId: after + index + 1, conversationId: "c", timestampUs: 0, decidedUs: 0 };
        }),
    },
    brain: {
      known: ({ seq }, nearest) => {
        nearests.push([seq, nearest?.label ?? null]);
        return { understanding, question: now.question };
      },
    },
    questions: {
      holds,
      admit: (item: Item) => holds.admit(item, o.waits?.includes(item.event.seq) ?? false),
      framed: ({ event: { seq } }) => told.push(`framed ${seq}`),
      gone: (seq) => told.push(`gone ${seq}`),
    },
    labels: {
      noteModel: ({ embedder }) => told.push(`model ${embedder.name}`),
      has: () => o.labelsKnown ?? true,
      keep: () => {
        const failure = labelFailures.shift();
        if (failure !== undefined) throw failure;
      },
    },
    commit: async (drafts) => {
      const failure = failures.shift();
      if (failure !== undefined) throw failure;
      committed.push(drafts.map(({ decided }) => decided.seq));
      vectors.push(...drafts.map(({ vector }) => vector?.slice() ?? null));
      return 1;
    },
    onCommitted: (_, drafts: readonly Draft[]) => told.push(`committed ${drafts.length}`),
    ...{ kinetics, clock, checksums: false, log: () => {} },
    spin: () => [0, 0, 0, 1],
    schemas: { observe: () => ({ fillRate: 0 }), preview: () => ({ fillRate: 0 }) },
  });
  const now = { vector: null as EventVector | null | undefined, question: null as Known["question"] };
  const embedder = {
    embedNow: () => now.vector,
    maxBatch: o.maxBatch ?? 4,
    embed: (batch: readonly JournalEvent[]) => {
      const { promise, resolve } = Promise.withResolvers<Embedded | null>();
      batches.push({ seqs: batch.map(({ seq }) => seq), finish: resolve });
      if (o.byHand !== true) resolve(null);
      return promise;
    },
  } as unknown as PatientEmbedder;
  const take = (from: number, to: number): void => {
    head = to;
    stored.push(...events(from, to));
    framer.take(events(from, to), null);
  };
  /** What the journal does with one event. */
  const append = (seq: number): "at once" | "later" => {
    const decided = framer.atOnce(event(seq));
    head = seq;
    stored.push(event(seq));
    framer.take([event(seq)], decided === null ? null : seq);
    return decided === null ? "later" : "at once";
  };
  return {
    append,
    now,
    framer,
    clock,
    committed,
    told,
    batches,
    failures,
    labelFailures,
    readFailures,
    embedder,
    holds,
    take,
    motions,
    restored,
    nearests,
    vectors,
  };
}

test(
  "events that wait in the journal are framed before newer ones, in order of receipt",
  async () => {
    const { framer, clock, committed, embedder, take } = setup({ inJournal: 6 });
    take(7, 7);
    expect(framer.unframed).toBe(7);
    void framer.run(embedder);
    await clock.settle();
    expect(committed.flat()).toEqual([1, 2, 3, 4, 5, 6, 7]);
    framer.stop();
  },
  LIMIT_MS,
);

test(
  "each event gets its own row of the batch's vectors and its nearest examples; one that has none counts as without vector",
  async () => {
    const { framer, clock, committed, batches, embedder, take, told, nearests, vectors } = setup({
      byHand: true,
    });
    void framer.run(embedder);
    take(1, 3);
    await clock.settle();
    batches[0]?.finish({
      embedder: hashing,
      dim: 4,
      rows: new Float32Array([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]),
      present: [true, false, true],
      nearest: [{ label: "Cancel", cosine: 0.9 } as never, null, null],
    });
    await clock.settle();
    expect(committed).toEqual([[1, 2, 3]]);
    expect(vectors.map((vector) => (vector === null ? null : [...vector]))).toEqual([
      [1, 0, 0, 0],
      null,
      [0, 0, 1, 0],
    ]);
    expect(nearests).toEqual([
      [1, "Cancel"],
      [2, null],
      [3, null],
    ]);
    expect(framer.counters).toEqual({ frames_total: 3, frames_without_vector_total: 1 });
    expect(told[0]).toBe(`model ${hashing.name}`);
    framer.stop();
  },
  LIMIT_MS,
);

test(
  "two batches are embedded ahead, and a later one that is ready first is decided second",
  async () => {
    const { framer, clock, committed, batches, embedder, take } = setup({ maxBatch: 2, byHand: true });
    void framer.run(embedder);
    take(1, 6);
    await clock.settle();
    expect(batches.map(({ seqs }) => seqs)).toEqual([
      [1, 2],
      [3, 4],
    ]);
    expect(framer.unframed).toBe(6);
    batches[1]?.finish(null);
    await clock.settle();
    expect(committed).toEqual([]);
    batches[0]?.finish(null);
    await clock.settle();
    expect(committed).toEqual([
      [1, 2],
      [3, 4],
    ]);
    batches[2]?.finish(null);
    await clock.settle();
    expect([committed.flat(), framer.unframed]).toEqual([[1, 2, 3, 4, 5, 6], 0]);
    framer.stop();
  },
  LIMIT_MS,
);

test(
  "an event that waits for the language model holds up no other, and is framed when it is released",
  async () => {
    const { framer, clock, committed, embedder, holds, take } = setup({ waits: [1] });
    void framer.run(embedder);
    take(1, 3);
    await clock.settle();
    expect([committed, framer.unframed]).toEqual([[[2, 3]], 1]);
    holds.release(1);
    await clock.advance(10);
    expect([committed, framer.unframed]).toEqual([[[2, 3], [1]], 0]);
    framer.stop();
  },
  LIMIT_MS,
);

test(
  "while the journal cannot write, frames wait, twice as long each time; they are told of once they commit",
  async () => {
    const { framer, clock, committed, told, failures, embedder, take } = setup();
    failures.push(new Error("disk full"), new Error("disk full"));
    void framer.run(embedder);
    take(1, 2);
    await clock.settle();
    expect([framer.state, framer.unframed]).toEqual([{ state: "degraded", detail: "disk full" }, 2]);
    await clock.advance(149);
    expect([committed, told]).toEqual([[], []]);
    await clock.advance(1);
    expect(committed).toEqual([[1, 2]]);
    expect(told).toEqual(["committed 2", "framed 1", "framed 2"]);
    expect(framer.state).toEqual({ state: "ok", detail: "" });
    expect(framer.counters).toEqual({ frames_total: 2, frames_without_vector_total: 2 });
    framer.stop();
  },
  LIMIT_MS,
);

test(
  "a label that the journal cannot write holds the frames until it can, and framing goes on",
  async () => {
    const { framer, clock, committed, labelFailures, embedder, take } = setup();
    labelFailures.push(new Error("disk full"), new Error("disk full"));
    void framer.run(embedder);
    take(1, 2);
    await clock.settle();
    expect([committed, framer.state.detail, framer.unframed]).toEqual([[], "disk full", 2]);
    await clock.advance(150);
    expect([committed, framer.state.state]).toEqual([[[1, 2]], "ok"]);
    take(3, 3);
    await clock.settle();
    expect(committed).toEqual([[1, 2], [3]]);
    framer.stop();
  },
  LIMIT_MS,
);

test(
  "events that the journal cannot read are read again later, and each is framed once",
  async () => {
    const { framer, clock, committed, readFailures, embedder, take } = setup({ inJournal: 3, maxBatch: 2 });
    readFailures.push(new Error("cannot be read"), new Error("cannot be read"));
    void framer.run(embedder);
    await clock.settle();
    expect([committed, framer.state.detail, framer.unframed]).toEqual([[], "cannot be read", 3]);
    await clock.advance(4000);
    take(4, 4);
    await clock.settle();
    expect(committed.flat()).toEqual([1, 2, 3, 4]);
    expect(framer.state.state).toBe("ok");
    framer.stop();
  },
  LIMIT_MS,
);

test(
  "events that a temporary journal dropped are given up at once, and the others are framed",
  async () => {
    const { framer, clock, committed, told, failures, embedder, take } = setup();
    failures.push(new EventsGone("a.journal", [1, 3]));
    void framer.run(embedder);
    take(1, 4);
    await clock.settle();
    expect(committed).toEqual([[2, 4]]);
    expect(told).toEqual(["gone 1", "gone 3", "committed 2", "framed 2", "framed 4"]);
    framer.stop();
  },
  LIMIT_MS,
);

test(
  "in a burst framing pauses after a batch, and in a drain it does not",
  async () => {
    for (const drain of [false, true]) {
      const { framer, clock, committed, embedder, take } = setup({ maxBatch: 100 });
      await clock.advance(100);
      if (drain) framer.hurry();
      take(1, 400);
      void framer.run(embedder);
      await clock.settle();
      expect([framer.bursting, committed.length]).toEqual([true, drain ? 4 : 1]);
      framer.stop();
    }
  },
  LIMIT_MS,
);

test(
  "at its start it reads the newest 200,000 motions, in steps of 2,000",
  async () => {
    const { framer, motions, restored } = setup();
    motions.count = 200_500;
    await framer.restore();
    expect(restored.slice(0, -1).every((count) => count === 2000)).toBe(true);
    expect(restored.reduce((sum, count) => sum + count, 0)).toBe(200_000);
  },
  LIMIT_MS,
);

test(
  "after its stop nothing is committed, and a retry is given up",
  async () => {
    const { framer, clock, committed, failures, embedder, take } = setup();
    failures.push(new Error("disk full"));
    const ran = framer.run(embedder);
    take(1, 1);
    await clock.settle();
    framer.stop();
    await clock.advance(5000);
    await ran;
    expect([committed, clock.pending]).toEqual([[], 0]);
  },
  LIMIT_MS,
);

describe("a frame at once", () => {
  test("is passed on when its event has committed, in order with the others", async () => {
    const { framer, clock, embedder, append, committed, told } = setup();
    expect(append(1)).toBe("later");
    void framer.run(embedder);
    await clock.settle();
    expect(committed).toEqual([[1]]);
    expect([append(2), append(3)]).toEqual(["at once", "at once"]);
    expect(told.slice(-4)).toEqual(["committed 1", "framed 2", "committed 1", "framed 3"]);
    expect([framer.unframed, framer.counters.frames_total]).toEqual([0, 3]);
    framer.stop();
    expect(append(4)).toBe("later");
  });

  test("is not made behind an event that waits for its frame", async () => {
    const { framer, clock, embedder, append, committed } = setup({ byHand: true });
    void framer.run(embedder);
    await clock.settle();
    expect(append(1)).toBe("at once");
    framer.take([event(2)], null);
    expect(append(3)).toBe("later");
    expect(committed).toEqual([]);
    framer.stop();
  });

  test("is not made in a burst, of unknown labels, for a question, or if the vector takes longer", async () => {
    const unknown = setup({ labelsKnown: false });
    void unknown.framer.run(unknown.embedder);
    expect(unknown.append(1)).toBe("later");
    const { framer, clock, embedder, append, now } = setup();
    void framer.run(embedder);
    now.question = "event";
    expect(append(1)).toBe("later");
    now.question = null;
    await clock.settle();
    now.vector = undefined;
    expect(append(2)).toBe("later");
    now.vector = null;
    await clock.settle();
    let seq = 3;
    for (; seq < 500; seq++) if (append(seq) === "later") throw new Error(`event ${seq}`);
    await clock.advance(100);
    // The next event shows that the window before was a burst, and so does the one after it.
    append(seq);
    expect(append(seq + 1)).toBe("later");
    await clock.advance(1000);
    append(seq + 2);
    await clock.advance(1000);
    expect(append(seq + 3)).toBe("at once");
    for (const one of [framer, unknown.framer]) one.stop();
  });

  test("whose commit fails moves nothing on", async () => {
    const { framer, clock, embedder, append, told } = setup();
    void framer.run(embedder);
    await clock.settle();
    append(1);
    expect(framer.atOnce(event(2))).not.toBeNull();
    expect(framer.atOnce(event(2))).not.toBeNull();
    expect([framer.unframed, framer.counters.frames_total, told.at(-1)]).toEqual([0, 1, "framed 1"]);
    expect(append(2)).toBe("at once");
    framer.stop();
  });
});
