/** The baseline: a bare Bun.serve that parses the same JSON and echoes it; with --busy a low-priority Worker burns a core beside it. */
import { dlopen } from "bun:ffi";
import { isMainThread, Worker } from "node:worker_threads";

if (isMainThread) {
  if (process.argv.includes("--busy")) new Worker(new URL(import.meta.url));
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
  // A bounded while at a time, so that the thread can be ended.
  const burn = (): void => {
    for (let n = 0, x = 1; n < 5e6; n++) x = (x * 1103515245 + 12345) % 2147483648;
    setImmediate(burn);
  };
  burn();
}
