import { describe, expect, test } from "bun:test";
import { ExampleLearner } from "../../src/brain/example-learner.ts";
import { FakeClock } from "../fake-clock.ts";
import { CALIBRATION, embedderError, MemoryExamples, StubEmbedder } from "./example-stubs.ts";

const IN_FORCE_MS = 10_000;

function open() {
  const rows = new MemoryExamples();
  rows.replace("A", ["a", "bb"]);
  const clock = new FakeClock();
  const logged: string[] = [];
  const learner = new ExampleLearner({
    rows,
    labels: () => [...rows.kept.keys()],
    log: (_, line) => logged.push(line),
    clock,
  });
  return { rows, clock, logged, learner, embedder: new StubEmbedder() };
}

/** Whether a promise has settled; time does not pass. */
async function settled(clock: FakeClock, promise: Promise<unknown>): Promise<boolean> {
  let done = false;
  void promise.then(() => {
    done = true;
  });
  await clock.settle();
  return done;
}

describe("learning", () => {
  test("puts all examples with a vector into force, label by label, and counts the others", async () => {
    const { rows, learner, embedder, clock } = open();
    rows.replace("B", ["ccc", "?!"]);
    rows.replace("Empty", ["!"]);
    await learner.attach(embedder);
    const [examples] = embedder.learned;
    expect(examples?.labels).toEqual([
      { label: "A", count: 2 },
      { label: "B", count: 1 },
    ]);
    expect([...(examples?.rows ?? [])].filter((value) => value !== 0)).toEqual([1, 2, 3]);
    expect(learner).toMatchObject({ state: { state: "ready" }, calibration: CALIBRATION, withoutVector: 2 });
    expect(clock.pending).toBe(0);
  });

  test("waits for an embedder, and is off without one", async () => {
    const { learner, embedder } = open();
    expect(learner.state.state).toBe("waiting");
    expect(await learner.changed()).toBe(false);
    embedder.kind = "off";
    await learner.attach(embedder);
    expect([learner.state.state, await learner.changed(), embedder.batches]).toEqual(["off", false, []]);
  });

  test("resolves a change when it is in force, and learns one that comes meanwhile next", async () => {
    const { rows, learner, embedder, clock } = open();
    await learner.attach(embedder);
    const held = Promise.withResolvers<void>();
    embedder.hold = held.promise;
    rows.replace("B", ["x"]);
    const first = learner.changed();
    await clock.settle();
    expect(learner.state.state).toBe("learning");
    rows.replace("C", ["y"]);
    const second = learner.changed();
    expect(await settled(clock, first)).toBe(false);
    embedder.hold = null;
    held.resolve();
    expect([await first, await second]).toEqual([true, true]);
    expect(embedder.learned.map(({ labels }) => labels.length)).toEqual([1, 2, 3]);
  });

  test("that takes longer than 10 s resolves as not in force yet, and goes on", async () => {
    const { learner, embedder, clock } = open();
    const held = Promise.withResolvers<void>();
    embedder.hold = held.promise;
    const attached = learner.attach(embedder);
    const changed = learner.changed();
    await clock.advance(IN_FORCE_MS - 1);
    expect(await settled(clock, attached)).toBe(false);
    await clock.advance(1);
    await attached;
    expect(await changed).toBe(false);
    expect([learner.state.state, embedder.learned.length]).toEqual(["learning", 0]);
    held.resolve();
    await clock.settle();
    expect([learner.state.state, embedder.learned.length]).toEqual(["ready", 2]);
  });
});

describe("an embedder that fails", () => {
  test("ends the wait at once, is tried again at growing intervals, and is logged once", async () => {
    const { learner, embedder, clock, logged } = open();
    embedder.failWith = embedderError("embedder_unavailable");
    await learner.attach(embedder);
    expect(learner.state).toEqual({ state: "waiting", detail: expect.stringContaining("unavailable") });
    let tries = 0;
    embedder.embed = async (texts) => {
      // Each try is followed by a probe.
      if (!texts[0]?.startsWith("ready ")) tries += 1;
      throw embedderError("embedder_unavailable");
    };
    const after: number[] = [];
    for (const ms of [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]) {
      await clock.advance(ms - 1);
      after.push(tries);
      await clock.advance(1);
    }
    expect([after, tries]).toEqual([[0, 1, 2, 3, 4, 5, 6, 7], 8]);
    expect(logged).toHaveLength(1);
  });

  test("leaves the earlier examples in force until it works again", async () => {
    const { rows, learner, embedder, clock } = open();
    await learner.attach(embedder);
    rows.replace("B", ["x"]);
    embedder.failWith = embedderError("embedder_unavailable");
    expect(await learner.changed()).toBe(false);
    expect(learner).toMatchObject({ state: { state: "waiting" }, calibration: CALIBRATION });
    expect(embedder.learned).toHaveLength(1);
    embedder.failWith = null;
    await clock.advance(500);
    expect([learner.state.state, embedder.learned.length, clock.pending]).toEqual(["ready", 2, 0]);
  });

  test("is one that gives vectors of different lengths under one name", async () => {
    const { rows, learner, embedder, logged } = open();
    embedder.dim = 0;
    embedder.embed = async (texts) => {
      embedder.dim += 1;
      return new Float32Array(texts.length * embedder.dim).fill(1);
    };
    rows.replace("B", ["x"]);
    await learner.attach(embedder);
    expect(learner.state.detail).toContain("different lengths");
    expect([logged.length, embedder.learned.length]).toEqual([1, 0]);
    learner.stop();
  });
});

describe("after the stop", () => {
  test("nobody waits, and nothing is learned any more", async () => {
    const { learner, embedder, clock } = open();
    embedder.hold = new Promise(() => {});
    const changed = learner.attach(embedder);
    await clock.settle();
    learner.stop();
    await changed;
    expect(clock.pending).toBe(0);

    const other = open();
    other.embedder.failWith = embedderError("embedder_unavailable");
    await other.learner.attach(other.embedder);
    other.learner.stop();
    other.embedder.failWith = null;
    await other.clock.advance(60_000);
    expect([other.embedder.learned.length, other.clock.pending]).toEqual([0, 0]);
  });
});
