/**
 * Measures ingest as its clients see it while everything runs (hashing embedder, frames, ring, store). With 64 connections the
 * baseline is a bare Bun.serve that parses the same JSON and echoes it, with one connection a plain server with SQLite, under
 * the same load on the same machine in the same run.
 *
 * The busy echo has a low-priority Worker beside it, which uses as much processor time as the gateway's own low-priority
 * threads did a moment before. After each load the journal must hold one event for each response of 200.
 */
import { rmSync } from "node:fs";
import { join } from "node:path";
import {
  backgroundSeconds,
  makeFolder,
  metric,
  processorSeconds,
  type Running,
  startGateway,
} from "./support/gateway-process.ts";
import { type LoadResult, load, median, print, webhookBody } from "./support/load.ts";

const SECONDS = Number(process.env.BENCH_SECONDS ?? 4);
const RUNS = Number(process.env.BENCH_RUNS ?? 3);
const WARM_UP_SECONDS = 1;
const CONNECTIONS = 64;
const NDJSON_PART_EVENTS = 100_000;
const bodies = Array.from({ length: 2000 }, (_, n) => webhookBody(n));

interface GatewayResult extends LoadResult {
  /** Processor time of the low-priority threads, as a share of one core. */
  readonly backgroundShare: number;
  /** Processor time of the whole process during the load, for each request. Frames and rows that follow a burst are not in it. */
  readonly microsecondsEach: number;
  /** Frames made during the load, as a share of its events. The other frames follow after the burst. */
  readonly framedShare: number;
}

async function echo(busyShare: number | null): Promise<LoadResult> {
  const busy = busyShare === null ? [] : ["--busy", String(busyShare)];
  const command = [process.execPath, join(import.meta.dir, "support/echo-server.ts"), ...busy];
  const server = Bun.spawn(command, { stdout: "pipe" });
  try {
    const { value } = await server.stdout.getReader().read();
    const port = Number(new TextDecoder().decode(value));
    await load({ port, connections: CONNECTIONS, seconds: WARM_UP_SECONDS, bodies });
    return await load({ port, connections: CONNECTIONS, seconds: SECONDS, bodies });
  } finally {
    server.kill("SIGKILL");
    await server.exited;
  }
}

