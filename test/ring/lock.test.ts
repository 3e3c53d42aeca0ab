/** The lock beside a ring or a database. */
import { afterEach, beforeEach, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { GatewayError } from "../../src/errors.ts";
import { RingLock } from "../../src/ring/lock.ts";

setDefaultTimeout(60_000);

let folder: string;
let path: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "lock-test-"));
  path = join(folder, "ring");
});

afterEach(() => rmSync(folder, { recursive: true }));

function refusal(): GatewayError {
  try {
    RingLock.acquire(path);
  } catch (error) {
    if (error instanceof GatewayError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

test("a lock refuses a second writer by name and pid, and ends with the first", () => {
  const first = RingLock.acquire(path);
  const error = refusal();
  expect(error.code).toBe("locked");
  expect(error.message).toContain(path);
  expect(error.message).toContain(`pid ${process.pid}`);
  expect(statSync(`${path}.lock`).mode & 0o7777).toBe(0o600);
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  expect(existsSync(`${path}.lock`)).toBe(true);
  RingLock.acquire(path)[Symbol.dispose]();
});

test("a lock is freed by SIGKILL of its holder, and not kept by the holder's children", async () => {
  const holder = `
    import { RingLock } from ${JSON.stringify(join(import.meta.dir, "../../src/ring/lock.ts"))};
    RingLock.acquire(process.argv[1]);
    Bun.spawn(["sleep", "120"], { stdin: "ignore", stdout: "ignore", stderr: "ignore" });
    console.log("held");
    setInterval(() => {}, 1000);`;
  await using child = Bun.spawn([process.execPath, "-e", holder, path], { stdout: "pipe" });
  const reader = child.stdout.getReader();
  expect(new TextDecoder().decode((await reader.read()).value)).toContain("held");
  const error = refusal();
  expect([error.code, error.message.includes(`pid ${child.pid}`)]).toEqual(["locked", true]);
  child.kill("SIGKILL");
  await child.exited;
  // The holder's child has the descriptor until its exec, which a busy machine may delay, but lives far longer than this.
  const deadlineMs = performance.now() + 30_000;
  while (performance.now() < deadlineMs) {
    try {
      RingLock.acquire(path)[Symbol.dispose]();
      return;
    } catch {
      await Bun.sleep(5);
    }
  }
  RingLock.acquire(path)[Symbol.dispose]();
});

test("a lock does not follow a symbolic link", async () => {
  symlinkSync(join(folder, "victim"), `${path}.lock`);
  expect(refusal().message).toContain("is a symbolic link");
  expect(existsSync(join(folder, "victim"))).toBe(false);
});

test("a lock must be a regular file", () => {
  mkdirSync(`${path}.lock`);
  const error = refusal();
  expect([error.code, error.object]).toEqual(["ring_failed", `${path}.lock`]);
  expect(existsSync(`${path}.lock`)).toBe(true);
});
