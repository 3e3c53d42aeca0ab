import { afterEach, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  closeSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statfsSync,
  statSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { freemem, tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { openRing, type Ring, RingLock, ringFits } from "../collider.ts";
import { systemClock } from "../src/clock.ts";
import { GatewayError } from "../src/errors.ts";
import type { RingFrame, RingOptions } from "../src/ring/contract.ts";

// These tests read the format by the numbers of its published table, not through src/frame.ts: the two must agree.
const HEADER = 64;
const FRAME = 4224;
const MAGIC = 0x5048595349435300n;

interface Header {
  readonly magic: bigint;
  readonly version: number;
  readonly frameSize: number;
  readonly capacity: number;
  readonly head: number;
  readonly tail: number;
  readonly epoch: number;
  readonly pid: number;
  readonly heartbeatUs: number;
  readonly waiters: number;
  readonly state: number;
}

function viewOf(path: string): DataView {
  const bytes = readFileSync(path);
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function headerOf(path: string): Header {
  const view = viewOf(path);
  const u64 = (offset: number): number => Number(view.getBigUint64(offset, true));
  return {
    magic: view.getBigUint64(0, true),
    version: view.getUint32(8, true),
    frameSize: view.getUint32(12, true),
    capacity: u64(16),
    head: u64(24),
    tail: u64(32),
    epoch: view.getUint32(40, true),
    pid: view.getUint32(44, true),
    heartbeatUs: Number(view.getBigInt64(48, true)),
    waiters: view.getUint32(56, true),
    state: view.getUint32(60, true),
  };
}

/**
 * Checks that a reader accepts exactly the expected ids, each with the content that `published` gives it.
 */
function readable(path: string): number[] {
  const view = viewOf(path);
  const { capacity, head, tail } = headerOf(path);
  const ids: number[] = [];
  for (let id = tail; id < head; id++) {
    const at = HEADER + (id % capacity) * FRAME;
    expect(Number(view.getBigUint64(at, true))).toBe(2 * (Math.floor(id / capacity) + 1));
    expect(Number(view.getBigUint64(at + 8, true))).toBe(id);
    for (const index of [0, 1, 511, 1023]) {
      expect(view.getFloat32(at + 16 + 4 * index, true)).toBe(Math.fround(content(id) + index));
    }
    expect(Number(view.getBigUint64(at + 4192, true))).toBe(id);
    ids.push(id);
  }
  return ids;
}

const content = (id: number): number => id % 1000;
const JOURNAL_ID = 0xdecafbad;

function physicsOf(id: number, journalId = JOURNAL_ID): Uint8Array {
  const bytes = new Uint8Array(112);
  const view = new DataView(bytes.buffer);
  // event_seq stands at 4192 of the frame and journal_id at 4212; physics begins at 4112.
  view.setBigUint64(4192 - 4112, BigInt(id), true);
  view.setUint32(4212 - 4112, journalId, true);
  return bytes;
}

function vectorOf(id: number): Float32Array {
  return Float32Array.from({ length: 1024 }, (_, index) => content(id) + index);
}

function publish(ring: Ring, count: number): void {
  for (let n = 0; n < count; n++) {
    const id = ring.head();
    ring.publish(id, physicsOf(id), vectorOf(id));
  }
}

const frame = (id: number): RingFrame => ({ frameId: id, physics: physicsOf(id), vector: vectorOf(id) });

/** `count` frames from `from` on, for publishBatch. */
function run(from: number, count: number): RingFrame[] {
  return Array.from({ length: count }, (_, index) => frame(from + index));
}

/** Frame `id` as another ring would hold it. */
function rawFrame(id: number): Uint8Array {
  const bytes = new Uint8Array(FRAME);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, 777n, true);
  view.setBigUint64(8, BigInt(id), true);
  bytes.set(new Uint8Array(vectorOf(id).buffer), 16);
  bytes.set(physicsOf(id), 4112);
  return bytes;
}

/** A refill source that has the frames from `oldest` on. */
function keeps(oldest: number, newest: number) {
  return async (from: number, limit: number): Promise<{ bytes: Uint8Array; count: number }> => {
    const count = from < oldest ? 0 : Math.max(0, Math.min(limit, newest - from + 1));
    const bytes = new Uint8Array(count * FRAME);
    for (let index = 0; index < count; index++) bytes.set(rawFrame(from + index), index * FRAME);
    return { bytes, count };
  };
}

const keepsNothing = keeps(Number.POSITIVE_INFINITY, 0);

setDefaultTimeout(60_000);

let folder: string;
let path: string;
const rings: Ring[] = [];
let logged: string[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "collider-test-"));
  path = join(folder, "ring");
  logged = [];
});

afterEach(() => {
  for (const ring of rings.splice(0)) ring.close("closed");
  rmSync(folder, { recursive: true, force: true });
});

