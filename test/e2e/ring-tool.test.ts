/** The executable's `ring` commands beside a running gateway, after a kill, and compared with consumer.py. */
import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { rmSync } from "node:fs";
import { join, resolve } from "node:path";
import { BINARY, Gateway, ringHead, TempFolder, until } from "./gateway.ts";

// These tests start processes, which is slow on a busy machine.
setDefaultTimeout(300_000);

const ROOT = resolve(import.meta.dir, "../..");
const PYTHON = join(ROOT, ".venv/bin/python");

let folder = new TempFolder();
afterEach(() => {
  folder[Symbol.dispose]();
  folder = new TempFolder();
});

const environment = (): Record<string, string> => ({
  CS_PHYSICS_PATH: folder.ring,
  PYTHONDONTWRITEBYTECODE: "1",
  PYTHONUTF8: "1",
});

interface Finished {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

async function finished(command: readonly string[]): Promise<Finished> {
  const child = Bun.spawn([...command], {
    ...{ cwd: folder.path, env: environment(), stdout: "pipe", stderr: "pipe" },
  });
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, out, err };
}

const ring = (...args: string[]): Promise<Finished> => finished([BINARY, "ring", ...args]);
const consumer = (...args: string[]): Promise<Finished> =>
  finished([PYTHON, join(ROOT, "consumer.py"), ...args]);

async function send(gateway: Gateway, count: number): Promise<void> {
  const before = ringHead(folder.ring)?.head ?? 1;
  const events = Array.from({ length: count }, (_, n) =>
    JSON.stringify({
      message: n % 7 === 0 ? "" : `não recebi o cartão ${n}`,
      ...(n % 5 === 0 ? {} : { conversation_id: `c${n % 11}` }),
      ...(n % 3 === 0 ? {} : { type: n % 2 === 0 ? "UserMessage" : "Mensagem\u001b[2J" }),
      ...(n % 2 === 0 ? { intent: "CancelPlan", sentiment: (n % 21) / 10 - 1 } : {}),
      ...(n % 13 === 0 ? { timestamp: 1_600_000_000_123 + n } : {}),
    }),
  );
  expect((await gateway.postLines(events.join("\n"))).status).toBe(200);
  await until(`${count} more frames`, () => (ringHead(folder.ring)?.head ?? 0) === before + count);
}

