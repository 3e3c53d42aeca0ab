import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { ChatPart } from "../../src/brain/chat.ts";
import { type Chat, Dashboard, type DashboardOptions } from "../../src/dashboard/dashboard.ts";
import { memberText, prettyJson } from "../../src/dashboard/json.ts";
import { Projection } from "../../src/dashboard/projection.ts";
import { quantileBetween, SeriesRing } from "../../src/dashboard/series.ts";
import { encodeFrame, encodePhysics, FLAG, FRAME_BYTES, type Physics } from "../../src/frame.ts";
import { HttpMetrics } from "../../src/http/metrics.ts";
import type { JournalEvent } from "../../src/journal/journal.ts";
import type { Snapshot, Watch } from "../../src/pipeline/snapshot.ts";
import type { ShownType } from "../../src/schemas/schemas.ts";
import type { DashboardSnapshot } from "../../src/tui/model.ts";

const seed = Number(process.env.FC_SEED ?? Date.now() % 1e9);
console.log(`dashboard: FC_SEED=${seed}`);
fc.configureGlobal({ seed });

const NOW_US = 1_789_000_000_000_000;

async function until(what: string, holds: () => boolean): Promise<void> {
  const untilMs = performance.now() + 5000;
  while (!holds()) {
    if (performance.now() > untilMs) throw new Error(`${what}: not within 5 s`);
    await Bun.sleep(5);
  }
}

function event(seq: number, over: Partial<JournalEvent> = {}): JournalEvent {
  const message = `mensagem ${seq}`;
  return {
    seq,
    receivedUs: NOW_US + seq,
    id: `id-${seq}`,
    type: "UserMessage",
    message,
    conversationId: "c-1",
    timestampUs: null,
    fields: null,
    body: new TextEncoder().encode(JSON.stringify({ message, big: 1 }).replace("1}", "9007199254740993}")),
    ...over,
  };
}

const PHYSICS: Physics = {
  delta_time: Math.log(2),
  duration_ms: 1,
  velocity: 3,
  interrupt: 0,
  timestamp_us: NOW_US,
  conversation_hash: 1n,
  workflow_node: -1,
  case_status: 0,
  lead_status: 0,
  fill_rate: 0,
  actor_type: 1,
  intent_id: -1,
  sentiment: Math.fround(-0.5),
  confidence: 1,
  spin: [1, 0, 0, 0],
  event_seq: 1,
  semantic_dim: 8,
  flags: FLAG.semantic | FLAG.sentiment,
  model_id: 7,
  type_id: -1,
  journal_id: 1,
  checksum: 0n,
};

function draft(
  of: JournalEvent,
  vector: Float32Array | null,
  intent: string | null = "cancelamento",
  model = 7,
) {
  const flags = vector === null ? FLAG.sentiment : PHYSICS.flags;
  const physics = encodePhysics({ ...PHYSICS, event_seq: of.seq, model_id: model, flags });
  const decided = {
    seq: of.seq,
    decidedUs: NOW_US,
    physics,
    vector,
    eventType: of.type,
    intent,
    provenance: "{}",
  };
  return { event: of, decided, vector } satisfies Parameters<Watch["decided"]>[1][number];
}

function snapshotOf(over: Partial<Snapshot> = {}): Snapshot {
  const ok = { state: "ok", detail: "" } as const;
  return {
    version: "1",
    startedUs: NOW_US,
    nowUs: NOW_US,
    embedderName: "hashing",
    parts: { journal: ok, store: ok, ring: ok, embedder: ok, llm: ok },
    drift: [],
    counters: {},
    gauges: { head_seq: 0, next_frame_id: 1 },
    ...over,
  };
}

/** A dashboard over a gateway that a test plays. */
function play(over: Partial<DashboardOptions> = {}) {
  const metrics = new HttpMetrics([]);
  const world = { now: NOW_US, snapshot: snapshotOf(), metrics };
  const dashboard = new Dashboard({
    version: "1",
    database: null,
    tokenSet: false,
    address: () => "http://127.0.0.1:1",
    snapshot: () => world.snapshot,
    metrics: () => metrics,
    draining: () => false,
    journalEvent: () => null,
    enrichment: async () => null,
    storedEvent: async () => null,
    storedEvents: () => null,
    frames: async () => ({ chunks: [], count: 0 }),
    schemas: null,
    llm: null,
    chat: () => null,
    chatAdvice: () => "start one",
    nowUs: () => world.now,
    ...over,
  });
  return { dashboard, world, metrics, [Symbol.dispose]: () => dashboard[Symbol.dispose]() };
}