async function open(o: Partial<RingOptions> = {}, newest = keepsNothing): Promise<Ring> {
  const options = {
    path,
    capacity: 16,
    mode: 0o600,
    journalId: JOURNAL_ID,
    nextFrameId: 1,
    adopt: false,
    clock: { ...systemClock, nowUs: () => 1_700_000_000_000_000 },
    log: (level: string, message: string) => void logged.push(`${level} ${message}`),
    ...o,
  };
  const ring = await openRing(options, newest);
  rings.push(ring);
  return ring;
}

async function refusal(work: () => unknown): Promise<GatewayError> {
  try {
    await work();
  } catch (error) {
    if (error instanceof GatewayError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

/** Overwrites bytes of a file in place. */
function poke(at: number, bytes: Uint8Array): void {
  const fd = openSync(path, "r+");
  writeSync(fd, bytes, 0, bytes.length, at);
  closeSync(fd);
}

function u64(value: number | bigint): Uint8Array {
  return new Uint8Array(new BigUint64Array([BigInt(value)]).buffer);
}

const leftovers = (): string[] => readdirSync(folder).filter((name) => name.includes(".new."));
const inodeOf = (file: string): number => statSync(file).ino;

describe("a new ring", () => {
  test("has the published header", async () => {
    await open();
    expect(headerOf(path)).toEqual({
      magic: MAGIC,
      version: 1,
      frameSize: 4224,
      capacity: 16,
      head: 1,
      tail: 1,
      epoch: 1,
      pid: process.pid,
      heartbeatUs: 1_700_000_000_000_000,
      waiters: 0,
      state: 1,
    });
    expect(statSync(path).size).toBe(64 + 16 * 4224);
    expect(statSync(path).mode & 0o7777).toBe(0o600);
    expect(leftovers()).toEqual([]);
  });

  test("replaces one that ends before a gap in the ids, and shows no frame before the gap", async () => {
    const before = await open();
    before.close("closed");
    const asked: number[] = [];
    const newest: typeof keepsNothing = async (from) => {
      asked.push(from);
      return { bytes: new Uint8Array(0), count: 0 };
    };
    const ring = await open({ adopt: true, nextFrameId: 12, firstFrameId: 9 }, newest);
    expect([ring.adopted, ring.tail(), ring.head()]).toEqual([false, 12, 12]);
    expect(Math.min(...asked)).toBe(9);
  });

  test("has the mode that was asked for, whatever the umask", async () => {
    const umask = process.umask(0o077);
    try {
      await open({ mode: 0o664 });
    } finally {
      process.umask(umask);
    }
    expect(statSync(path).mode & 0o7777).toBe(0o664);
  });

  test("begins at the journal's next frame if nothing can be refilled", async () => {
    const ring = await open({ nextFrameId: 501 });
    expect([ring.tail(), ring.head(), ring.refilled]).toEqual([501, 501, 0]);
    publish(ring, 1);
    expect(readable(path)).toEqual([501]);
  });

  test("removes what dead writers left beside it, and nothing else", async () => {
    writeFileSync(`${path}.new.999999`, "half");
    writeFileSync(`${path}.json.new.999999`, "half");
    writeFileSync(`${path}.new.mine`, "kept");
    writeFileSync(`${path}2.new.1`, "kept");
    writeFileSync(`${path}.new.999999.0123456789abcdef`, "half");
    // It cannot be removed, like another user's file in a shared folder, and it does no harm.
    mkdirSync(`${path}.new.1`);
    await open();
    expect(readdirSync(folder).sort()).toEqual(["ring", "ring.new.1", "ring.new.mine", "ring2.new.1"]);
  });

  test("leaves nothing behind when the refill fails", async () => {
    const work = (): Promise<Ring> =>
      open({ nextFrameId: 9 }, () => Promise.reject(new Error("DuckDB is not open")));
    expect((await refusal(work)).message).toContain("DuckDB is not open");
    expect(readdirSync(folder)).toEqual([]);
  });

  test("does not block other work while it is made", async () => {
    let turns = 0;
    const timer = setInterval(() => turns++, 1);
    const started = performance.now();
    await open({ capacity: 20_000 });
    clearInterval(timer);
    console.log(`      ${turns} turns in ${Math.round(performance.now() - started)} ms`);
    expect(turns).toBeGreaterThan(3);
  });
});

describe("refill", () => {
  test("copies the newest frames, marked as refilled, with this ring's sequence", async () => {
    const ring = await open({ nextFrameId: 1001 }, keeps(1, 1000));
    expect([ring.tail(), ring.head(), ring.refilled]).toEqual([985, 1001, 16]);
    expect(readable(path)).toEqual(Array.from({ length: 16 }, (_, index) => 985 + index));
    const view = viewOf(path);
    for (let slot = 0; slot < 16; slot++) expect(view.getUint16(HEADER + slot * FRAME + 4202, true)).toBe(16);
    publish(ring, 1);
    expect(viewOf(path).getUint16(HEADER + (1001 % 16) * FRAME + 4202, true)).toBe(0);
    expect(readable(path)).toHaveLength(16);
  });

  test("starts after the frames that no source has any more", async () => {
    const ring = await open({ capacity: 1000, nextFrameId: 1001 }, keeps(421, 1000));
    expect([ring.tail(), ring.head(), ring.refilled]).toEqual([421, 1001, 580]);
    expect(readable(path)).toHaveLength(580);
  });

  test("leaves the newest frames to the publisher if the source does not have them yet", async () => {
    const ring = await open({ capacity: 1000, nextFrameId: 1001 }, keeps(1, 700));
    expect([ring.tail(), ring.head()]).toEqual([1, 701]);
  });

  test("refuses a source that returns another frame", async () => {
    const source = keeps(1, 100);
    const work = (): Promise<Ring> => open({ nextFrameId: 101 }, (from, limit) => source(from + 1, limit));
    expect((await refusal(work)).code).toBe("ring_failed");
    expect(readdirSync(folder)).toEqual([]);
  });
});

describe("publish", () => {
  test("writes every byte where the table says", async () => {
    const ring = await open();
    const physics = Uint8Array.from({ length: 112 }, (_, index) => index + 1);
    ring.publish(1, physics, vectorOf(1));
    const view = viewOf(path);
    const at = 64 + 4224;
    expect(view.getBigUint64(at, true)).toBe(2n);
    expect(view.getBigUint64(at + 8, true)).toBe(1n);
    for (let index = 0; index < 1024; index++)
      expect(view.getFloat32(at + 16 + 4 * index, true)).toBe(1 + index);
    for (let index = 0; index < 112; index++) expect(view.getUint8(at + 4112 + index)).toBe(index + 1);
    for (let offset = 0; offset < 4224; offset++) expect(view.getUint8(64 + offset)).toBe(0);
    expect([headerOf(path).tail, headerOf(path).head]).toEqual([1, 2]);
  });

  test("wraps: the newest 16 of any number are whole, and tail follows", async () => {
    const ring = await open();
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 50 }), async (count) => {
        publish(ring, count);
        const head = ring.head();
        const tail = Math.max(1, head - 16);
        expect([ring.tail(), headerOf(path).tail, headerOf(path).head]).toEqual([tail, tail, head]);
        expect(readable(path)).toHaveLength(head - tail);
      }),
      { numRuns: 20 },
    );
  });

  test("clears what an earlier, longer vector left in the slot", async () => {
    const ring = await open({ capacity: 2 });
    publish(ring, 4);
    ring.publish(5, physicsOf(5), new Float32Array([1, 2, 3]));
    ring.publish(6, physicsOf(6), null);
    const view = viewOf(path);
    const floats = (slot: number): number[] =>
      Array.from({ length: 1024 }, (_, index) => view.getFloat32(64 + slot * 4224 + 16 + 4 * index, true));
    expect(floats(1)).toEqual([1, 2, 3, ...new Array(1021).fill(0)]);
    expect(floats(0)).toEqual(new Array(1024).fill(0));
  });

  test("takes physics and vectors at any offset of their buffers", async () => {
    const ring = await open();
    const physics = new Uint8Array(200).fill(7).subarray(3, 115);
    ring.publish(1, physics, new Float32Array(2000).fill(0.5).subarray(1, 1025));
    const view = viewOf(path);
    expect([view.getUint8(64 + 4224 + 4112), view.getUint8(64 + 4224 + 4223)]).toEqual([7, 7]);
    expect(view.getFloat32(64 + 4224 + 16 + 4092, true)).toBe(0.5);
    expect(view.getBigUint64(64 + 2 * 4224, true)).toBe(0n);
  });

  test("continues across the edge of a window of slots", async () => {
    const ring = await open({ capacity: 5000, nextFrameId: 4090 });
    publish(ring, 20);
    publish(ring, 5000);
    expect(readable(path)).toHaveLength(5000);
  });

  test("carries frame ids across 2³²", async () => {
    const next = 2 ** 32 - 20;
    const ring = await open({ nextFrameId: next }, keeps(1, next - 1));
    for (let n = 0; n < 60; n++) {
      publish(ring, 1);
      const { head, tail } = headerOf(path);
      expect([head, tail]).toEqual([next + n + 1, next + n + 1 - 16]);
    }
    expect(readable(path)).toHaveLength(16);
    expect(ring.read(2 ** 32 + 38, 10)?.byteLength).toBe(2 * FRAME);
  });

  test("carries sequences across 2³², on a ring of one slot", async () => {
    const next = 2 ** 31 - 4;
    const ring = await open({ capacity: 1, nextFrameId: next }, keeps(1, next - 1));
    for (let n = 0; n < 8; n++) {
      publish(ring, 1);
      expect(readable(path)).toEqual([next + n]);
    }
    expect(viewOf(path).getBigUint64(64, true)).toBe(2n * BigInt(next + 8));
  });

  test("refuses any frame but the next, and parts of a wrong size", async () => {
    const ring = await open();
    expect(() => ring.publish(2, physicsOf(2), null)).toThrow("frame 1 is next");
    expect(() => ring.publish(1, new Uint8Array(111), null)).toThrow("111 bytes");
    expect(() => ring.publish(1, physicsOf(1), new Float32Array(1025))).toThrow("1025 floats");
    expect([ring.head(), headerOf(path).head]).toEqual([1, 1]);
  });
});

