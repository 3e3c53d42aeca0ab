/** The ring commands on rings that the collider wrote, on damaged rings, and beside a writer that never pauses. */
import { afterEach, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { openRing, type Ring } from "../../collider.ts";
import { type Clock, systemClock } from "../../src/clock.ts";
import { GatewayError } from "../../src/errors.ts";
import { encodePhysics, FLAG, fillChecksum, type Physics } from "../../src/frame.ts";
import type { RingOptions } from "../../src/ring/contract.ts";
import { RingReader } from "../../src/ring/reader.ts";
import { type RingCommand, ringTool } from "../../src/ring/ring.ts";
import { verifyRing } from "../../src/ring/verify.ts";

const ROOT = resolve(import.meta.dir, "../..");
// As in docs/FRAME.md, and not through src/frame.ts: the two must agree.
const HEADER = 64;
const FRAME = 4224;
const NOW_US = 1_700_000_000_000_000;

setDefaultTimeout(60_000);

let folder: string;
let path: string;
const rings: Ring[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "ring-tool-test-"));
  path = join(folder, "ring");
});

afterEach(() => {
  for (const ring of rings.splice(0)) ring.close("closed");
  rmSync(folder, { recursive: true, force: true });
});

async function open(o: Partial<RingOptions> = {}): Promise<Ring> {
  const nothing = async () => ({ bytes: new Uint8Array(0), count: 0 });
  const ring = await openRing(
    {
      ...{ path, capacity: 16, mode: 0o600, journalId: 7, nextFrameId: 1, adopt: false },
      clock: { ...systemClock, nowUs: () => NOW_US },
      log: () => {},
      ...o,
    },
    nothing,
  );
  rings.push(ring);
  return ring;
}

const UNIT = Float32Array.of(0.6, -0.8, 0);
const MODEL = 4_000_000_001;

function physicsOf(id: number, o: Partial<Physics> = {}): Uint8Array {
  return encodePhysics({
    ...{ delta_time: 0, duration_ms: 1.5, velocity: 2, interrupt: 0, timestamp_us: NOW_US - 250_000 },
    ...{ conversation_hash: 0xfedcba9876543210n, workflow_node: -1, case_status: 4, lead_status: 0 },
    ...{ fill_rate: 0.25, actor_type: 1, intent_id: 5, sentiment: -0.25, confidence: 1 },
    ...{ spin: [0.5, -0.5, 0.5, -0.5], event_seq: id, semantic_dim: 3, model_id: MODEL, type_id: 6 },
    flags: FLAG.semantic | FLAG.intent | FLAG.sentiment | FLAG.conversation | FLAG.first,
    journal_id: 7,
    checksum: 0n,
    ...o,
  });
}

function publish(ring: Ring, count: number, o: Partial<Physics> = {}): void {
  for (let n = 0; n < count; n++) ring.publish(ring.head(), physicsOf(ring.head(), o), UNIT);
}

/** Overwrites bytes of the file in place. */
function poke(
  at: number,
  value: { f32: number } | { u16: number } | { i32: number } | { u64: bigint },
): void {
  const bytes = new Uint8Array(8);
  const view = new DataView(bytes.buffer);
  if ("f32" in value) view.setFloat32(0, value.f32, true);
  else if ("u16" in value) view.setUint16(0, value.u16, true);
  else if ("i32" in value) view.setInt32(0, value.i32, true);
  else view.setBigUint64(0, value.u64, true);
  const fd = openSync(path, "r+");
  writeSync(fd, bytes, 0, "u64" in value ? 8 : "u16" in value ? 2 : 4, at);
  closeSync(fd);
}

/** The position in the file of byte `offset` of frame `id`, in a ring of 16. */
const inFrame = (id: number, offset: number): number => HEADER + (id % 16) * FRAME + offset;

interface Said {
  out: string;
  err: string[];
}

