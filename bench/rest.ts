/**
 * Measures a gateway at rest and after a burst: its processor time without traffic, its memory beside the ring, and how long it takes until
 * a burst of NDJSON can be read from /api/events and until all of it is framed and stored.
 */
import { rmSync } from "node:fs";
import {
  makeFolder,
  metric,
  processorSeconds,
  residentBytes,
  startGateway,
} from "./support/gateway-process.ts";
import { print, webhookBody } from "./support/load.ts";

const IDLE_SECONDS = Number(process.env.BENCH_SECONDS ?? 10);
const AFTER_SECONDS = Number(process.env.BENCH_AFTER_SECONDS ?? 60);
const BURST_EVENTS = 200_000;
const PART_EVENTS = 50_000;

const folder = makeFolder();
await using gateway = await startGateway(folder);
const url = `http://127.0.0.1:${gateway.port}`;
const megabytes = (): number => residentBytes(gateway.pid) / 1e6;

await Bun.sleep(2000);
const before = processorSeconds(gateway.pid);
await Bun.sleep(IDLE_SECONDS * 1000);
const share = ((processorSeconds(gateway.pid) - before) / IDLE_SECONDS) * 100;
print({ name: "idle", value: share, unit: "% of a core", baseline: null });
print({ name: "memory/idle", value: megabytes(), unit: "MB", baseline: null });

let peak = 0;
const sampler = setInterval(() => {
  peak = Math.max(peak, megabytes());
}, 50);
const parts = Array.from({ length: BURST_EVENTS / PART_EVENTS }, (_, part) =>
  Array.from({ length: PART_EVENTS }, (_, n) => webhookBody(part * PART_EVENTS + n)).join("\n"),
);
const burstBefore = processorSeconds(gateway.pid);
const startedMs = performance.now();
for (const body of parts) {
  const headers = { "content-type": "application/x-ndjson" };
  const response = await fetch(`${url}/ingest`, { method: "POST", body, headers });
  if (response.status !== 200) throw new Error(`rest: ${response.status} ${await response.text()}`);
  await response.arrayBuffer();
}
const seqOfNewest = async (): Promise<number> => {
  const page = (await (await fetch(`${url}/api/events?limit=1`)).json()) as { events: { seq: number }[] };
  return page.events[0]?.seq ?? 0;
};
while ((await seqOfNewest()) < BURST_EVENTS) await Bun.sleep(5);
const seconds = (performance.now() - startedMs) / 1000;
print({ name: "store/queryable", value: BURST_EVENTS / seconds, unit: "events/s", baseline: null });
while ((await metric(gateway, "unframed_events")) + (await metric(gateway, "store_lag_frames")) > 0)
  await Bun.sleep(50);
const framedSeconds = (performance.now() - startedMs) / 1000;
print({
  name: "store/framed-and-stored",
  value: BURST_EVENTS / framedSeconds,
  unit: "events/s",
  baseline: null,
});
const processor = ((processorSeconds(gateway.pid) - burstBefore) * 100_000) / BURST_EVENTS;
print({ name: "store/cpu-of-100000", value: processor, unit: "s", baseline: null });
await Bun.sleep(AFTER_SECONDS * 1000);
clearInterval(sampler);
print({ name: "memory/peak", value: peak, unit: "MB", baseline: null });
print({ name: "memory/after", value: megabytes(), unit: "MB", baseline: null });
await gateway.stop();
rmSync(folder, { recursive: true, force: true });
