import { describe, expect, test } from "bun:test";
import type { Chat } from "../../src/dashboard/chat.ts";
import { Dashboard, type DashboardOptions } from "../../src/dashboard/dashboard.ts";
import { HttpMetrics } from "../../src/http/metrics.ts";
import type { DashboardSnapshot } from "../../src/tui/model.ts";
import { FakeClock } from "../fake-clock.ts";
import { randomOf } from "../random.ts";
import {
  clusters,
  draft,
  event,
  events,
  framesOf,
  NOW_US,
  pageBelow,
  settle,
  snapshotOf,
} from "./fixtures.ts";

/** A dashboard over a gateway that a test plays. */
function play(over: Partial<DashboardOptions> = {}) {
  const clock = new FakeClock(NOW_US);
  const world = { snapshot: snapshotOf(), changes: 0 };
  const metrics = new HttpMetrics([]);
  const dashboard = new Dashboard({
    version: "1",
    database: null,
    tokenSet: false,
    address: () => "http://127.0.0.1:1",
    snapshot: () => ({ ...world.snapshot, nowUs: clock.nowUs() }),
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
    clock,
    ...over,
  });
  dashboard.onChange = () => {
    world.changes += 1;
  };
  return { dashboard, clock, world, metrics, shown: () => dashboard.snapshot() };
}

const LOOK_MS = 100;
const seqs = (snapshot: DashboardSnapshot): number[] => snapshot.events.rows.map(({ seq }) => seq);

describe("what the pipeline reports", () => {
  test("events are shown as they were committed, and get their enrichment with their frame", async () => {
    const { dashboard, clock, world, shown } = play();
    dashboard.committed(events(1, 3));
    expect([shown().events.rows.length, world.changes]).toEqual([0, 0]);
    await clock.advance(LOOK_MS);
    expect(world.changes).toBe(1);
    expect(shown().events.rows[0]).toMatchObject({ seq: 1, message: "mensagem 1", frameId: null });
    dashboard.decided(10, [draft(event(1)), draft(event(2), { intent: null })]);
    await clock.advance(LOOK_MS);
    const [first, second, third] = shown().events.rows;
    expect(first).toMatchObject({ frameId: 10, intent: "cancelamento", sentiment: -0.5 });
    expect(second).toMatchObject({ frameId: 11, intent: null });
    expect(third).toMatchObject({ frameId: null });
    dashboard.updated(2, { type: "Pedido", intent: "compra", sentiment: 0.25 });
    await clock.advance(LOOK_MS);
    expect(shown().events.rows[1]).toMatchObject({ type: "Pedido", intent: "compra", frameId: 11 });
  });

  test("an update stands over its event's frame, in rows, held rows, older rows, particles and the detail", async () => {
    let intent = "first";
    const { dashboard, clock, shown } = play({
      journalEvent: (seq) => event(seq),
      enrichment: async () => ({
        ...{ frame_id: 10, event_type: "t", intent, sentiment: null, confidence: null, provenance: {} },
      }),
      storedEvents: async ({ before = 0, limit }) => pageBelow(before, limit),
    });
    const [vector = null] = clusters(randomOf(1), { dim: 8, centres: 1, count: 1 });
    dashboard.committed(events(5, 5));
    await clock.advance(LOOK_MS);
    dashboard.act({ kind: "hold" });
    dashboard.act({ kind: "older", filter: "" });
    dashboard.act({ kind: "detail", seq: 5 });
    dashboard.act({ kind: "show", tab: "particles" });
    await settle();
    expect(shown().detail?.state).toBe("ready");
    intent = "compra";
    dashboard.updated(5, { type: null, intent: "desconto", sentiment: 0.1 });
    dashboard.updated(5, { type: null, intent: "compra", sentiment: 0.25 });
    dashboard.updated(4, { type: null, intent: "elogio", sentiment: 1 });
    dashboard.decided(10, [draft(event(5), { vector })]);
    await clock.advance(LOOK_MS);
    await settle();
    const update = { intent: "compra", sentiment: 0.25 };
    expect(shown().events.rows).toMatchObject([{ seq: 5, frameId: 10, ...update }]);
    expect(shown().events.history.at(-1)).toMatchObject({ seq: 4, frameId: 9, intent: "elogio" });
    expect(shown().particles.points).toMatchObject([{ seq: 5, ...update }]);
    expect(shown().detail?.facts).toContainEqual(["intent", "compra"]);
    dashboard.act({ kind: "release" });
    expect(shown().events.rows).toMatchObject([{ seq: 5, frameId: 10, ...update }]);
  });

  test("held rows stay and what comes meanwhile is counted; on release it is there", async () => {
    const { dashboard, clock, shown } = play();
    dashboard.committed(events(1, 5));
    await clock.advance(LOOK_MS);
    dashboard.act({ kind: "hold" });
    dashboard.committed(events(6, 8));
    await clock.advance(LOOK_MS);
    expect(seqs(shown())).toEqual([1, 2, 3, 4, 5]);
    expect(shown().events).toMatchObject({ newer: 3, total: 8, lastUs: event(8).receivedUs });
    dashboard.act({ kind: "release" });
    expect(seqs(shown())).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect(shown().events.newer).toBe(0);
  });

  test("more than a look can show begins the tail again with the newest", async () => {
    const { dashboard, clock, shown } = play();
    dashboard.committed(events(1, 10));
    await clock.advance(LOOK_MS);
    dashboard.committed(events(11, 5010));
    await clock.advance(LOOK_MS);
    expect(seqs(shown())).toEqual(Array.from({ length: 512 }, (_, index) => 4499 + index));
  });
});