describe("a batch", () => {
  test.each([1, 3, 16, 64, 300, 5000])(
    "leaves the same bytes as frames one by one, in %d slots",
    async (capacity) => {
      const single = await open({ capacity });
      publish(single, 700);
      single.close("closed");
      const bytes = readFileSync(path);
      const batched = await open({ capacity });
      for (const [from, count] of [
        [1, 1],
        [2, 299],
        [301, 0],
        [301, 400],
      ] as const)
        batched.publishBatch(run(from, count));
      batched.close("closed");
      const other = readFileSync(path);
      // All but the epoch, which counts writers.
      for (const file of [bytes, other]) file.fill(0, 40, 44);
      expect(Buffer.compare(other, bytes)).toBe(0);
      expect(readable(path)).toHaveLength(Math.min(capacity, 700));
    },
  );

  test("becomes readable when its last frame is whole, and the frames that it overwrites are withdrawn before it begins", async () => {
    const ring = await open({ capacity: 64 });
    publish(ring, 64);
    const seen: [number, number][] = [];
    const watched = run(65, 16).map(({ frameId, physics, vector }) => ({
      frameId,
      physics,
      // The writer reads it once to check it and once to write it.
      get vector(): Float32Array | null {
        const { head, tail } = headerOf(path);
        seen.push([head, tail]);
        return vector;
      },
    }));
    ring.publishBatch(watched);
    expect(seen).toEqual([...Array(16).fill([65, 1]), ...Array(16).fill([65, 17])]);
    expect([headerOf(path).head, headerOf(path).tail]).toEqual([81, 17]);
  });

  test("never withdraws more than a quarter of a ring at once", async () => {
    const ring = await open({ capacity: 16 });
    publish(ring, 16);
    let fewest = 16;
    const watched = run(17, 16).map(({ frameId, physics, vector }) => ({
      frameId,
      physics,
      get vector(): Float32Array | null {
        const { head, tail } = headerOf(path);
        fewest = Math.min(fewest, head - tail);
        return vector;
      },
    }));
    ring.publishBatch(watched);
    expect(fewest).toBe(12);
  });

  test("is refused as a whole if one of its frames is refused", async () => {
    const ring = await open({ capacity: 64 });
    publish(ring, 3);
    const before = readFileSync(path);
    const wrong: RingFrame[][] = [
      [...run(4, 5), frame(10)],
      [...run(4, 5), { ...frame(9), physics: new Uint8Array(111) }],
      [...run(4, 5), { ...frame(9), vector: new Float32Array(1025) }],
      run(5, 1),
    ];
    for (const frames of wrong) expect(() => ring.publishBatch(frames)).toThrow("ring: ");
    expect(Buffer.compare(readFileSync(path), before)).toBe(0);
  });
});