const range = (from: number, to: number): JournalEvent[] =>
  Array.from({ length: to - from + 1 }, (_, index) => event(from + index));
const seqs = (snapshot: DashboardSnapshot): number[] => snapshot.events.rows.map(({ seq }) => seq);

describe("tail", () => {
  test("events are shown as they were committed, and get their enrichment with their frame", async () => {
    using stage = play();
    const { dashboard } = stage;
    dashboard.committed(range(1, 3));
    await until("rows", () => dashboard.snapshot().events.rows.length === 3);
    expect(dashboard.snapshot().events.rows[0]).toMatchObject({
      seq: 1,
      message: "mensagem 1",
      frameId: null,
    });
    dashboard.decided(10, [draft(event(1), null), draft(event(2), null, null)]);
    await until("frames", () => dashboard.snapshot().events.rows[1]?.frameId === 11);
    const [first, second, third] = dashboard.snapshot().events.rows;
    expect(first).toMatchObject({ frameId: 10, intent: "cancelamento", sentiment: -0.5 });
    expect(second).toMatchObject({ frameId: 11, intent: null });
    expect(third).toMatchObject({ frameId: null });
    dashboard.answered(2, { type: "Pedido", intent: "compra", sentiment: 0.25 });
    await until("later words", () => dashboard.snapshot().events.rows[1]?.intent !== null);
    expect(dashboard.snapshot().events.rows[1]).toMatchObject({
      type: "Pedido",
      intent: "compra",
      frameId: 11,
    });
  });

  test("a later word stands, though its frame is looked at after it, and reaches rows that are held and the detail", async () => {
    let intent = "first";
    const enrichment = async () => ({
      ...{ frame_id: 10, event_type: "t", intent, sentiment: null, confidence: null, provenance: {} },
    });
    using stage = play({ journalEvent: (seq) => event(seq), enrichment });
    const { dashboard } = stage;
    dashboard.committed(range(1, 1));
    await until("a row", () => dashboard.snapshot().events.rows.length === 1);
    dashboard.act({ kind: "hold" });
    dashboard.act({ kind: "detail", seq: 1 });
    await until("detail", () => dashboard.snapshot().detail?.state === "ready");
    intent = "compra";
    dashboard.decided(10, [draft(event(1), null)]);
    dashboard.answered(1, { type: null, intent: "desconto", sentiment: 0.1 });
    dashboard.answered(1, { type: null, intent: "compra", sentiment: 0.25 });
    await until("the frame", () => dashboard.snapshot().events.rows[0]?.frameId === 10);
    expect(dashboard.snapshot().events.rows[0]).toMatchObject({ intent: "compra", sentiment: 0.25 });
    await until("the detail is read again", () =>
      (dashboard.snapshot().detail?.facts ?? []).some(([, value]) => value === "compra"),
    );
  });

  test("rows are without gaps: where more came than is looked at, they begin again", async () => {
    using stage = play();
    const { dashboard } = stage;
    dashboard.committed(range(1, 10));
    await until("rows", () => dashboard.snapshot().events.rows.length === 10);
    for (let from = 11; from <= 5000; from += 100) dashboard.committed(range(from, from + 99));
    await until("a new beginning", () => seqs(dashboard.snapshot()).at(-1) === 5010);
    const shown = seqs(dashboard.snapshot());
    expect(shown.length).toBe(512);
    expect(shown).toEqual(Array.from({ length: 512 }, (_, index) => 4499 + index));
  });

  test("memory is bounded, whatever comes", async () => {
    using stage = play();
    const { dashboard } = stage;
    let from = 1;
    for (let round = 0; round < 12; round++, from += 500) {
      dashboard.committed(range(from, from + 499));
      await until("looked at", () => seqs(dashboard.snapshot()).at(-1) === from + 499);
    }
    const shown = seqs(dashboard.snapshot());
    expect(shown.length).toBeGreaterThan(4000);
    expect(shown.length).toBeLessThanOrEqual(4608);
    expect(shown.at(-1)).toBe(6000);
    for (let at = 1; at < shown.length; at++) expect(shown[at]).toBe((shown[at - 1] ?? 0) + 1);
  });

  test("held rows stay, frames still come to them, and nothing is lost: what came is there on release", async () => {
    using stage = play();
    const { dashboard } = stage;
    dashboard.committed(range(1, 5));
    await until("rows", () => seqs(dashboard.snapshot()).length === 5);
    dashboard.act({ kind: "hold" });
    dashboard.committed(range(6, 8));
    dashboard.decided(1, [draft(event(1), null)]);
    await until("newer", () => dashboard.snapshot().events.newer === 3);
    expect(seqs(dashboard.snapshot())).toEqual([1, 2, 3, 4, 5]);
    expect(dashboard.snapshot().events.rows[0]?.frameId).toBe(1);
    dashboard.act({ kind: "release" });
    expect(seqs(dashboard.snapshot())).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  });

  test("older events come from the store, page by page down to the oldest, by the filter", async () => {
    const asked: unknown[] = [];
    using stage = play({
      storedEvents: async (query) => {
        asked.push(query);
        const before = query.before ?? 0;
        const count = Math.min(query.limit, before - 1);
        const events = Array.from({ length: count }, (_, index) => ({
          seq: before - 1 - index,
          received_us: 1,
          event_type: "T",
          conversation_id: null,
          message: null,
          payload: { a: 1 },
          enrichment: { frame_id: 9, intent: "i", sentiment: null },
        }));
        return JSON.stringify({ events, next: null });
      },
    });
    const { dashboard } = stage;
    dashboard.committed(range(151, 155));
    await until("rows", () => seqs(dashboard.snapshot()).length === 5);
    dashboard.act({ kind: "older", filter: "" });
    expect(asked).toEqual([]);
    dashboard.act({ kind: "hold" });
    dashboard.act({ kind: "older", filter: " plano " });
    dashboard.act({ kind: "older", filter: " plano " });
    await until("a page", () => dashboard.snapshot().events.history.length === 100);
    expect(asked).toEqual([{ limit: 100, before: 151, q: "plano" }]);
    expect(dashboard.snapshot().events.history[0]).toMatchObject({
      seq: 51,
      message: '{"a":1}',
      isMessage: false,
    });
    dashboard.act({ kind: "older", filter: "" });
    await until("the oldest", () => dashboard.snapshot().events.historyState === "end");
    expect(dashboard.snapshot().events.history.map(({ seq }) => seq)).toEqual(
      Array.from({ length: 150 }, (_, index) => index + 1),
    );
    dashboard.act({ kind: "forget-history" });
    expect(dashboard.snapshot().events.history).toEqual([]);
  });

  test("a page for another filter is thrown away when it comes too late", async () => {
    const pages: ((page: string) => void)[] = [];
    using stage = play({ storedEvents: () => new Promise((resolve) => pages.push(resolve)) });
    const { dashboard } = stage;
    dashboard.committed(range(5, 6));
    await until("rows", () => seqs(dashboard.snapshot()).length === 2);
    dashboard.act({ kind: "hold" });
    dashboard.act({ kind: "older", filter: "x" });
    dashboard.act({ kind: "forget-history" });
    pages[0]?.(
      '{"events":[{"seq":1,"received_us":1,"event_type":null,"conversation_id":null,"message":"late","payload":{},"enrichment":null}]}',
    );
    await Bun.sleep(0);
    expect(dashboard.snapshot().events.history).toEqual([]);
    expect(dashboard.snapshot().events.historyState).toBe("idle");
  });

  test("a store that cannot be read is said, in the tail and in the log", async () => {
    using stage = play({ storedEvents: () => Promise.reject(new Error("disk I/O error")) });
    const { dashboard } = stage;
    dashboard.committed(range(5, 6));
    await until("rows", () => seqs(dashboard.snapshot()).length === 2);
    dashboard.act({ kind: "hold" });
    dashboard.act({ kind: "older", filter: "" });
    await until("failure", () => dashboard.snapshot().events.historyState === "failed");
    expect(dashboard.snapshot().log.at(-1)?.message).toContain("disk I/O error");
    expect(dashboard.snapshot().unseen).toBe(1);
  });
});