/** Runs the command in this process. Its output can be read while it runs. */
function run(
  action: RingCommand["action"],
  o: Partial<RingCommand> & {
    said?: Said;
    stop?: AbortSignal;
    clock?: Clock;
    write?: (text: string) => Promise<void>;
  } = {},
): { said: Said; code: Promise<number> } {
  const said = o.said ?? { out: "", err: [] };
  const code = ringTool(
    { action, path, json: false, count: 10, follow: false, ...o },
    {
      write:
        o.write ??
        (async (text) => {
          said.out += text;
        }),
      say: (line) => void said.err.push(line),
      clock: o.clock ?? { ...systemClock, nowUs: () => NOW_US },
      stop: o.stop ?? new AbortController().signal,
    },
  );
  return { said, code };
}

async function refusal(action: RingCommand["action"]): Promise<string> {
  try {
    await run(action).code;
  } catch (error) {
    if (error instanceof GatewayError && error.code === "ring_failed") return error.message;
    throw error;
  }
  throw new Error("nothing was refused");
}

async function until(what: string, condition: () => boolean): Promise<void> {
  const endMs = performance.now() + 50_000;
  while (!condition()) {
    if (performance.now() > endMs) throw new Error(`waited 50 s for: ${what}`);
    await Bun.sleep(1);
  }
}

async function statOf(clock?: Clock): Promise<Record<string, unknown>> {
  const { said, code } = run("stat", { json: true, ...(clock === undefined ? {} : { clock }) });
  expect(await code).toBe(0);
  return JSON.parse(said.out);
}

describe("stat", () => {
  test("of an empty ring says that there are no frames", async () => {
    await open();
    expect(await statOf()).toEqual({
      ...{ path, version: 1, frame_size: 4224, capacity: 16, bytes: 64 + 16 * 4224, head: 1, tail: 1 },
      ...{ frames: 0, fill: 0, laps: 0, epoch: 1, writer_pid: process.pid, state: "running" },
      ...{ heartbeat_age_s: 0, stalled: false, waiters: 0, journal_id: null, newest_age_s: null },
      ...{ models: [], current: true },
    });
    const { said, code } = run("stat");
    expect(await code).toBe(0);
    expect(said.out).toContain("frames     0 of 16 (0%)\nids        none yet\n");
  });

  test("counts frames, laps and each model's frames, and names the models that the labels know", async () => {
    const ring = await open();
    ring.setLabels({ intents: {}, types: {}, models: { [MODEL]: { name: "bge\u001b[2J-m3", dim: 1024 } } });
    publish(ring, 15);
    expect(await statOf()).toMatchObject({ frames: 15, fill: 15 / 16, laps: 0, head: 16, tail: 1 });
    publish(ring, 22, { model_id: 9 });
    publish(ring, 3, { model_id: 0 });
    expect(await statOf()).toMatchObject({ frames: 16, fill: 1, laps: 2, head: 41, tail: 25 });
    ring.publish(41, physicsOf(41), UNIT);
    const stat = await statOf();
    expect(stat).toMatchObject({ journal_id: 7, newest_age_s: 0.25, laps: 2 });
    expect(stat.models).toEqual([
      { id: 9, name: null, dim: null, frames: 12 },
      { id: MODEL, name: "bge\u001b[2J-m3", dim: 1024, frames: 1 },
    ]);
    const { said } = run("stat");
    await until("it is said", () => said.out !== "");
    expect(said.out).toContain("model      bge\ufffd[2J-m3, 1024 floats, in 1 frames\n");
    expect(said.out).toContain("model      id:9, in 12 frames\n");
  });

  test.each([8 * 3600e6, -3600e6])(
    "waits for the next heartbeat if the wall clock was just set by %d µs, and no longer than 1.5 s",
    async (stepUs) => {
      let ms = 0;
      let nowUs = NOW_US;
      let beats = true;
      const sleep = async (pauseMs: number): Promise<void> => {
        ms += pauseMs;
        if (beats && ms >= 400) ring.heartbeat();
      };
      const clock = { ...systemClock, nowUs: () => nowUs, monotonicMs: () => ms, sleep };
      const ring = await open({ clock });
      nowUs += stepUs;
      expect(await statOf(clock)).toMatchObject({ heartbeat_age_s: 0, stalled: false });
      expect(ms).toBe(400);
      beats = false;
      nowUs += stepUs;
      expect(await statOf(clock)).toMatchObject({ stalled: true });
      expect(ms).toBeGreaterThan(1900);
      expect(ms).toBeLessThanOrEqual(2000);
    },
  );

  test("distinguishes a stalled writer, a closed one, and a file that is no longer at its path", async () => {
    const ring = await open({ clock: { ...systemClock, nowUs: () => NOW_US - 6_000_000 } });
    publish(ring, 1);
    expect(await statOf()).toMatchObject({ state: "running", heartbeat_age_s: 6, stalled: true });
    ring.close("closed");
    expect(await statOf()).toMatchObject({ state: "closed", heartbeat_age_s: 6, stalled: false });
    using reader = RingReader.open(path);
    expect(reader.atPath()).toBe("this");
    renameSync(path, `${path}.moved`);
    expect(reader.atPath()).toBe("nothing");
    writeFileSync(path, "x");
    expect(reader.atPath()).toBe("another");
  });
});

