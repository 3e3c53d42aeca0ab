import { describe, expect, test } from "bun:test";
import { Figures, type FiguresOptions } from "../../src/dashboard/figures.ts";
import { HttpMetrics } from "../../src/http/metrics.ts";
import type { LlmView, SeriesName } from "../../src/tui/model.ts";
import { FakeClock } from "../fake-clock.ts";
import { NOW_US, snapshotOf } from "./fixtures.ts";

function open(over: Partial<FiguresOptions> = {}) {
  const clock = new FakeClock(NOW_US);
  const metrics = new HttpMetrics([]);
  const world = { snapshot: snapshotOf(), samples: 0, stoppedMs: 0 };
  const figures = new Figures({
    clock: {
      nowUs: () => clock.nowUs(),
      monotonicMs: () => clock.monotonicMs() + world.stoppedMs,
      sleep: (ms) => clock.sleep(ms),
      nextTurn: () => clock.nextTurn(),
      after: (ms, callback) => clock.after(ms, callback),
      every: (ms, callback) => clock.every(ms, callback),
    },
    snapshot: () => ({ ...world.snapshot, nowUs: clock.nowUs() }),
    metrics: () => metrics,
    llm: null,
    sampled: () => {
      world.samples += 1;
    },
    ...over,
  });
  const last = (name: SeriesName, seconds = 1): readonly number[] => figures.series[name](seconds);
  return { clock, metrics, world, figures, last };
}

const NAN = Number.NaN;

describe("figures", () => {
  test("before the first sample everything is starting and every figure unknown", () => {
    const { figures, world } = open();
    expect(figures.sample.parts.store.state).toBe("starting");
    for (const series of Object.values(figures.series)) expect(series(2)).toEqual([NAN, NAN]);
    expect(world.samples).toBe(0);
  });

  test("rates are counted once a second from the gateway's own counters", async () => {
    const { clock, metrics, world, figures, last } = open();
    figures.start();
    expect([world.samples, last("ingest_rate")]).toEqual([1, [NAN]]);
    metrics.acceptedEvents = 500;
    metrics.ackLatency.observe(3);
    metrics.refusal("unauthorized");
    world.snapshot = snapshotOf({
      counters: { frames_total: 100, embed_batches_total: 10 },
      gauges: {
        ring_capacity_frames: 1000,
        ring_head_frame_id: 251,
        ring_tail_frame_id: 1,
        resident_bytes: 5,
        unframed_events: 6,
        store_lag_events: 7,
        embed_batch_ms: 8,
      },
    });
    await clock.advance(999);
    expect(world.samples).toBe(1);
    await clock.advance(1);
    expect(world.samples).toBe(2);
    expect(last("ingest_rate", 2)).toEqual([NAN, 500]);
    expect(last("frames_rate")).toEqual([100]);
    expect(last("refusals_rate")).toEqual([1]);
    expect(last("embed_batch")).toEqual([10]);
    expect(last("embed_ms")).toEqual([8]);
    expect(last("ring_fill")).toEqual([25]);
    expect(last("resident_bytes")).toEqual([5]);
    expect(last("unframed_events")).toEqual([6]);
    expect(last("store_lag_events")).toEqual([7]);
    expect(last("ack_p50_ms")[0]).toBeCloseTo(3.2);
    expect(last("ack_p99_ms")[0]).toBeCloseTo(3.2);
    expect(last("llm_rate")).toEqual([NAN]);
    await clock.advance(1000);
    expect(last("ingest_rate")).toEqual([0]);
    expect([last("embed_batch"), last("embed_ms"), last("ack_p50_ms")]).toEqual([[NAN], [NAN], [NAN]]);
  });

  test("calls of the language model are a rate if there is a brain", async () => {
    let calls = 3;
    const llm = (): LlmView => ({
      ...{ state: "ok", detail: "", model: "m", calls, failures: 0, breaker: "closed" },
      budget: { used: 0, limit: null },
    });
    const { clock, figures, last } = open({ llm });
    figures.start();
    calls = 5;
    await clock.advance(1000);
    expect(last("llm_rate")).toEqual([2]);
  });

  test("seconds in which nothing was counted are gaps, and rates are spread over them", async () => {
    const { clock, metrics, world, figures, last } = open();
    figures.start();
    metrics.acceptedEvents = 100;
    await clock.advance(1000);
    metrics.acceptedEvents = 500;
    // The process is stopped for three seconds.
    world.stoppedMs = 3000;
    await clock.advance(1000);
    expect(last("ingest_rate", 5)).toEqual([100, NAN, NAN, NAN, 100]);
  });

  test("the sample says when it was taken", async () => {
    const { clock, figures } = open();
    figures.start();
    await clock.advance(700);
    expect(figures.ageMs).toBe(700);
    await clock.advance(300);
    expect(figures.ageMs).toBe(0);
  });

  test("a wall clock that is set in either direction changes no rate and no age", async () => {
    const { clock, metrics, figures, last } = open();
    figures.start();
    for (const stepUs of [8 * 3600e6, -9 * 3600e6]) {
      metrics.acceptedEvents += 100;
      clock.step(stepUs);
      await clock.advance(1000);
      expect(last("ingest_rate")).toEqual([100]);
      expect(figures.ageMs).toBe(0);
    }
  });

  test("stopped figures count no more", async () => {
    const { clock, world, figures } = open();
    figures.start();
    figures[Symbol.dispose]();
    await clock.advance(5000);
    expect([world.samples, clock.pending]).toEqual([1, 0]);
  });
});