describe("detail", () => {
  test("it comes from the journal where that has it, and the payload keeps its 64-bit numbers", async () => {
    const enrichment = {
      frame_id: 4,
      event_type: "UserMessage",
      intent: "compra",
      sentiment: -0.5,
      confidence: 0.9,
      provenance: { type: "given", intent: "examples", sentiment: "llm", embedder: "bge" },
    };
    using stage = play({ journalEvent: (seq) => event(seq), enrichment: async () => enrichment });
    const { dashboard } = stage;
    dashboard.act({ kind: "detail", seq: 3 });
    expect(dashboard.snapshot().detail?.state).toBe("loading");
    await until("detail", () => dashboard.snapshot().detail?.state === "ready");
    const detail = dashboard.snapshot().detail;
    expect(detail?.lines).toEqual(["{", '  "message": "mensagem 3",', '  "big": 9007199254740993', "}"]);
    expect(Object.fromEntries(detail?.facts ?? [])).toMatchObject({
      frame: "4",
      intent: "compra, confidence 0.90  (examples)",
      sentiment: "-0.50  (llm)",
      embedder: "bge",
    });
  });

  test("else from the store; what is nowhere is gone", async () => {
    const json =
      '{"seq":3,"id":"x","received_us":1,"timestamp_us":null,"event_type":null,"conversation_id":null,' +
      '"message":null,"payload":{"a":[1e400,{"payload":2}],"b":"\\"}"},"enrichment":null}';
    using stage = play({ storedEvent: async (seq) => (seq === 3 ? json : null) });
    const { dashboard } = stage;
    dashboard.act({ kind: "detail", seq: 3 });
    await until("detail", () => dashboard.snapshot().detail?.state === "ready");
    expect(dashboard.snapshot().detail?.lines.join("")).toContain('"a": [    1e400');
    dashboard.act({ kind: "detail", seq: 4 });
    await until("gone", () => dashboard.snapshot().detail?.state === "gone");
  });
});