describe("verify", () => {
  const report = async (): Promise<{ code: number; report: ReturnType<typeof verifyRing> }> => {
    const { said, code } = run("verify", { json: true });
    return { code: await code, report: JSON.parse(said.out) };
  };

  test("finds no damage in what the collider writes, across laps and with unknown values", async () => {
    const ring = await open();
    expect((await report()).code).toBe(0);
    publish(ring, 21);
    ring.publish(
      22,
      physicsOf(22, {
        ...{ flags: 0, semantic_dim: 0, model_id: 0, intent_id: -1, sentiment: 0, confidence: 0 },
        ...{ conversation_hash: 0n, type_id: -1, spin: [1, 0, 0, 0] },
      }),
      null,
    );
    const { code, report: found } = await report();
    expect(code).toBe(0);
    expect(found).toEqual({
      ...{ path, capacity: 16, head: 23, tail: 7, frames: 16, whole: 16, damaged: 0, skipped: 0 },
      ...{ journal_id: 7, problems: {} },
    });
    const { said } = run("verify");
    await until("it is said", () => said.out !== "");
    expect(said.out).toBe(`${path}: 16 frames: 16 whole, 0 damaged\n`);
  });

  const cases: [kind: string, what: string, at: number, value: Parameters<typeof poke>[1]][] = [
    ["sequence", "an odd one", 0, { u64: 3n }],
    ["sequence", "one of a later lap", 0, { u64: 6n }],
    ["sequence", "one that is right in its low word only", 0, { u64: 2n ** 32n + 4n }],
    ["frame_id", "a neighbour's", 8, { u64: 21n }],
    ["frame_id", "wrong in its high word only", 8, { u64: 2n ** 32n + 20n }],
    ["not_finite", "a NaN in the embedding", 16, { f32: Number.NaN }],
    ["not_finite", "an infinity in the embedding", 20, { f32: Number.POSITIVE_INFINITY }],
    ["not_finite", "a NaN in the kinetics", 4120, { f32: Number.NaN }],
    ["not_finite", "a NaN in spin", 4176, { f32: Number.NaN }],
    ["norm", "a longer embedding", 16, { f32: 0.61 }],
    ["spin", "a longer spin", 4176, { f32: 0.51 }],
    ["flags", "an unknown bit", 4202, { u16: 47 | 64 }],
    ["flags", "no semantic, with a vector", 4202, { u16: 47 & ~1 }],
    ["flags", "semantic, without a model", 4204, { i32: 0 }],
    ["flags", "no intent, with an intent_id", 4202, { u16: 47 & ~2 }],
    ["flags", "intent, without an intent_id", 4164, { i32: -1 }],
    ["flags", "no sentiment, with one", 4202, { u16: 47 & ~4 }],
    ["flags", "no conversation, with a hash", 4202, { u16: 47 & ~8 & ~32 }],
    ["flags", "the first of a conversation, after a while", 4112, { f32: 1 }],
    ["range", "a sentiment above 1", 4168, { f32: 1.5 }],
    ["range", "a confidence below 0", 4172, { f32: -0.5 }],
    ["range", "a fill rate above 1", 4156, { f32: 2 }],
    ["range", "a status that there is not", 4148, { i32: 5 }],
    ["range", "an actor that there is not", 4160, { i32: -1 }],
    ["range", "no event", 4192, { u64: 0n }],
    ["journal_id", "a stranger's", 4212, { i32: 8 }],
  ];

  test.each(cases)("finds %s: %s", async (kind, _, at, value) => {
    const ring = await open();
    publish(ring, 25);
    // All have flag bits 0 to 3 and 5 (47). Frame 20 is the damaged one.
    poke(inFrame(20, at), value);
    const { code, report: found } = await report();
    expect(code).toBe(1);
    expect(found).toMatchObject({ frames: 16, whole: 15, damaged: 1, skipped: 0 });
    expect(found.problems).toEqual({ [kind]: { count: 1, first_ids: [20] } });
    const { said } = run("verify");
    await until("it is said", () => said.out !== "");
    expect(said.out).toContain("16 frames: 15 whole, 1 damaged\n");
    expect(said.out).toMatch(new RegExp(`^${kind} +1 × [^\n]+: frame 20\n`, "m"));
  });

  test("finds a frame with a wrong checksum, and a reader that verifies checksums never accepts that frame", async () => {
    const ring = await open();
    for (let id = 1; id <= 9; id++) {
      const physics = physicsOf(id);
      if (id !== 5) fillChecksum(physics, UNIT);
      ring.publish(id, physics, UNIT);
    }
    expect((await report()).code).toBe(0);
    // Only the checksum shows the damage.
    poke(inFrame(7, 4128), { u64: BigInt(NOW_US) });
    expect((await report()).report.problems).toEqual({ checksum: { count: 1, first_ids: [7] } });
    using asks = RingReader.open(path, true);
    expect(asks.copyFrom(1, 9)).toMatchObject({ first: 1, count: 6 });
    expect(asks.copyFrom(7, 9)).toMatchObject({ first: 8, count: 2 });
    using believes = RingReader.open(path, false);
    expect(believes.copyFrom(7, 9)).toMatchObject({ first: 7, count: 3 });
    // A refilled frame keeps its original checksum.
    poke(inFrame(7, 4128), { u64: BigInt(NOW_US - 250_000) });
    poke(inFrame(7, 4202), { u16: 47 | FLAG.refilled });
    expect((await report()).code).toBe(0);
  });

  test("finds an embedding with values past its dimension", async () => {
    const ring = await open();
    publish(ring, 3);
    // A small value, so that the length stays 1.
    poke(inFrame(2, 16 + 4 * 1023), { f32: 1e-6 });
    expect((await report()).report.problems).toEqual({ padding: { count: 1, first_ids: [2] } });
    poke(inFrame(2, 4200), { u16: 0 });
    poke(inFrame(2, 4204), { i32: 0 });
    const { problems } = (await report()).report;
    expect(Object.keys(problems)).toEqual(["padding", "flags"]);
    poke(inFrame(2, 4204), { i32: 1 });
    expect(Object.keys((await report()).report.problems)).toEqual(["padding", "flags"]);
  });

  test("relies on the newest whole frame, and names the first ten ids of each kind of damage", async () => {
    const ring = await open();
    publish(ring, 15, { journal_id: 8 });
    publish(ring, 1);
    poke(inFrame(16, 0), { u64: 0n });
    const { report: newestBroken } = await report();
    expect(newestBroken).toMatchObject({ journal_id: 8, damaged: 1 });
    publish(ring, 1);
    const { report: found } = await report();
    expect(found.problems.journal_id).toEqual({ count: 14, first_ids: [2, 3, 4, 5, 6, 7, 8, 9, 10, 11] });
    const { said } = run("verify");
    await until("it is said", () => said.out !== "");
    expect(said.out).toContain(": frame 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, …\n");
  });

  test.each([
    ["no head", 0n, 0n],
    ["ids that no number holds", 2n ** 60n, 2n ** 60n],
    ["more frames than slots", 40n, 10n],
    ["a tail before the first id", 5n, 0n],
    ["a tail beyond the head", 26n, 27n],
  ])("finds a header that cannot be (%s), and reads no frame of it", async (_, head, tail) => {
    const ring = await open();
    publish(ring, 25);
    poke(24, { u64: head });
    poke(32, { u64: tail });
    const { code, report: found } = await report();
    expect(code).toBe(1);
    expect(found).toMatchObject({ frames: 0, problems: { header: { count: 1, first_ids: [] } } });
    expect(await refusal("stat")).toContain("it is damaged");
    expect(await refusal("tail")).toContain("it is damaged");
  });
});

