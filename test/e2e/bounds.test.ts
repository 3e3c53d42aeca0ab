/** Checks that bounds hold: the temporary folder, a full /dev/shm, a full disk. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { closeSync, mkdirSync, openSync, readdirSync, rmSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import { duckRows, Gateway, ringHead, TempFolder, until } from "./gateway.ts";

// These tests start processes, which is slow on a busy machine.
setDefaultTimeout(300_000);

const LONG = process.env.LONG === "1";
const EVENTS = LONG ? 5_000_000 : 500_000;
const LIMIT_MB = LONG ? 100 : 20;

function folderBytes(path: string): number {
  let bytes = 0;
  for (const name of readdirSync(path, { recursive: true, encoding: "utf8" })) {
    try {
      const stat = statSync(join(path, name));
      if (stat.isFile()) bytes += stat.size;
    } catch {
      // A temporary file that vanished between listing and stat.
    }
  }
  return bytes;
}

describe("without --db-path", () => {
  test(
    `${EVENTS} small events through ${LIMIT_MB} MB: nothing refused, the newest are there, the size stays`,
    async () => {
      using folder = new TempFolder();
      mkdirSync(folder.file("tmp"));
      await using gateway = await Gateway.start(folder, {
        args: ["--temp-limit", `${LIMIT_MB}MB`, "--ring-capacity", "1000"],
        env: { TMPDIR: folder.file("tmp") },
      });
      const inside = readdirSync(folder.file("tmp"));
      const own = folder.file(join("tmp", inside.find((name) => name.startsWith("one_file_gateway-")) ?? ""));
      const size = (): number => folderBytes(own);
      let largest = 0;
      const step = 50_000;
      for (let from = 0; from < EVENTS; from += step) {
        const lines = Array.from(
          { length: step },
          (_, n) => `{"n":${from + n},"message":"evento ${from + n}"}`,
        );
        const response = await gateway.postLines(lines.join("\n"));
        expect(await response.json()).toMatchObject({ accepted: step, rejected: 0 });
        largest = Math.max(largest, size());
      }
      await until(
        "every remaining event is framed",
        async () => (await gateway.metrics()).gateway_unframed_events === 0,
        300_000,
      );
      let page: { events: { payload: { n: number } }[] } = { events: [] };
      await until("the store has passed the journal's head", async () => {
        const response = await gateway.fetch("/api/events?limit=100");
        page = (await response.json()) as typeof page;
        return !response.headers.has("x-store-lag");
      });
      expect(page.events.map((event) => event.payload.n)).toEqual(
        Array.from({ length: 100 }, (_, n) => EVENTS - 1 - n),
      );
      largest = Math.max(largest, size());
      const dropped = (await gateway.metrics()).gateway_dropped_events_total;
      console.log(
        `largest size ${(largest / 1e6).toFixed(1)} MB of ${LIMIT_MB} MB; ${dropped} dropped before their frame`,
      );
      expect(largest).toBeLessThan(1.25 * LIMIT_MB * 1e6);
      await gateway.stop();
    },
    LONG ? 1_200_000 : 300_000,
  );
});

/** A small tmpfs, if this user may mount one. */
class SmallDisk implements Disposable {
  private constructor(readonly path: string) {}
  static mount(path: string, megabytes: number): SmallDisk | null {
    mkdirSync(path, { recursive: true });
    const mount = Bun.spawnSync(["mount", "-t", "tmpfs", "-o", `size=${megabytes}m`, "tmpfs", path]);
    return mount.exitCode === 0 ? new SmallDisk(path) : null;
  }
  fill(): () => void {
    const path = join(this.path, "ballast");
    const block = new Uint8Array(1024 * 1024);
    const descriptor = openSync(path, "a");
    for (const bytes of [block.byteLength, 4096]) {
      try {
        for (;;) writeSync(descriptor, block, 0, bytes);
      } catch {
        // The disk is full, as intended.
      }
    }
    closeSync(descriptor);
    return () => rmSync(path, { force: true });
  }
  [Symbol.dispose](): void {
    Bun.spawnSync(["umount", "-l", this.path]);
  }
}