describe("what a writer costs", () => {
  /** Runs a program on a ring of its own, and returns what it prints. */
  async function writer(capacity: number, body: string, env: Record<string, string> = {}): Promise<string> {
    const program = `
      import { openRing } from ${JSON.stringify(join(import.meta.dir, "..", "collider.ts"))};
      const ring = await openRing({ path: ${JSON.stringify(path)}, capacity: ${capacity}, mode: 0o600, journalId: 1, nextFrameId: 1,
        adopt: false, log: () => {} }, async () => ({ bytes: new Uint8Array(0), count: 0 }));
      const physics = new Uint8Array(112);
      const vector = new Float32Array(1024);
      ${body}`;
    const child = Bun.spawn([process.execPath, "-e", program], {
      env: { ...process.env, ...env },
      stdout: "pipe",
      stderr: "pipe",
    });
    const [out, err] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
    ]);
    if ((await child.exited) !== 0) throw new Error(err);
    return out + err;
  }

  /** Garbage collections after the warm-up; NaN if the warm-up never ended. */
  const collections = (output: string): number => {
    const begun = output.indexOf("BEGIN");
    return begun < 0 ? Number.NaN : output.slice(begun).split("[GC<").length - 1;
  };
  const frames = (each: string): string => `
    const frame = { frameId: 0, physics, vector };
    const batch = [frame];
    const write = (count) => {
      for (let n = 0; n < count; n++) {
        ring.publish(ring.head(), physics, vector);
        frame.frameId = ring.head();
        ring.publishBatch(batch);
        ${each}
      }
    };
    write(100_000);
    Bun.gc(true);
    console.error("BEGIN");
    write(1_000_000);`;

  test("no frame makes garbage", async () => {
    const env = { BUN_JSC_logGC: "1" };
    expect(collections(await writer(1000, frames(""), env))).toBe(0);
    // An object of two words per frame would show.
    expect(collections(await writer(1000, frames("globalThis.kept = { n };"), env))).toBeGreaterThan(0);
  }, 60_000);

  test("a ring of 100,000 slots takes no more memory of its own than one of 16", async () => {
    if (process.platform !== "linux") return;
    const body = `
      const { readFileSync } = require("node:fs");
      let peakKb = 0;
      const look = () => {
        // Excludes shared memory, which the ring is.
        const status = readFileSync("/proc/self/status", "utf8");
        const ownKb = Number(/RssAnon:\\s+(\\d+)/.exec(status)[1]) + Number(/RssFile:\\s+(\\d+)/.exec(status)[1]);
        peakKb = Math.max(peakKb, ownKb);
      };
      for (let n = 0; n < 250_000; n++) {
        // Imitates the garbage of each event. JavaScriptCore collects it later if the heap seems larger.
        ring.publish(ring.head(), physics, new Float32Array(1024));
        if (n % 5000 === 0) { look(); await Bun.sleep(0); }
      }
      console.log("PEAK " + peakKb);`;
    const peakMb = async (capacity: number): Promise<number> =>
      Number(/PEAK (\d+)/.exec(await writer(capacity, body))?.[1]) / 1024;
    const small = await peakMb(16);
    const large = await peakMb(100_000);
    console.log(
      `      16 slots: ${small.toFixed(0)} MB, 100,000 slots: ${large.toFixed(0)} MB beside the ring`,
    );
    expect(small).toBeGreaterThan(10);
    expect(large - small).toBeLessThan(100);
  }, 60_000);

  const LARGE_SLOTS = 513_000;
  const { bavail, bsize } = statfsSync(existsSync("/dev/shm") ? "/dev/shm" : tmpdir());
  const roomy = Math.min(bavail * bsize, freemem()) > 2 * LARGE_SLOTS * FRAME;
  test.skipIf(!roomy)(
    "a ring beyond 2³¹ bytes is written and read on both sides of them",
    async () => {
      // From before the slot that contains byte 2³¹ to after the first window of slots that begins beyond it.
      const slot = Math.floor((2 ** 31 - HEADER) / FRAME);
      const first = LARGE_SLOTS + slot - 3;
      const last = LARGE_SLOTS + 512_003;
      const ring = await open({ capacity: LARGE_SLOTS, nextFrameId: first });
      expect(statSync(path).size).toBeGreaterThan(2 ** 31);
      for (let id = first; id <= last; id += 100) ring.publishBatch(run(id, Math.min(100, last - id + 1)));
      const fd = openSync(path, "r");
      for (const id of [...run(first, 8), ...run(last - 7, 8)].map(({ frameId }) => frameId)) {
        const bytes = new Uint8Array(FRAME);
        readSync(fd, bytes, 0, FRAME, HEADER + (id % LARGE_SLOTS) * FRAME);
        const expected = rawFrame(id);
        new DataView(expected.buffer).setBigUint64(0, 4n, true);
        expect(Buffer.compare(bytes, expected)).toBe(0);
        expect(Buffer.compare(ring.read(id, 1) ?? new Uint8Array(), expected)).toBe(0);
      }
      closeSync(fd);
      expect(ring.read(last - 7, 100)?.byteLength).toBe(8 * FRAME);
    },
    60_000,
  );
});

