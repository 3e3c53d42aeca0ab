/**
 * Measures the time from an acknowledgement until a reader can see the frame, at 1,000 events a second; and the time from
 * exec until the gateway takes events, with a ring to adopt and without.
 *
 * The observer reads the ring's head every OBSERVE_MS by a timer, and leaves the processor to the gateway between. A figure
 * may be too large by that much, never too small.
 */
import { closeSync, readSync, rmSync } from "node:fs";
import { makeFolder, openRing, type Running, startGateway } from "./support/gateway-process.ts";
import { median, print, webhookBody } from "./support/load.ts";

const SECONDS = Number(process.env.BENCH_SECONDS ?? 8);
const RATE = 1000;
const OBSERVE_MS = 1;

/** Notes when each frame became visible, in ms: frame n in element n − 1. */
class Observer {
  readonly visibleMs: number[] = [];
  readonly #descriptor: number;
  readonly #header = new Uint8Array(64);
  readonly #timer: Timer;

  constructor(descriptor: number) {
    this.#descriptor = descriptor;
    this.#timer = setInterval(() => this.look(), OBSERVE_MS);
  }

  look(): void {
    readSync(this.#descriptor, this.#header, 0, 64, 0);
    const head = Number(new DataView(this.#header.buffer).getBigUint64(24, true));
    const nowMs = performance.now();
    while (this.visibleMs.length < head - 1) this.visibleMs.push(nowMs);
  }

  stop(): void {
    clearInterval(this.#timer);
    closeSync(this.#descriptor);
  }
}

/** Sends event `n`. @returns its seq */
async function post(gateway: Running, n: number): Promise<number> {
  const response = await fetch(`http://127.0.0.1:${gateway.port}/ingest`, {
    method: "POST",
    body: webhookBody(n),
    headers: { "content-type": "application/json" },
  });
  if (response.status !== 200) throw new Error(`latency: ${response.status} ${await response.text()}`);
  return ((await response.json()) as { seq: number }).seq;
}

async function ackToFrame(): Promise<void> {
  const folder = makeFolder();
  await using gateway = await startGateway(folder, ["--ring-capacity", "20000"]);
  const observer = new Observer(await openRing(gateway.ringPath));
  const acknowledgedMs: number[] = [];
  const sentMs: number[] = [];
  const pending: Promise<void>[] = [];
  const warmUp = RATE;
  const total = warmUp + SECONDS * RATE;
  const startedMs = performance.now();
  for (let n = 0; n < total; ) {
    const due = Math.min(total, Math.floor(((performance.now() - startedMs) * RATE) / 1000));
    for (; n < due; n++) {
      const nowMs = performance.now();
      const sent = post(gateway, n).then((seq) => {
        acknowledgedMs[seq - 1] = performance.now();
        sentMs[seq - 1] = nowMs;
      });
      pending.push(sent);
    }
    await Bun.sleep(1);
  }
  await Promise.all(pending);
  while (observer.visibleMs.length < total) await Bun.sleep(5);
  observer.stop();
  const waitsFrom = (fromMs: readonly number[]): number[] =>
    fromMs
      .map((ms, index) => Math.max(0, (observer.visibleMs[index] ?? 0) - ms))
      .slice(warmUp)
      .toSorted((a, b) => a - b);
  const at = (waits: readonly number[], share: number): number =>
    waits[Math.floor(share * (waits.length - 1))] ?? 0;
  const acked = waitsFrom(acknowledgedMs);
  print({ name: "latency/ack-to-frame-p50", value: at(acked, 0.5), unit: "ms", baseline: null });
  print({ name: "latency/ack-to-frame-p99", value: at(acked, 0.99), unit: "ms", baseline: null });
  print({ name: "latency/ack-to-frame-max", value: at(acked, 1), unit: "ms", baseline: null });
  const posted = waitsFrom(sentMs);
  print({ name: "latency/post-to-vector-p50", value: at(posted, 0.5), unit: "ms", baseline: null });
  print({ name: "latency/post-to-vector-p99", value: at(posted, 0.99), unit: "ms", baseline: null });
  await gateway.stop();
  rmSync(folder, { recursive: true, force: true });
}

async function ready(): Promise<void> {
  const folder = makeFolder();
  const adopted: number[] = [];
  const fresh: number[] = [];
  for (let run = 0; run < 5; run++) {
    for (const times of [fresh, adopted]) {
      const gateway = await startGateway(folder);
      // A gateway is ready when it has taken an event. The first start unpacks the libraries, so it does not count.
      await post(gateway, run);
      if (run > 0) times.push(performance.now() - gateway.startedMs);
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
