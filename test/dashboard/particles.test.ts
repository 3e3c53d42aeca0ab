import { describe, expect, test } from "bun:test";
import { Particles, type ParticlesOptions } from "../../src/dashboard/particles.ts";
import { rowOf } from "../../src/dashboard/rows.ts";
import { FakeClock } from "../fake-clock.ts";
import { randomOf } from "../random.ts";
import { clusters, draft, event, framesOf, settle } from "./fixtures.ts";

const seed = Number(process.env.FC_SEED ?? Date.now() % 1e9);
console.log(`dashboard/particles: FC_SEED=${seed}`);

function open(over: Partial<ParticlesOptions> = {}) {
  const clock = new FakeClock();
  const requested: [after: number, limit: number][] = [];
  const warnings: string[] = [];
  const { frames = async () => ({ chunks: [], count: 0 }), ...rest } = over;
  const particles = new Particles({
    clock,
    frames: (after, limit) => {
      requested.push([after, limit]);
      return frames(after, limit);
    },
    nextFrameId: () => 1,
    row: () => null,
    journalEvent: () => null,
    warn: (message) => void warnings.push(message),
    changed: () => {},
    ...rest,
  });
  const points = () => particles.view({ embedder: "ok", nextFrameId: 2 }).points;
  return { clock, particles, points, requested, warnings };
}

const vectors = (count: number): Float32Array[] => clusters(randomOf(seed), { dim: 8, centres: 3, count });
/** Frames of consecutive events from `firstSeq` on, one for each vector. */
const drafts = (firstSeq: number, from: readonly Float32Array[], model = 7) =>
  from.map((vector, index) => draft(event(firstSeq + index), { vector, intent: "compra", model }));
const range = (from: number, to: number): number[] =>
  Array.from({ length: to - from + 1 }, (_, index) => from + index);

describe("particles", () => {
  test("nothing is kept while nobody looks; whoever begins to look sees the newest frames, then those that come", async () => {
    const all = vectors(61);
    const { clock, particles, points, requested } = open({
      frames: async () => framesOf([...drafts(1, all.slice(0, 20), 6), ...drafts(21, all.slice(20, 40), 8)]),
      nextFrameId: () => 601,
      row: (seq) => (seq === 21 ? rowOf(event(21, { message: "from the tail" })) : null),
      journalEvent: (seq) => (seq < 30 ? event(seq) : null),
    });
    particles.decided([[40, drafts(40, all.slice(39, 40), 8)]]);
    expect(points()).toEqual([]);
    particles.show();
    particles.show();
    await settle();
    expect(requested).toEqual([[88, 512]]);
    // Frames of another model have no place in the same picture.
    expect(points().map(({ frameId }) => frameId)).toEqual(range(21, 40));
    expect(points()[0]).toMatchObject({
      seq: 21,
      message: "from the tail",
      velocity: 3,
      conversation: "c-1",
    });
    expect(points()[0]?.deltaSeconds).toBeCloseTo(2);
    expect(points()[1]?.message).toBe("mensagem 22");
    expect(points().at(-1)?.message).toContain("in the store");
    expect(points().some(({ x, y }) => x !== 0 && y !== 0)).toBe(true);
    particles.decided([[41, drafts(41, all.slice(40, 60), 8)]]);
    await clock.advance(1000);
    expect(points().length).toBe(40);
    expect(points().at(-1)).toMatchObject({ frameId: 60, intent: "compra", message: "mensagem 60" });
    particles.hide();
    expect(points()).toEqual([]);
    particles.decided([[61, drafts(61, all.slice(60), 8)]]);
    particles.show();
    await settle();
    expect(requested.length).toBe(2);
  });

  test("frames that are decided while older ones are read come after them, each once", async () => {
    const all = vectors(30);
    const reading = Promise.withResolvers<ReturnType<typeof framesOf>>();
    const { particles, points } = open({ frames: () => reading.promise });
    particles.show();
    particles.decided([[21, drafts(21, all.slice(20))]]);
    reading.resolve(framesOf(drafts(1, all.slice(0, 25))));
    await settle();
    expect(points().map(({ frameId }) => frameId)).toEqual(range(1, 30));
  });

  test("a frame without a vector is no particle, and one that is already there is not added again", () => {
    const { particles, points } = open();
    const [vector = new Float32Array(8)] = vectors(1);
    particles.show();
    particles.decided([[1, [draft(event(1), { vector }), draft(event(2))]]]);
    particles.decided([[1, [draft(event(1), { vector })]]]);
    expect(points().map(({ frameId }) => frameId)).toEqual([1]);
  });

  test("one look adds 64 at most, the newest", () => {
    const { particles, points } = open();
    particles.show();
    particles.decided([
      [1, drafts(1, vectors(100))],
      [101, drafts(101, vectors(10))],
    ]);
    expect(points().map(({ frameId }) => frameId)).toEqual(range(47, 110));
  });

  test("particles are bounded, and none has the vector of another", async () => {
    const { clock, particles, points } = open();
    particles.show();
    // Sixty, so that a reused buffer held a vector of another place in the round.
    const round = vectors(60);
    for (let turn = 0; turn < 12; turn++) {
      particles.decided([[turn * 60 + 1, drafts(turn * 60 + 1, round)]]);
      await clock.advance(1000);
      points();
    }
    expect(points().length).toBe(512);
    // The same vectors came in each round, so those of the same place in the round lie at the same point.
    const places = new Map<number, [number, number]>();
    for (const { frameId, x, y } of points()) {
      const place = (frameId - 1) % 60;
      expect([x, y]).toEqual(places.get(place) ?? [x, y]);
      places.set(place, [x, y]);
    }
    expect(new Set([...places.values()].map(([x]) => x)).size).toBeGreaterThan(30);
  });

  test("the plane is computed once a second at most, and not while nothing came", async () => {
    const { clock, particles, points } = open();
    const places = () => points().map(({ x, y }) => [x, y]);
    const all = vectors(60);
    particles.show();
    particles.decided([[1, drafts(1, all.slice(0, 20))]]);
    const first = places();
    particles.decided([[21, drafts(21, all.slice(20))]]);
    await clock.advance(999);
    expect(places().slice(0, 20)).toEqual(first);
    await clock.advance(1);
    const second = places();
    expect(second.slice(0, 20)).not.toEqual(first);
    await clock.advance(5000);
    expect(places()).toEqual(second);
  });

  test("an update changes the particle of its event", () => {
    const { particles, points } = open();
    particles.show();
    particles.decided([[1, drafts(1, vectors(2))]]);
    particles.updated(new Map());
    particles.updated(new Map([[2, { type: null, intent: "desconto", sentiment: 0.25 }]]));
    expect(points().map(({ intent, sentiment }) => [intent, sentiment])).toEqual([
      ["compra", -0.5],
      ["desconto", 0.25],
    ]);
  });

  test("why there are no particles is said in words", () => {
    const { particles } = open();
    const none = (embedder: string, nextFrameId: number) => particles.view({ embedder, nextFrameId }).none;
    expect(none("off", 5)).toContain("--embedder off");
    expect(none("ok", 1)).toBe("No frames yet");
    expect(none("ok", 5)).toBe("No frame with an embedding yet");
    expect(none("down", 5)).toContain("the embedder is down");
  });

  test("frames that cannot be read are a warning", async () => {
    const { particles, points, warnings } = open({ frames: () => Promise.reject(new Error("no ring")) });
    particles.show();
    await settle();
    expect(warnings).toEqual([expect.stringContaining("no ring")]);
    expect(points()).toEqual([]);
  });
});