describe("json", () => {
  test("pretty JSON is the same JSON", () => {
    fc.assert(
      fc.property(fc.json(), (json) => {
        const pretty = prettyJson(json, 1e6).join("\n");
        expect(JSON.parse(pretty)).toEqual(JSON.parse(json));
      }),
    );
  });

  test("it is laid out as everybody does", () => {
    const value = { a: [1, { b: "x, {y}: \\" }], empty: {}, none: [] };
    const expected = JSON.stringify(value, null, 2);
    expect(prettyJson(JSON.stringify(value), 100).join("\n")).toBe(expected);
    expect(prettyJson(JSON.stringify(value), 3).length).toBe(3);
  });

  test("a member is found by its name at the top alone", () => {
    fc.assert(
      fc.property(
        fc.dictionary(fc.string(), fc.jsonValue(), { maxKeys: 5 }),
        fc.jsonValue(),
        (object, value) => {
          const { payload: _, ...rest } = object;
          const text = memberText(JSON.stringify({ ...rest, payload: value, z: 1 }), "payload");
          expect(JSON.parse(text ?? "missing")).toEqual(JSON.parse(JSON.stringify(value)));
          expect(memberText(JSON.stringify({ x: { payload: 1 } }), "payload")).toBeNull();
        },
      ),
    );
  });
});

