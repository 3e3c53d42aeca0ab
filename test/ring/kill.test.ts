/**
 * Writers are killed at any instant, in the middle of a frame or of a batch, while readers live on. Readers are killed
 * or stopped, and the writer must not notice. The programs are in test/torture.
 *
 * LONG=1 runs until 200 kills have hit the middle of a frame or batch, and stops a reader for a minute.
 */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openRing, type Ring } from "../../collider.ts";
import { Content, JOURNAL_ID, lookAt } from "../torture/content.ts";
import {
  CC,
  compileReader,
  headOf,
  type Program,
  type Reader,
  type ReaderMode,
  type ReaderSaid,
  startReader,
  startWriter,
} from "../torture/programs.ts";

const LONG = process.env.LONG === "1";
const KILLS_MIN = LONG ? 200 : 12;
/** The number of kills that must hit the middle of a frame or of a batch. About a third of all kills do. */
const HITS_MIN = LONG ? 200 : 1;
const KILLS_MAX = 20 * KILLS_MIN;
const STOPPED_MS = LONG ? 60_000 : 3_000;
const STATUS_MS = 10;
const SEED = Number(process.env.TORTURE_SEED ?? Math.floor(Math.random() * 2 ** 31));
/** A second reader beside the follower: the one in C, if there is a compiler. */
const SECOND: ReaderMode = CC !== null && process.arch === "x64" ? "c" : "since";

let folder: string;
let path: string;
let binary: string;

beforeEach(() => {
  folder = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "ring-kill-"));
  path = join(folder, "ring");
  binary = SECOND === "c" ? compileReader(folder) : "";
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

async function until(what: string, condition: () => boolean, withinMs = 60_000): Promise<void> {
  const deadlineMs = performance.now() + withinMs;
  while (!condition()) {
    if (performance.now() > deadlineMs) throw new Error(`not within ${withinMs} ms: ${what}`);
    await Bun.sleep(1);
  }
}

function expectExact(said: ReaderSaid): void {
  const { accepted, torn, lost, first, last, violations, done } = said;
  expect({ torn, violations, done }).toEqual({ torn: 0, violations: 0, done: true });
  expect(accepted).toBeGreaterThan(0);
  expect(accepted + lost).toBe(last - first + 1);
}

