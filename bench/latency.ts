/**
 * From the acknowledgement to the frame that a reader can see, at 1,000 events a second; and from exec to
 * ready for ingest, with a ring to adopt and without.
 */
import { closeSync, openSync, readSync, rmSync } from "node:fs";
import { makeFolder, startGateway } from "./gateway-process.ts";
import { median, print, webhookBody } from "./load.ts";

const SECONDS = Number(process.env.BENCH_SECONDS ?? 5);
const RATE = 1000;

async function ackToFrame(): Promise<void> {
  const folder = makeFolder();
  await using gateway = await startGateway(folder, ["--ring-capacity", "20000"]);
  const descriptor = await openRing(gateway.ringPath);
  const header = new Uint8Array(64);
  const view = new DataView(header.buffer);
  const acknowledgedMs: number[] = [];
  const visibleMs: number[] = [];
  let polling = true;
  // Seen by polling the head every turn: with one sender at a time, event n is frame n.
  const poll = (): void => {
    readSync(descriptor, header, 0, 64, 0);
    const head = Number(view.getBigUint64(24, true));
    const nowMs = performance.now();
    while (visibleMs.length < head - 1) visibleMs.push(nowMs);
    if (polling) setImmediate(poll);
  };
  poll();
  const total = SECONDS * RATE;
  const startedMs = performance.now();
  const pending: Promise<void>[] = [];
  for (let n = 0; n < total; n++) {
    const dueMs = startedMs + (n * 1000) / RATE;
    while (performance.now() < dueMs) await new Promise((done) => setImmediate(done));
    pending.push(
      fetch(`http://127.0.0.1:${gateway.port}/ingest`, {
        method: "POST",
        body: webhookBody(n),
        headers: { "content-type": "application/json" },
      }).then(async (response) => {
        const { seq } = (await response.json()) as { seq: number };
        acknowledgedMs[seq - 1] = performance.now();
      }),
    );
  }
  await Promise.all(pending);
  while (visibleMs.length < total) await Bun.sleep(5);
  polling = false;
  closeSync(descriptor);
  const waits = acknowledgedMs
    .map((ms, index) => Math.max(0, (visibleMs[index] ?? 0) - ms))
    .toSorted((a, b) => a - b);
  print({
    name: "latency/ack-to-frame-p50",
    value: waits[Math.floor(waits.length / 2)] ?? 0,
    unit: "ms",
    baseline: null,
  });
  print({
    name: "latency/ack-to-frame-p99",
    value: waits[Math.floor(0.99 * waits.length)] ?? 0,
    unit: "ms",
    baseline: null,
  });
  await gateway.stop();
  rmSync(folder, { recursive: true, force: true });
}

async function openRing(path: string): Promise<number> {
  for (;;) {
    try {
      return openSync(path, "r");
    } catch {
      await Bun.sleep(10);
    }
  }
}

async function ready(): Promise<void> {
  const folder = makeFolder();
  const adopted: number[] = [];
  const fresh: number[] = [];
  for (let run = 0; run < 5; run++) {
    for (const times of [fresh, adopted]) {
      const gateway = await startGateway(folder);
      // The first start unpacks the libraries into the temporary folder.
      if (run > 0) times.push(gateway.readyMs);
      await fetch(`http://127.0.0.1:${gateway.port}/ingest`, { method: "POST", body: webhookBody(run) });
      closeSync(await openRing(gateway.ringPath));
      await gateway.stop();
      if (times === adopted) rmSync(gateway.ringPath, { force: true });
    }
  }
  print({ name: "latency/ready-new-ring", value: median(fresh), unit: "ms", baseline: null });
  print({ name: "latency/ready-adopted-ring", value: median(adopted), unit: "ms", baseline: null });
  rmSync(folder, { recursive: true, force: true });
}

await ackToFrame();
await ready();