describe("particles", () => {
  /** Vectors in clusters, as texts of some intents are: a mean each and noise around it. */
  function cluster(random: () => number, dim: number, centres: number, count: number): Float32Array[] {
    const gauss = (): number => Math.sqrt(-2 * Math.log(random() || 1e-9)) * Math.cos(2 * Math.PI * random());
    const means = Array.from({ length: centres }, () => Float32Array.from({ length: dim }, gauss));
    return Array.from({ length: count }, (_, index) => {
      const mean = means[index % centres] as Float32Array;
      const vector = mean.map((value, at) => value * (at % 3 === 0 ? 1 : 0.6) + 0.4 * gauss());
      const length = Math.hypot(...vector);
      return vector.map((value) => value / length);
    });
  }

  function randomOf(start: number): () => number {
    let state = start >>> 0;
    return () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return state / 2 ** 32;
    };
  }

  /** Share of the variance in the best plane, by many rounds of the power method with deflation. */
  function best(vectors: readonly Float32Array[]): number {
    const dim = vectors[0]?.length ?? 0;
    const mean = Array.from(
      { length: dim },
      (_, at) => vectors.reduce((sum, v) => sum + (v[at] ?? 0), 0) / vectors.length,
    );
    let rows = vectors.map((vector) => Array.from(vector, (value, at) => value - (mean[at] ?? 0)));
    const total = rows.reduce((sum, row) => sum + row.reduce((part, value) => part + value * value, 0), 0);
    let found = 0;
    for (let component = 0; component < 2; component++) {
      let direction = Array.from({ length: dim }, (_, at) => Math.sin(at + 1));
      for (let round = 0; round < 300; round++) {
        const next = new Array<number>(dim).fill(0);
        for (const row of rows) {
          const place = row.reduce((sum, value, at) => sum + value * (direction[at] ?? 0), 0);
          row.forEach((value, at) => {
            next[at] = (next[at] ?? 0) + place * value;
          });
        }
        const length = Math.hypot(...next);
        direction = next.map((value) => value / length);
      }
      rows = rows.map((row) => {
        const place = row.reduce((sum, value, at) => sum + value * (direction[at] ?? 0), 0);
        found += place * place;
        return row.map((value, at) => value - place * (direction[at] ?? 0));
      });
    }
    return found / total;
  }

  test("the picture shows nearly as much of the variance as a plane can", () => {
    const vectors = cluster(randomOf(seed), 48, 4, 200);
    const projection = new Projection();
    // The traffic was another before.
    projection.update(cluster(randomOf(seed + 9), 48, 4, 200));
    for (let update = 0; update < 20; update++) projection.update(vectors);
    const ideal = best(vectors);
    expect(projection.explained).toBeGreaterThan(0.97 * ideal);
    expect(projection.explained).toBeLessThanOrEqual(ideal + 1e-6);
  });

  test("it does not flip or jump while the vectors change", () => {
    const vectors = cluster(randomOf(seed + 1), 64, 5, 600);
    const projection = new Projection();
    const window = 256;
    for (let update = 0; update < 20; update++) projection.update(vectors.slice(0, window));
    let before = vectors.slice(0, window).map((vector) => projection.place(vector));
    for (let from = 8; from + window <= vectors.length; from += 8) {
      projection.update(vectors.slice(from, from + window));
      // Those that were shown before and still are.
      const stayed = vectors.slice(from, from - 8 + window);
      const now = stayed.map((vector) => projection.place(vector));
      const moves = now.map(([x, y], index) => {
        const [oldX, oldY] = before[index + 8] ?? [0, 0];
        return Math.hypot(x - oldX, y - oldY);
      });
      moves.sort((a, b) => a - b);
      expect(moves[moves.length >> 1]).toBeLessThan(0.1);
      expect(moves.at(-1)).toBeLessThan(0.4);
      before = vectors.slice(from, from + window).map((vector) => projection.place(vector));
    }
  });

  test("nearly all lie within the picture; equal vectors, one vector and none are no failure", () => {
    const vectors = cluster(randomOf(seed + 2), 32, 3, 300);
    const projection = new Projection();
    // The scale follows slowly, so that the picture does not jump.
    for (let update = 0; update < 50; update++) projection.update(vectors);
    const within = vectors
      .map((vector) => projection.place(vector))
      .filter(([x, y]) => Math.max(Math.abs(x), Math.abs(y)) <= 1.001);
    expect(within.length / vectors.length).toBeGreaterThan(0.9);
    const same = new Projection();
    same.update([]);
    same.update([new Float32Array(8).fill(0.5)]);
    same.update(Array.from({ length: 9 }, () => new Float32Array(8).fill(0.5)));
    for (const value of same.place(new Float32Array(8).fill(0.5))) expect(Number.isFinite(value)).toBe(true);
    const line = new Projection();
    line.update(Array.from({ length: 9 }, (_, at) => new Float32Array(8).fill(at)));
    for (const value of line.place(new Float32Array(8).fill(3))) expect(Number.isFinite(value)).toBe(true);
  });

  /** Raw frames as the ring has them, the first with frame id 1. */
  function raw(drafts: readonly ReturnType<typeof draft>[]): { chunks: Uint8Array[]; count: number } {
    const bytes = new Uint8Array(drafts.length * FRAME_BYTES);
    drafts.forEach(({ decided, vector }, index) => {
      const { physics } = decided;
      encodeFrame(bytes, index * FRAME_BYTES, { frameId: index + 1, capacity: 1000, physics, vector });
    });
    return { chunks: [bytes], count: drafts.length };
  }

  test("who begins to look at particles sees the newest frames there are, and then those that come", async () => {
    const vectors = cluster(randomOf(seed), 8, 2, 60);
    const of = (from: number, count: number, model: number) =>
      vectors
        .slice(from, from + count)
        .map((vector, index) => draft(event(from + index + 1), vector, "compra", model));
    const asked: number[] = [];
    using stage = play({
      frames: async (after) => {
        asked.push(after);
        return raw([...of(0, 20, 6), ...of(20, 20, 8)]);
      },
      journalEvent: (seq) => (seq < 30 ? event(seq) : null),
    });
    const { dashboard, world } = stage;
    world.snapshot = snapshotOf({ gauges: { head_seq: 40, next_frame_id: 41 } });
    dashboard.decided(40, of(39, 1, 8));
    dashboard.committed([event(40)]);
    await until("looked at", () => seqs(dashboard.snapshot()).length === 1);
    expect(dashboard.snapshot().particles.points).toEqual([]);
    dashboard.act({ kind: "show", tab: "particles" });
    await until("particles", () => dashboard.snapshot().particles.points.length === 20);
    expect(asked).toEqual([0]);
    // Those of another model have no place in the same picture.
    const { points } = dashboard.snapshot().particles;
    expect(points.map(({ frameId }) => frameId)).toEqual(
      Array.from({ length: 20 }, (_, index) => 21 + index),
    );
    expect(points[0]).toMatchObject({ seq: 21, message: "mensagem 21", velocity: 3, conversation: "c-1" });
    expect(points.at(-2)?.message).toContain("in the store");
    expect(points[0]?.deltaSeconds).toBeCloseTo(2);
    expect(points.some(({ x, y }) => x !== 0 && y !== 0)).toBe(true);
    dashboard.decided(41, of(40, 20, 8));
    await until("more", () => dashboard.snapshot().particles.points.length === 40);
    expect(dashboard.snapshot().particles.points.at(-1)).toMatchObject({ frameId: 60, intent: "compra" });
    dashboard.act({ kind: "show", tab: "events" });
    expect(dashboard.snapshot().particles.points).toEqual([]);
  });

  test("particles are bounded, and none has the vector of another", async () => {
    using stage = play();
    const { dashboard } = stage;
    dashboard.act({ kind: "show", tab: "particles" });
    // Sixty, so that whose memory is used again stood at another turn.
    const vectors = cluster(randomOf(seed + 3), 8, 3, 60);
    for (let round = 0; round < 12; round++) {
      const drafts = vectors.map((vector, index) => draft(event(round * 60 + index + 1), vector));
      dashboard.decided(round * 60 + 1, drafts);
      const newest = round * 60 + 60;
      await until("looked at", () => dashboard.snapshot().particles.points.at(-1)?.frameId === newest);
    }
    const { points } = dashboard.snapshot().particles;
    expect(points.length).toBe(512);
    // The same vectors came over and over: whatever had the same turn lies at the same place.
    const places = new Map<number, [number, number]>();
    for (const { frameId, x, y } of points) {
      const turn = (frameId - 1) % 60;
      expect([x, y]).toEqual(places.get(turn) ?? [x, y]);
      places.set(turn, [x, y]);
    }
    expect(new Set([...places.values()].map(([x]) => x)).size).toBeGreaterThan(30);
  });
});