describe("read", () => {
  test("returns copies in order, across the wrap, and nothing outside the readable range", async () => {
    const ring = await open();
    publish(ring, 40);
    expect([ring.tail(), ring.head()]).toEqual([25, 41]);
    const frames = ring.read(25, 1000) as Uint8Array;
    const view = new DataView(frames.buffer);
    expect(frames.byteLength).toBe(16 * FRAME);
    for (let n = 0; n < 16; n++) expect(Number(view.getBigUint64(n * FRAME + 8, true))).toBe(25 + n);
    expect(ring.read(30, 3)?.byteLength).toBe(3 * FRAME);
    expect(ring.read(40, 5)?.byteLength).toBe(FRAME);
    expect(ring.read(24, 1)).toBeNull();
    expect(ring.read(41, 1)).toBeNull();
    publish(ring, 1);
    expect(Number(view.getBigUint64(8, true))).toBe(25);
  });
});

describe("a start over an existing ring", () => {
  async function leave(count: number, o: Partial<RingOptions> = {}): Promise<Header> {
    const ring = await open(o);
    publish(ring, count);
    ring.close("closed");
    return headerOf(path);
  }

  test("adopts it: same file, same frames, one epoch later", async () => {
    const before = await leave(40);
    const inode = inodeOf(path);
    const ring = await open({ adopt: true, nextFrameId: 43 });
    expect([ring.adopted, ring.refilled, ring.head(), ring.tail()]).toEqual([true, 0, 41, 25]);
    expect(inodeOf(path)).toBe(inode);
    expect([before.epoch, before.state]).toEqual([1, 2]);
    expect([headerOf(path).epoch, headerOf(path).state]).toEqual([2, 1]);
    publish(ring, 2);
    expect(readable(path)).toHaveLength(16);
  });

  test("adopts any capacity if none is asked for", async () => {
    await leave(5);
    const ring = await open({ adopt: true, capacity: null, nextFrameId: 6 });
    expect([ring.adopted, ring.capacity]).toEqual([true, 16]);
  });

  test("adopts a ring that never held a frame", async () => {
    await leave(0);
    expect((await open({ adopt: true, nextFrameId: 3 })).adopted).toBe(true);
  });

  test("gives the file the mode that is asked for", async () => {
    await leave(5);
    chmodSync(path, 0o666);
    await open({ adopt: true, nextFrameId: 6, mode: 0o640 });
    expect(statSync(path).mode & 0o7777).toBe(0o640);
  });

  test("clears the one slot whose frame was being written, and publishes it again", async () => {
    await leave(40);
    // Frame 41 was cut off: tail raised, odd sequence, half a frame.
    poke(32, u64(26));
    poke(64 + (41 % 16) * 4224, u64(2 * (Math.floor(41 / 16) + 1) - 1));
    poke(64 + (41 % 16) * 4224 + 8, new Uint8Array(2000).fill(0xee));
    const ring = await open({ adopt: true, nextFrameId: 42 });
    expect([ring.adopted, ring.tail(), ring.head()]).toEqual([true, 26, 41]);
    expect(viewOf(path).getBigUint64(64 + (41 % 16) * 4224, true)).toBe(0n);
    expect(readable(path)).toHaveLength(15);
    publish(ring, 1);
    expect(readable(path)).toHaveLength(16);
  });

  const strangers: [string, Partial<RingOptions>, () => void][] = [
    ["of another journal", { journalId: 7 }, () => {}],
    ["of another capacity", { capacity: 32 }, () => {}],
    ["whose head is beyond the journal", { nextFrameId: 40 }, () => {}],
    ["that ended more than a lap ago", { nextFrameId: 58 }, () => {}],
    ["written in another boot", { adopt: false }, () => {}],
    ["of another version", {}, () => poke(8, new Uint8Array([2]))],
    ["with frames of another size", {}, () => poke(12, new Uint8Array([0x40]))],
    ["with head 0", {}, () => poke(24, u64(0))],
    ["with tail 0", {}, () => poke(32, u64(0))],
    ["with tail beyond head", {}, () => poke(32, u64(42))],
    ["with more frames than slots", {}, () => poke(32, u64(24))],
    ["that was truncated", {}, () => truncateSync(path, 64 + 10 * 4224)],
    ["that is longer than it says", {}, () => truncateSync(path, 64 + 20 * 4224)],
    ["with a readable frame that is odd", {}, () => poke(64 + (30 % 16) * 4224, u64(3))],
    ["with another frame in a readable slot", {}, () => poke(64 + (30 % 16) * 4224 + 8, u64(14))],
  ];
  test.each(strangers)("replaces a ring %s and marks the old one", async (_, o, change) => {
    await leave(40);
    change();
    // A second name keeps the replaced file reachable.
    linkSync(path, `${path}-old`);
    const next = o.nextFrameId ?? 41;
    const ring = await open({ adopt: true, nextFrameId: 41, ...o }, keeps(1, next - 1));
    expect(ring.adopted).toBe(false);
    expect(inodeOf(path)).not.toBe(inodeOf(`${path}-old`));
    expect(readable(path)).toHaveLength(Math.min(ring.capacity, next - 1));
    const old = headerOf(`${path}-old`);
    expect(old.state).toBe(old.version === 1 ? 3 : 2);
    expect([old.epoch, headerOf(path).epoch]).toEqual([1, 2]);
    expect(leftovers()).toEqual([]);
  });

  test("replaces a sparse file, whose pages could be missing when they are touched", async () => {
    await leave(3);
    const bytes = readFileSync(path).subarray(0, 64 + 4 * 4224);
    unlinkSync(path);
    writeFileSync(path, bytes);
    truncateSync(path, 64 + 16 * 4224);
    expect((await open({ adopt: true, nextFrameId: 4 }, keeps(1, 3))).adopted).toBe(false);
  });

  const foreign: [string, string, () => void][] = [
    ["a file of somebody else", "is not a ring file", () => writeFileSync(path, "x".repeat(100_000))],
    ["an empty file", "is not a ring file", () => writeFileSync(path, "")],
    ["a folder", "is not a regular file", () => mkdirSync(path)],
    [
      "a symbolic link, even to a ring",
      "is a symbolic link",
      () => {
        renameSync(path, `${path}-real`);
        symlinkSync(`${path}-real`, path);
      },
    ],
    ["a link to nowhere", "is a symbolic link", () => symlinkSync(join(folder, "nowhere"), path)],
  ];
  test.each(foreign)("refuses %s by name and leaves it untouched", async (_, why, plant) => {
    await leave(3);
    if (why !== "is a symbolic link" || _.includes("nowhere")) unlinkSync(path);
    plant();
    const before = lstatSync(path);
    for (const work of [() => open({ adopt: true }), () => open(), () => ringFits({ path, capacity: 16 })]) {
      const error = await refusal(work);
      expect([error.code, error.object]).toEqual(["ring_failed", path]);
      expect(error.message).toContain(why);
    }
    const after = lstatSync(path);
    expect([after.ino, after.size, after.mtimeMs, after.ctimeMs]).toEqual([
      before.ino,
      before.size,
      before.mtimeMs,
      before.ctimeMs,
    ]);
    expect(leftovers()).toEqual([]);
  });

  test.skipIf(process.geteuid?.() !== 0)("refuses a ring of another user (needs root)", async () => {
    await leave(3);
    await Bun.$`chown 12345 ${path}`.quiet();
    expect((await refusal(() => open({ adopt: true, nextFrameId: 4 }))).message).toContain(
      "belongs to user 12345",
    );
    expect(headerOf(path).state).toBe(2);
  });

  test("names a folder that does not exist", async () => {
    const missing = join(folder, "missing", "ring");
    expect((await refusal(() => open({ path: missing }))).code).toBe("ring_failed");
    expect((await refusal(() => ringFits({ path: missing, capacity: null }))).message).toContain(missing);
    expect((await refusal(() => RingLock.acquire(missing))).message).toContain(missing);
  });
});

