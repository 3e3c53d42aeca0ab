/** A training process beside the running executable: killed and resumed, fed from ring and HTTP. Also the training example. */
import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { closeSync, existsSync, openSync, readFileSync, rmSync, writeSync } from "node:fs";
import { join, resolve } from "node:path";
import {
  apiFrames,
  Gateway,
  mutatedBuild,
  ringFrames,
  ringHead,
  seededRandom,
  TempFolder,
  until,
} from "./gateway.ts";

setDefaultTimeout(300_000);

const ROOT = resolve(import.meta.dir, "../..");
const PYTHON = join(ROOT, ".venv/bin/python");

let folder = new TempFolder();
afterEach(() => {
  folder[Symbol.dispose]();
  folder = new TempFolder();
});

function python(args: readonly string[]) {
  return Bun.spawn([PYTHON, ...args], {
    cwd: folder.path,
    env: { CS_PHYSICS_PATH: folder.ring, PYTHONPATH: ROOT, PYTHONDONTWRITEBYTECODE: "1" },
    stdout: "pipe",
    stderr: "pipe",
  });
}

interface LoggedBatch {
  readonly ids: number[];
  readonly seqs: number[];
  readonly first: number[];
  readonly lost: number;
}

function logged(log: string): LoggedBatch[] {
  if (!existsSync(log)) return [];
  const lines = readFileSync(log, "utf8").split("\n");
  return lines.slice(0, -1).map((line) => JSON.parse(line) as LoggedBatch);
}

describe("a dataset", () => {
  test("that is killed and resumed 20 times, across gateway restarts and a deleted ring, sees every frame exactly once", async () => {
    const random = seededRandom("dataset");
    const log = folder.file("batches.jsonl");
    // With a ring of 300 frames, a reader that was away is lapped and fetches the missed frames over HTTP.
    const args = ["--db-path", folder.file("events.duckdb"), "--ring-capacity", "300"];
    let gateway = await Gateway.start(folder, { args });
    const port = new URL(gateway.url).port;
    const script = join(import.meta.dir, "dataset_reader.py");
    await until("the ring exists", () => ringHead(folder.ring) !== null);

    let sent = 0;
    const send = async (count: number): Promise<void> => {
      const lines = Array.from({ length: count }, (_, n) =>
        JSON.stringify({ message: `mensagem ${sent + n}` }),
      );
      expect((await gateway.postLines(lines.join("\n"))).status).toBe(200);
      sent += count;
    };
    const framed = (): Promise<void> =>
      until(`${sent} frames are in the ring`, () => (ringHead(folder.ring)?.head ?? 0) === sent + 1);

    let errors = "";
    for (let round = 0; round < 20; round++) {
      // These arrive while nobody reads, and are often more than the ring holds.
      await send(1 + random.below(500));
      const reader = python([script, folder.ring, gateway.url, log]);
      const stderr = new Response(reader.stderr).text();
      const before = logged(log).length;
      const enough = random.below(12);
      if (round % 4 === 1) {
        // Without gateway and ring a reader cannot begin, so it must have begun before both are gone.
        if (round % 8 === 5) await until("the reader has begun", () => logged(log).length > before);
        await gateway.kill();
        if (round % 8 === 5) rmSync(folder.ring);
        gateway = await Gateway.start(folder, { args: [...args, "--port", port] });
      }
      await send(1 + random.below(200));
      // A batch has 16 frames, so the reader may reach the newest frame before it has `enough` batches.
      await until("the reader has read some batches", () => {
        const seen = logged(log);
        const newest = seen.at(-1)?.ids.at(-1) ?? 0;
        return seen.length >= before + enough || newest === sent || reader.exitCode !== null;
      });
      await Bun.sleep(random.below(30));
      reader.kill("SIGKILL");
      await reader.exited;
      errors = await stderr;
      if (reader.exitCode !== null) throw new Error(`the reader ended by itself\n${errors}`);
    }

    await framed();
    const reader = python([script, folder.ring, gateway.url, log]);
    await until("the reader has every frame", () => logged(log).at(-1)?.ids.at(-1) === sent);
    reader.kill("SIGKILL");
    await reader.exited;

    const batches = logged(log);
    const ids = batches.flatMap((batch) => batch.ids);
    expect(ids).toEqual(Array.from({ length: sent }, (_, index) => index + 1));
    expect(batches.at(-1)?.lost).toBe(0);
    // Beyond the ids: each frame is the one that the gateway has under that id.
    const frames = await apiFrames(gateway);
    const views = frames.map((bytes) => new DataView(bytes.buffer, bytes.byteOffset));
    expect(batches.flatMap((batch) => batch.seqs)).toEqual(
      views.map((view) => Number(view.getBigUint64(4192, true))),
    );
    expect(batches.flatMap((batch) => batch.first)).toEqual(views.map((view) => view.getFloat32(16, true)));
    console.log(`      ${sent} frames in ${batches.length} batches`);
    await gateway.kill();
  });

  test("that reads over HTTP alone gets the same tensors as one that reads the ring", async () => {
    await using gateway = await Gateway.start(folder, { args: ["--token", "geheim"] });
    const lines = Array.from({ length: 700 }, (_, n) =>
      JSON.stringify({ message: `mensagem ${n}`, conversation_id: `c${n % 7}`, intent: `I${n % 3}` }),
    );
    const posted = await gateway.postLines(lines.join("\n"), { authorization: "Bearer geheim" });
    expect(posted.status).toBe(200);
    await until("700 frames are in the ring", () => ringHead(folder.ring)?.head === 701);
    const program = `
import sys, torch
from consumer import PhysicsConsumer, PhysicsDataset
url, missing = sys.argv[1:]
near = list(PhysicsDataset(100, 1, timeout_s=0.2))
far = list(PhysicsDataset(100, 1, path=missing, url=url, token="geheim", timeout_s=0.2))
assert [len(batch["frame_id"]) for batch in near] == [100] * 7, near
assert len(far) == len(near)
for one, other in zip(near, far):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]), name
with PhysicsConsumer() as ring, PhysicsConsumer(url=url, token="geheim") as http:
    a, b = ring.read_batch(50), http.read_batch(50)
    assert a.dtype == b.dtype
    assert (a["frame_id"] == b["frame_id"]).all() and a["semantic"].tobytes() == b["semantic"].tobytes()
    assert http.read_latest().frame_id == ring.read_latest().frame_id == 700
    assert http.read_latest().intent_label == ring.read_latest().intent_label == "I0"
print("same")
`;
    const child = python(["-c", program, gateway.url, folder.file("no-ring")]);
    const [out, err] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
    ]);
    expect([out.trim(), err]).toEqual(["same", ""]);
  });
});

