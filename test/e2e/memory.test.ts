/** Checks that clients cannot take the machine's memory, whether they send much or do not read. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { Gateway, TempFolder, until } from "./gateway.ts";

const LONG = process.env.LONG === "1";
// These tests start processes, which is slow on a busy machine.
setDefaultTimeout(LONG ? 1_200_000 : 300_000);

const MIB = 1024 * 1024;
/** 1 GB and 500 MB. */
const BESIDE_RING_MIB_MAX = 1e9 / MIB;
const IDLE_MIB_MAX = 500e6 / MIB;

/** Resident memory without the ring, in MiB. */
function besideRingMib(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const kib = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(status)?.[1]);
  return (kib("VmRSS") - kib("RssShmem")) / 1024;
}

/** Watches a process until it is disposed of. */
class Peak implements Disposable {
  mib = 0;
  readonly #timer: NodeJS.Timeout;

  constructor(pid: number) {
    this.#timer = setInterval(() => {
      this.mib = Math.max(this.mib, besideRingMib(pid));
    }, 20);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}

async function start(folder: TempFolder): Promise<Gateway> {
  const args = ["--db-path", folder.file("events.duckdb"), "--ring-capacity", "10000"];
  return await Gateway.start(folder, { args });
}

async function givenBack(gateway: Gateway): Promise<void> {
  const idle = (): boolean => besideRingMib(gateway.process.pid) < IDLE_MIB_MAX;
  await until("memory was given back", idle, 60_000);
}

async function settled(gateway: Gateway): Promise<void> {
  await until(
    "everything is framed and stored",
    async () => {
      const { gateway_unframed_events, gateway_store_lag_events } = await gateway.metrics();
      return gateway_unframed_events === 0 && gateway_store_lag_events === 0;
    },
    300_000,
  );
}

/** Sends requests and reads nothing of the responses. */
function unread(gateway: Gateway, path: string, count: number): Socket[] {
  const port = Number(new URL(gateway.url).port);
  return Array.from({ length: count }, () => {
    const socket = connect(port, "127.0.0.1");
    socket.on("error", () => {});
    socket.pause();
    socket.write(
      `GET ${path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/vnd.cs-physics.frames\r\n\r\n`,
    );
    return socket;
  });
}

/** Sends a body as often as `senders` says, at once, and again while the gateway asks for it. @returns what was accepted. */
async function sendAll(gateway: Gateway, senders: number, body: string): Promise<number> {
  const accepted = await Promise.all(
    Array.from({ length: senders }, async () => {
      for (;;) {
        const response = await gateway.postLines(body);
        const { accepted } = (await response.json()) as { accepted: number };
        if (response.status !== 503) return accepted;
        await Bun.sleep(1000 * Number(response.headers.get("retry-after")));
      }
    }),
  );
  return accepted.reduce((sum, count) => sum + count, 0);
}

test("200 clients that do not read 34 to 42 MB each cost less than 1 GB, and are gone after a while", async () => {
  using folder = new TempFolder();
  await using gateway = await start(folder);
  const small = Array.from({ length: 10_000 }, (_, n) => `{"type":"Small","message":"m ${n}"}`).join("\n");
  expect((await gateway.postLines(small)).status).toBe(200);
  for (let n = 0; n < 40; n++) await gateway.postLines(`{"type":"Large","blob":"${"b".repeat(1_000_000)}"}`);
  await settled(gateway);
  using peak = new Peak(gateway.process.pid);
  const frames = "/api/frames?after=0&limit=10000";
  const sockets = [
    ...unread(gateway, frames, 100),
    ...unread(gateway, "/api/events?type=Large&limit=1000", 100),
  ];
  const inFlight = async (): Promise<number> => {
    // Polls slowly, since it takes half a minute.
    await Bun.sleep(100);
    return (await gateway.metrics()).gateway_http_responses_in_flight_bytes ?? 0;
  };
  await until("they hold what they can", async () => (await inFlight()) > 50 * MIB);
  await until("their connections are ended", async () => (await inFlight()) === 0, 120_000);
  const accept = { accept: "application/vnd.cs-physics.frames" };
  const whole = await gateway.fetch(frames, { headers: accept });
  expect((await whole.bytes()).byteLength).toBe(10_000 * 4224);
  expect((await gateway.fetch("/api/events?type=Large&limit=1000")).status).toBe(200);
  console.log(`peak ${peak.mib.toFixed(0)} MiB beside the ring`);
  expect(peak.mib).toBeLessThan(BESIDE_RING_MIB_MAX);
  for (const socket of sockets) socket.destroy();
  expect(await gateway.stop()).toBe(0);
});

test(`16 senders of ${LONG ? 60 : 15} MiB in lines of 1 MiB cost less than 1 GB, idle less than 500 MB, and nothing is refused for good`, async () => {
  using folder = new TempFolder();
  await using gateway = await start(folder);
  using peak = new Peak(gateway.process.pid);
  const lines = LONG ? 60 : 15;
  const body = `{"message":"${"x".repeat(MIB)}"}\n`.repeat(lines);
  expect(await sendAll(gateway, 16, body)).toBeGreaterThanOrEqual(16 * lines);
  await settled(gateway);
  console.log(`peak ${peak.mib.toFixed(0)} MiB beside the ring`);
  expect(peak.mib).toBeLessThan(BESIDE_RING_MIB_MAX);
  await givenBack(gateway);
  expect(await gateway.stop()).toBe(0);
});

test.if(LONG)(
  "200 events of 1 MiB at once, then 200 connections for a minute, cost less than 1 GB, and idle less than 500 MB",
  async () => {
    using folder = new TempFolder();
    await using gateway = await start(folder);
    using peak = new Peak(gateway.process.pid);
    const large = `{"message":"${"x".repeat(MIB)}"}`;
    const responses = await Promise.all(Array.from({ length: 200 }, () => gateway.post(large)));
    expect(responses.map(({ status }) => status)).toEqual(new Array(200).fill(200));
    const endMs = performance.now() + 60_000;
    const small = `{"type":"Small","message":"${"y".repeat(600)}"}`;
    await Promise.all(
      Array.from({ length: 200 }, async () => {
        while (performance.now() < endMs) await (await gateway.post(small)).text();
      }),
    );
    await settled(gateway);
    console.log(`peak ${peak.mib.toFixed(0)} MiB beside the ring`);
    expect(peak.mib).toBeLessThan(BESIDE_RING_MIB_MAX);
    await givenBack(gateway);
    expect(await gateway.stop()).toBe(0);
  },
);
