/**
 * Measures the ring from both sides, each against a baseline in the same run: the complete write of a frame against the
 * same protocol in C (bench/ring.c, compiled here with cc), in turns on rings of the same size; the first lap against later
 * laps; reads in Python against numpy's own copy; and the latency of a follower against a follower in C. Prints
 * medians, in ns per frame.
 */
import { dlopen, ptr } from "bun:ffi";
import { mkdtempSync, rmSync, statfsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openRing, type Ring } from "../collider.ts";
import { ROOT } from "../scripts/steps.ts";
import { OFFSET, PHYSICS_BYTES, PHYSICS_OFFSET, ringBytes, SEMANTIC_DIM_MAX } from "../src/frame.ts";

const json = process.argv.includes("--json");
const VECTORS = 64;
const ROUNDS = 15;
const ROUND_FRAMES = 200_000;
const FOLLOW_FRAMES = 20_000;
const FOLLOW_PAUSE_NS = 100_000;

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1] as number;
}

/** A folder in shared memory, if the system has one. */
function makeFolder(): string {
  const wanted = 3 * ringBytes(100_000);
  try {
    const { bavail, bsize } = statfsSync("/dev/shm");
    if (bavail * bsize > wanted) return mkdtempSync("/dev/shm/bench-ring-");
  } catch {
    // macOS has no /dev/shm.
  }
  return mkdtempSync(join(tmpdir(), "bench-ring-"));
}

function compile(folder: string): string {
  const binary = join(folder, "ring");
  const source = join(import.meta.dir, "ring.c");
  const { exitCode, stderr } = Bun.spawnSync([
    "cc",
    "-O2",
    "-std=gnu11",
    "-Wall",
    "-Werror",
    "-o",
    binary,
    source,
  ]);
  if (exitCode !== 0) throw new Error(`bench: cc ${source}: ${stderr.toString()}`);
  return binary;
}

async function makeRing(path: string, capacity: number): Promise<Ring> {
  return openRing(
    {
      path,
      capacity,
      mode: 0o600,
      journalId: 1,
      nextFrameId: 1,
      adopt: false,
      log: () => {},
    },
    async () => ({ bytes: new Uint8Array(0), count: 0 }),
  );
}

const vectors = Array.from({ length: VECTORS }, (_, i) =>
  Float32Array.from({ length: SEMANTIC_DIM_MAX }, (_, k) => (i + k) / 1024),
);
const physics = Array.from({ length: VECTORS }, (_, i) => new Uint8Array(PHYSICS_BYTES).fill(i));

type Write = (ring: Ring, frames: number) => void;

function publishOneByOne(ring: Ring, frames: number): void {
  let frameId = ring.head();
  for (const end = frameId + frames; frameId < end; frameId++) {
    const index = frameId % VECTORS;
    ring.publish(frameId, physics[index] as Uint8Array, vectors[index] as Float32Array);
  }
}

/** Made in advance and reused, so that a round measures the ring and not the creation of objects. */
const batch = Array.from({ length: VECTORS }, () => ({
  frameId: 0,
  physics: physics[0] as Uint8Array,
  vector: vectors[0] as Float32Array,
}));

function publishInBatches(ring: Ring, frames: number): void {
  let frameId = ring.head();
  for (const end = frameId + frames; frameId < end; ) {
    for (const frame of batch) {
      frame.frameId = frameId;
      frame.physics = physics[frameId % VECTORS] as Uint8Array;
      frame.vector = vectors[frameId % VECTORS] as Float32Array;
      frameId += 1;
    }
    ring.publishBatch(batch);
  }
}

/** Returns ns per frame. `frames` must be a multiple of VECTORS. */
function timed(write: Write, ring: Ring, frames: number): number {
  const startNs = Bun.nanoseconds();
  write(ring, frames);
  return (Bun.nanoseconds() - startNs) / frames;
}

async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  let rest = "";
  for await (const bytes of stream) {
    const lines = (rest + new TextDecoder().decode(bytes)).split("\n");
    rest = lines.pop() as string;
    yield* lines;
  }
}

function print(name: string, value: number, baseline: number | null, unit = "ns/frame"): void {
  const ratio = baseline === null ? null : value / baseline;
  if (json) console.log(JSON.stringify({ name, value, unit, baseline, ratio }));
  else {
    const against = baseline === null ? "" : `, against ${baseline.toFixed(1)}: ratio ${ratio?.toFixed(2)}`;
    console.log(`${name}: ${value.toFixed(1)} ${unit}${against}`);
  }
}

