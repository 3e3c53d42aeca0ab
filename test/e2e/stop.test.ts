/** A stop ends in time and loses nothing, whatever is stuck. Containers are killed 10 s after they were asked to stop. */
import { beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { foldersOfTests } from "./folders.ts";
import { BINARY, Gateway, mutatedBuild, type StartOptions, type TempFolder, until } from "./gateway.ts";

setDefaultTimeout(300_000);

const STOP_MS_MAX = 9000;
/** A machine whose cores are all busy. */
const LOAD_MS = 3000;

const folder = foldersOfTests();

/** @returns the exit code. Fails if the stop takes too long. */
async function stopped(gateway: Gateway): Promise<number> {
  const startedMs = performance.now();
  const code = await gateway.stop();
  expect(performance.now() - startedMs).toBeLessThan(STOP_MS_MAX + LOAD_MS);
  return code;
}

/** Posts events one by one. @returns the numbers of those that were acknowledged. */
async function acknowledged(gateway: Gateway, from: number, count: number, pad = ""): Promise<number[]> {
  const taken: number[] = [];
  for (let n = from; n < from + count; n++) {
    const response = await gateway.post({ n, message: `mensagem ${n}`, type: "T", pad });
    if (response.status === 200) taken.push(n);
    await response.arrayBuffer();
  }
  return taken;
}

/** Starts again and expects every acknowledged event, once. */
async function expectKept(where: TempFolder, db: string, taken: readonly number[]): Promise<void> {
  await using gateway = await Gateway.start(where, { args: ["--db-path", db] });
  await until("everything is stored", async () => {
    const metrics = await gateway.metrics();
    return metrics.gateway_store_lag_events === 0 && metrics.gateway_unframed_events === 0;
  });
  const seen: number[] = [];
  for (let after: number | null = 0; after !== null; ) {
    const page: { events: { payload: { n: number } }[]; next: number | null } = await gateway.json(
      `/api/events?limit=1000&after=${after}`,
    );
    seen.push(...page.events.map(({ payload }) => payload.n));
    after = page.next;
  }
  expect([...seen].sort((a, b) => a - b)).toEqual([...taken]);
  expect(await stopped(gateway)).toBe(0);
}

describe("a stop", () => {
  let blocking = "";
  beforeAll(async () => {
    blocking = await mutatedBuild("store-blocks");
  });

  test.each([true, false])("with a thread that is blocked in DuckDB (database kept: %p)", async (kept) => {
    const where = folder();
    const db = where.file("events.duckdb");
    const args = kept ? ["--db-path", db] : [];
    const gateway = await Gateway.start(where, { args, binary: blocking });
    const taken = await acknowledged(gateway, 0, 5);
    await until("the first commit", async () => (await gateway.metrics()).gateway_store_lag_events === 0);
    taken.push(...(await acknowledged(gateway, 5, 20)));
    expect(await stopped(gateway)).toBe(0);
    expect(gateway.log).toContain("DuckDB did not close in time");
    if (kept) await expectKept(where, db, taken);
  });

  test.skipIf(process.getuid?.() !== 0 || process.platform !== "linux")("with a full disk", async () => {
    const where = folder();
    const disk = where.file("disk");
    mkdirSync(disk);
    await Bun.$`mount -t tmpfs -o size=60m tmpfs ${disk}`.quiet();
    try {
      const db = `${disk}/events.duckdb`;
      const gateway = await Gateway.start(where, { args: ["--db-path", db] });
      const taken = await acknowledged(gateway, 0, 50);
      await Bun.$`dd if=/dev/zero of=${disk}/hog bs=64k status=none`.nothrow().quiet();
      taken.push(...(await acknowledged(gateway, 50, 200, "x".repeat(10_000))));
      expect(taken.length).toBeLessThan(250);
      expect([0, 1]).toContain(await stopped(gateway));
      rmSync(`${disk}/hog`);
      await expectKept(where, db, taken);
    } finally {
      await Bun.$`umount -l ${disk}`.nothrow().quiet();
    }
  });

  test("with an endpoint that accepts and never responds, as model and as embedder", async () => {
    using silent = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => {} } });
    const where = folder();
    const db = where.file("events.duckdb");
    const url = `http://127.0.0.1:${silent.port}/v1`;
    const options: StartOptions = {
      args: ["--db-path", db, "--llm-base-url", url, "--embedder", "remote", "--embedding-model", "m"],
    };
    const gateway = await Gateway.start(where, options);
    const taken = await acknowledged(gateway, 0, 20);
    const waiting = gateway.fetch("/ingest?wait=enriched", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ n: 20, message: "uma pergunta" }),
    });
    waiting.catch(() => {});
    expect([0, 1]).toContain(await stopped(gateway));
    expect(taken.length).toBe(20);
    expect(existsSync(db)).toBe(true);
  });

  test("with clients that do not read what they asked for", async () => {
    const where = folder();
    const db = where.file("events.duckdb");
    const gateway = await Gateway.start(where, { args: ["--db-path", db] });
    const lines = Array.from({ length: 5000 }, (_, n) => JSON.stringify({ n, message: `mensagem ${n}` }));
    expect((await gateway.postLines(lines.join("\n"))).status).toBe(200);
    await until("frames are there", async () => (await gateway.metrics()).gateway_unframed_events === 0);
    const port = Number(new URL(gateway.url).port);
    const clients = Array.from({ length: 10 }, () => {
      const client = connect(port, "127.0.0.1").pause();
      client.on("error", () => {});
      client.write("GET /api/frames?limit=1000&after=0 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
      return client;
    });
    await until(
      "they are answered",
      async () => ((await gateway.metrics()).gateway_http_responses_in_flight_bytes ?? 0) > 0,
    );
    expect(await stopped(gateway)).toBe(0);
    for (const client of clients) client.destroy();
  });

  test("with a terminal that does not read", async () => {
    const where = folder();
    const python = ["python3", join(import.meta.dir, "silent_terminal.py"), where.file("log")];
    const gateway = [BINARY, "--port", "0", "--ring-path", where.ring, "--ring-capacity", "1000"];
    const ended = Bun.spawn([...python, ...gateway, "--llm-base-url", "off"], {
      env: { PATH: process.env.PATH ?? "", TERM: "xterm-256color", HOME: where.path },
    });
    expect((await new Response(ended.stdout).text()).trim()).toBe("0");
  });

  test("with the ring's folder gone from under it", async () => {
    const where = folder();
    const db = where.file("events.duckdb");
    const rings = where.file("rings");
    mkdirSync(rings);
    const gateway = await Gateway.start(where, { args: ["--db-path", db, "--ring-path", `${rings}/ring`] });
    const taken = await acknowledged(gateway, 0, 20);
    rmSync(rings, { recursive: true });
    writeFileSync(rings, "");
    taken.push(...(await acknowledged(gateway, 20, 20)));
    expect([0, 1]).toContain(await stopped(gateway));
    await expectKept(where, db, taken);
  });
});
