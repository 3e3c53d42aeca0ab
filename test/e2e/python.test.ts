/** Python beside the running executable: tensors, a follower across restarts, errors, and a third-party reader. */
import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { Gateway, ringHead, TempFolder, until } from "./gateway.ts";

const ROOT = resolve(import.meta.dir, "../..");
const PYTHON = join(ROOT, ".venv/bin/python");
const NUMPY2 = join(ROOT, ".venv-numpy2/bin/python");
const CONSUMER = join(ROOT, "consumer.py");

let folder = new TempFolder();
afterEach(() => {
  folder[Symbol.dispose]();
  folder = new TempFolder();
});

interface Finished {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

async function python(args: readonly string[], interpreter = PYTHON): Promise<Finished> {
  const child = Bun.spawn([interpreter, ...args], {
    cwd: folder.path,
    env: { CS_PHYSICS_PATH: folder.ring, PYTHONPATH: ROOT, PYTHONDONTWRITEBYTECODE: "1" },
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, out, err };
}

async function send(gateway: Gateway, from: number, count: number): Promise<void> {
  const lines = Array.from({ length: count }, (_, n) =>
    JSON.stringify({
      message: `quero cancelar o plano ${from + n}`,
      conversation_id: `c${(from + n) % 5}`,
      type: "UserMessage",
      ...((from + n) % 2 === 0 ? { intent: "CancelPlan", sentiment: -0.25 } : {}),
    }),
  );
  expect((await gateway.postLines(lines.join("\n"))).status).toBe(200);
}

async function framed(count: number): Promise<void> {
  await until(`${count} frames are in the ring`, () => (ringHead(folder.ring)?.head ?? 0) === count + 1);
}

interface ApiFrame {
  readonly semantic: readonly number[];
  readonly spin: readonly number[];
  readonly flags: number;
  readonly [name: string]: unknown;
}

describe("tensors", () => {
  test("--pytorch --batch 50 prints the documented shapes and types, with the values of /api/frames", async () => {
    await using gateway = await Gateway.start(folder);
    await send(gateway, 0, 60);
    await framed(60);
    const shown = await python([CONSUMER, "--pytorch", "--batch", "50"]);
    expect([shown.code, shown.err]).toEqual([0, ""]);
    for (const line of [
      /semantic +\(50, 1024\) +torch.float32 +cpu/,
      /kinetics +\(50, 17\) +torch.float32 +cpu/,
      /timestamp_us +\(50,\) +torch.int64 +cpu/,
      /event_seq +\(50,\) +torch.int64 +cpu/,
      /intent_id +\(50,\) +torch.int64 +cpu/,
      /flags +\(50,\) +torch.int32 +cpu/,
      /sample/,
    ]) {
      expect(shown.out).toMatch(line);
    }
    const script = `
import json
from consumer import PhysicsConsumer
with PhysicsConsumer() as consumer:
    tensors = consumer.read_batch(50).tensors("cpu")
    print(json.dumps({name: tensor.tolist() for name, tensor in tensors.items()}))
`;
    const dumped = await python(["-c", script]);
    expect(dumped.err).toBe("");
    const tensors = JSON.parse(dumped.out) as Record<string, unknown[]>;
    const { frames } = await gateway.json<{ frames: ApiFrame[] }>("/api/frames?after=10&limit=50");
    expect(frames.length).toBe(50);
    const newestUs = Math.max(...frames.map((frame) => Number(frame.timestamp_us)));
    frames.forEach((frame, row) => {
      expect(tensors.semantic?.[row]).toEqual([...frame.semantic]);
      const ageS = Math.fround((newestUs - Number(frame.timestamp_us)) / 1e6);
      const expected = [
        ...["delta_time", "duration_ms", "velocity", "interrupt"].map((name) => frame[name]),
        ageS,
        ...["workflow_node", "case_status", "lead_status", "fill_rate", "actor_type"].map(
          (name) => frame[name],
        ),
        Math.fround(Number(frame.intent_id)),
        ...["sentiment", "confidence"].map((name) => frame[name]),
        ...frame.spin,
      ];
      const kinetics = tensors.kinetics?.[row] as number[];
      expect(kinetics.length).toBe(17);
      // The JSON of /api/frames holds float32 values exactly. Python computes and rounds the age itself.
      kinetics.forEach((value, column) => {
        expect(value).toBeCloseTo(Number(expected[column]), column === 4 ? 4 : 10);
      });
      expect(tensors.flags?.[row]).toBe(frame.flags);
      expect(tensors.event_seq?.[row]).toBe(Number(frame.event_seq));
      expect(tensors.intent_id?.[row]).toBe(Number(frame.intent_id));
      expect(tensors.timestamp_us?.[row]).toBe(Number(frame.timestamp_us));
    });
  }, 300_000);

  test("a batch larger than the ring's content returns what there is, and an empty ring is reported", async () => {
    await using gateway = await Gateway.start(folder);
    await until("the ring exists", () => ringHead(folder.ring) !== null);
    await send(gateway, 0, 3);
    await framed(3);
    expect((await python([CONSUMER, "--pytorch", "--batch", "50"])).out).toMatch(/semantic +\(3, 1024\)/);
    const two = await python([CONSUMER, "--batch", "2", "--json"]);
    const ids = two.out
      .trim()
      .split("\n")
      .map((line) => (JSON.parse(line) as { frame_id: string }).frame_id);
    expect(ids).toEqual(["2", "3"]);
    const stats = await python([CONSUMER, "--stats", "--json"]);
    expect(JSON.parse(stats.out)).toMatchObject({ capacity: 20_000, state: "running" });
  }, 300_000);

  test("without torch, one line says how to install it", async () => {
    await using gateway = await Gateway.start(folder);
    await send(gateway, 0, 1);
    await framed(1);
    const shown = await python([CONSUMER, "--pytorch"], NUMPY2);
    expect(shown.code).toBe(1);
    expect(shown.err.trim().split("\n").length).toBe(1);
    expect(shown.err).toContain("torch");
    expect((await python([CONSUMER, "--batch", "1"], NUMPY2)).code).toBe(0);
  }, 300_000);
});

describe("a follower", () => {
  test("misses and repeats no frame across a stop, a kill and a deleted ring, and reports each", async () => {
    const args = ["--db-path", folder.file("events.duckdb")];
    let gateway = await Gateway.start(folder, { args });
    await until("the ring exists", () => ringHead(folder.ring) !== null);
    const script = `
import json, sys
from consumer import PhysicsConsumer
def tell(event): print(json.dumps({"event": event.kind}), flush=True)
with PhysicsConsumer(on_event=tell) as consumer:
    for frame in consumer.follow(start="oldest"):
        print(json.dumps({"id": int(frame.frame_id), "seq": int(frame.event_seq)}), flush=True)
`;
    const child = Bun.spawn([PYTHON, "-c", script], {
      env: { CS_PHYSICS_PATH: folder.ring, PYTHONPATH: ROOT, PYTHONDONTWRITEBYTECODE: "1" },
      stdout: "pipe",
      stderr: "pipe",
    });
    const ids: number[] = [];
    const told: string[] = [];
    const reading = (async () => {
      let rest = "";
      const decoder = new TextDecoder();
      for await (const chunk of child.stdout) {
        const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
        rest = lines.pop() ?? "";
        for (const line of lines) {
          const said = JSON.parse(line) as { id?: number; event?: string };
          if (said.id !== undefined) ids.push(said.id);
          if (said.event !== undefined) told.push(said.event);
        }
      }
    })();
    const seen = (count: number): Promise<void> =>
      until(`the follower has seen ${count}`, () => ids.length >= count);
    try {
      await send(gateway, 0, 20);
      await seen(20);
      await gateway.stop();
      gateway = await Gateway.start(folder, { args });
      await send(gateway, 20, 20);
      await seen(40);
      expect(told).toContain("restarted");
      await gateway.kill();
      gateway = await Gateway.start(folder, { args });
      await send(gateway, 40, 20);
      await seen(60);
      await gateway.stop();
      rmSync(folder.ring);
      gateway = await Gateway.start(folder, { args });
      await send(gateway, 60, 20);
      await seen(80);
      expect(told.some((event) => event === "replaced" || event === "restarted")).toBe(true);
      expect(ids).toEqual(Array.from({ length: 80 }, (_, index) => index + 1));
    } finally {
      child.kill("SIGINT");
      await reading;
      await gateway.kill();
    }
  }, 300_000);
});

describe("a file that is not a ring", () => {
  test.each<[string, Uint8Array | null]>([
    ["no file", null],
    ["a foreign file", new Uint8Array(8192).fill(7)],
    ["another version", otherVersion()],
  ])("%s: one line and exit code 1", async (_, bytes) => {
    if (bytes !== null) writeFileSync(folder.ring, bytes);
    for (const mode of [["--batch", "5"], ["--follow"], ["--stats"]]) {
      const shown = await python([CONSUMER, ...mode]);
      expect(shown.code).toBe(1);
      expect(shown.err.trim().split("\n").length).toBe(1);
      expect(shown.err).toContain(folder.ring);
    }
  });
});

function otherVersion(): Uint8Array {
  const bytes = new Uint8Array(64 + 4224);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, 0x5048595349435300n, true);
  view.setUint32(8, 2, true);
  view.setUint32(12, 4224, true);
  view.setBigUint64(16, 1n, true);
  return bytes;
}

test("a program that knows only the first 40 header bytes and 4,192 frame bytes reads the ring", async () => {
  await using gateway = await Gateway.start(folder);
  await send(gateway, 0, 7);
  await framed(7);
  // Written from the byte table alone, with struct and mmap and without consumer.py.
  const script = `
import json, mmap, os, struct
with open(os.environ["CS_PHYSICS_PATH"], "rb") as file:
    ring = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
magic, version, frame_size, capacity, head, tail = struct.unpack_from("<QIIQQQ", ring, 0)
assert (magic, version, frame_size) == (0x5048595349435300, 1, 4224)
found = []
for i in range(tail, head):
    at = 64 + (i % capacity) * 4224
    sequence, frame_id = struct.unpack_from("<QQ", ring, at)
    assert sequence == 2 * (i // capacity + 1) and frame_id == i
    semantic = struct.unpack_from("<1024f", ring, at + 16)
    delta_time, duration_ms, velocity, interrupt = struct.unpack_from("<4f", ring, at + 4112)
    timestamp_us, conversation = struct.unpack_from("<qQ", ring, at + 4128)
    node, case, lead, fill, actor, intent, sentiment, confidence, w, x, y, z = struct.unpack_from("<iiifiifffff f", ring, at + 4144)
    assert struct.unpack_from("<Q", ring, at)[0] == sequence
    found.append([frame_id, sum(v * v for v in semantic), velocity, actor, sentiment, w * w + x * x + y * y + z * z, node])
print(json.dumps(found))
`;

  // These tests start processes, which is slow on a busy machine.
  setDefaultTimeout(300_000);
  const read = await python(["-c", script]);
  expect(read.err).toBe("");
  const found = JSON.parse(read.out) as number[][];
  expect(found.map((row) => row[0])).toEqual([1, 2, 3, 4, 5, 6, 7]);
  found.forEach(([, norm, velocity, actor, sentiment, spin, node], index) => {
    expect(norm).toBeCloseTo(1, 5);
    expect(velocity).toBe(1 + Math.floor(index / 5));
    expect([actor, sentiment, node]).toEqual([1, index % 2 === 0 ? -0.25 : 0, -1]);
    expect(spin).toBeCloseTo(1, 5);
  });
});
