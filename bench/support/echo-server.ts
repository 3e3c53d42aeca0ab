/**
 * The baseline: a bare Bun.serve that parses the same JSON and echoes it. With --busy SHARE, a low-priority Worker beside it
 * tries to use that share of one core.
 */
import { dlopen } from "bun:ffi";
import { isMainThread, Worker, workerData } from "node:worker_threads";

if (isMainThread) {
  const busy = process.argv.indexOf("--busy");
  if (busy >= 0) new Worker(new URL(import.meta.url), { workerData: Number(process.argv[busy + 1]) });
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: async (request) => Response.json(await request.json()),
  });
  console.log(server.port);
} else {
  const libc = dlopen(process.platform === "darwin" ? "libSystem.dylib" : "libc.so.6", {
    setpriority: { args: ["i32", "i32", "i32"], returns: "i32" },
    syscall: { args: ["i64"], returns: "i64" },
  });
  const GETTID = process.arch === "arm64" ? 178n : 186n;
  libc.symbols.setpriority(0, Number(libc.symbols.syscall(GETTID)), 10);
  const share = Math.min(1, Math.max(0.01, workerData as number));
  const sliceMs = 2;
  // Counts processor time, so that a Worker that had to wait for others catches up.
  const usedMs = (): number => {
    const { user, system } = process.threadCpuUsage();
    return (user + system) / 1000;
  };
  const startedMs = performance.now();
  for (;;) {
    const aheadMs = usedMs() / share - (performance.now() - startedMs);
    if (aheadMs > sliceMs) await Bun.sleep(aheadMs);
    const untilMs = performance.now() + sliceMs;
    for (let x = 1; performance.now() < untilMs; ) x = (x * 1103515245 + 12345) % 2147483648;
  }
}