describe("figures", () => {
  test("a series keeps an hour, and seconds in which nothing was counted are gaps", () => {
    const ring = new SeriesRing();
    for (let second = 1; second <= 4000; second++) ring.push(second);
    expect(ring.newest(3)).toEqual([3998, 3999, 4000]);
    expect(ring.newest(99_999).length).toBe(3600);
    expect(new SeriesRing().newest(2)).toEqual([Number.NaN, Number.NaN]);
  });

  test("a quantile is that of the last second, not of all time", () => {
    const before = Float64Array.of(100, 0, 0, 0);
    const now = Float64Array.of(100, 1, 8, 1);
    const bound = (bucket: number): number => 2 ** bucket;
    expect(quantileBetween(before, now, 0.5, bound)).toBe(4);
    expect(quantileBetween(before, now, 0.99, bound)).toBe(8);
    expect(quantileBetween(now, now, 0.5, bound)).toBeNaN();
  });

  test("rates are counted once a second from the gateway's own counters", async () => {
    using stage = play();
    const { dashboard, world, metrics } = stage;
    dashboard.start();
    metrics.acceptedEvents = 500;
    metrics.ackLatency.observe(3);
    metrics.refusal("unauthorized");
    world.snapshot = snapshotOf({
      nowUs: NOW_US + 2e6,
      counters: { frames_total: 100, embed_batches_total: 10 },
      gauges: {
        ring_capacity_frames: 1000,
        ring_head_frame_id: 251,
        ring_tail_frame_id: 1,
        resident_bytes: 5,
      },
    });
    world.now = NOW_US + 2e6;
    await until(
      "a sample",
      () => !Number.isNaN(dashboard.snapshot().metrics.series.ingest_rate(1)[0] ?? Number.NaN),
    );
    const { series, refusals } = dashboard.snapshot().metrics;
    expect(series.ingest_rate(3)[0]).toBeNaN();
    expect(series.ingest_rate(1)).toEqual([250]);
    expect(series.frames_rate(1)).toEqual([50]);
    expect(series.embed_batch(1)).toEqual([10]);
    expect(series.ring_fill(1)).toEqual([25]);
    expect(series.ack_p50_ms(1)[0]).toBeCloseTo(3.2);
    expect(series.refusals_rate(1)).toEqual([0.5]);
    expect(refusals).toEqual([{ code: "unauthorized", count: 1 }]);
  });
});

