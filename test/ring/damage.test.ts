/** Damaged ring files: the executable's `ring` commands and consumer.py judge each of them alike. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { GatewayError } from "../../src/errors.ts";
import { type RingCommand, ringTool } from "../../src/ring/ring.ts";

setDefaultTimeout(60_000);

const ROOT = resolve(import.meta.dir, "../..");
const PYTHON = join(ROOT, ".venv/bin/python");
// As in docs/FRAME.md, and not through src/frame.ts: the two must agree.
const FRAME = 4224;
const MAGIC = 0x5048595349435300n;

interface Header {
  readonly magic?: bigint;
  readonly version?: number;
  readonly frameBytes?: number;
  readonly capacity?: bigint;
  readonly head?: bigint;
  readonly tail?: bigint;
  readonly heartbeatUs?: bigint;
  readonly state?: number;
}

/** A ring of 10 slots with the frames 1 to 8, except for what is given. */
function ringOf(o: Header = {}, sequenceOf: (id: number) => bigint = () => 2n): Uint8Array {
  const bytes = new Uint8Array(64 + 10 * FRAME);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, o.magic ?? MAGIC, true);
  view.setUint32(8, o.version ?? 1, true);
  view.setUint32(12, o.frameBytes ?? FRAME, true);
  view.setBigUint64(16, o.capacity ?? 10n, true);
  view.setBigUint64(24, o.head ?? 9n, true);
  view.setBigUint64(32, o.tail ?? 1n, true);
  view.setUint32(40, 1, true);
  view.setUint32(44, 1, true);
  view.setBigInt64(48, o.heartbeatUs ?? BigInt(Date.now()) * 1000n, true);
  view.setUint32(60, o.state ?? 1, true);
  for (let id = 1; id <= 8; id++) {
    const slot = o.capacity === 8n ? id % 8 : id;
    const at = 64 + slot * FRAME;
    view.setBigUint64(at, sequenceOf(id), true);
    view.setBigUint64(at + 8, BigInt(id), true);
    view.setBigUint64(at + 4192, BigInt(id), true);
    view.setUint32(at + 4212, 7, true);
    view.setInt32(at + 4208, -1, true);
  }
  return bytes;
}

type Judgement = "fine" | "no frame is whole" | "unreadable";

const CASES: readonly [name: string, judgement: Judgement, bytes: Uint8Array][] = [
  ["whole", "fine", ringOf()],
  ["empty", "fine", ringOf({ head: 1n })],
  ["with an extreme heartbeat", "fine", ringOf({ heartbeatUs: 2n ** 63n - 1n })],
  ["with a heartbeat before all time", "fine", ringOf({ heartbeatUs: -(2n ** 63n) })],
  ["in a state that nobody knows", "fine", ringOf({ state: 99 })],
  ["superseded by itself", "fine", ringOf({ state: 3 })],
  ["with a damaged oldest frame", "fine", ringOf({}, (id) => (id === 1 ? 1n : 2n))],
  ["with a damaged newest frame", "fine", ringOf({}, (id) => (id === 8 ? 1n : 2n))],
  ["with one whole frame", "fine", ringOf({}, (id) => (id === 5 ? 2n : 1n))],
  ["whose frames are all being written", "no frame is whole", ringOf({}, () => 1n)],
  ["whose frames are of another lap", "no frame is whole", ringOf({}, () => 2n ** 63n)],
  ["whose head is 0", "unreadable", ringOf({ head: 0n, tail: 0n })],
  ["whose tail is 0", "unreadable", ringOf({ tail: 0n })],
  ["whose tail is beyond its head", "unreadable", ringOf({ head: 5n, tail: 50n })],
  ["whose tail is just beyond its head", "unreadable", ringOf({ tail: 10n })],
  ["with more frames than slots", "unreadable", ringOf({ head: 500n })],
  ["with one frame more than slots", "unreadable", ringOf({ head: 12n })],
  ["with as many frames as slots", "fine", ringOf({ capacity: 8n }, (id) => (id === 8 ? 4n : 2n))],
  ["whose head no number holds", "unreadable", ringOf({ head: 2n ** 53n, tail: 2n ** 53n - 4n })],
  ["whose head is the largest", "unreadable", ringOf({ head: 2n ** 64n - 1n, tail: 2n ** 64n - 5n })],
  ["of capacity 0", "unreadable", ringOf({ capacity: 0n })],
  ["of capacity 2^40", "unreadable", ringOf({ capacity: 2n ** 40n })],
  ["of the largest capacity", "unreadable", ringOf({ capacity: 2n ** 64n - 1n })],
  ["whose size wraps around 2^64", "unreadable", ringOf({ capacity: 2n ** 64n / 4224n + 1n })],
  ["one slot shorter than it says", "unreadable", ringOf({ capacity: 11n })],
  ["with frames of 0 bytes", "unreadable", ringOf({ frameBytes: 0 })],
  ["with frames of 4225 bytes", "unreadable", ringOf({ frameBytes: 4225 })],
  ["of another version", "unreadable", ringOf({ version: 2 })],
  ["of another program", "unreadable", ringOf({ magic: 5n })],
  ["of 63 bytes", "unreadable", ringOf().subarray(0, 63)],
  ["of 0 bytes", "unreadable", new Uint8Array(0)],
];