describe("room", () => {
  const mountable = process.platform === "linux" && process.geteuid?.() === 0;
  const sizeBytes = 2 << 20;
  let mount = "";

  beforeEach(async () => {
    if (!mountable) return;
    mount = mkdtempSync(join(tmpdir(), "collider-mount-"));
    await Bun.$`mount -t tmpfs -o size=${sizeBytes} tmpfs ${mount}`.quiet();
    path = join(mount, "ring");
  });

  afterEach(async () => {
    if (!mountable) return;
    for (const ring of rings.splice(0)) ring.close("closed");
    await Bun.$`umount ${mount}`.quiet();
    rmSync(mount, { recursive: true });
  });

  const small = test.skipIf(!mountable);

  small("an explicit capacity that does not fit is refused, and nothing stays (needs root)", async () => {
    for (const work of [() => open({ capacity: 500 }), () => ringFits({ path, capacity: 500 })]) {
      const error = await refusal(work);
      expect(error.code).toBe("ring_no_space");
      expect(error.message).toContain("500 frames need 2112064 bytes");
    }
    expect(readdirSync(mount)).toEqual([]);
  });

  small(
    "the default takes half of what is free, says so, and does not shrink again (needs root)",
    async () => {
      const first = await open({ capacity: null });
      expect(first.capacity).toBe(Math.floor((sizeBytes / 2 - 64) / 4224));
      expect(logged.join()).toContain(`${first.capacity} frames instead of 100000`);
      const second = await open({ capacity: null });
      expect(second.capacity).toBe(first.capacity);
      publish(second, 2 * second.capacity);
      expect(readable(path)).toHaveLength(second.capacity);
    },
  );

  /** Takes every free byte, as another process might. */
  function fill(name: string): void {
    const fd = openSync(join(mount, name), "w");
    try {
      for (;;) writeSync(fd, new Uint8Array(4096));
    } catch (error) {
      expect((error as { code?: string }).code).toBe("ENOSPC");
    } finally {
      closeSync(fd);
    }
  }

  small("a file system that fills up under a ring does not touch it (needs root)", async () => {
    let refills = 0;
    const ring = await open({ capacity: 250, nextFrameId: 5 }, async () => {
      if (refills++ === 0) fill("greedy");
      return { bytes: new Uint8Array(0), count: 0 };
    });
    publish(ring, 600);
    expect(readable(path)).toHaveLength(250);
    expect(readdirSync(mount).sort()).toEqual(["greedy", "ring"]);
  });

  small(
    "space that goes while the file is being made is an error, and nothing stays (needs root)",
    async () => {
      const opening = refusal(() => open({ capacity: 400 }));
      fill("greedy");
      expect((await opening).code).toBe("ring_no_space");
      expect(readdirSync(mount)).toEqual(["greedy"]);
    },
  );

  small("the old ring makes room for the new one where both do not fit (needs root)", async () => {
    const old = await open({ capacity: 300 });
    publish(old, 10);
    old.close("closed");
    const ring = await open({ capacity: 400, adopt: true, nextFrameId: 11 }, keeps(1, 10));
    expect([ring.capacity, ring.refilled]).toEqual([400, 10]);
    expect((await refusal(() => open({ capacity: 500 }))).code).toBe("ring_no_space");
    expect(readable(path)).toHaveLength(10);
  });
});

