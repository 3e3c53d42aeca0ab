/** The real gateway's ring, read by consumer.py with the real numpy and torch. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { decodeFrame } from "../../src/frame.ts";
import { apiFrames, Gateway, ringFrames, ringHead, TempFolder, until } from "./gateway.ts";
import { consumer, Follower, PYTHON_WITHOUT_TORCH, pythonJson } from "./python.ts";

const SENT = 60;
const BATCH = 50;

/** Every field that an event can bring, in many combinations. */
function eventAt(n: number): Record<string, unknown> {
  return {
    ...(n % 6 === 5 ? { note: `only a string leaf, ${n}` } : { message: `Quero falar do meu cartão ${n}` }),
    ...(n % 4 === 0 ? {} : { conversation_id: `c-${n % 7}` }),
    ...(n % 3 === 0 ? {} : { type: n % 2 === 0 ? "UserMessage" : "AgentReply" }),
    ...(n % 5 === 0 ? { intent: "cancelar", sentiment: (n % 21) / 10 - 1 } : {}),
    ...(n % 8 === 0 ? { workflow_node: n - 20, case_status: n % 5, lead_status: (n + 1) % 5 } : {}),
    ...(n % 9 === 0 ? { actor: "tool" } : {}),
    timestamp: 1_700_000_000_000_000 + n * 1_234_567,
  };
}

async function sendEvents(gateway: Gateway, from: number, count: number): Promise<void> {
  const lines = Array.from({ length: count }, (_, n) => JSON.stringify(eventAt(from + n)));
  expect((await gateway.postLines(lines.join("\n"))).status).toBe(200);
}

interface ApiFrame {
  [name: string]: number | string | number[];
  semantic: number[];
  spin: number[];
}

interface Tensors {
  readonly tensors: Record<string, number[][] | number[]>;
  readonly shapes: Record<string, number[]>;
  readonly dtypes: Record<string, string>;
  readonly devices: string[];
}

/** float32 reaches JSON through a double, which holds it exactly. */
const TENSORS = `
import json
from consumer import PhysicsConsumer
with PhysicsConsumer() as consumer:
    tensors = consumer.read_batch(${BATCH}).tensors()
print(json.dumps({
    "tensors": {name: tensor.tolist() for name, tensor in tensors.items()},
    "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
    "dtypes": {name: str(tensor.dtype) for name, tensor in tensors.items()},
    "devices": sorted({str(tensor.device) for tensor in tensors.values()}),
}))
`;

/** As API.md lists them. */
const KINETICS = [
  "delta_time",
  "duration_ms",
  "velocity",
  "interrupt",
  "age_s",
  "workflow_node",
  "case_status",
  "lead_status",
  "fill_rate",
  "actor_type",
  "intent_id",
  "sentiment",
  "confidence",
] as const;

const DTYPES = {
  semantic: "torch.float32",
  kinetics: "torch.float32",
  timestamp_us: "torch.int64",
  event_seq: "torch.int64",
  intent_id: "torch.int64",
  flags: "torch.int32",
};

function shapesOf(n: number): Record<string, number[]> {
  return {
    semantic: [n, 1024],
    kinetics: [n, 17],
    timestamp_us: [n],
    event_seq: [n],
    intent_id: [n],
    flags: [n],
  };
}

