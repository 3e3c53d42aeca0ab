/**
 * What the dashboard costs: ingest with the dashboard open in a pseudo-terminal (120×40, on the tab of events, every byte of it read),
 * against a headless gateway under the same load in the same run; and the extra processor time it takes, idle and at 5,000 events a
 * second.
 */
import { readFileSync, rmSync } from "node:fs";
import { join, resolve } from "node:path";
import { makeFolder } from "./support/gateway-process.ts";
import { load, median, print, webhookBody } from "./support/load.ts";

const SECONDS = Number(process.env.BENCH_SECONDS ?? 4);
const RUNS = Number(process.env.BENCH_RUNS ?? 3);
const CPU_SECONDS = 2 * SECONDS;
const RATE = 5000;
const BATCH = 25;
const BINARY = process.env.GATEWAY_BINARY ?? resolve(import.meta.dir, "../one_file_gateway");
const TICKS_PER_SECOND = 100;
const bodies = Array.from({ length: 2000 }, (_, n) => webhookBody(n));

interface Open {
  readonly port: number;
  readonly pid: number;
  /** Bytes that the gateway has written to its terminal. */
  written(): number;
  stop(): Promise<void>;
}

/** Starts a gateway in a terminal of its own, with the dashboard or with --no-tui. */
async function open(tui: boolean): Promise<Open> {
  const folder = makeFolder();
  const ringPath = `/dev/shm/${folder.replaceAll("/", "-")}`;
  const options = ["--port", "0", "--ring-path", ringPath, "--llm-base-url", "off"];
  const decoder = new TextDecoder();
  let text = "";
  let writtenBytes = 0;
  const listening = Promise.withResolvers<number>();
  const child = Bun.spawn(
    [BINARY, ...options, "--db-path", join(folder, "events.duckdb"), ...(tui ? [] : ["--no-tui"])],
    {
      cwd: folder,
      env: { TERM: "xterm-256color" },
      terminal: {
        cols: 120,
        rows: 40,
        data: (_, data) => {
          writtenBytes += data.length;
          if (text.length < 10_000) text += decoder.decode(data, { stream: true });
          const port = /listening on http:\/\/[\d.]+:(\d+)/.exec(text)?.[1];
          if (port !== undefined) listening.resolve(Number(port));
        },
      },
    },
  );
  child.exited.then(() => listening.reject(new Error(`the gateway ended: ${text}`)));
  const port = await listening.promise;
  // DuckDB, the ring and the first screen start late; this is over before anything is measured.
  await Bun.sleep(1500);
  return {
    port,
    pid: child.pid,
    written: () => writtenBytes,
    stop: async () => {
      child.kill("SIGTERM");
      await child.exited;
      for (const suffix of ["", ".lock", ".json"]) rmSync(ringPath + suffix, { force: true });
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** Processor time of the whole process, or of its main thread only. */
function cpuSeconds(pid: number, mainThread = false): number {
  const stat = readFileSync(mainThread ? `/proc/${pid}/task/${pid}/stat` : `/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}

/**
 * Runs both gateways and sends the load to each in turn, a second at a time, so that other work on the machine disturbs both alike.
 * @returns requests answered, and the main thread's processor seconds meanwhile
 */
async function throughput(): Promise<Record<"tui" | "headless", { answered: number; cpuSeconds: number }>> {
  const gateways = { tui: await open(true), headless: await open(false) };
  const sums = { tui: { answered: 0, cpuSeconds: 0 }, headless: { answered: 0, cpuSeconds: 0 } };
  const slice = (gateway: Open) => load({ port: gateway.port, connections: 64, seconds: 1, bodies });
  for (const gateway of Object.values(gateways)) await slice(gateway);
  const before = gateways.tui.written();
  for (let turn = 0; turn < 2 * SECONDS; turn++) {
    for (const name of turn % 2 === 0 ? (["tui", "headless"] as const) : (["headless", "tui"] as const)) {
      const gateway = gateways[name];
      const startedSeconds = cpuSeconds(gateway.pid, true);
      sums[name].answered += (await slice(gateway)).answered;
      sums[name].cpuSeconds += cpuSeconds(gateway.pid, true) - startedSeconds;
      // Framing and storing what is left must not disturb the other gateway's turn.
      await settled(gateway.port);
    }
  }
  if (gateways.tui.written() - before < 10_000) throw new Error("tui: the dashboard drew nothing");
  for (const gateway of Object.values(gateways)) await gateway.stop();
  return sums;
}

/** Waits until every event is framed and stored. */
async function settled(port: number): Promise<void> {
  for (;;) {
    const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
    const behind = (name: string): number =>
      Number(new RegExp(`^gateway_${name} (\\S+)$`, "m").exec(text)?.[1]);
    if (behind("unframed_events") + behind("store_lag_frames") === 0) return;
    await Bun.sleep(50);
  }
}

/** The share of one core that the gateway takes while `work` runs. */
async function share(gateway: Open, work: (untilMs: number) => Promise<void>): Promise<number> {
  const before = cpuSeconds(gateway.pid);
  const startedMs = performance.now();
  await work(startedMs + CPU_SECONDS * 1000);
  return (cpuSeconds(gateway.pid) - before) / ((performance.now() - startedMs) / 1000);
}

/** Sends RATE events a second until `untilMs`. */
async function steady(port: number, untilMs: number): Promise<void> {
  const startedMs = performance.now();
  let sent = 0;
  while (performance.now() < untilMs) {
    const due = ((performance.now() - startedMs) * RATE) / 1000;
    for (; sent < due; sent += BATCH) {
      const body = `[${Array.from({ length: BATCH }, (_, n) => bodies[(sent + n) % bodies.length]).join(",")}]`;
      const headers = { "content-type": "application/json" };
      const response = await fetch(`http://127.0.0.1:${port}/ingest`, { method: "POST", body, headers });
      if (response.status !== 200) throw new Error(`tui: ${response.status} ${await response.text()}`);
      await response.arrayBuffer();
    }
    await Bun.sleep(2);
  }
}

const ratios = { perCpuSecond: [] as number[], tui: [] as number[], headless: [] as number[] };
const idle = { tui: [] as number[], headless: [] as number[] };
const working = { tui: [] as number[], headless: [] as number[] };
for (let run = 0; run < RUNS; run++) {
  const { tui, headless } = await throughput();
  ratios.tui.push(tui.answered / (2 * SECONDS));
  ratios.headless.push(headless.answered / (2 * SECONDS));
  ratios.perCpuSecond.push(tui.answered / tui.cpuSeconds / (headless.answered / headless.cpuSeconds));
  for (const name of ["tui", "headless"] as const) {
    const gateway = await open(name === "tui");
    idle[name].push(await share(gateway, (untilMs) => Bun.sleep(untilMs - performance.now())));
    await steady(gateway.port, performance.now() + 1000);
    working[name].push(await share(gateway, (untilMs) => steady(gateway.port, untilMs)));
    await gateway.stop();
  }
}
const percent = (name: string, value: number, baseline: number | null): void =>
  print({
    name,
    value: 100 * value,
    unit: "% of a core",
    baseline: baseline === null ? null : 100 * baseline,
  });
const [with_, without] = [median(ratios.tui), median(ratios.headless)];
print({ name: "tui/ingest-with-dashboard", value: with_, unit: "requests/s", baseline: without });
print({
  name: "tui/ingest-per-cpu-second",
  value: median(ratios.perCpuSecond),
  unit: "of headless",
  baseline: null,
});
percent("tui/idle", median(idle.tui) - median(idle.headless), null);
percent("tui/idle-with-gateway", median(idle.tui), median(idle.headless));
percent("tui/at-5000-a-second", median(working.tui) - median(working.headless), null);
percent("tui/at-5000-with-gateway", median(working.tui), median(working.headless));
