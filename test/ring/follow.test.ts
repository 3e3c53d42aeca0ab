/** Follows a ring on a clock that the test moves. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openRing, type Ring } from "../../collider.ts";
import { type Clock, systemClock } from "../../src/clock.ts";
import type { RingOptions } from "../../src/ring/contract.ts";
import { RingFollower } from "../../src/ring/follow.ts";
import { RingReader } from "../../src/ring/reader.ts";

const START_US = 1_700_000_000_000_000;

/** A clock that moves when the follower sleeps, and when the test moves it. */
class OwnClock implements Clock {
  ms = 0;
  slept: number[] = [];
  /** What happens during the pause that ends at that time. */
  onSleep: (ms: number) => void = () => {};
  readonly after = systemClock.after;
  readonly every = systemClock.every;
  readonly nextTurn = systemClock.nextTurn;
  /** How far the wall clock was set ahead. */
  stepUs = 0;
  readonly nowUs = (): number => START_US + this.stepUs + this.ms * 1000;
  readonly monotonicMs = (): number => this.ms;
  readonly sleep = async (ms: number): Promise<void> => {
    this.ms += ms;
    this.slept.push(ms);
    this.onSleep(this.ms);
  };
}

let folder: string;
let path: string;
let clock: OwnClock;
let told: string[];
const rings: Ring[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "ring-follow-"));
  path = join(folder, "ring");
  clock = new OwnClock();
  told = [];
});

afterEach(() => {
  for (const ring of rings.splice(0)) ring.close("closed");
  rmSync(folder, { recursive: true });
});

async function open(o: Partial<RingOptions> = {}): Promise<Ring> {
  const options = { path, capacity: 16, mode: 0o600, journalId: 7, nextFrameId: 1, adopt: false, clock };
  const nothing = async () => ({ bytes: new Uint8Array(0), count: 0 });
  const ring = await openRing({ ...options, log: () => {}, ...o }, nothing);
  rings.push(ring);
  return ring;
}

function publish(ring: Ring, count: number, journalId = 7): void {
  const physics = new Uint8Array(112);
  new DataView(physics.buffer).setUint32(100, journalId, true);
  for (let n = 0; n < count; n++) ring.publish(ring.head(), physics, null);
}

function follow(
  first: number,
  stop = new AbortController(),
): { follower: RingFollower; stop: AbortController } {
  const tell = (kind: string): void => void told.push(kind);
  const follower = new RingFollower(RingReader.open(path), first, { clock, tell, stop: stop.signal });
  return { follower, stop };
}

async function nextIds(follower: RingFollower): Promise<number[] | null> {
  const copied = await follower.next();
  return copied === null ? null : Array.from({ length: copied.count }, (_, index) => copied.first + index);
}

test("pauses grow while no frame comes, and start again from the shortest after a frame", async () => {
  const ring = await open();
  const { follower, stop } = follow(1);
  using _ = follower;
  clock.onSleep = (ms) => {
    if (ms > 40) publish(ring, 1);
  };
  expect(await nextIds(follower)).toEqual([1]);
  expect(clock.slept).toEqual([1, 2, 4, 8, 16, 16]);
  clock.slept = [];
  clock.onSleep = () => {
    if (clock.slept.length === 2) stop.abort();
  };
  expect(await nextIds(follower)).toBeNull();
  expect(clock.slept).toEqual([1, 2]);
});

test("a follower checks the path four times a second", async () => {
  publish(await open(), 1);
  const { follower } = follow(1);
  using _ = follower;
  expect(await nextIds(follower)).toEqual([1]);
  renameSync(path, `${path}-old`);
  publish(await open({ nextFrameId: 2 }), 1);
  const startMs = clock.ms;
  expect(await nextIds(follower)).toEqual([2]);
  expect(clock.ms - startMs).toBeGreaterThanOrEqual(234);
  expect(clock.ms - startMs).toBeLessThanOrEqual(266);
  expect(told).toEqual(["replaced"]);
});

test("a gateway that is silent for more than 5 s is reported once, and once more when it is back", async () => {
  const ring = await open();
  const { follower } = follow(1);
  using _ = follower;
  clock.onSleep = (ms) => {
    if (ms < 4_000) ring.heartbeat();
    if (ms > 4_000 && ms < 8_900) expect(told).toEqual([]);
    if (ms > 12_000) ring.heartbeat();
    if (ms > 13_000) publish(ring, 1);
  };
  expect(await nextIds(follower)).toEqual([1]);
  expect(told).toEqual(["stalled", "resumed"]);
});

test("a wall clock that is set in either direction is no stall, and hides none", async () => {
  const ring = await open();
  const { follower } = follow(1);
  using _ = follower;
  clock.onSleep = (ms) => {
    if (ms > 2000) clock.stepUs = 8 * 3600e6;
    if (ms > 12_000) clock.stepUs = -3600e6;
    // As writers must, once a second, but for 10 s from 20 s on.
    if (ms % 1000 < 16 && (ms < 20_000 || ms > 30_000)) ring.heartbeat();
    if (ms < 20_000) expect(told).toEqual([]);
    if (ms > 31_000) publish(ring, 1);
  };
  expect(await nextIds(follower)).toEqual([1]);
  expect(told).toEqual(["stalled", "resumed"]);
});

test("another file at the path is tolerated for 5 s and is then an error", async () => {
  await open();
  const { follower } = follow(1);
  using _ = follower;
  rmSync(path);
  writeFileSync(path, "something else".repeat(10));
  await expect(follower.next()).rejects.toThrow("it is no physics ring");
  expect(clock.ms).toBeGreaterThanOrEqual(5_000);
  expect(clock.ms).toBeLessThan(6_000);
});

test("frames of another journal are read from their oldest", async () => {
  publish(await open(), 9);
  const { follower } = follow(9);
  using _ = follower;
  expect(await nextIds(follower)).toEqual([9]);
  publish(await open({ journalId: 8, capacity: 4 }), 6, 8);
  expect(await nextIds(follower)).toEqual([3, 4, 5, 6]);
  expect(told).toEqual(["replaced", "journal_changed"]);
});
