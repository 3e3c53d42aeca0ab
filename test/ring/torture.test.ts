/**
 * A TypeScript writer at full speed, four Python readers (each uses another part of consumer.py's public API) and one in
 * C. No reader may ever accept a frame with a byte of another frame, and each must count its losses exactly. The
 * programs are in test/torture.
 *
 * LONG=1 runs until the readers have accepted 100 million frames.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  CC,
  compileReader,
  headOf,
  type Reader,
  type ReaderMode,
  type ReaderSaid,
  startReader,
  startWriter,
} from "../torture/programs.ts";

const LONG = process.env.LONG === "1";
/** The number of frames that all readers of a ring together must accept. */
const ACCEPTED_PER_RING = LONG ? 25_000_000 : 300_000;
const RING_TIMEOUT_MS = LONG ? 40 * 60_000 : 100_000;
/** Capacities of rings that are filled in batches. The others are filled frame by frame. */
const BY_BATCHES = [64, 100_000];
const TELL_EVERY_MS = 30_000;
setDefaultTimeout(RING_TIMEOUT_MS);

const SEED = Number(process.env.TORTURE_SEED ?? Math.floor(Math.random() * 2 ** 31));
const PYTHON_MODES: readonly ReaderMode[] = ["since", "follow", "batch", "view"];
/** On x86-64 the order of stores excludes torn frames. Elsewhere a reader needs the checksum, too. */
const C_READS = CC !== null && process.arch === "x64";
/** These readers read frame after frame, so they know their losses. The others take the newest frame. */
const SEQUENTIAL: readonly ReaderMode[] = ["since", "follow", "c"];

let folder: string;
let binary = "";

beforeAll(() => {
  console.log(`ring-torture: TORTURE_SEED=${SEED}`);
  folder = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "torture-"));
  if (C_READS) binary = compileReader(folder);
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

const sum = (said: readonly (ReaderSaid | null)[]): number =>
  said.reduce((total, one) => total + (one?.accepted ?? 0), 0);

async function untilAccepted(readers: readonly Reader[], target: number): Promise<void> {
  const deadlineMs = performance.now() + RING_TIMEOUT_MS * 0.8;
  let tellMs = performance.now();
  const enough = (): boolean =>
    sum(readers.map((reader) => reader.said)) >= target &&
    readers.every((reader) => (reader.said?.accepted ?? 0) > 0);
  while (!enough()) {
    const said = readers.map((reader) => `${reader.name} ${JSON.stringify(reader.said)}`).join("\n");
    if (readers.some((reader) => reader.process.exitCode !== null))
      throw new Error(`a reader ended:\n${said}`);
    if (performance.now() > deadlineMs) throw new Error(`in vain until ${target} were accepted:\n${said}`);
    if (performance.now() - tellMs > TELL_EVERY_MS) {
      tellMs = performance.now();
      console.log(`      ${readers.map((reader) => `${reader.name} ${reader.said?.accepted}`).join(", ")}`);
    }
    await Bun.sleep(20);
  }
}

describe("a writer at full speed and five readers", () => {
  let acceptedInAll = 0;

  for (const capacity of [16, 64, 1_000, 100_000]) {
    test(`${capacity} slots: no reader accepts a torn frame, and each knows its exact losses`, async () => {
      const path = join(folder, `ring-${capacity}`);
      const startedMs = performance.now();
      // On a ring that is lapped within microseconds, a reader gets to read only during pauses.
      const burstSeed = capacity < 1_000 ? SEED : null;
      const batchFrames = BY_BATCHES.includes(capacity) ? 64 : 1;
      await using writer = await startWriter({ path, capacity, burstSeed, batchFrames });
      const modes: ReaderMode[] = [...PYTHON_MODES, ...(C_READS ? (["c"] as const) : [])];
      const readers: Reader[] = [];
      try {
        for (const mode of modes)
          readers.push(await startReader({ path, mode, binary, seed: SEED + readers.length }));
        await untilAccepted(readers, ACCEPTED_PER_RING);
        const said = await Promise.all(readers.map((reader) => reader.end()));
        const { head } = await writer.end();
        const seconds = (performance.now() - startedMs) / 1000;
        console.log(`      ${head - 1} frames in ${seconds.toFixed(1)} s; accepted (lost):`);
        console.log(
          `      ${modes.map((mode, n) => `${mode} ${said[n]?.accepted} (${said[n]?.lost})`).join(", ")}`,
        );
        for (const [n, mode] of modes.entries()) {
          const { accepted, torn, lost, first, last, violations, done } = said[n] as ReaderSaid;
          expect({ mode, torn, violations, done }).toEqual({ mode, torn: 0, violations: 0, done: true });
          expect(accepted).toBeGreaterThan(0);
          expect(last).toBeLessThan(head);
          if (SEQUENTIAL.includes(mode))
            expect({ mode, seen: accepted + lost }).toEqual({ mode, seen: last - first + 1 });
          else expect({ mode, lost }).toEqual({ mode, lost: 0 });
        }
        acceptedInAll += sum(said);
      } finally {
        for (const reader of readers) await reader[Symbol.asyncDispose]();
        await writer[Symbol.asyncDispose]();
        rmSync(path, { force: true });
      }
    });
  }

  test("2 slots: the newest frame is whole, although it is overwritten while it is copied", async () => {
    const path = join(folder, "ring-2");
    await using writer = await startWriter({ path, capacity: 2, burstSeed: SEED });
    await using reader = await startReader({ path, mode: "latest" });
    const target = LONG ? 300_000 : 20_000;
    await reader.until("it has read", (said) => said.accepted > target, RING_TIMEOUT_MS * 0.8);
    const { accepted, torn, lost, violations } = await reader.end();
    console.log(`      ${accepted} accepted`);
    expect({ torn, lost, violations }).toEqual({ torn: 0, lost: 0, violations: 0 });
    await writer.end();
    rmSync(path);
  });

  test("the readers have accepted enough frames", () => {
    console.log(`      accepted in all: ${acceptedInAll}`);
    expect(acceptedInAll).toBeGreaterThanOrEqual(4 * ACCEPTED_PER_RING);
  });
});

/** The controls: they prove that the tests above would find a torn frame. */
describe("torn frames are found", () => {
  async function tornWith(
    mode: ReaderMode,
    control: { neverOdd?: boolean; trusting?: boolean },
  ): Promise<void> {
    const path = join(folder, `control-${mode}`);
    const { neverOdd = false, trusting = false } = control;
    await using writer = await startWriter({ path, capacity: 16, neverOdd });
    await using reader = await startReader({ path, mode, binary, trusting, statusMs: 20, seed: SEED });
    const { accepted, torn } = await reader.until("it has found a torn frame", (said) => said.torn > 0);
    console.log(`      ${torn} torn of ${accepted} accepted, the writer at ${headOf(path)}`);
    expect(torn).toBeGreaterThan(0);
    await writer.kill();
    rmSync(path);
  }

  const cTest = test.skipIf(!C_READS);

  test("by Python, if the writer never marks a slot odd", () => tornWith("since", { neverOdd: true }));
  test("by Python, if the reader leaves out the second check", () => tornWith("since", { trusting: true }));
  cTest("by C, where the writer never goes odd (needs cc, x64)", () => tornWith("c", { neverOdd: true }));
  cTest("by C, where the reader leaves out the second check (needs cc, x64)", () =>
    tornWith("c", { trusting: true }),
  );
});
