/**
 * Measures what a faulty language model costs other events: the time to the acknowledgement, and from there to the frame.
 * Runs with a faulty endpoint alternate with runs without a model. Half of the events bring their type and have no message,
 * so they need no model and must not wait at all. The other half are messages; for them, only the time beyond --frame-wait
 * counts. A second part measures 10,000 events with the endpoint away from the start against the same without a model.
 *
 * BENCH_MODES=storm,hang picks faults; BENCH_RUNS and BENCH_SECONDS shorten the run.
 */
import { closeSync, readSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Mode } from "../test/e2e/llm-stub.ts";
import { makeFolder, openRing, startGateway } from "./support/gateway-process.ts";
import { median, print } from "./support/load.ts";

const RUNS = Number(process.env.BENCH_RUNS ?? 5);
const SECONDS = Number(process.env.BENCH_SECONDS ?? 4);
const RATE = 400;
const WARM_UP_SECONDS = 1;
const OBSERVE_MS = 1;
const FRAME_WAIT_MS = 200;
const FRAME_BYTES = 4224;
const CAPACITY = 20_000;

const ALL: readonly Mode[] = [
  ...([
    "hang",
    "drip",
    "reset",
    "html",
    "half-json",
    "empty",
    "nan",
    "reasoning-content",
    "orphan-thought",
  ] as const),
  ...(["format-refused", "rate-limit", "storm", "huge"] as const),
];
const MODES = process.env.BENCH_MODES === undefined ? ALL : (process.env.BENCH_MODES.split(",") as Mode[]);

/** Records when the frame of each event became visible, in ms, by the seq of the event. */
class Observer {
  readonly visibleMs = new Map<number, number>();
  readonly #descriptor: number;
  readonly #bytes = new Uint8Array(64);
  readonly #timer: Timer;
  #next = 1;

  constructor(descriptor: number) {
    this.#descriptor = descriptor;
    this.#timer = setInterval(() => this.#look(), OBSERVE_MS);
  }

  #u64(position: number): number {
    readSync(this.#descriptor, this.#bytes, 0, 8, position);
    return Number(new DataView(this.#bytes.buffer).getBigUint64(0, true));
  }

  #look(): void {
    const head = this.#u64(24);
    const nowMs = performance.now();
    for (; this.#next < head; this.#next++) {
      this.visibleMs.set(this.#u64(64 + (this.#next % CAPACITY) * FRAME_BYTES + 4192), nowMs);
    }
  }

  stop(): void {
    clearInterval(this.#timer);
    closeSync(this.#descriptor);
  }
}

interface Endpoint {
  readonly baseUrl: string;
  stop(): Promise<void>;
}

async function endpointIn(mode: Mode): Promise<Endpoint> {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "support/llm-endpoint.ts"), mode], {
    stdout: "pipe",
    stderr: "ignore",
  });
  const reader = child.stdout.getReader();
  const baseUrl = new TextDecoder().decode((await reader.read()).value).trim();
  reader.releaseLock();
  return {
    baseUrl,
    stop: async () => {
      child.kill();
      await child.exited;
    },
  };
}

const FIGURES = [
  ["ackMs", "ack-p99"],
  ["bystandersMs", "bystander-frame-p99"],
  ["messagesMs", "message-frame-p99"],
] as const;

interface Figures {
  readonly ackMs: number;
  readonly bystandersMs: number;
  readonly messagesMs: number;
}

function p99(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(0.99 * (sorted.length - 1))] ?? 0;
}

function bodyOf(n: number): string {
  const padding = "x".repeat(400);
  if (n % 2 === 0)
    return JSON.stringify({ type: "OrderPaid", conversation_id: `order-${n % 400}`, order: n, padding });
  return JSON.stringify({
    message: `Mensagem ${n}: quero cancelar meu plano`,
    conversation_id: `c-${n % 401}`,
    padding,
  });
}

