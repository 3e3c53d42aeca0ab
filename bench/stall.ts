/**
 * Measures how long another request waits at most for its response while a 60 MiB array comes in. The baseline is the
 * same without the array.
 */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { makeFolder, startGateway } from "./support/gateway-process.ts";
import { median, print } from "./support/load.ts";

const RUNS = Number(process.env.BENCH_RUNS ?? 3);
const element = JSON.stringify({ message: "z".repeat(900), tags: [1, 2, { deep: "ção" }] });
const count = Math.floor((60 * 1024 ** 2) / (element.length + 2));
const body = new TextEncoder().encode(`[${Array(count).fill(element).join(",")}]`);

async function longestMs(url: string, meanwhile: () => Promise<unknown>): Promise<number> {
  const pinger = Bun.spawn([process.execPath, join(import.meta.dir, "support/pinger.ts"), `${url}/health`], {
    stdout: "pipe",
  });
  await Bun.sleep(500);
  await meanwhile();
  pinger.kill("SIGTERM");
  return Number(await new Response(pinger.stdout).text());
}

const quiet: number[] = [];
const loaded: number[] = [];
for (let run = 0; run < RUNS; run++) {
  const folder = makeFolder();
  await using gateway = await startGateway(folder);
  const url = `http://127.0.0.1:${gateway.port}`;
  quiet.push(await longestMs(url, () => Bun.sleep(1500)));
  loaded.push(
    await longestMs(url, async () => {
      const response = await fetch(`${url}/ingest`, {
        method: "POST",
        body,
        headers: { "content-type": "application/json" },
      });
      const { accepted } = (await response.json()) as { accepted: number };
      if (accepted !== count) throw new Error(`stall: ${accepted} of ${count} events were accepted`);
    }),
  );
  rmSync(folder, { recursive: true, force: true });
}
print({ name: "stall/60mib-array", value: median(loaded), unit: "ms", baseline: median(quiet) });