/** The same sequence of numbers for the same seed. */
function seeded(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

describe("a writer killed at any instant", () => {
  const capacity = 64;
  const batchFrames = 16;

  test(
    `${KILLS_MIN} kills or more: frame ids go on, no readable frame is damaged, readers go on by themselves`,
    async () => {
      console.log(`      TORTURE_SEED=${SEED}`);
      const random = seeded(SEED);
      const hits = { all: 0, frame: 0, batch: 0 };
      const readers: Reader[] = [];
      let head = 1;
      let epoch = 0;
      let kills = 0;
      const start = (): ReturnType<typeof startWriter> =>
        startWriter({
          path,
          capacity,
          // The frames that the journal decided beyond the head are published again under their ids.
          nextFrameId: head + (epoch === 0 ? 0 : batchFrames),
          adopt: epoch > 0,
          batchFrames: kills % 2 === 0 ? 1 : batchFrames,
        });
      try {
        const enoughHits = (): boolean => hits.all >= HITS_MIN && hits.frame > 0 && hits.batch > 0;
        while (kills < KILLS_MIN || (kills < KILLS_MAX && !enoughHits())) {
          await using writer = await start();
          expect(writer.said).toMatchObject({ head, adopted: epoch > 0 });
          if (readers.length === 0) {
            for (const mode of ["follow", SECOND] as const) {
              readers.push(await startReader({ path, mode, binary, first: 1, statusMs: STATUS_MS }));
            }
          }
          const enough = head + 1000 + random(20_000);
          await until(`frame ${enough} is there`, () => headOf(path) > enough);
          await writer.kill();
          kills += 1;

          const left = lookAt(path);
          expect(left.damaged).toEqual([]);
          expect(left.head).toBeGreaterThan(enough);
          expect(left.epoch).toBe(epoch + 1);
          // Only one frame is being written at a time. In a batch, the slots before it are already whole.
          expect(left.oddSlots).toBeLessThanOrEqual(1);
          expect(left.head - left.tail).toBeGreaterThanOrEqual(capacity - batchFrames);
          expect(left.unshown + left.oddSlots).toBeLessThanOrEqual(capacity - (left.head - left.tail));
          hits.all += left.oddSlots > 0 || left.unshown > 0 ? 1 : 0;
          hits.frame += left.oddSlots;
          hits.batch += left.unshown > 0 && kills % 2 === 0 ? 1 : 0;
          // No writer runs now, so the reader reads to the end.
          for (const reader of readers) {
            await reader.until(`it has read frame ${left.head - 1}`, (said) => said.last === left.head - 1);
          }
          head = left.head;
          epoch = left.epoch;
        }
        await using writer = await start();
        expect(writer.said).toMatchObject({ head, adopted: true });
        for (const reader of readers) await reader.until("it goes on", (said) => said.last > head);
        for (const reader of readers) expectExact(await reader.end());
        const seen = readers.map(({ name, said }) => `${name} ${said?.accepted} (lost ${said?.lost})`);
        const inBatch = `, ${hits.batch} of a batch (${hits.all} of either)`;
        console.log(
          `      ${kills} kills: ${hits.frame} in the middle of a frame${inBatch}; ${seen.join(", ")}`,
        );
        // It reports every start that it saw, and never another ring.
        expect(readers[0]?.said?.events?.replaced).toBeUndefined();
        expect(readers[0]?.said?.events?.restarted).toBeGreaterThan(0);
        expect(enoughHits()).toBe(true);
        await writer.end();
        expect(lookAt(path).damaged).toEqual([]);
      } finally {
        for (const reader of readers) await reader[Symbol.asyncDispose]();
      }
    },
    LONG ? 20 * 60_000 : 120_000,
  );
});

describe("a reader that dies or stands still", () => {
  const FUTEX_CALL = process.arch === "arm64" ? "98 " : "202 ";
  const CAPACITY = 1_000;
  const PACE_FRAMES = 2_000;
  const content = new Content();
  let ring: Ring;

  beforeEach(async () => {
    ring = await openRing(
      {
        path,
        capacity: CAPACITY,
        mode: 0o600,
        journalId: JOURNAL_ID,
        nextFrameId: 1,
        adopt: false,
        log: () => {},
      },
      async () => ({ bytes: new Uint8Array(0), count: 0 }),
    );
  });
  afterEach(() => ring.close("closed"));

  function publish(count: number): void {
    for (let id = ring.head(), end = id + count; id < end; id++) {
      const { physics, vector } = content.of(id);
      ring.publish(id, physics, vector);
    }
  }

  /** In ns per frame. */
  function pace(): number {
    const startNs = Bun.nanoseconds();
    publish(PACE_FRAMES);
    return (Bun.nanoseconds() - startNs) / PACE_FRAMES;
  }

  /** The pace of the fastest quarter of runs, because other work on the machine only makes runs slower. */
  const quarter = (values: readonly number[]): number =>
    [...values].sort((a, b) => a - b)[values.length >> 2] as number;

  const waiters = (): number => readFileSync(path).readUInt32LE(56);
  const asleep = (reader: Program<ReaderSaid>): boolean =>
    readFileSync(`/proc/${reader.process.pid}/task/${reader.process.pid}/syscall`, "utf8").startsWith(
      FUTEX_CALL,
    );

  async function started(mode: ReaderMode): Promise<Reader> {
    return startReader({ path, mode, binary, first: ring.head(), statusMs: STATUS_MS });
  }

  const onLinux = test.skipIf(process.platform !== "linux");

  onLinux(
    "one killed in its sleep leaves its word behind, which the writer clears, and the others go on",
    async () => {
      // The other reader polls, because the header has one word for one sleeper.
      await using other = await started(SECOND);
      await using sleeper = await started("follow");
      publish(10);
      for (const reader of [sleeper, other]) await reader.until("it has read", (said) => said.last === 10);
      await until("it sleeps", () => waiters() === 1 && asleep(sleeper));
      await sleeper.kill();
      expect(waiters()).toBe(1);
      publish(1);
      expect(waiters()).toBe(0);
      await using successor = await started("follow");
      publish(5_000);
      for (const reader of [other, successor]) {
        await reader.until("it goes on", (said) => said.last === 5_011);
        expectExact(await reader.end());
      }
    },
    60_000,
  );

  onLinux(
    `one stopped for ${STOPPED_MS / 1000} s costs the writer and the others nothing, and has lost exactly what it missed`,
    async () => {
      await using stopped = await started("follow");
      await using other = await started(SECOND);
      const before: number[] = [];
      for (let n = 0; n < 100; n++) {
        before.push(pace());
        await Bun.sleep(1);
      }
      await stopped.until("it reads", (said) => said.accepted > 0);
      await other.until("it reads", (said) => said.accepted > 0);
      stopped.process.kill("SIGSTOP");
      const state = (): string =>
        /\) (\w)/.exec(readFileSync(`/proc/${stopped.process.pid}/stat`, "utf8"))?.[1] ?? "";
      await until("it stands", () => state() === "T");
      const headAtStop = ring.head();
      const during: number[] = [];
      const seenBefore = other.said?.accepted ?? 0;
      const stoppedMs = performance.now();
      while (performance.now() - stoppedMs < STOPPED_MS) {
        during.push(pace());
        ring.heartbeat();
        await Bun.sleep(1);
      }
      const seenDuring = (other.said?.accepted ?? 0) - seenBefore;
      stopped.process.kill("SIGCONT");
      const newest = ring.head() - 1;
      await stopped.until("it goes on", (said) => said.last === newest);
      await other.until("it is there, too", (said) => said.last === newest);
      const said = await stopped.end();
      console.log(
        `      ns a frame: ${quarter(before).toFixed(0)} before, ${quarter(during).toFixed(0)} while it stood; ` +
          `the other read ${seenDuring}; the stopped one lost ${said.lost}`,
      );
      expectExact(said);
      expect(said.last).toBe(newest);
      // It can only have read the frames that the ring still had.
      expect(said.lost).toBeGreaterThanOrEqual(newest - headAtStop - CAPACITY);
      expectExact(await other.end());
      expect(seenDuring).toBeGreaterThan(0);
      // Many short runs, with a bound that allows for other work on the machine.
      expect(quarter(during)).toBeLessThan(3 * quarter(before));
    },
    STOPPED_MS + 90_000,
  );
});
