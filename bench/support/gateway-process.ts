/** The compiled gateway, started for a measurement in a folder of its own. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

export interface Running extends AsyncDisposable {
  readonly port: number;
  readonly pid: number;
  readonly ringPath: string;
  readonly folder: string;
  /** From exec to "listening", in ms, as the start-up line was seen. */
  readonly readyMs: number;
  stop(): Promise<void>;
}

const BINARY = resolve(import.meta.dir, "../../one_file_gateway");

export function makeFolder(): string {
  return mkdtempSync(join(tmpdir(), "gateway-bench-"));
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
  const readyMs = performance.now() - startedMs;
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
    readyMs,
    stop,
    [Symbol.asyncDispose]: async () => {
      child.kill("SIGKILL");
      await child.exited;
      for (const suffix of ["", ".lock", ".json"]) rmSync(ringPath + suffix, { force: true });
    },
  };
}
