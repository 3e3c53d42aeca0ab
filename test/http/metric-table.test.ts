/** Compares the table of metrics with a running gateway, and with what /metrics showed before the table existed. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import packageJson from "../../package.json";
import { METRICS, type Metric, metricOf } from "../../src/http/metric-table.ts";

// The machine may be busy.
setDefaultTimeout(120_000);

const ROOT = join(import.meta.dir, "../..");
const table: Readonly<Record<string, Metric>> = METRICS;

interface MetricsJson {
  readonly parts: Readonly<Record<string, { readonly state: string }>>;
  readonly counters: Readonly<Record<string, number>>;
  readonly gauges: Readonly<Record<string, number>>;
}

/** Runs a gateway from the sources in which every part counts: --reembed, a budget, an endpoint that does not answer. */
async function recordMetrics(folder: string): Promise<{ json: MetricsJson; text: string }> {
  const log = join(folder, "log");
  await Bun.write(log, "");
  const options = {
    ...{ "--port": "0", "--ring-path": join(folder, "ring"), "--ring-capacity": "100" },
    ...{ "--llm-base-url": "http://127.0.0.1:9/v1", "--llm-budget": "5", "--models-dir": folder },
  };
  const child = Bun.spawn(
    [process.execPath, join(ROOT, "gateway.ts"), "--no-tui", "--reembed", ...Object.entries(options).flat()],
    { cwd: folder, env: { TMPDIR: folder }, stdout: "ignore", stderr: Bun.file(log) },
  );
  try {
    const urlOf = (): string | undefined =>
      /listening on (http:[\w./:]+)/.exec(readFileSync(log, "utf8"))?.[1];
    while (urlOf() === undefined && child.exitCode === null) await Bun.sleep(20);
    const url = urlOf();
    if (url === undefined) throw new Error(`the gateway ended: ${readFileSync(log, "utf8")}`);
    const post = (body: string) =>
      fetch(`${url}/ingest`, { method: "POST", body, headers: { "content-type": "application/json" } });
    expect([(await post("{}")).status, (await post("{")).status]).toEqual([200, 400]);
    for (;;) {
      const response = await fetch(`${url}/metrics`, { headers: { accept: "application/json" } });
      const json = (await response.json()) as MetricsJson;
      const { store, ring, embedder, llm } = json.parts;
      const settled = [store, ring, embedder].every((part) => part?.state === "ok") && llm?.state === "down";
      if (settled && json.gauges.reembed_running !== undefined)
        return { json, text: await (await fetch(`${url}/metrics`)).text() };
      await Bun.sleep(50);
    }
  } finally {
    child.kill("SIGTERM");
    await child.exited;
  }
}

describe("the table of metrics", () => {
  const folder = mkdtempSync(join(tmpdir(), "metric-table-"));
  let recorded: Awaited<ReturnType<typeof recordMetrics>>;
  beforeAll(async () => {
    recorded = await recordMetrics(folder);
  }, 120_000);
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test("has every counter and gauge of a running gateway, with its type", () => {
    const { counters, gauges } = recorded.json;
    const typeOf = (names: object) =>
      Object.keys(names).map((name) => `${name} ${metricOf(name)?.type ?? "is not in METRICS"}`);
    expect(typeOf(counters)).toEqual(Object.keys(counters).map((name) => `${name} counter`));
    expect(typeOf(gauges)).toEqual(Object.keys(gauges).map((name) => `${name} gauge`));
  });

  test("has no metric that a running gateway does not show", () => {
    const shown = new Set([...recorded.text.matchAll(/^# TYPE gateway_(\w+) /gm)].map(([, name]) => name));
    const missing = Object.keys(table).filter((name) => !shown.has(name));
    // A reason appears with its first failure, and this gateway never called a model.
    expect(missing).toEqual(["llm_failed_REASON_total"]);
  });

  test("has the labels that the samples have", () => {
    const labels = new Map<string, readonly string[]>();
    for (const [, name = "", pairs = ""] of recorded.text.matchAll(/^gateway_(\w+?)\{(.*)\} \S+$/gm))
      if (!name.endsWith("_bucket"))
        labels.set(
          name,
          [...pairs.matchAll(/(\w+)="/g)].map(([, label]) => label ?? ""),
        );
    const declared = Object.entries(table).flatMap(([name, row]) =>
      row.labels === undefined || row.labels.length === 0 ? [] : [[name, [...row.labels]] as const],
    );
    expect(Object.fromEntries(labels)).toEqual(Object.fromEntries(declared));
  });

  test("keeps the names, types and labels that /metrics had before the table existed", () => {
    const before = readFileSync(join(ROOT, "test/fixtures/metric-names.txt"), "utf8").trimEnd().split("\n");
    const now = recorded.text
      .replace(`version="${packageJson.version}"`, 'version="VERSION"')
      .split("\n")
      .map((line) => (line.startsWith("#") ? line : line.replace(/ \S+$/, "")));
    // Their order carries no meaning, and new metrics may be added.
    const shown = now.filter((line) => before.includes(line));
    expect(shown.sort()).toEqual([...before].sort());
  });
});

test("every HELP is one sentence on one line, and says more than the name", () => {
  for (const [name, { help, unit }] of Object.entries(table)) {
    expect(`${name}: ${help}`).toMatch(/^\w+: [A-Z0-9][^\n\\]*\.$/);
    expect(help.toLowerCase()).not.toBe(`${name.replace(/_total$/, "").replaceAll("_", " ")}.`);
    if (/_(bytes|ms|seconds)(_total)?$/.test(name)) expect(name).toContain(unit);
  }
});

test("the row of a family applies to each of its names and to no other", () => {
  expect(metricOf("llm_failed_rate_limited_total")).toBe(METRICS.llm_failed_REASON_total);
  for (const name of ["llm_failed_total", "llm_failed_X_total", "toString", "constructor", "nothing"])
    expect([name, metricOf(name)]).toEqual([name, null]);
});