describe(`${SENT} frames in the ring`, () => {
  const folder = new TempFolder();
  const options = { ring: folder.ring };
  let gateway: Gateway;
  let newest: ApiFrame[] = [];

  beforeAll(async () => {
    gateway = await Gateway.start(folder);
    await sendEvents(gateway, 0, SENT);
    await until("framed", () => (ringHead(folder.ring)?.head ?? 0) === SENT + 1);
    const page = await gateway.json<{ frames: ApiFrame[] }>(`/api/frames?after=${SENT - BATCH}&limit=1000`);
    newest = page.frames;
    expect(newest.length).toBe(BATCH);
  });

  afterAll(async () => {
    await gateway[Symbol.asyncDispose]();
    folder[Symbol.dispose]();
  });

  test("--pytorch --batch 50 --json names shapes, dtypes and device of every tensor", async () => {
    const { code, out, err } = await consumer(["--pytorch", "--batch", String(BATCH), "--json"], options);
    expect({ code, err }).toEqual({ code: 0, err: "" });
    const shapes = shapesOf(BATCH);
    const expected = Object.entries(DTYPES).map(([name, dtype]) => [
      name,
      { shape: shapes[name], dtype, device: "cpu" },
    ]);
    expect(JSON.parse(out)).toEqual({ frames: BATCH, tensors: Object.fromEntries(expected) });
  });

  test("--pytorch --batch 50 prints the same for people, with a sample of the newest frame", async () => {
    const { code, out } = await consumer(["--pytorch", "--batch", String(BATCH)], options);
    expect(code).toBe(0);
    expect(out).toContain(`${BATCH} frames, ${SENT - BATCH + 1} to ${SENT}`);
    expect(out).toMatch(/semantic +\(50, 1024\) +torch\.float32 +cpu/);
    expect(out).toMatch(/kinetics +\(50, 17\) +torch\.float32 +cpu/);
    for (const name of ["timestamp_us", "event_seq", "intent_id"]) {
      expect(out).toMatch(new RegExp(`${name} +\\(50,\\) +torch\\.int64 +cpu`));
    }
    expect(out).toMatch(/flags +\(50,\) +torch\.int32 +cpu/);
    expect(out).toContain(`sample: frame ${SENT}, event ${SENT}`);
    for (const name of [...KINETICS, "spin_w", "spin_x", "spin_y", "spin_z"]) expect(out).toContain(name);
  });

  test("the tensors' values are those of /api/frames, element for element", async () => {
    const { tensors, shapes, dtypes, devices } = await pythonJson<Tensors>(TENSORS, options);
    expect(shapes).toEqual(shapesOf(BATCH));
    expect(dtypes).toEqual(DTYPES);
    expect(devices).toEqual(["cpu"]);
    const newestUs = Number(newest.at(-1)?.timestamp_us);
    newest.forEach((frame, row) => {
      const valueOf = (name: (typeof KINETICS)[number]): number =>
        name === "age_s" ? (newestUs - Number(frame.timestamp_us)) / 1e6 : Number(frame[name]);
      const kinetics = [...KINETICS.map(valueOf), ...frame.spin].map(Math.fround);
      expect(tensors.kinetics?.[row]).toEqual(kinetics);
      expect(tensors.semantic?.[row]).toEqual(frame.semantic.map(Math.fround));
      expect(tensors.timestamp_us?.[row]).toBe(Number(frame.timestamp_us));
      expect(tensors.event_seq?.[row]).toBe(Number(frame.event_seq));
      expect(tensors.intent_id?.[row]).toBe(Number(frame.intent_id));
      expect(tensors.flags?.[row]).toBe(Number(frame.flags));
    });
  });

  test("what was sent is what the tensors say, and unknown is not neutral", async () => {
    const { tensors } = await pythonJson<Tensors>(TENSORS, options);
    const column = (row: number, name: (typeof KINETICS)[number]): number =>
      (tensors.kinetics?.[row] as number[])[KINETICS.indexOf(name)] as number;
    for (let row = 0; row < BATCH; row++) {
      const sent = eventAt(SENT - BATCH + row);
      const flags = (tensors.flags as number[])[row] ?? 0;
      expect((flags & 4) !== 0).toBe(sent.sentiment !== undefined);
      expect((flags & 2) !== 0).toBe(sent.intent !== undefined);
      expect((flags & 8) !== 0).toBe(sent.conversation_id !== undefined);
      expect(column(row, "sentiment")).toBe(Math.fround(Number(sent.sentiment ?? 0)));
      expect(column(row, "workflow_node")).toBe(Number(sent.workflow_node ?? -1));
      expect(column(row, "case_status")).toBe(Number(sent.case_status ?? 0));
      expect(column(row, "actor_type")).toBe(
        sent.actor === "tool" ? 3 : sent.message === undefined ? 0 : 1,
      );
      expect(tensors.timestamp_us?.[row]).toBe(Number(sent.timestamp));
    }
  });

  test("--stats shows the header, for people and as JSON", async () => {
    const text = await consumer(["--stats"], options);
    expect(text.code).toBe(0);
    expect(text.out).toMatch(new RegExp(`^head +${SENT + 1}$`, "m"));
    expect(text.out).toMatch(/^state +running$/m);
    const { out } = await consumer(["--stats", "--json"], options);
    expect(JSON.parse(out)).toMatchObject({
      path: folder.ring,
      version: 1,
      frame_size: 4224,
      capacity: 20_000,
      head: SENT + 1,
      frames: SENT,
      epoch: 1,
      writer_pid: gateway.process.pid,
      state: "running",
      stalled: false,
      journal_id: newest[0]?.journal_id,
      lost: 0,
    });
  });

  test("--batch 5 prints the newest five, oldest first, with type and intent by name", async () => {
    const { code, out } = await consumer(["--batch", "5", "--json"], options);
    expect(code).toBe(0);
    const frames = out
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(frames.map((frame) => frame.frame_id)).toEqual(["56", "57", "58", "59", "60"]);
    frames.forEach((frame, row) => {
      const sent = eventAt(SENT - 5 + row);
      expect(frame.type_label).toBe(sent.type ?? "UnknownEvent");
      expect(frame.intent_label).toBe(sent.intent ?? null);
      expect(frame.semantic).toEqual(newest.at(row - 5)?.semantic);
    });
    const text = await consumer(["--batch", "5"], options);
    expect(text.out.trim().split("\n").length).toBe(5);
    expect(text.out).toContain("#60");
    expect(text.out).toContain("UserMessage/");
  });

  test("without torch: --pytorch says so in one line, and everything else works", async () => {
    const without = { ...options, python: PYTHON_WITHOUT_TORCH };
    const tensors = await consumer(["--pytorch", "--batch", "50"], without);
    expect(tensors.code).toBe(1);
    expect(tensors.out).toBe("");
    expect(tensors.err).toMatch(/^consumer: torch is not installed.*\n$/);
    const batch = await consumer(["--batch", "5", "--json"], without);
    expect(batch.code).toBe(0);
    expect(batch.out).toBe((await consumer(["--batch", "5", "--json"], options)).out);
  });

  test("a reader that knows the reference part of the layout alone reads the ring unchanged", async () => {
    const script = `
import json, os
from pathlib import Path
from test_minimal_reader import read_ring
print(json.dumps([frame._asdict() for frame in read_ring(Path(os.environ["CS_PHYSICS_PATH"]))]))
`;
    const read = await pythonJson<Record<string, unknown>[]>(script, options);
    const expected = ringFrames(folder.ring).map(({ bytes }) => decodeFrame(bytes));
    expect(read.length).toBe(SENT);
    read.forEach((frame, index) => {
      const whole = expected[index];
      for (const [name, value] of Object.entries(frame)) {
        if (name === "semantic") expect(value).toEqual(Array.from(whole?.semantic ?? []));
        // Beyond 2^53 JSON.parse rounds; the conversation's hash is compared as rounded on both sides.
        else if (name === "conversation_hash") expect(value).toBe(Number(whole?.conversation_hash));
        else expect({ [name]: value }).toEqual({ [name]: whole?.[name as keyof typeof whole] });
      }
      expect(Object.keys(frame).length).toBe(17);
    });
  });
});