describe("beside a running gateway", () => {
  test("stat, tail and verify agree with consumer.py and /api/frames", async () => {
    await using gateway = await Gateway.start(folder, { args: ["--ring-capacity", "500"] });
    await until("the ring exists", () => ringHead(folder.ring) !== null);
    await send(gateway, 1203);
    const [ours, theirs] = await Promise.all([ring("stat", "--json"), consumer("--stats", "--json")]);
    expect([ours.code, ours.err]).toEqual([0, ""]);
    const stat = JSON.parse(ours.out) as Record<string, unknown>;
    const stats = JSON.parse(theirs.out) as Record<string, unknown>;
    const shared = Object.keys(stats).filter((name) => name in stat);
    for (const name of ["path", "capacity", "head", "tail", "frames", "epoch", "state", "journal_id"])
      expect(shared).toContain(name);
    for (const name of shared) {
      if (name === "heartbeat_age_s") expect(stat[name] as number).toBeWithin(0, 5);
      else expect([name, stat[name]]).toEqual([name, stats[name]]);
    }
    expect(stat).toMatchObject({ head: 1204, tail: 704, frames: 500, fill: 1, laps: 2, current: true });
    expect(stat.models).toMatchObject([{ name: "hashing-1024-v1", dim: 1024 }]);
    expect((await ring("stat")).out).toContain(`frames     500 of 500 (100%)\n`);

    const whole = await ring("verify", "--json");
    expect([whole.code, whole.err]).toEqual([0, ""]);
    expect(JSON.parse(whole.out)).toMatchObject({ frames: 500, whole: 500, problems: {} });

    const lines = await ring("tail", "-n", "300", "--no-follow");
    expect([lines.code, lines.err]).toEqual([0, ""]);
    expect(lines.out.split("\n")).toEqual((await consumer("--batch", "300")).out.split("\n"));
    expect(lines.out).not.toContain("\u001b");
    const parsed = (text: string): unknown[] =>
      text
        .trimEnd()
        .split("\n")
        .map((line) => JSON.parse(line));
    const objects = parsed((await ring("tail", "-n", "40", "--no-follow", "--json")).out);
    expect(objects).toEqual(parsed((await consumer("--batch", "40", "--json")).out));
    const { frames } = await gateway.json<{ frames: unknown[] }>("/api/frames?after=1163&limit=40");
    expect(frames.length).toBe(40);
    objects.forEach((object, index) => {
      expect(object).toMatchObject(frames[index] as object);
    });
  });

  test("a killed gateway leaves whole frames, and a tail continues across the kill and a removed ring", async () => {
    const args = ["--db-path", folder.file("events.duckdb")];
    let gateway = await Gateway.start(folder, { args });
    await until("the ring exists", () => ringHead(folder.ring) !== null);
    await send(gateway, 30);
    const child = Bun.spawn([BINARY, "ring", "tail", "-n", "5", "--json"], {
      ...{ cwd: folder.path, env: environment(), stdout: "pipe", stderr: "pipe" },
    });
    const said = { out: "", err: "" };
    const reading = Promise.all(
      (["out", "err"] as const).map(async (name) => {
        const decoder = new TextDecoder();
        for await (const chunk of name === "out" ? child.stdout : child.stderr)
          said[name] += decoder.decode(chunk, { stream: true });
      }),
    );
    const ids = (): number[] => [...said.out.matchAll(/"frame_id":"(\d+)"/g)].map(([, id]) => Number(id));
    const seen = (count: number): Promise<void> =>
      until(`the tail has printed ${count}`, () => ids().length >= count);
    try {
      await seen(5);
      await send(gateway, 20);
      await seen(25);
      await gateway.kill();
      const verified = await ring("verify");
      expect([verified.code, verified.out]).toEqual([0, `${folder.ring}: 50 frames: 50 whole, 0 damaged\n`]);
      expect(JSON.parse((await ring("stat", "--json")).out)).toMatchObject({ state: "running", frames: 50 });
      gateway = await Gateway.start(folder, { args });
      await until("the gateway has opened its ring", () => (ringHead(folder.ring)?.epoch ?? 0) === 2);
      await send(gateway, 20);
      await seen(45);
      expect(said.err).toContain("ring: restarted: ");
      rmSync(folder.ring);
      await until("there is a new ring", () => (ringHead(folder.ring)?.head ?? 0) === 71);
      await send(gateway, 20);
      await seen(65);
      expect(said.err).toContain("ring: replaced: ");
      expect(ids()).toEqual(Array.from({ length: 65 }, (_, index) => 26 + index));
      expect((await ring("verify")).code).toBe(0);
      child.kill("SIGINT");
      expect(await child.exited).toBe(0);
      await reading;
      expect(said.out.endsWith("}\n")).toBe(true);
    } finally {
      child.kill("SIGKILL");
      await gateway.kill();
    }
  });

  test("a closed output pipe ends the command quietly", async () => {
    await using gateway = await Gateway.start(folder);
    await until("the ring exists", () => ringHead(folder.ring) !== null);
    await send(gateway, 2000);
    const shell = await finished([
      "/bin/sh",
      "-c",
      '"$0" ring tail -n 2000 --json 2> errors | /usr/bin/head -n 1 | /usr/bin/cut -c 1-30; /bin/cat errors',
      BINARY,
    ]);
    expect(shell).toEqual({ code: 0, out: '{"sequence":"2","frame_id":"1"\n', err: "" });
  });
});

test("a missing ring prints one line with exit code 1, and wrong usage has exit code 2", async () => {
  for (const action of ["stat", "tail", "verify"]) {
    const { code, out, err } = await ring(action);
    expect([code, out]).toEqual([1, ""]);
    expect(err).toBe(
      `one_file_gateway: ring: read ${folder.ring}: there is no ring; start the gateway, or say where its ring is (--ring-path, CS_PHYSICS_PATH)\n`,
    );
  }
  const { code, err } = await ring("stat", "--port", "1");
  expect(code).toBe(2);
  expect(err).toContain("--port: is not a flag of ring stat");
});