test("a frame below tail is not read, although its slot still holds it", async () => {
  publish(await open(), 3);
  using reader = RingReader.open(path);
  expect(reader.copy(1, 4).whole).toEqual([true, true, true]);
  // This is the state after a writer dies between the two stores.
  poke(32, { u64: 3n });
  expect(reader.copy(1, 4).whole).toEqual([false, false, true]);
});

/** Publishes without a pause, in another process, into a ring of 16. */
async function flatOut(): Promise<AsyncDisposable> {
  const code = `
    import { openRing } from ${JSON.stringify(join(ROOT, "collider.ts"))};
    const ring = await openRing(
      { path: process.argv[1], capacity: 16, mode: 0o600, journalId: 7, nextFrameId: 1, adopt: false,
        log: () => {} },
      async () => ({ bytes: new Uint8Array(0), count: 0 }),
    );
    const physics = Uint8Array.from(JSON.parse(process.argv[2]));
    const vector = Float32Array.of(0.6, -0.8, 0);
    console.log("publishing");
    // Bounded, in case the test is killed before it can end its writer.
    for (const endMs = Date.now() + 60_000; Date.now() < endMs; ) {
      ring.heartbeat();
      for (let n = 0; n < 1e5; n++) ring.publish(ring.head(), physics, vector);
    }`;
  const physics = JSON.stringify([...physicsOf(1)]);
  const child = Bun.spawn([process.execPath, "-e", code, path, physics], {
    stdout: "pipe",
    stderr: "inherit",
  });
  const { value } = await child.stdout.getReader().read();
  expect(new TextDecoder().decode(value)).toContain("publishing");
  return {
    [Symbol.asyncDispose]: async () => {
      child.kill("SIGKILL");
      await child.exited;
    },
  };
}

