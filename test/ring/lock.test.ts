/** The lock beside a ring or a database. */
import { dlopen } from "bun:ffi";
import { afterEach, beforeEach, expect, setDefaultTimeout, test } from "bun:test";
import {
  chownSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
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

/** This process's open descriptors of a file, and whether each is closed on exec, as the kernel reports it. */
function descriptorsOf(file: string): { fd: number; closedOnExec: boolean }[] {
  const found: { fd: number; closedOnExec: boolean }[] = [];
  for (const fd of readdirSync("/proc/self/fd").map(Number)) {
    try {
      if (readlinkSync(`/proc/self/fd/${fd}`) !== file) continue;
      const flags = /^flags:\s*([0-7]+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"));
      found.push({ fd, closedOnExec: (Number.parseInt(flags?.[1] ?? "0", 8) & 0o2000000) !== 0 });
    } catch {
      // The descriptor of the listing itself has ended.
    }
  }
  return found;
}

// Bun closes every descriptor when it spawns a process, but a native library that forks and executes does not.
test.skipIf(process.platform !== "linux")("a lock's descriptor is closed on exec", () => {
  using _lock = RingLock.acquire(path);
  const [lock, ...others] = descriptorsOf(`${path}.lock`);
  expect([lock?.closedOnExec, others]).toEqual([true, []]);
  // The other side: without the flag, the descriptor is reported as one that a child would keep.
  const { symbols } = dlopen("libc.so.6", { fcntl: { args: ["i32", "i32", "i32"], returns: "i32" } });
  const F_SETFD = 2;
  expect(symbols.fcntl(lock?.fd ?? -1, F_SETFD, 0)).toBe(0);
  expect(descriptorsOf(`${path}.lock`)[0]?.closedOnExec).toBe(false);
});

test("a lock does not follow a symbolic link", () => {
  symlinkSync(join(folder, "victim"), `${path}.lock`);
  expect(refusal().message).toContain("is a symbolic link");
  expect(existsSync(join(folder, "victim"))).toBe(false);
});

test("a lock in a folder that does not exist is refused with the next step", () => {
  writeFileSync(join(folder, "file"), "");
  path = join(folder, "file", "ring");
  expect([refusal().code, refusal().message.includes("ENOTDIR")]).toEqual(["ring_failed", true]);
  path = join(folder, "missing", "ring");
  const error = refusal();
  expect(error.message).toContain("ENOENT");
  expect(error.hint).toBe("make its folder and let this user write to it, or choose another path");
});

test("a lock must be a regular file", () => {
  mkdirSync(`${path}.lock`);
  const error = refusal();
  expect([error.code, error.object]).toEqual(["ring_failed", `${path}.lock`]);
  expect(error.message).toContain("is not a regular file");
  expect(error.hint).toBe("remove it, or choose another path");
  expect(existsSync(`${path}.lock`)).toBe(true);
});

test("a named pipe at the lock's path is refused without waiting for its other end", () => {
  expect(Bun.spawnSync(["mkfifo", `${path}.lock`]).exitCode).toBe(0);
  expect(refusal().message).toContain("is not a regular file");
});

test.each([
  ["another program's lock file", '{"lockfileVersion":1}\n'],
  ["a long line of digits", `${"1".repeat(40)}\n`],
  ["an empty line before a number", "\n7\n"],
])("%s at the lock's path is refused and left as it is", (_, content) => {
  writeFileSync(`${path}.lock`, content);
  const error = refusal();
  expect([error.code, error.object]).toEqual(["ring_failed", `${path}.lock`]);
  expect(error.message).toContain("is another program's file; it is left untouched; remove it, or choose");
  expect(readFileSync(`${path}.lock`, "utf8")).toBe(content);
});

test("a lock file with a second name is refused and left as it is", () => {
  const victim = join(folder, "victim");
  writeFileSync(victim, "7\n");
  linkSync(victim, `${path}.lock`);
  expect(refusal().message).toContain("has 2 names (hard links)");
  expect(readFileSync(victim, "utf8")).toBe("7\n");
});

test("a lock that ended leaves a file that the next one takes, with or without a process id", () => {
  for (const content of ["", "12345\n", "4194304"]) {
    writeFileSync(`${path}.lock`, content);
    RingLock.acquire(path)[Symbol.dispose]();
    expect(readFileSync(`${path}.lock`, "utf8")).toBe(`${process.pid}\n`);
  }
});

const asRoot = test.skipIf(process.geteuid?.() !== 0);

asRoot("another user's lock file says nothing about its holder, and is not written to (needs root)", () => {
  writeFileSync(`${path}.lock`, "1\n");
  chownSync(`${path}.lock`, 12345, 12345);
  using _held = RingLock.acquire(path);
  expect(readFileSync(`${path}.lock`, "utf8")).toBe("1\n");
  const error = refusal();
  expect([error.code, error.message]).toEqual([
    "locked",
    `lock: ${path}: another process holds its lock; stop it, or choose another path`,
  ]);
});
