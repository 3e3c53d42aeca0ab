/**
 * Ingest as its clients feel it, everything running (hashing embedder, frames, ring, store), against a bare
 * Bun.serve that parses the same JSON and echoes, under the same load on the same machine.
 */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { makeFolder, startGateway } from "./support/gateway-process.ts";
import { type LoadResult, load, median, print, webhookBody } from "./support/load.ts";

const SECONDS = Number(process.env.BENCH_SECONDS ?? 4);
const RUNS = Number(process.env.BENCH_RUNS ?? 3);
const CONNECTIONS = 64;
const bodies = Array.from({ length: 2000 }, (_, n) => webhookBody(n));

async function echo(busy: boolean): Promise<LoadResult> {
  const server = Bun.spawn(
    [process.execPath, join(import.meta.dir, "support/echo-server.ts"), ...(busy ? ["--busy"] : [])],
    {
      stdout: "pipe",
    },
  );
  const reader = server.stdout.getReader();
  const { value } = await reader.read();
  const port = Number(new TextDecoder().decode(value));
  await load({ port, connections: CONNECTIONS, seconds: 0.5, bodies });
  const result = await load({ port, connections: CONNECTIONS, seconds: SECONDS, bodies });
  server.kill("SIGKILL");
  await server.exited;
  return result;
}

async function durable(): Promise<LoadResult> {
  const folder = makeFolder();
  try {
    await using gateway = await startGateway(folder);
    await load({ port: gateway.port, connections: CONNECTIONS, seconds: 0.5, bodies });
    return await load({ port: gateway.port, connections: CONNECTIONS, seconds: SECONDS, bodies });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const alone: LoadResult[] = [];
const beside: LoadResult[] = [];
const ours: LoadResult[] = [];
for (let run = 0; run < RUNS; run++) {
  ours.push(await durable());
  beside.push(await echo(true));
  alone.push(await echo(false));
}
const rate = (results: readonly LoadResult[]): number =>
  median(results.map((result) => result.requestsPerSecond));
const failures = ours.reduce((sum, result) => sum + result.failures, 0);
if (failures > 0) throw new Error(`ingest: ${failures} requests were not answered with 200`);
print({ name: "ingest/single-vs-busy-echo", value: rate(ours), unit: "requests/s", baseline: rate(beside) });
print({ name: "ingest/single-vs-bare-echo", value: rate(ours), unit: "requests/s", baseline: rate(alone) });
print({
  name: "ingest/single-p50",
  value: median(ours.map((r) => r.p50Ms)),
  unit: "ms",
  baseline: median(beside.map((r) => r.p50Ms)),
});
print({
  name: "ingest/single-p99",
  value: median(ours.map((r) => r.p99Ms)),
  unit: "ms",
  baseline: median(beside.map((r) => r.p99Ms)),
});

/** Small events in bodies of 60 MB at most, until all are acknowledged. */
async function ndjson(count: number, keyed: boolean): Promise<number> {
  const folder = makeFolder();
  try {
    await using gateway = await startGateway(folder);
    const parts: string[] = [];
    const partEvents = 100_000;
    for (let from = 0; from < count; from += partEvents) {
      const lines = Array.from({ length: partEvents }, (_, n) => {
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
      const reply = (await response.json()) as { accepted: number };
      if (reply.accepted !== partEvents) throw new Error(`ndjson: ${JSON.stringify(reply)}`);
    }
    return count / ((performance.now() - startedMs) / 1000);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const plain: number[] = [];
const withKeys: number[] = [];
for (let run = 0; run < RUNS; run++) {
  plain.push(await ndjson(500_000, false));
  withKeys.push(await ndjson(300_000, true));
}
print({ name: "ingest/ndjson", value: median(plain), unit: "events/s", baseline: null });
print({ name: "ingest/ndjson-keyed", value: median(withKeys), unit: "events/s", baseline: median(plain) });