describe("beside a writer that never pauses", () => {
  test("verify skips frames that are overwritten meanwhile, and reports no damage", async () => {
    await using _writer = await flatOut();
    using reader = RingReader.open(path);
    const seen = { whole: 0, skipped: 0 };
    await until("frames were both read and missed", () => {
      for (let round = 0; round < 100; round++) {
        const { problems, whole, skipped, frames } = verifyRing(reader);
        expect(problems).toEqual({});
        expect(whole + skipped).toBe(frames);
        seen.whole += whole;
        seen.skipped += skipped;
      }
      return seen.whole > 10_000 && seen.skipped > 100;
    });
  });

  test("a tail reports its exact losses", async () => {
    await using _writer = await flatOut();
    const stop = new AbortController();
    const { said, code } = run("tail", { json: true, follow: true, stop: stop.signal });
    await until("frames were lost and read", () => said.err.length > 20 && said.out.length > 1e6);
    stop.abort();
    expect(await code).toBe(0);
    const ids = said.out
      .trimEnd()
      .split("\n")
      .map((line) => Number(/"frame_id":"(\d+)"/.exec(line)?.[1]));
    const lost = said.err.map((line) => /^ring: lost: (\d+) frames before (\d+) /.exec(line) ?? []);
    const lostBefore = new Map(lost.map(([, count, before]) => [Number(before), Number(count)]));
    let gaps = 0;
    for (let index = 1; index < ids.length; index++) {
      const gap = (ids[index] as number) - (ids[index - 1] as number) - 1;
      expect(lostBefore.get(ids[index] as number) ?? 0).toBe(gap);
      if (gap > 0) gaps += 1;
    }
    expect(gaps).toBeGreaterThan(0);
  });
});