describe("chat", () => {
  const state = {
    ...{ session_id: "s", intent: "compra", slots: { dia: "hoje" }, missing: ["canal"], complete: false },
  };
  const text = (piece: string): ChatPart => ({ kind: "text", text: piece });

  test("an answer streams in with what was understood; one question at a time", async () => {
    const gates = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const asked: string[] = [];
    const chat: Chat = async function* (message) {
      asked.push(message);
      await gates[0]?.promise;
      yield { kind: "state", state };
      yield text("Cla");
      yield text("ro");
      await gates[1]?.promise;
      yield text("!");
    };
    using stage = play({ chat: () => chat });
    const { dashboard } = stage;
    const newest = () => dashboard.snapshot().chat.turns.at(-1);
    dashboard.act({ kind: "chat", text: "Oi" });
    dashboard.act({ kind: "chat", text: "E aí?" });
    expect(asked).toEqual(["Oi"]);
    expect(dashboard.snapshot().chat).toMatchObject({ available: true, answering: true });
    expect(newest()).toMatchObject({ from: "brain", text: "", state: "streaming", intent: null });
    gates[0]?.resolve();
    await until("the first words", () => newest()?.text === "Claro");
    expect(newest()).toMatchObject({ state: "streaming", intent: "compra", slots: { dia: "hoje" } });
    gates[1]?.resolve();
    await until("an answer", () => !dashboard.snapshot().chat.answering);
    expect(dashboard.snapshot().chat.turns).toMatchObject([
      { from: "you", text: "Oi" },
      { from: "brain", text: "Claro!", state: "done", intent: "compra", missing: ["canal"] },
    ]);
  });

  test("an answer that fails or is stopped says so and keeps what came", async () => {
    const chat: Chat = async function* (message, signal) {
      yield text("Come");
      if (message === "fail") throw new Error("the endpoint is away");
      await new Promise((_, reject) => signal.addEventListener("abort", () => reject(new Error("aborted"))));
    };
    using stage = play({ chat: () => chat });
    const { dashboard } = stage;
    dashboard.act({ kind: "chat", text: "fail" });
    await until("failed", () => !dashboard.snapshot().chat.answering);
    expect(dashboard.snapshot().chat.turns.at(-1)).toMatchObject({
      text: "Come\n(the endpoint is away)",
      state: "failed",
    });
    dashboard.act({ kind: "chat", text: "stop" });
    await until("begun", () => dashboard.snapshot().chat.turns.at(-1)?.text === "Come");
    dashboard.act({ kind: "chat-stop" });
    await until("stopped", () => !dashboard.snapshot().chat.answering);
    expect(dashboard.snapshot().chat.turns.at(-1)).toMatchObject({
      text: "Come\n(stopped)",
      state: "failed",
    });
  });

  test("a question that finds nobody any more is answered by what to start", async () => {
    using stage = play();
    const { dashboard } = stage;
    dashboard.act({ kind: "chat", text: "Oi" });
    await until("failed", () => !dashboard.snapshot().chat.answering);
    expect(dashboard.snapshot().chat.turns).toMatchObject([
      { from: "you", text: "Oi" },
      { from: "brain", text: "start one", state: "failed" },
    ]);
  });

  test("turns and log lines are bounded", async () => {
    const chat: Chat = async function* () {
      yield text("Claro!");
    };
    using stage = play({ chat: () => chat });
    const { dashboard } = stage;
    for (let turn = 0; turn < 120; turn++) {
      dashboard.act({ kind: "chat", text: `${turn}` });
      await until("answered", () => !dashboard.snapshot().chat.answering);
      for (let line = 0; line < 10; line++) dashboard.note("info", "x".repeat(5000));
    }
    expect(dashboard.snapshot().chat.turns.length).toBeLessThanOrEqual(201);
    expect(dashboard.snapshot().chat.turns.at(-2)?.text).toBe("119");
    expect(dashboard.snapshot().log.length).toBeLessThanOrEqual(500);
    expect(dashboard.snapshot().log.at(-1)?.message.length).toBe(2000);
    expect(dashboard.snapshot().unseen).toBe(0);
  });
});