describe("fewer frames than asked for", () => {
  test("none: it says so and shows empty tensors; three: there are three", async () => {
    using folder = new TempFolder();
    await using gateway = await Gateway.start(folder, { args: ["--ring-capacity", "16"] });
    await until("there is a ring", () => ringHead(folder.ring) !== null);
    const ask = () => consumer(["--pytorch", "--batch", "50", "--json"], { ring: folder.ring });
    const none = await ask();
    expect(none.code).toBe(0);
    expect(none.err).toContain("no frames yet");
    expect(JSON.parse(none.out)).toMatchObject({ frames: 0, tensors: { semantic: { shape: [0, 1024] } } });
    await sendEvents(gateway, 0, 3);
    await until("framed", () => ringHead(folder.ring)?.head === 4);
    const { frames, tensors } = JSON.parse((await ask()).out) as {
      frames: number;
      tensors: Record<string, { shape: number[] }>;
    };
    expect(frames).toBe(3);
    const shapes = Object.entries(tensors).map(([name, { shape }]) => [name, shape]);
    expect(Object.fromEntries(shapes)).toEqual(shapesOf(3));
  });

  test("a ring of 16 that was lapped: the newest 16", async () => {
    using folder = new TempFolder();
    await using gateway = await Gateway.start(folder, { args: ["--ring-capacity", "16"] });
    await sendEvents(gateway, 0, 100);
    await until("framed", () => ringHead(folder.ring)?.head === 101);
    const { out } = await consumer(["--batch", "50", "--json"], { ring: folder.ring });
    const ids = out
      .trim()
      .split("\n")
      .map((line) => Number((JSON.parse(line) as { frame_id: string }).frame_id));
    expect(ids.at(-1)).toBe(100);
    expect(ids).toEqual(Array.from({ length: ids.length }, (_, index) => 101 - ids.length + index));
    expect(ids.length).toBe(101 - (ringHead(folder.ring)?.tail ?? 0));
    expect(ids.length).toBeGreaterThanOrEqual(15);
  });
});