describe("tail", () => {
  test("prints the newest frames, one per line, with harmless labels", async () => {
    const ring = await open();
    ring.setLabels({ intents: { 5: "Can\ncel\u001b[31m" }, types: { 6: "Açúcar\u2028\u00a0x" }, models: {} });
    publish(ring, 11);
    publish(ring, 1, { delta_time: Math.log(0.25), flags: 15, type_id: 99, velocity: 12.5 });
    ring.publish(13, physicsOf(13, { flags: 0, type_id: -1, intent_id: -1, timestamp_us: 2 ** 53 }), null);
    const { said, code } = run("tail", { count: 3 });
    expect(await code).toBe(0);
    const clock = "\\d\\d:\\d\\d:\\d\\d\\.\\d{3}";
    const lines = said.out.split("\n");
    expect(lines[0]).toMatch(
      new RegExp(
        `^${clock}  #11  Açúcar\ufffd\ufffdx/Can\ufffdcel\ufffd\\[31m  sentiment -0.25  conversation fedcba9876543210  dt first  2/min  \\[\\+0.600 -0.800 \\+0.000 \\+0.000\\]$`,
      ),
    );
    expect(lines[1]).toContain("  #12  id:99/Can");
    expect(lines[1]).toContain("  dt 0.25s  12.5/min  [");
    expect(lines[2]).toMatch(
      new RegExp(`^${clock}  #13  UnknownEvent/-  sentiment \\?  conversation -  dt -  \\[no vector\\]$`),
    );
    expect(lines.slice(3)).toEqual([""]);
    const { said: all, code: allCode } = run("tail", { count: 1000 });
    expect([await allCode, all.out.split("\n").length - 1]).toEqual([0, 13]);
    const { said: none, code: noneCode } = run("tail", { count: 0 });
    expect([await noneCode, none.out, none.err]).toEqual([0, "", []]);
  });

  test("escapes every character in JSON that could control the terminal", async () => {
    const label = "a\u001b[2J\u007f\u009b\n\u202e\u2028\u{e0001}ção";
    const ring = await open();
    ring.setLabels({ intents: {}, types: { 6: label }, models: { [MODEL]: { name: label, dim: 3 } } });
    publish(ring, 1);
    const { said, code } = run("tail", { count: 1, json: true });
    expect(await code).toBe(0);
    expect(said.out).toMatch(/^[^\p{C}\p{Zl}\p{Zp}]+\n$/u);
    expect([JSON.parse(said.out).type_label, said.out.includes("ção")]).toEqual([label, true]);
    const { said: stat, code: statCode } = run("stat", { json: true });
    expect(await statCode).toBe(0);
    expect(stat.out).toMatch(/^[^\p{C}\p{Zl}\p{Zp}]+\n$/u);
    expect(JSON.parse(stat.out).models[0].name).toBe(label);
  });

  test("continues across a shutdown, a restart, a removed file and a file of another journal, and reports each", async () => {
    let ring = await open();
    publish(ring, 3);
    const stop = new AbortController();
    const { said, code } = run("tail", { count: 2, json: true, follow: true, stop: stop.signal });
    const ids = (): number[] =>
      [...said.out.matchAll(/"frame_id":"(\d+)".*"journal_id":(\d+)/g)].map(
        ([, id, journal]) => 1000 * (Number(journal) - 7) + Number(id),
      );
    const told = (kind: string): Promise<void> =>
      until(kind, () => said.err.some((line) => line.startsWith(`ring: ${kind}: `)));
    await until("the newest two", () => ids().length === 2);
    publish(ring, 1);
    await until("a new one", () => ids().length === 3);
    ring.close("closed");
    await told("closed");
    ring = await open({ adopt: true, nextFrameId: 5 });
    expect(ring.adopted).toBe(true);
    publish(ring, 1);
    await told("restarted");
    await until("the one after the restart", () => ids().length === 4);
    // The file is removed while the gateway runs, and the gateway makes another. The rest of the old one is read first.
    publish(ring, 1);
    rmSync(path);
    ring.close("superseded");
    ring = await open({ nextFrameId: 7, capacity: 32 });
    publish(ring, 2);
    await told("replaced");
    await until("those of the new file", () => ids().length === 7);
    ring.close("superseded");
    rmSync(path);
    ring = await open({ journalId: 9, capacity: 16 });
    publish(ring, 2, { journal_id: 9 });
    await told("journal_changed");
    await until("those of the other journal", () => ids().length === 9);
    expect(ids()).toEqual([2, 3, 4, 5, 6, 7, 8, 2001, 2002]);
    stop.abort();
    expect(await code).toBe(0);
    expect(said.err.filter((line) => line.startsWith("ring: lost"))).toEqual([]);
  });

  test("leaves out and reports damaged frames, and does not wait for a frame that never comes", async () => {
    publish(await open(), 9);
    poke(inFrame(4, 0), { u64: 1n });
    poke(inFrame(5, 0), { u64: 1n });
    poke(inFrame(9, 0), { u64: 1n });
    const { said, code } = run("tail", { count: 7, json: true });
    expect(await code).toBe(0);
    const ids = [...said.out.matchAll(/"frame_id":"(\d+)"/g)].map(([, id]) => Number(id));
    expect(ids).toEqual([3, 6, 7, 8]);
    expect(said.err).toEqual(["ring: damaged: 2 frames before 6 are not whole; see ring verify"]);
  });

  test("ends quietly if its output is closed, and with an error if it cannot write", async () => {
    publish(await open(), 3);
    const failing = (code: string) => async (): Promise<void> => {
      throw Object.assign(new Error(code), { code });
    };
    const { said, code } = run("tail", { follow: true, write: failing("EPIPE") });
    expect([await code, said.err]).toEqual([0, []]);
    expect(run("tail", { follow: true, write: failing("ENOSPC") }).code).rejects.toThrow("ENOSPC");
  });
});