describe("what the user asks for", () => {
  test("older events are loaded while the tail is held, and forgotten with the filter or on release", async () => {
    const filters: (string | undefined)[] = [];
    const { dashboard, clock, shown } = play({
      storedEvents: async ({ before = 0, limit, q }) => {
        filters.push(q);
        return pageBelow(before, limit);
      },
    });
    dashboard.committed(events(151, 155));
    await clock.advance(LOOK_MS);
    for (const forget of ["forget-history", "release"] as const) {
      dashboard.act({ kind: "older", filter: "" });
      expect(shown().events.historyState).toBe("idle");
      dashboard.act({ kind: "hold" });
      dashboard.act({ kind: "older", filter: " plano " });
      expect(shown().events.historyState).toBe("loading");
      await settle();
      expect(shown().events.history.length).toBe(100);
      dashboard.act({ kind: forget });
      expect(shown().events).toMatchObject({ history: [], historyState: "idle" });
      dashboard.act({ kind: "release" });
    }
    expect(filters).toEqual(["plano", "plano"]);
  });

  test("a failure to read is a warning in the log until the drawer is opened", async () => {
    const { dashboard, clock, shown } = play({
      storedEvents: () => Promise.reject(new Error("disk I/O error")),
    });
    dashboard.committed(events(5, 6));
    await clock.advance(LOOK_MS);
    dashboard.act({ kind: "hold" });
    dashboard.act({ kind: "older", filter: "" });
    await settle();
    expect(shown().log.at(-1)).toMatchObject({ level: "warn", timeUs: clock.nowUs() });
    expect(shown().log.at(-1)?.message).toContain("disk I/O error");
    expect(shown().unseen).toBe(1);
    dashboard.act({ kind: "log-seen" });
    expect(shown().unseen).toBe(0);
  });

  test("particles are shown on their tab alone", async () => {
    const vectors = clusters(randomOf(1), { dim: 8, centres: 2, count: 20 });
    const drafts = vectors.map((vector, index) => draft(event(index + 1), { vector }));
    const { dashboard, shown } = play({ frames: async () => framesOf(drafts) });
    dashboard.act({ kind: "show", tab: "particles" });
    await settle();
    expect(shown().particles.points.length).toBe(20);
    dashboard.act({ kind: "show", tab: "events" });
    expect(shown().particles.points).toEqual([]);
  });

  test("a question to the chat is asked, and its reply stops on demand", async () => {
    const chat: Chat = async function* (message, signal) {
      yield { kind: "text", text: `${message}?` };
      await new Promise((_, reject) => signal.addEventListener("abort", reject));
    };
    const { dashboard, shown } = play({ chat: () => chat });
    dashboard.act({ kind: "chat", text: "Oi" });
    await settle();
    expect(shown().chat.turns.at(-1)).toMatchObject({ text: "Oi?", state: "streaming" });
    dashboard.act({ kind: "chat-stop" });
    await settle();
    expect(shown().chat).toMatchObject({ answering: false, available: true });
    expect(shown().chat.turns.at(-1)?.text).toBe("Oi?\n(stopped)");
  });
});