let folder: string;
/** What consumer.py exits with, and prints to stderr, by the number of the case. */
let python: Record<"stats" | "batch" | "json", [code: number, errors: string][]>;

const pathOf = (index: number): string => join(folder, `ring-${index}`);

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ring-damage-"));
  CASES.forEach(([, , bytes], index) => {
    writeFileSync(pathOf(index), bytes);
  });
  // One process for all: starting Python takes longer than judging a ring.
  const judge = `
import contextlib, io, json, sys
sys.path.insert(0, ${JSON.stringify(ROOT)})
from consumer import main
def judged(*arguments):
    codes = []
    for path in sys.argv[1:]:
        errors = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
            code = main(["--path", path, *arguments])
        codes.append((code, errors.getvalue()))
    return codes
print(json.dumps({"stats": judged("--stats"), "batch": judged("--batch", "5"), "json": judged("--stats", "--json")}))`;
  const paths = CASES.map((_, index) => pathOf(index));
  const child = Bun.spawnSync([PYTHON, "-W", "error", "-c", judge, ...paths]);
  expect(child.stderr.toString()).toBe("");
  python = JSON.parse(child.stdout.toString());
});

afterAll(() => rmSync(folder, { recursive: true }));

/** The exit code of a command of the executable; 1 for an error, which the command line prints. */
async function exitCode(path: string, o: Partial<RingCommand>): Promise<number> {
  try {
    const command = { action: "stat", path, json: false, count: 5, follow: false, ...o } as const;
    const around = { write: async () => {}, say: () => {}, stop: new AbortController().signal };
    return await ringTool(command, around);
  } catch (error) {
    if (error instanceof GatewayError) return 1;
    throw error;
  }
}

test.each(CASES.map(([name, judgement], index) => [name, judgement, index] as const))(
  "a ring %s is %s for the executable and for consumer.py",
  async (_, judgement, index) => {
    const path = pathOf(index);
    const headers = judgement === "unreadable" ? 1 : 0;
    expect(await exitCode(path, { action: "stat" })).toBe(headers);
    expect(await exitCode(path, { action: "stat", json: true })).toBe(headers);
    expect([python.stats[index]?.[0], python.json[index]?.[0]]).toEqual([headers, headers]);
    const frames = judgement === "fine" ? 0 : 1;
    expect(await exitCode(path, { action: "tail" })).toBe(frames);
    expect(python.batch[index]?.[0]).toBe(frames);
    // Each refusal is one line that names the ring.
    if (frames === 1) expect(python.batch[index]?.[1]).toMatch(/^consumer: [^\n]*ring-\d+[^\n]*\n$/);
  },
);