const mayMount = process.platform === "linux" && process.getuid?.() === 0;

describe("a full disk", () => {
  test.skipIf(!mayMount)(
    "refuses events with 503, loses no acknowledged event, and recovers by itself",
    async () => {
      using folder = new TempFolder();
      using disk = SmallDisk.mount(folder.file("disk"), 96);
      if (disk === null) throw new Error("mount of a tmpfs failed though this is root");
      const db = join(disk.path, "events.duckdb");
      const acknowledged: number[] = [];
      await using gateway = await Gateway.start(folder, {
        args: ["--db-path", db, "--ring-capacity", "1000"],
      });
      const send = async (n: number): Promise<number> => {
        const response = await gateway.post({ n, message: `mensagem ${n} ${"x".repeat(2000)}` });
        if (response.status === 200) acknowledged.push(n);
        else
          expect([n, response.status, response.headers.get("retry-after") !== null]).toEqual([n, 503, true]);
        await response.arrayBuffer();
        return response.status;
      };
      for (let n = 0; n < 200; n++) expect(await send(n)).toBe(200);
      const free = disk.fill();
      let refused = 0;
      for (let n = 200; n < 2000 && refused < 20; n++) if ((await send(n)) === 503) refused += 1;
      expect(refused).toBe(20);
      free();
      await until(
        "the gateway accepts events again",
        async () => (await send(5000 + acknowledged.length)) === 200,
        300_000,
      );
      await until(
        "every acknowledged event is stored",
        async () => {
          const metrics = await gateway.metrics();
          return metrics.gateway_store_lag_events === 0 && metrics.gateway_store_lag_frames === 0;
        },
        300_000,
      );
      expect(await gateway.stop()).toBe(0);
      const rows = await duckRows(db, "SELECT payload FROM events");
      const stored = rows.map((row) => (JSON.parse(String(row.payload)) as { n: number }).n);
      expect(stored.toSorted((a, b) => a - b)).toEqual(acknowledged.toSorted((a, b) => a - b));
    },
    300_000,
  );
});

describe("a full /dev/shm", () => {
  test.skipIf(!mayMount)(
    "accepts events, does not die of SIGBUS, and makes the ring once there is room",
    async () => {
      using folder = new TempFolder();
      using shm = SmallDisk.mount(folder.file("shm"), 64);
      if (shm === null) throw new Error("mount of a tmpfs failed though this is root");
      const ring = join(shm.path, "ring");
      await using gateway = await Gateway.start(folder, {
        args: ["--ring-path", ring, "--db-path", folder.file("e.duckdb")],
        defaultRing: true,
      });
      await until("the ring takes half of the free space", () => (ringHead(ring)?.capacity ?? 0) > 0);
      const capacity = ringHead(ring)?.capacity ?? 0;
      expect(capacity * 4224).toBeLessThan(33 * 1024 ** 2);
      expect(gateway.log).toContain(String(capacity));
      let free = (): void => {};
      await until("/ready reports that there is no ring", async () => {
        // The gateway may have made a new ring, or have let go of the old one's space, before the disk was full.
        rmSync(ring, { force: true });
        free = shm.fill();
        const ready = (await (await gateway.fetch("/ready")).json()) as {
          parts: { ring: { state: string } };
        };
        return ready.parts.ring.state !== "ok";
      });
      for (let n = 0; n < 50; n++) expect((await gateway.post({ n, message: "sem anel" })).status).toBe(200);
      free();
      await until("the ring holds every frame", () => (ringHead(ring)?.head ?? 0) === 51, 60_000);
      expect(await gateway.stop()).toBe(0);
    },
    300_000,
  );
});