/** @param baseUrl null: a run without a model. */
async function run(baseUrl: string | null): Promise<Figures> {
  const folder = makeFolder();
  const args = [
    "--ring-capacity",
    String(CAPACITY),
    "--embedder",
    "hashing",
    "--frame-wait",
    `${FRAME_WAIT_MS}ms`,
  ];
  if (baseUrl !== null) args.push("--llm-base-url", baseUrl, "--llm-timeout", "2s");
  await using gateway = await startGateway(folder, args);
  const observer = new Observer(await openRing(gateway.ringPath));
  const acked = new Map<number, { n: number; ms: number; tookMs: number }>();
  const sent: Promise<void>[] = [];
  const total = (WARM_UP_SECONDS + SECONDS) * RATE;
  const post = async (n: number): Promise<void> => {
    const startedMs = performance.now();
    const response = await fetch(`http://127.0.0.1:${gateway.port}/ingest`, {
      method: "POST",
      body: bodyOf(n),
      headers: { "content-type": "application/json" },
    });
    if (response.status !== 200) throw new Error(`llm: ${response.status} ${await response.text()}`);
    const ms = performance.now();
    acked.set(((await response.json()) as { seq: number }).seq, { n, ms, tookMs: ms - startedMs });
  };
  const startedMs = performance.now();
  for (let n = 0; n < total; ) {
    const due = Math.min(total, Math.floor(((performance.now() - startedMs) * RATE) / 1000));
    for (; n < due; n++) sent.push(post(n));
    await Bun.sleep(1);
  }
  await Promise.all(sent);
  while (observer.visibleMs.size < total) await Bun.sleep(5);
  observer.stop();
  const acks: number[] = [];
  const bystanders: number[] = [];
  const messages: number[] = [];
  for (const [seq, { n, ms, tookMs }] of acked) {
    if (n < WARM_UP_SECONDS * RATE) continue;
    acks.push(tookMs);
    const waitMs = Math.max(0, (observer.visibleMs.get(seq) ?? 0) - ms);
    if (n % 2 === 0) bystanders.push(waitMs);
    else messages.push(baseUrl === null ? waitMs : Math.max(0, waitMs - FRAME_WAIT_MS));
  }
  await gateway.stop();
  rmSync(folder, { recursive: true, force: true });
  return { ackMs: p99(acks), bystandersMs: p99(bystanders), messagesMs: p99(messages) };
}

async function faults(): Promise<void> {
  for (const mode of MODES) {
    const without: Figures[] = [];
    const within: Figures[] = [];
    // Alternating, because the machine changes from minute to minute.
    for (let turn = 0; turn < RUNS; turn++) {
      without.push(await run(null));
      const endpoint = await endpointIn(mode);
      within.push(await run(endpoint.baseUrl));
      await endpoint.stop();
    }
    const of = (runs: readonly Figures[], name: keyof Figures): number =>
      median(runs.map((figures) => figures[name]));
    for (const [field, name] of FIGURES) {
      print({
        name: `llm/${mode}/${name}`,
        value: of(within, field),
        unit: "ms",
        baseline: of(without, field),
      });
    }
  }
}

/** Events per second, from the request until all 10,000 frames are visible. */
async function throughput(llm: readonly string[]): Promise<number> {
  const folder = makeFolder();
  await using gateway = await startGateway(folder, [
    "--ring-capacity",
    "20000",
    "--embedder",
    "hashing",
    ...llm,
  ]);
  const descriptor = await openRing(gateway.ringPath);
  const head = (): number => {
    const bytes = new Uint8Array(8);
    readSync(descriptor, bytes, 0, 8, 24);
    return Number(new DataView(bytes.buffer).getBigUint64(0, true));
  };
  const count = 10_000;
  const lines = Array.from({ length: count }, (_, n) => bodyOf(2 * n + 1)).join("\n");
  const startedMs = performance.now();
  const response = await fetch(`http://127.0.0.1:${gateway.port}/ingest`, {
    method: "POST",
    body: lines,
    headers: { "content-type": "application/x-ndjson" },
  });
  if (response.status !== 200) throw new Error(`llm: ${response.status}`);
  while (head() < count + 1) await Bun.sleep(2);
  const perSecond = (1000 * count) / (performance.now() - startedMs);
  closeSync(descriptor);
  await gateway.stop();
  rmSync(folder, { recursive: true, force: true });
  return perSecond;
}

async function awayFromTheStart(): Promise<void> {
  const off: number[] = [];
  const away: number[] = [];
  // Nothing listens on a port that was just closed.
  const probe = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response() });
  const { port } = probe;
  await probe.stop(true);
  for (let turn = 0; turn < RUNS; turn++) {
    off.push(await throughput([]));
    away.push(await throughput(["--llm-base-url", `http://127.0.0.1:${port}/v1`]));
  }
  print({ name: "llm/away/10000-events", value: median(away), unit: "events/s", baseline: median(off) });
}

await awayFromTheStart();
await faults();
