/**
 * Sends 1,000 events a second for BENCH_SECONDS (default 60; the promise is about 600). Measures the gateway's memory without
 * the ring's pages, shows whether it grows, and fails unless everything acknowledged is framed and stored at the end.
 */
import { rmSync } from "node:fs";
import { makeFolder, metric, residentBytes, startGateway } from "./support/gateway-process.ts";
import { median, print, webhookBody } from "./support/load.ts";

const SECONDS = Number(process.env.BENCH_SECONDS ?? 60);
const RATE = 1000;

const folder = makeFolder();
await using gateway = await startGateway(folder);
const url = `http://127.0.0.1:${gateway.port}`;
const samplesMb: number[] = [];
const ackMs: number[] = [];
const sampler = setInterval(() => samplesMb.push(residentBytes(gateway.pid) / 1e6), 1000);
const startedMs = performance.now();
const total = SECONDS * RATE;
let failures = 0;
let open = 0;
for (let n = 0; n < total; ) {
  const due = Math.min(total, Math.floor(((performance.now() - startedMs) * RATE) / 1000));
  for (; n < due; n++) {
    const sentMs = performance.now();
    open += 1;
    fetch(`${url}/ingest`, {
      method: "POST",
      body: webhookBody(n),
      headers: { "content-type": "application/json" },
    })
      .then(async (response) => {
        await response.arrayBuffer();
        if (response.status !== 200) failures += 1;
        else if (ackMs.length < 100_000) ackMs.push(performance.now() - sentMs);
      })
      .catch(() => {
        failures += 1;
      })
      .finally(() => {
        open -= 1;
      });
  }
  await Bun.sleep(1);
}
while (open > 0) await Bun.sleep(5);
clearInterval(sampler);
const settleMs = performance.now();
while ((await metric(gateway, "unframed_events")) + (await metric(gateway, "store_lag_frames")) > 0)
  await Bun.sleep(50);
const behindMs = performance.now() - settleMs;
const frames = (await metric(gateway, "next_frame_id")) - 1;
if (failures > 0 || frames !== total)
  throw new Error(`soak: ${failures} failures, ${frames} frames of ${total} events`);
const third = Math.floor(samplesMb.length / 3);
const middle = median(samplesMb.slice(third, 2 * third));
const last = median(samplesMb.slice(2 * third));
ackMs.sort((a, b) => a - b);
print({ name: "soak/rss-max", value: Math.max(...samplesMb), unit: "MB", baseline: null });
print({ name: "soak/rss-last-third", value: last, unit: "MB", baseline: middle });
print({
  name: "soak/ack-p99",
  value: ackMs[Math.floor(0.99 * ackMs.length)] ?? 0,
  unit: "ms",
  baseline: null,
});
print({ name: "soak/behind-at-end", value: behindMs, unit: "ms", baseline: null });
await gateway.stop();
rmSync(folder, { recursive: true, force: true });