/** Measures writes one by one and in batches, each in turns with C. */
async function compareWriters(size: string, binary: string, folder: string, capacity: number): Promise<void> {
  const paths = [join(folder, `c-${size}`), join(folder, `ts-${size}`)] as const;
  const c = Bun.spawn([binary, "write", paths[0], `${capacity}`, `${ROUND_FRAMES}`, `${ROUNDS}`], {
    stdin: "pipe",
    stdout: "pipe",
  });
  const ring = await makeRing(paths[1], capacity);
  // One lap, and enough calls for the compiler.
  for (const write of [publishOneByOne, publishInBatches]) write(ring, Math.max(capacity, ROUND_FRAMES));
  const single: number[] = [];
  const batched: number[] = [];
  const baselines: number[] = [];
  const lines = linesOf(c.stdout);
  for (let round = 0; round < ROUNDS; round++) {
    c.stdin.write("\n");
    await c.stdin.flush();
    baselines.push(Number((await lines.next()).value));
    single.push(timed(publishOneByOne, ring, ROUND_FRAMES));
    batched.push(timed(publishInBatches, ring, ROUND_FRAMES));
  }
  c.stdin.end();
  await c.exited;
  ring.close("closed");
  for (const path of paths) rmSync(path);
  print(`ring/write/${size}`, median(single), median(baselines));
  print(`ring/write-batch/${size}`, median(batched), median(baselines));
}

/** Measures the first lap of new rings against their second and third lap. */
async function compareLaps(folder: string): Promise<void> {
  const capacity = 100_032;
  const path = join(folder, "laps");
  const first: number[] = [];
  const later: number[] = [];
  for (let round = 0; round < 5; round++) {
    const ring = await makeRing(path, capacity);
    first.push(timed(publishOneByOne, ring, capacity));
    for (let lap = 2; lap <= 3; lap++) later.push(timed(publishOneByOne, ring, capacity));
    ring.close("closed");
    rmSync(path);
  }
  print("ring/first-lap", median(first), median(later));
}

/** A clock that other programs can read, too. Bun's own clocks start with the process. */
function monotonicClock(): () => number {
  const { clock_gettime } = dlopen(process.platform === "darwin" ? "libSystem.B.dylib" : "libc.so.6", {
    clock_gettime: { args: ["i32", "ptr"], returns: "i32" },
  }).symbols;
  const spec = new BigInt64Array(2);
  const MONOTONIC = process.platform === "darwin" ? 6 : 1;
  return () => {
    clock_gettime(MONOTONIC, ptr(spec));
    return Number(spec[0]) * 1e9 + Number(spec[1]);
  };
}

/**
 * Publishes FOLLOW_FRAMES at 10,000 a second, each with the time of its publication, while `command` follows.
 * @returns the median time until the follower had a frame, in ns, as it printed it
 */
async function followed(ring: Ring, command: readonly string[]): Promise<number> {
  const nowNs = monotonicClock();
  const stamped = new Uint8Array(PHYSICS_BYTES);
  const times = new BigInt64Array(stamped.buffer, OFFSET.timestamp_us - PHYSICS_OFFSET, 1);
  const reader = Bun.spawn([...command, `${FOLLOW_FRAMES}`], { stdout: "pipe" });
  const lines = linesOf(reader.stdout);
  await lines.next(); // It is there.
  let next = nowNs() + FOLLOW_PAUSE_NS;
  for (let n = 0; n < FOLLOW_FRAMES; n++) {
    if (n % 1000 === 0) ring.heartbeat();
    while (nowNs() < next);
    times[0] = BigInt(nowNs());
    ring.publish(ring.head(), stamped, vectors[0] as Float32Array);
    next += FOLLOW_PAUSE_NS;
  }
  const medianNs = Number((await lines.next()).value);
  if ((await reader.exited) !== 0) throw new Error(`bench: ${command.join(" ")} failed`);
  return medianNs;
}

/** Measures reads in Python. Needs `.venv`. */
async function compareReaders(binary: string, folder: string): Promise<void> {
  const path = join(folder, "read");
  const ring = await makeRing(path, 100_000);
  publishInBatches(ring, 128_000);
  const python = [
    join(ROOT, ".venv", "bin", "python"),
    join(import.meta.dir, "support", "ring_reader.py"),
    path,
  ];
  const reader = Bun.spawn([...python, "read"], { stdout: "pipe" });
  for await (const line of linesOf(reader.stdout)) {
    const { name, value, baseline, unit } = JSON.parse(line);
    print(name, value, baseline, unit);
  }
  if ((await reader.exited) !== 0) throw new Error("bench: the reader in Python failed; has setup been run?");
  print(
    "ring/follow",
    await followed(ring, [...python, "follow"]),
    await followed(ring, [binary, "follow", path]),
  );
  ring.close("closed");
  rmSync(path);
}

const folder = makeFolder();
try {
  const binary = compile(folder);
  await compareWriters("100k", binary, folder, 100_000);
  await compareWriters("1k", binary, folder, 1_000);
  await compareLaps(folder);
  await compareReaders(binary, folder);
} finally {
  rmSync(folder, { recursive: true });
}