describe("schemas", () => {
  const shown = (type: string, events: number): ShownType => ({
    type,
    events,
    first_seen_us: NOW_US - 5e6,
    last_seen_us: NOW_US,
    fields: [
      ...[{ path: "customer.name", types: ["string" as const], fill_rate: 0.75, drift: "gone" as const }],
      ...[{ path: "total", types: ["number" as const, "string" as const], fill_rate: 1, drift: null }],
    ].map((field) => ({ ...field, first_seen_us: NOW_US - 5e6, last_seen_us: NOW_US })),
    sample: '{"total":3}',
  });

  test("are those that the traffic taught, with what changed, and with rates once they were counted twice", () => {
    let events = 100;
    const newField = (path: string) => ({
      kind: "new_field" as const,
      type: "Order",
      path,
      at_us: NOW_US - 1,
    });
    const gone = { kind: "gone" as const, type: "Order", path: "customer.name", at_us: NOW_US };
    const drift = [...["a", "b", "c", "d", "e"].map(newField), gone];
    using stage = play({ schemas: { shown: () => [shown("Order", events), shown("Ping", 7)], drift } });
    const { dashboard, world } = stage;
    const [order, ping] = dashboard.snapshot().schemas ?? [];
    expect(order).toEqual({
      ...{ name: "Order", events: 100, perMinute: null, firstSeenUs: NOW_US - 5e6, lastSeenUs: NOW_US },
      fields: [
        { path: "customer.name", types: ["string"], fillRate: 0.75, drift: "stopped coming" },
        { path: "total", types: ["number", "string"], fillRate: 1, drift: null },
      ],
      drift: ["customer.name: stopped coming", ...["e", "d", "c", "b"].map((path) => `${path}: new field`)],
      sample: '{\n  "total": 3\n}',
    });
    expect([ping?.name, ping?.drift]).toEqual(["Ping", []]);
    events = 130;
    // They are made anew once a second, not for every picture.
    world.now = NOW_US + 500_000;
    expect(dashboard.snapshot().schemas?.[0]?.events).toBe(100);
    world.now = NOW_US + 30_000_000;
    expect(dashboard.snapshot().schemas?.map(({ perMinute }) => perMinute)).toEqual([60, 0]);
  });
});

describe("the model", () => {
  test("is shown by itself, and not among the parts a second time", async () => {
    const llm = {
      ...{ state: "failing", detail: "m failed", model: "m", calls: 3, failures: 1, breaker: "open" },
      budget: { used: 3, limit: 9 },
    };
    using stage = play({ llm: () => llm });
    const { dashboard } = stage;
    dashboard.start();
    await until("sampled", () => dashboard.snapshot().parts.store?.state === "ok");
    expect(dashboard.snapshot().llm).toEqual(llm);
    expect(Object.keys(dashboard.snapshot().parts)).toEqual(["journal", "store", "ring", "embedder"]);
  });
});