describe("what is no ring", () => {
  const folder = new TempFolder();
  afterAll(() => folder[Symbol.dispose]());

  /** Small copies of a real ring, each with one thing changed. */
  async function realRing(): Promise<Buffer> {
    await using gateway = await Gateway.start(folder, { args: ["--ring-capacity", "16"] });
    await sendEvents(gateway, 0, 5);
    await until("framed", () => ringHead(folder.ring)?.head === 6);
    expect(await gateway.stop()).toBe(0);
    return readFileSync(folder.ring);
  }

  async function refusal(path: string): Promise<string> {
    for (const mode of [["--batch", "5"], ["--pytorch"], ["--stats"], ["--follow"]]) {
      const { code, out, err } = await consumer([...mode, "--path", path], { ring: "/nowhere" });
      expect({ mode, code, out }).toEqual({ mode, code: 1, out: "" });
      expect(err.trim().split("\n").length).toBe(1);
      expect(err).toContain(path);
    }
    return (await consumer(["--stats", "--path", path], { ring: "/nowhere" })).err;
  }

  test("no file, a foreign magic, another version, a cut file: one line that names it, exit code 1", async () => {
    const ring = await realRing();
    const changed = (name: string, change: (bytes: Buffer) => Buffer | undefined): string => {
      const bytes = Buffer.from(ring);
      const path = folder.file(name);
      writeFileSync(path, change(bytes) ?? bytes);
      return path;
    };
    expect((await consumer(["--stats", "--path", changed("same", () => undefined)], { ring: "" })).code).toBe(0);
    expect(await refusal(folder.file("absent"))).toContain("no ring");
    const foreign = changed("foreign", (bytes) => {
      bytes.writeUInt8(0x41, 3);
      return undefined;
    });
    expect(await refusal(foreign)).toMatch(/magic|no ring|not a ring/);
    const version = changed("version", (bytes) => {
      bytes.writeUInt32LE(2, 8);
      return undefined;
    });
    expect(await refusal(version)).toContain("version 2");
    await refusal(changed("cut", (bytes) => bytes.subarray(0, 64 + 4224)));
  }, 30_000);
});

describe("a follower over restarts", () => {
  const folder = new TempFolder();
  afterAll(() => folder[Symbol.dispose]());

  test("misses nothing, repeats nothing, and is told, while events keep coming", async () => {
    const args = ["--db-path", folder.file("events.duckdb")];
    let gateway = await Gateway.start(folder, { args });
    await until("there is a ring", () => ringHead(folder.ring) !== null);
    await using follower = new Follower(["--json", "--from", "oldest"], { ring: folder.ring });
    const acknowledged: number[] = [];
    let sending = true;
    let n = 0;
    const client = async (): Promise<void> => {
      while (sending) {
        try {
          const response = await gateway.post(eventAt(n++));
          if (response.status === 200) acknowledged.push(((await response.json()) as { seq: number }).seq);
        } catch {
          // The gateway is away: this event was not acknowledged, and the next one is tried.
        }
        await Bun.sleep(2);
      }
    };
    const clients = Promise.all([client(), client(), client()]);
    const more = (): Promise<void> => {
      const before = follower.lines.length;
      return follower.until("frames come", () => follower.lines.length >= before + 40);
    };
    const restart = async (how: "stop" | "kill", o: { deleteRing: boolean }): Promise<void> => {
      await more();
      await gateway[how]();
      if (o.deleteRing) rmSync(folder.ring);
      const told = follower.err.length;
      gateway = await Gateway.start(folder, { args });
      const kind = o.deleteRing ? "replaced" : "restarted";
      await follower.until(`it is told: ${kind}`, () => follower.err.slice(told).includes(`${kind}:`));
    };
    try {
      await restart("stop", { deleteRing: false });
      expect(follower.err).toContain("closed:");
      await restart("kill", { deleteRing: false });
      await restart("stop", { deleteRing: true });
      await restart("kill", { deleteRing: true });
      await more();
    } finally {
      sending = false;
      await clients;
    }
    const last = Math.max(...acknowledged);
    const seen = (): { frame_id: string; event_seq: string }[] =>
      follower.lines.map((line) => JSON.parse(line) as { frame_id: string; event_seq: string });
    await follower.until("all are there", () => {
      const newest = JSON.parse(follower.lines.at(-1) ?? "{}") as { event_seq?: string };
      return Number(newest.event_seq) >= last;
    });
    const frames = seen();
    const ids = frames.map((frame) => Number(frame.frame_id));
    expect(ids).toEqual(Array.from({ length: ids.length }, (_, index) => index + 1));
    const seqs = frames.map((frame) => Number(frame.event_seq));
    expect(new Set(seqs).size).toBe(seqs.length);
    expect(acknowledged.filter((seq) => !seqs.includes(seq))).toEqual([]);
    // What it was shown is what there is: the same frames in the same order.
    const viaApi = await apiFrames(gateway);
    expect(viaApi.map((bytes) => decodeFrame(bytes).event_seq)).toEqual(seqs);
    expect(follower.err).not.toContain("lost:");
    expect(await follower.interrupt()).toBe(0);
    expect(await gateway.stop()).toBe(0);
  }, 60_000);
});
