/** /health, /ready, /metrics and /api/config. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import type { Refused } from "../../src/http/contract.ts";
import { HttpMetrics } from "../../src/http/metrics.ts";
import { StateReads } from "../../src/http/state.ts";
import type { PartState } from "../../src/pipeline/snapshot.ts";
import { get, start } from "./stubs.ts";

// The machine may be busy.
setDefaultTimeout(60_000);

describe("the state of the gateway", () => {
  test("health, readiness and configuration are shown", async () => {
    await using http = start();
    expect(await (await get(`${http.url}/health`)).text()).toBe('{"status":"ok"}');
    const ready = await get(`${http.url}/ready`);
    expect(ready.status).toBe(200);
    expect(await ready.json()).toMatchObject({ status: "ready", parts: { store: { state: "starting" } } });
    expect(await (await get(`${http.url}/api/config`)).json()).toEqual({ port: 1, token: "set" });
  });

  test("metrics are JSON, or Prometheus text in which every name has HELP and TYPE", async () => {
    await using http = start();
    await http.post('{"message":5}');
    await http.post("{");
    const answer = await get(`${http.url}/metrics`);
    expect(answer.headers.get("content-type")).toBe("text/plain; version=0.0.4; charset=utf-8");
    const text = await answer.text();
    expect(text).toEndWith("\n");
    const typed = new Map(
      [...text.matchAll(/^# TYPE (\S+) (counter|gauge|histogram)$/gm)].map(([, name, type]) => [name, type]),
    );
    for (const [, name] of text.matchAll(/^([a-z_]+)(?:\{[^}]*\})? -?[\d.e+-]+$/gm)) {
      const family = (name as string).replace(/_(bucket|sum|count)$/, "");
      expect(typed.has(name as string) || typed.get(family) === "histogram").toBeTrue();
      expect(text).toContain(`# HELP ${typed.has(name as string) ? name : family} `);
    }
    const rest = text
      .split("\n")
      .filter((line) => line !== "" && !/^(# |[a-z_]+(\{[^}]*\})? -?[\d.e+-]+$)/.test(line));
    expect(rest).toEqual([]);
    expect(text).toContain('gateway_http_requests_total{route="/ingest",status="2xx"} 1\n');
    expect(text).toContain('gateway_http_requests_total{route="/ingest",status="4xx"} 1\n');
    expect(text).toContain('gateway_refusals_total{code="malformed"} 1\n');
    expect(text).toContain("gateway_accepted_events_total 1\n");
    expect(text).toContain("gateway_ignored_fields_total 1\n");
    expect(text).toContain('gateway_ack_seconds_bucket{le="+Inf"} 1\n');
    const json = await (await get(`${http.url}/metrics`, { accept: "application/json" })).json();
    expect(json).toMatchObject({
      counters: { frames_total: 7, accepted_events_total: 1 },
      http: { ack_ms: { count: 1 } },
    });
  });
  test("the Snapshot is in the JSON, with its drift and with the counters of chat", async () => {
    await using http = start();
    const headers = { accept: "application/json" };
    const snapshot = (await (await fetch(`${http.url}/metrics`, { headers })).json()) as {
      drift: unknown;
      counters: Record<string, number>;
    };
    expect(snapshot.drift).toEqual([
      { kind: "new_field", type: "Order", path: "late", at_us: 1_700_000_000_500_000 },
    ]);
    expect(snapshot.counters.chat_turns_total).toBe(0);
  });
});

describe("readiness", () => {
  const ok = { state: "ok", detail: "" } as const;

  function ready(o: { readonly refusal?: Refused; readonly journal?: PartState; readonly sees?: boolean }) {
    const parts = { journal: o.journal ?? ok, store: ok, ring: ok, embedder: ok, llm: ok };
    const state = new StateReads({
      snapshot: () => ({
        ...{ version: "", startedUs: 0, nowUs: 0, embedderName: null, counters: {}, gauges: {}, drift: [] },
        parts,
      }),
      chat: { counters: {}, gauges: {} },
      metrics: new HttpMetrics([]),
      gauges: () => ({
        http_responses_in_flight_bytes: 0,
        http_bodies_in_flight_bytes: 0,
        http_pending_requests: 0,
      }),
      seesDetails: () => o.sees ?? true,
      admission: () => o.refusal ?? null,
      describeConfig: () => ({}),
    });
    const handled = state.ready({ req: new Request("http://localhost/ready") });
    if ("code" in handled) throw new Error("expected a response");
    return { ...handled, body: JSON.parse(handled.body as string) as unknown };
  }

  test("needs an admission and a journal that works", () => {
    expect(ready({})).toMatchObject({ body: { status: "ready" } });
    const refusal = { code: "disk_full", detail: "full", retryAfterSeconds: 9 } as const;
    expect(ready({ refusal })).toMatchObject({
      status: 503,
      headers: { "retry-after": "9" },
      body: { status: "not ready", code: "disk_full", detail: "full" },
    });
    expect(ready({ journal: { state: "down", detail: "broken" } })).toMatchObject({
      status: 503,
      headers: { "retry-after": "2" },
      body: { status: "not ready", code: "journal_failed", detail: "broken" },
    });
  });

  test("is shown to strangers by states and codes alone", () => {
    const journal = { state: "down", detail: "/var/lib/events.journal: broken" } as const;
    const refusal = { code: "disk_full", detail: "/var is full" } as const;
    for (const given of [{ journal }, { refusal, journal }]) {
      const { body } = ready({ ...given, sees: false });
      expect(JSON.stringify(body)).not.toContain("/var");
      expect(body).toMatchObject({ status: "not ready", parts: { journal: { state: "down" } } });
      expect(JSON.stringify(ready(given).body)).toContain("/var");
    }
  });

  test("needs the token to be seen in detail, if there is one", async () => {
    await using open = start();
    await using guarded = start({ token: "sesame" });
    const detailOf = async (url: string, headers: Record<string, string> = {}): Promise<string> => {
      const { parts } = (await (await fetch(`${url}/ready`, { headers })).json()) as {
        parts: { store: { state: string; detail: string } };
      };
      expect(parts.store.state).toBe("starting");
      return parts.store.detail;
    };
    expect(await detailOf(open.url)).toBe("DuckDB is being opened");
    expect(await detailOf(guarded.url)).toBe("");
    expect(await detailOf(guarded.url, { authorization: "Bearer wrong" })).toBe("");
    expect(await detailOf(guarded.url, { authorization: "Bearer sesame" })).toBe("DuckDB is being opened");
  });
});
