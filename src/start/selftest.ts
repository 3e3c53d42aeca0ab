/**
 * The executable's self-test, behind the hidden argument `--self-test`: it uses each native part once, in whatever folder
 * and environment the program was started. scripts/build.ts runs it on every new executable.
 */
import { existsSync, statSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openRing, RingLock } from "../../collider.ts";
import { messageOf } from "../errors.ts";
import { FRAME_BYTES, OFFSET, PHYSICS_BYTES, ringBytes } from "../frame.ts";
import { workerUrl } from "../native/worker-url.ts";

/**
 * An ONNX model of one node, sum = a + b over three floats (opset 13), as `onnx.helper` serialises it.
 * Inline, because the build embeds only files that are imported.
 */
const ADD_MODEL =
  "CAgSADpMChAKAWEKAWISA3N1bSIDQWRkEgNhZGRaDwoBYRIKCggIARIECgIIA1oPCgFiEgoKCAgBEgQKAggDYhEKA3N1bRIKCggIARIECgIIA0IECgAQDQ==";

/** The tested parts, in the order of the report. */
export const SELF_TESTS = ["workers", "duckdb", "onnx", "ring", "opentui"] as const;

function expect(claim: string, holds: boolean): void {
  if (!holds) throw new Error(`self-test: ${claim} does not hold`);
}

async function testWorkers(): Promise<string> {
  const urls = [workerUrl("store"), workerUrl("embed")];
  for (const url of urls) {
    // The embedded files have the extension .js. Bun resolves .ts to them when it starts a Worker.
    const path = Bun.fileURLToPath(url);
    expect(`${path} is there`, existsSync(path) || existsSync(path.replace(/\.ts$/, ".js")));
  }
  return urls.map((url) => url.pathname).join(", ");
}

async function testDuckdb(folder: string): Promise<string> {
  const { DuckDBInstance } = await import("../native/duckdb.ts");
  const path = join(folder, "self-test.duckdb");
  for (const round of ["write", "read"] as const) {
    const instance = await DuckDBInstance.create(path, { memory_limit: "64MB", threads: "1" });
    const connection = await instance.connect();
    if (round === "write") await connection.run("CREATE TABLE t AS SELECT range AS n FROM range(1000)");
    const sum = (await connection.runAndReadAll("SELECT sum(n)::VARCHAR, version() FROM t")).getRows()[0];
    connection.closeSync();
    instance.closeSync();
    expect(`the sum after ${round} is 499500`, sum?.[0] === "499500");
    if (round === "read") return String(sum?.[1]);
  }
  throw new Error("self-test: unreachable");
}

async function testOnnx(): Promise<string> {
  const { onnxruntime } = await import("../native/onnx.ts");
  const session = await onnxruntime.InferenceSession.create(Buffer.from(ADD_MODEL, "base64"));
  const tensor = (values: number[]) => new onnxruntime.Tensor("float32", Float32Array.from(values), [3]);
  const result = await session.run({ a: tensor([1, 2, 3]), b: tensor([10, 20, 30]) });
  const sum = Array.from(result.sum?.data as Float32Array);
  expect("1 2 3 + 10 20 30 is 11 22 33", sum.join(" ") === "11 22 33");
  return `sum ${sum.join(" ")}`;
}

async function testRing(folder: string): Promise<string> {
  const path = join(folder, "self-test.ring");
  const capacity = 8;
  using lock = RingLock.acquire(path);
  const ring = await openRing(
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
  expect("the lock is held", lock !== null);
  const vector = new Float32Array(1024).fill(0.03125);
  for (let frameId = 1; frameId <= capacity + 2; frameId++) {
    ring.publish(frameId, new Uint8Array(PHYSICS_BYTES), vector);
  }
  const frame = ring.read(capacity + 2, 1);
  expect("the newest frame can be read", frame !== null && frame.byteLength === FRAME_BYTES);
  if (frame !== null) {
    const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
    expect("its frame_id is the newest", view.getBigUint64(OFFSET.frame_id, true) === BigInt(capacity + 2));
    expect("its vector is whole", view.getFloat32(OFFSET.semantic + 4 * 1023, true) === 0.03125);
  }
  ring.close("closed");
  expect("the file has its full size", statSync(path).size === ringBytes(capacity));
  return `${capacity} slots, ${capacity + 2} frames`;
}

async function testOpentui(): Promise<string> {
  const { createTestRenderer, TextRenderable } = await import("../native/opentui.ts");
  const setup = await createTestRenderer({ width: 24, height: 2 });
  setup.renderer.root.add(new TextRenderable(setup.renderer, { content: "one file, one gateway" }));
  await setup.renderOnce();
  const drawn = setup.captureCharFrame();
  setup.renderer.destroy();
  expect("the text was drawn", drawn.includes("one file, one gateway"));
  return "24 x 2 characters";
}

/**
 * Tests every part and reports all of them, also after a failure. Sets process.exitCode to 1 if one failed.
 * @returns one line per part, in the order of SELF_TESTS: `ok NAME: detail` or `FAIL NAME: reason`.
 */
export async function selfTest(): Promise<string[]> {
  const folder = await mkdtemp(join(tmpdir(), "one_file_gateway-self-test-"));
  const tests: Record<(typeof SELF_TESTS)[number], () => Promise<string>> = {
    workers: testWorkers,
    duckdb: () => testDuckdb(folder),
    onnx: testOnnx,
    ring: () => testRing(folder),
    opentui: testOpentui,
  };
  const lines: string[] = [];
  for (const name of SELF_TESTS) {
    try {
      lines.push(`ok ${name}: ${await tests[name]()}`);
    } catch (error) {
      process.exitCode = 1;
      lines.push(`FAIL ${name}: ${messageOf(error)}`);
    }
  }
  await rm(folder, { recursive: true, force: true });
  return lines;
}