/** A plain server with SQLite under the same load. */
async function sqlite(connections: number): Promise<LoadResult> {
  const folder = makeFolder();
  const command = [
    process.execPath,
    join(import.meta.dir, "support/sqlite-server.ts"),
    join(folder, "peer.db"),
  ];
  const server = Bun.spawn(command, { stdout: "pipe" });
  try {
    const { value } = await server.stdout.getReader().read();
    const port = Number(new TextDecoder().decode(value));
    await load({ port, connections, seconds: WARM_UP_SECONDS, bodies });
    return await load({ port, connections, seconds: SECONDS, bodies });
  } finally {
    server.kill("SIGKILL");
    await server.exited;
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Waits until every event has its frame and DuckDB has both. */
async function settled(gateway: Running): Promise<void> {
  while ((await metric(gateway, "unframed_events")) + (await metric(gateway, "store_lag_frames")) > 0)
    await Bun.sleep(50);
}

async function singles(connections: number): Promise<GatewayResult> {
  const folder = makeFolder();
  try {
    await using gateway = await startGateway(folder);
    const { port, pid } = gateway;
    const warm = await load({ port, connections, seconds: WARM_UP_SECONDS, bodies });
    await settled(gateway);
    const processorBefore = processorSeconds(pid);
    const framesBefore = await metric(gateway, "frames_total");
    const busyBefore = backgroundSeconds(pid);
    const result = await load({ port, connections, seconds: SECONDS, bodies });
    const processorAfter = processorSeconds(pid);
    const backgroundShare = (backgroundSeconds(pid) - busyBefore) / SECONDS;
    const framedShare = ((await metric(gateway, "frames_total")) - framesBefore) / result.answered;
    const stored = await metric(gateway, "head_seq");
    if (stored !== warm.answered + result.answered) {
      throw new Error(
        `ingest: ${warm.answered + result.answered} events were acknowledged, ${stored} are in the journal`,
      );
    }
    const microsecondsEach = ((processorAfter - processorBefore) * 1e6) / result.answered;
    return { ...result, backgroundShare, framedShare, microsecondsEach };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Small events in bodies of several MB, one body after the other. @returns acknowledged events per second. */
async function ndjson(count: number, keyed: boolean): Promise<number> {
  const folder = makeFolder();
  try {
    await using gateway = await startGateway(folder);
    const parts: string[] = [];
    for (let from = 0; from < count; from += NDJSON_PART_EVENTS) {
      const lines = Array.from({ length: NDJSON_PART_EVENTS }, (_, n) => {
        const id = keyed ? `"id":"${crypto.randomUUID()}",` : "";
        return `{${id}"type":"T","conversation_id":"c${n % 1000}","message":"evento pequeno número ${from + n}"}`;
      });
      parts.push(lines.join("\n"));
    }
    const startedMs = performance.now();
    for (const body of parts) {
      const response = await fetch(`http://127.0.0.1:${gateway.port}/ingest`, {
        method: "POST",
        body,
        headers: { "content-type": "application/x-ndjson" },
      });
      const counts = (await response.json()) as { accepted: number };
      if (counts.accepted !== NDJSON_PART_EVENTS) throw new Error(`ndjson: ${JSON.stringify(counts)}`);
    }
    const seconds = (performance.now() - startedMs) / 1000;
    const stored = await metric(gateway, "head_seq");
    if (stored !== count)
      throw new Error(`ndjson: ${count} events were acknowledged, ${stored} are in the journal`);
    return count / seconds;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const alone: LoadResult[] = [];
const busy: LoadResult[] = [];
const ours: GatewayResult[] = [];
const alone1: GatewayResult[] = [];
const peer1: LoadResult[] = [];
const plain: number[] = [];
const keyed: number[] = [];
for (let run = 0; run < RUNS; run++) {
  alone1.push(await singles(1));
  peer1.push(await sqlite(1));
  const result = await singles(CONNECTIONS);
  ours.push(result);
  busy.push(await echo(result.backgroundShare));
  alone.push(await echo(null));
  plain.push(await ndjson(500_000, false));
  keyed.push(await ndjson(300_000, true));
}
const middle = <T>(results: readonly T[], of: (result: T) => number): number => median(results.map(of));
const rate = middle(ours, (r) => r.requestsPerSecond);
const busyRate = middle(busy, (r) => r.requestsPerSecond);
const aloneRate = middle(alone, (r) => r.requestsPerSecond);
const rate1 = middle(alone1, (r) => r.requestsPerSecond);
const peerRate1 = middle(peer1, (r) => r.requestsPerSecond);
print({ name: "ingest/single-1", value: rate1, unit: "requests/s", baseline: peerRate1 });
const each = (results: readonly GatewayResult[]): number => middle(results, (r) => r.microsecondsEach);
print({ name: "ingest/cpu-1", value: each(alone1), unit: "µs/request", baseline: null });
print({ name: "ingest/cpu-64", value: each(ours), unit: "µs/request", baseline: null });
print({ name: "ingest/single-64", value: rate, unit: "requests/s", baseline: busyRate });
print({ name: "ingest/single-vs-bare-echo", value: rate, unit: "requests/s", baseline: aloneRate });
const p50 = middle(ours, (r) => r.p50Ms);
print({ name: "ingest/single-64-p50", value: p50, unit: "ms", baseline: middle(busy, (r) => r.p50Ms) });
const p99 = middle(ours, (r) => r.p99Ms);
print({ name: "ingest/single-64-p99", value: p99, unit: "ms", baseline: middle(busy, (r) => r.p99Ms) });
const background = middle(ours, (r) => r.backgroundShare);
print({ name: "ingest/single-background", value: background, unit: "cores", baseline: null });
const framed = middle(ours, (r) => r.framedShare);
print({ name: "ingest/single-framed-meanwhile", value: framed, unit: "of 1", baseline: null });
print({ name: "ingest/ndjson", value: median(plain), unit: "events/s", baseline: null });
print({ name: "ingest/ndjson-keyed", value: median(keyed), unit: "events/s", baseline: median(plain) });