describe("the gateway's state", () => {
  test("is sampled once a second from the start on; its age shows", async () => {
    const { dashboard, clock, world, metrics, shown } = play();
    expect(shown().parts.store?.state).toBe("starting");
    dashboard.start();
    expect(shown().parts.store?.state).toBe("ok");
    metrics.refusal("unauthorized");
    world.snapshot = snapshotOf({ counters: { frames_total: 7 }, gauges: { head_seq: 9 } });
    await clock.advance(900);
    expect([shown().nowUs - shown().sampledUs, shown().events.total]).toEqual([900_000, 0]);
    await clock.advance(100);
    expect(shown().sampledUs).toBe(shown().nowUs);
    expect(shown().events).toMatchObject({ total: 9, newer: 0 });
    expect(shown().metrics.counters.frames_total).toBe(7);
    expect(shown().metrics.series.frames_rate(2)).toEqual([Number.NaN, 7]);
    expect(shown().metrics.refusals).toEqual([{ code: "unauthorized", count: 1 }]);
  });

  test("the model is shown by itself, and not among the parts a second time", () => {
    const llm = {
      ...{ state: "failing", detail: "m failed", model: "m", calls: 3, failures: 1, breaker: "open" },
      budget: { used: 3, limit: 9 },
    };
    const { dashboard, shown } = play({ llm: () => llm });
    dashboard.start();
    expect(shown().llm).toEqual(llm);
    expect(Object.keys(shown().parts)).toEqual(["journal", "store", "ring", "embedder"]);
  });

  test("a restart begins with the newest stored events, and new ones follow them", async () => {
    const { dashboard, clock, world, shown } = play({
      storedEvents: async ({ limit }) => pageBelow(43, limit),
    });
    world.snapshot = snapshotOf({ gauges: { head_seq: 42 } });
    dashboard.start();
    await settle();
    expect(seqs(shown())).toEqual(Array.from({ length: 42 }, (_, index) => index + 1));
    dashboard.committed(events(43, 44));
    await clock.advance(LOOK_MS);
    expect(seqs(shown()).at(-1)).toBe(44);
    expect(seqs(shown()).length).toBe(44);
  });

  test("schemas are those of the source; a gateway that learns none says so", () => {
    expect(play().shown().schemas).toBeNull();
    expect(play({ schemas: { shown: () => [], drift: [] } }).shown().schemas).toEqual([]);
  });
});

test("a stopped dashboard leaves no timer and reports no change", async () => {
  const chat: Chat = async function* (_, signal) {
    await new Promise((_, reject) => signal.addEventListener("abort", reject));
  };
  const { dashboard, clock, world } = play({ chat: () => chat });
  dashboard.start();
  dashboard.committed(events(1, 1));
  dashboard.act({ kind: "chat", text: "Oi" });
  const { changes } = world;
  dashboard[Symbol.dispose]();
  expect(clock.pending).toBe(0);
  await settle();
  await clock.advance(10_000);
  expect(world.changes).toBe(changes);
  expect(dashboard.snapshot().chat.answering).toBe(false);
});
