/**
 * The complete write of a frame: `Ring.publish` against the same protocol in C (bench/ring.c, compiled here
 * with cc), in turns on rings of the same size. Prints ns a frame, the median of the rounds.
 */
import { mkdtempSync, rmSync, statfsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openRing, type Ring } from "../collider.ts";
import { PHYSICS_BYTES, ringBytes, SEMANTIC_DIM_MAX } from "../src/frame.ts";

const json = process.argv.includes("--json");
const VECTORS = 64;
const ROUNDS = 15;

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1] as number;
}

/** A folder in memory where there is one, as the ring has. */
function makeFolder(): string {
  const wanted = 3 * ringBytes(100_000);
  try {
    const { bavail, bsize } = statfsSync("/dev/shm");
    if (bavail * bsize > wanted) return mkdtempSync("/dev/shm/bench-ring-");
  } catch {
    // No /dev/shm on macOS.
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
      nowUs: () => Date.now() * 1000,
      log: () => {},
    },
    async () => ({ bytes: new Uint8Array(0), count: 0 }),
  );
}

const vectors = Array.from({ length: VECTORS }, (_, i) =>
  Float32Array.from({ length: SEMANTIC_DIM_MAX }, (_, k) => (i + k) / 1024),
);
const physics = Array.from({ length: VECTORS }, (_, i) => new Uint8Array(PHYSICS_BYTES).fill(i));

function writeFrames(ring: Ring, frames: number): number {
  const startNs = Bun.nanoseconds();
  let frameId = ring.head();
  for (const end = frameId + frames; frameId < end; frameId++) {
    ring.publish(
      frameId,
      physics[frameId % VECTORS] as Uint8Array,
      vectors[frameId % VECTORS] as Float32Array,
    );
  }
  return (Bun.nanoseconds() - startNs) / frames;
}

async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<number> {
  let rest = "";
  for await (const bytes of stream) {
    const lines = (rest + new TextDecoder().decode(bytes)).split("\n");
    rest = lines.pop() as string;
    yield* lines.map(Number);
  }
}

async function compare(
  name: string,
  binary: string,
  folder: string,
  capacity: number,
  frames: number,
): Promise<void> {
  const paths = [join(folder, `c-${capacity}`), join(folder, `ts-${capacity}`)] as const;
  const c = Bun.spawn([binary, paths[0], `${capacity}`, `${frames}`, `${ROUNDS}`], {
    stdin: "pipe",
    stdout: "pipe",
  });
  const ring = await makeRing(paths[1], capacity);
  writeFrames(ring, Math.max(capacity, 50_000));
  const values: number[] = [];
  const baselines: number[] = [];
  const lines = linesOf(c.stdout);
  for (let round = 0; round < ROUNDS; round++) {
    c.stdin.write("\n");
    await c.stdin.flush();
    baselines.push((await lines.next()).value as number);
    values.push(writeFrames(ring, frames));
  }
  c.stdin.end();
  await c.exited;
  ring.close("closed");
  for (const path of paths) rmSync(path);
  const value = median(values);
  const baseline = median(baselines);
  const line = { name, value, unit: "ns/frame", baseline, ratio: value / baseline };
  const [v, b, r] = [value.toFixed(1), baseline.toFixed(1), line.ratio.toFixed(2)];
  console.log(json ? JSON.stringify(line) : `${name}: ${v} ns/frame, C ${b}, ratio ${r}`);
}

const folder = makeFolder();
try {
  const binary = compile(folder);
  await compare("ring/write/100k", binary, folder, 100_000, 200_000);
  await compare("ring/write/1k", binary, folder, 1_000, 200_000);
} finally {
  rmSync(folder, { recursive: true });
}
