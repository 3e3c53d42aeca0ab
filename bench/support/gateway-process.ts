/** Starts the compiled gateway for a measurement, in its own folder. */
import { mkdtempSync, openSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

export interface Running extends AsyncDisposable {
  readonly port: number;
  readonly pid: number;
  readonly ringPath: string;
  readonly folder: string;
  /** On performance.now()'s clock. */
  readonly startedMs: number;
  /** Everything that it has logged so far. */
  readonly log: string;
  stop(): Promise<void>;
}

const BINARY = process.env.GATEWAY_BINARY ?? resolve(import.meta.dir, "../../one_file_gateway");
/** Clock ticks per second in /proc, on every Linux that Bun runs on. */
const TICKS_PER_SECOND = 100;

export function makeFolder(): string {
  return mkdtempSync(join(tmpdir(), "gateway-bench-"));
}

/** A file descriptor of the ring. Waits until the gateway has made the file. */
export async function openRing(path: string): Promise<number> {
  for (;;) {
    try {
      return openSync(path, "r");
    } catch {
      await Bun.sleep(10);
    }
  }
}

export async function startGateway(folder: string, args: readonly string[] = []): Promise<Running> {
  const ringPath = `/dev/shm/${folder.replaceAll("/", "-")}`;
  const startedMs = performance.now();
  const child = Bun.spawn(
    [
      BINARY,
      "--port",
      "0",
      "--ring-path",
      ringPath,
      "--llm-base-url",
      "off",
      "--db-path",
      join(folder, "events.duckdb"),
      ...args,
    ],
    {
      cwd: folder,
      env: {},
      stdout: "ignore",
      stderr: "pipe",
    },
  );
  const decoder = new TextDecoder();
  let log = "";
  const { promise, resolve: listening, reject } = Promise.withResolvers<number>();
  const reading = (async () => {
    for await (const chunk of child.stderr) {
      log += decoder.decode(chunk, { stream: true });
      const match = /listening on http:\/\/[\d.]+:(\d+)/.exec(log);
      if (match?.[1] !== undefined) listening(Number(match[1]));
    }
    reject(new Error(`the gateway ended: ${log}`));
  })();
  const port = await promise;
  const stop = async (): Promise<void> => {
    child.kill("SIGTERM");
    await child.exited;
    await reading;
  };
  return {
    port,
    pid: child.pid,
    ringPath,
    folder,
    startedMs,
    get log() {
      return log;
    },
    stop,
    [Symbol.asyncDispose]: async () => {
      child.kill("SIGKILL");
      await child.exited;
      for (const suffix of ["", ".lock", ".json"]) rmSync(ringPath + suffix, { force: true });
    },
  };
}

/** The value of one of the gateway's metrics, by its name without the prefix. */
export async function metric(gateway: Running, name: string): Promise<number> {
  const text = await (await fetch(`http://127.0.0.1:${gateway.port}/metrics`)).text();
  const found = new RegExp(`^gateway_${name} (\\S+)$`, "m").exec(text)?.[1];
  if (found === undefined) throw new Error(`bench: the gateway has no metric ${name}`);
  return Number(found);
}

/** Processor seconds that the low-priority threads (embedding, DuckDB) have used so far. Linux only. */
export function backgroundSeconds(pid: number): number {
  let ticks = 0;
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    const stat = readFileSync(`/proc/${pid}/task/${thread}/stat`, "utf8");
    // After the name, which may contain spaces, utime is the 12th field, stime the 13th and nice the 17th.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    if (Number(fields[16]) > 0) ticks += Number(fields[11]) + Number(fields[12]);
  }
  return ticks / TICKS_PER_SECOND;
}

/** Processor seconds that a process has used so far, with all its threads. Linux only. */
export function processorSeconds(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}

/** Resident bytes without the pages of the ring, which are shared memory. Linux only. */
export function residentBytes(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const kilobytes = (name: string): number => Number(new RegExp(`${name}:\\s+(\\d+) kB`).exec(status)?.[1]);
  return (kilobytes("RssAnon") + kilobytes("RssFile")) * 1024;
}