test("the training example learns intents from live frames", async () => {
  await using gateway = await Gateway.start(folder);
  await until("the ring exists", () => ringHead(folder.ring) !== null);
  const messages = join(ROOT, "test/fixtures/banking77.csv");
  const limit = process.env.LONG === "1" ? 10_003 : 2_000;
  const child = python([
    join(ROOT, "examples/train_intents.py"),
    ...["--messages", messages, "--limit", `${limit}`, "--url", gateway.url, "--path", folder.ring],
  ]);
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  expect([err, code]).toEqual(["", 0]);
  console.log(out.trimEnd().replaceAll(/^/gm, "      "));
  const held = /never learned from \((\d+) frames\): ([\d.]+) right/.exec(out);
  expect(Number(held?.[1])).toBeGreaterThan(limit / 20);
  // Guessing would be right once in 77 times.
  expect(Number(held?.[2])).toBeGreaterThan(limit > 5000 ? 0.75 : 0.4);
  expect(ringFrames(folder.ring).length).toBe(limit);
});

test("a gateway for a weakly ordered processor gives every frame a checksum, and its reader verifies it", async () => {
  const binary = await mutatedBuild("checksums");
  const args = ["--db-path", folder.file("events.duckdb"), "--ring-capacity", "64"];
  let gateway = await Gateway.start(folder, { binary, args });
  const lines = Array.from({ length: 100 }, (_, n) => JSON.stringify({ message: `mensagem ${n}` }));
  lines.push(JSON.stringify({ type: "Ping" }));
  expect((await gateway.postLines(lines.join("\n"))).status).toBe(200);
  await until("101 frames are in the ring", () => ringHead(folder.ring)?.head === 102);
  await gateway.stop();
  // The next ring is refilled from DuckDB, so each frame has the refill flag.
  rmSync(folder.ring);
  gateway = await Gateway.start(folder, { binary, args });
  await until("the ring exists again", () => ringHead(folder.ring)?.head === 102);
  const program = `
import sys
from consumer import PhysicsConsumer
for checked in (True, False):
    with PhysicsConsumer(verify_checksums=checked) as consumer:
        frames = consumer.read_since(0, 100)
        print(len(frames), frames.lost, int((frames["checksum"] == 0).sum()), int((frames["flags"] & 16 != 0).sum()))
`;
  const read = async (): Promise<string[]> => {
    const child = python(["-c", program]);
    return (await new Response(child.stdout).text()).trim().split("\n");
  };
  expect(await read()).toEqual(["64 37 0 64", "64 37 0 64"]);
  const inRing = ringFrames(folder.ring).map(({ bytes }) => bytes.subarray(4216).toString());
  const overHttp = (await apiFrames(gateway)).slice(-64).map((bytes) => bytes.subarray(4216).toString());
  expect(overHttp).toEqual(inRing);
  await gateway.kill();
  // Changes one float of frame 80 but not its sequence, as a processor that reorders stores may show it.
  const descriptor = openSync(folder.ring, "r+");
  writeSync(descriptor, new Uint8Array([1, 2, 3, 4]), 0, 4, 64 + (80 % 64) * 4224 + 16 + 4 * 500);
  closeSync(descriptor);
  const [checked, unchecked] = await read();
  expect(unchecked).toBe("64 37 0 64");
  expect(checked).not.toBe(unchecked);
});