describe("a running ring", () => {
  test("refreshes its heartbeat while its path leads to it", async () => {
    let now = 5_000_000;
    const ring = await open({ clock: { ...systemClock, nowUs: () => now } });
    now = 6_000_000.7;
    expect(ring.heartbeat()).toBe("ok");
    expect(headerOf(path).heartbeatUs).toBe(6_000_000);
  });

  test("notices that it was removed", async () => {
    const ring = await open();
    linkSync(path, `${path}-kept`);
    unlinkSync(path);
    expect(ring.heartbeat()).toBe("superseded");
    expect(headerOf(`${path}-kept`).state).toBe(3);
    ring.close("superseded");
    expect(headerOf(`${path}-kept`).state).toBe(3);
  });

  test("notices that another file took its place", async () => {
    const ring = await open();
    renameSync(path, `${path}-kept`);
    writeFileSync(path, "somebody else's");
    expect(ring.heartbeat()).toBe("superseded");
    expect(headerOf(`${path}-kept`).state).toBe(3);
    expect(readFileSync(path, "utf8")).toBe("somebody else's");
  });

  test("throws at any use after close, and closes once", async () => {
    const ring = await open();
    publish(ring, 3);
    ring.close("closed");
    expect(headerOf(path).state).toBe(2);
    ring.close("superseded");
    expect(headerOf(path).state).toBe(2);
    expect(() => ring.publish(4, physicsOf(4), null)).toThrow("used after close");
    expect(() => ring.read(1, 1)).toThrow("used after close");
    expect(() => ring.heartbeat()).toThrow("used after close");
    expect(() => ring.setLabels({ intents: {}, types: {}, models: {} })).toThrow("used after close");
  });

  test("replaces the labels beside it in the published shape", async () => {
    const ring = await open({ mode: 0o640 });
    ring.setLabels({ intents: {}, types: {}, models: {} });
    const first = inodeOf(`${path}.json`);
    const labels = {
      intents: { "5": "refund" },
      types: { "7": 'quoted "ç"' },
      models: { "9": { name: "hashing-1024-v1", dim: 1024 } },
    };
    ring.setLabels(labels);
    expect(JSON.parse(readFileSync(`${path}.json`, "utf8"))).toEqual(labels);
    expect(inodeOf(`${path}.json`)).not.toBe(first);
    expect(statSync(`${path}.json`).mode & 0o7777).toBe(0o640);
    expect(leftovers()).toEqual([]);
  });

  // A reader as the format describes it: it sets waiters to 1 and then calls FUTEX_WAIT on the low word of head.
  const sleeper = `
    import { dlopen, ptr } from "bun:ffi";
    import { Mapping } from ${JSON.stringify(join(import.meta.dir, "..", "src", "native", "libc.ts"))};
    import { openSync } from "node:fs";
    const mapping = new Mapping(openSync(process.argv[1], "r+"), 64);
    const view = mapping.view(0, 64);
    const words = new Int32Array(view);
    const libc = dlopen("libc.so.6", { syscall: { args: ["i64", "u64", "i32", "i32", "ptr", "u64", "i32"], returns: "i64" } });
    const timeout = new BigInt64Array([15n, 0n]);
    const head = words[6];
    Atomics.store(words, 14, 1);
    const result = libc.symbols.syscall(process.arch === "arm64" ? 98 : 202, ptr(view) + 24, 0, head, ptr(timeout), 0, 0);
    console.log(JSON.stringify({ result: Number(result), waiters: words[14], moved: words[6] - head, state: words[15] }));`;

  async function asleep(): Promise<{ answer: () => Promise<unknown> }> {
    const child = Bun.spawn([process.execPath, "-e", sleeper, path], { stdout: "pipe", stderr: "inherit" });
    const number = process.arch === "arm64" ? "98 " : "202 ";
    const inFutex = (): boolean => readFileSync(`/proc/${child.pid}/syscall`, "utf8").startsWith(number);
    while (child.exitCode === null && !(headerOf(path).waiters === 1 && inFutex())) await Bun.sleep(5);
    return { answer: async () => JSON.parse(await new Response(child.stdout).text()) };
  }

  const onLinux = test.skipIf(process.platform !== "linux");

  onLinux("wakes a sleeping reader with the next frame", async () => {
    const ring = await open();
    const { answer } = await asleep();
    publish(ring, 1);
    expect(await answer()).toEqual({ result: 0, waiters: 0, moved: 1, state: 1 });
  });

  onLinux("wakes a sleeping reader when it closes", async () => {
    const ring = await open();
    const { answer } = await asleep();
    ring.close("closed");
    expect(await answer()).toEqual({ result: 0, waiters: 0, moved: 0, state: 2 });
  });

  onLinux("wakes the readers of a ring that is replaced", async () => {
    (await open()).close("closed");
    const { answer } = await asleep();
    await open({ capacity: 32 });
    expect(await answer()).toEqual({ result: 0, waiters: 0, moved: 0, state: 3 });
  });
});