describe("a file that is not a ring", () => {
  const damage: [what: string, make: () => void, says: string][] = [
    ["nothing", () => {}, "there is no ring; start the gateway"],
    ["a folder", () => mkdirSync(path), "it is no regular file"],
    ["an empty file", () => writeFileSync(path, ""), "it has 0 bytes"],
    ["a foreign file", () => writeFileSync(path, "PHYSICS?".repeat(1000)), "it is no physics ring"],
    ["a pipe", () => void Bun.spawnSync(["mkfifo", path]), "it is no regular file"],
  ];

  test.each(damage)("%s prints one line that says so", async (_, make, says) => {
    make();
    for (const action of ["stat", "tail", "verify"] as const) {
      const message = await refusal(action);
      expect(message).toContain(`ring: read ${path}: ${says}`);
      expect(message).not.toContain("\n");
    }
  });

  test("another version, another frame size, capacity 0 or a truncated file is refused before it is mapped", async () => {
    const ring = await open();
    publish(ring, 20);
    ring.close("closed");
    const whole = readFileSync(path);
    const with32 = (at: number, value: number): void => {
      writeFileSync(path, whole);
      poke(at, { i32: value });
    };
    with32(8, 2);
    expect(await refusal("verify")).toContain("version 2");
    with32(12, 4096);
    expect(await refusal("verify")).toContain("frames of 4096 bytes");
    with32(16, 0);
    expect(await refusal("verify")).toContain("it is damaged");
    with32(20, 1);
    expect(await refusal("verify")).toContain("it is damaged");
    writeFileSync(path, whole);
    truncateSync(path, whole.length - 1);
    expect(await refusal("verify")).toContain(`it has ${whole.length - 1} bytes`);
  });
});

test("a reader changes nothing, needs no write permission, and survives the compilation of its hot code", async () => {
  const ring = await open({ capacity: 2000 });
  publish(ring, 5000);
  ring.close("closed");
  chmodSync(path, 0o400);
  const before = Bun.SHA256.hash(readFileSync(path), "hex");
  const { mtimeMs } = statSync(path);
  using reader = RingReader.open(path);
  // A compiled store into a read-only mapping would end this process.
  for (let round = 0; round < 20; round++)
    expect(verifyRing(reader)).toMatchObject({ whole: 2000, damaged: 0 });
  let heads = 0;
  for (let round = 0; round < 200_000; round++) heads += reader.head() + reader.state();
  expect(heads).toBe(200_000 * (5001 + 2));
  for (let round = 0; round < 20; round++) expect(reader.modelIds(3001, 5001)).toHaveLength(2000);
  expect([Bun.SHA256.hash(readFileSync(path), "hex"), statSync(path).mtimeMs]).toEqual([before, mtimeMs]);
});
