/**
 * The executable and consumer.py meet a ring file in a bad state. Each must behave correctly or print one clear line; neither
 * may die of a signal or hand out a wrong frame.
 */
import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  closeSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join, resolve } from "node:path";
import { BINARY, Gateway, ringFrames, ringHead, type StartOptions, TempFolder, until } from "./gateway.ts";

// These tests start processes, which is slow on a busy machine.
setDefaultTimeout(300_000);

const ROOT = resolve(import.meta.dir, "../..");
const PYTHON = join(ROOT, ".venv/bin/python");
const CONSUMER = join(ROOT, "consumer.py");

let folder = new TempFolder();
afterEach(() => {
  folder[Symbol.dispose]();
  folder = new TempFolder();
});

const IS_ROOT = process.getuid?.() === 0;
const runs = (command: readonly string[]): boolean =>
  Bun.which(command[0] as string) !== null && Bun.spawnSync([...command, "true"]).exitCode === 0;

/** The command prefix that runs a program as a user without files of its own. Root needs it; other users are limited already. */
const AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
const CAN_BE_NOBODY = !IS_ROOT || runs(AS_NOBODY);
const asNobody = (command: readonly string[]): string[] => [...(IS_ROOT ? AS_NOBODY : []), ...command];

/** The command prefix that runs a program in a pid namespace of its own; null if this user may not. */
const UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=SIGKILL"];
const IN_PID_NAMESPACE =
  [UNSHARE, [...UNSHARE, "--user", "--map-root-user"]].find((command) => runs(command)) ?? null;

interface Finished {
  readonly code: number | null;
  readonly signal: unknown;
  readonly out: string;
  readonly err: string;
}

const PYTHON_ENV = (): Record<string, string> => ({
  CS_PHYSICS_PATH: folder.ring,
  PYTHONPATH: ROOT,
  PYTHONDONTWRITEBYTECODE: "1",
});

async function finished(command: readonly string[]): Promise<Finished> {
  const child = Bun.spawn([...command], { cwd: "/", env: PYTHON_ENV(), stdout: "pipe", stderr: "pipe" });
  const [out, err] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code: child.exitCode, signal: child.signalCode, out, err };
}

/** Expects that the reader refuses with one line that names the ring and matches `why`. */
async function expectReaderRefuses(why: RegExp, command = (args: string[]): string[] => args): Promise<void> {
  for (const mode of ["--stats", "--follow"]) {
    const shown = await finished(command([PYTHON, CONSUMER, mode]));
    expect([shown.code, shown.signal, shown.out]).toEqual([1, null, ""]);
    expect(shown.err.trim().split("\n").length).toBe(1);
    expect(shown.err).toContain(folder.ring);
    expect(shown.err).toMatch(why);
  }
}

/** Expects that the gateway refuses to start with one line that matches `why`, and changes no file. */
async function expectGatewayRefuses(why: RegExp, options: StartOptions = {}): Promise<void> {
  await using gateway = Gateway.launch(folder, options);
  const { process } = gateway;
  await until("the gateway refuses", () => process.exitCode !== null || process.signalCode !== null);
  expect([await gateway.exited(), process.signalCode]).toEqual([1, null]);
  expect(gateway.log.trim().split("\n").length).toBe(1);
  expect(gateway.log).toContain(folder.ring);
  expect(gateway.log).toMatch(why);
}

let sent = 0;
async function send(gateway: Gateway, count: number, type = "UserMessage"): Promise<void> {
  const lines = Array.from({ length: count }, () => JSON.stringify({ message: `pedido ${++sent}`, type }));
  expect((await gateway.postLines(lines.join("\n"))).status).toBe(200);
}

const framed = (count: number): Promise<void> =>
  until(`${count} frames are in the ring`, () => (ringHead(folder.ring)?.head ?? 0) === count + 1);

/** Makes a database and its ring with `count` frames, and stops the gateway. */
async function leaveRing(count: number, args: readonly string[] = []): Promise<readonly string[]> {
  const database = ["--db-path", folder.file("events.duckdb")];
  await using gateway = await Gateway.start(folder, { args: [...database, ...args] });
  await send(gateway, count);
  await framed(count);
  expect(await gateway.stop()).toBe(0);
  return database;
}

const idsInRing = (): number[] => ringFrames(folder.ring).map(({ frameId }) => frameId);
const upTo = (count: number): number[] => Array.from({ length: count }, (_, index) => index + 1);

/** A follower that prints each frame and each event on a line, until it has `frames` frames. */
class Follower implements AsyncDisposable {
  readonly process: Bun.Subprocess<"ignore", "pipe", "pipe">;
  readonly ids: number[] = [];
  readonly told: string[] = [];
  wait = "";
  readonly #reading: Promise<void>;

  constructor(frames: number, command = (args: string[]): string[] => args) {
    const script = `
import json
from consumer import PhysicsConsumer
def tell(event): print(json.dumps({"event": event.kind}), flush=True)
with PhysicsConsumer(on_event=tell) as consumer:
    print(json.dumps({"wait": consumer.stats()["wait"]}), flush=True)
    seen = 0
    for frame in consumer.follow("oldest", timeout_s=60):
        # Without a database the numbers of event and frame go together.
        assert frame.event_seq == frame.frame_id, (frame.event_seq, frame.frame_id)
        print(json.dumps({"id": frame.frame_id}), flush=True)
        seen += 1
        if seen == ${frames}:
            break
    assert consumer.lost == 0, consumer.lost
`;
    this.process = Bun.spawn(command([PYTHON, "-c", script]), {
      cwd: "/",
      env: PYTHON_ENV(),
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    });
    this.#reading = this.#read();
  }

  async #read(): Promise<void> {
    const decoder = new TextDecoder();
    let rest = "";
    for await (const chunk of this.process.stdout) {
      const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) {
        const said = JSON.parse(line) as { id?: number; event?: string; wait?: string };
        if (said.id !== undefined) this.ids.push(said.id);
        if (said.event !== undefined) this.told.push(said.event);
        if (said.wait !== undefined) this.wait = said.wait;
      }
    }
  }

  async seen(count: number): Promise<void> {
    await until(`the follower has seen ${count}`, async () => {
      const { exitCode, signalCode } = this.process;
      if ((exitCode ?? 0) !== 0 || signalCode !== null) {
        throw new Error(`${exitCode} ${signalCode} ${await new Response(this.process.stderr).text()}`);
      }
      return this.ids.length >= count;
    });
  }

  /** Expects that the follower ended by itself with exactly these frames. */
  async expectEnd(ids: readonly number[]): Promise<void> {
    await this.seen(ids.length);
    const err = new Response(this.process.stderr).text();
    await this.process.exited;
    await this.#reading;
    expect([this.process.exitCode, this.process.signalCode, await err]).toEqual([0, null, ""]);
    expect(this.ids).toEqual([...ids]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.process.exitCode === null && this.process.signalCode === null) this.process.kill("SIGKILL");
    await this.process.exited;
  }
}

describe("another capacity", () => {
  test.each(["stop", "kill"] as const)(
    "after a %s: a live reader reports it, and misses and repeats no frame",
    async (how) => {
      const start = (capacity: number): Promise<Gateway> =>
        Gateway.start(folder, {
          args: ["--db-path", folder.file("events.duckdb"), "--ring-capacity", `${capacity}`],
          defaultRing: true,
        });
      let count = 0;
      let follower: Follower | null = null;
      try {
        for (const capacity of [100, 5_000, 32]) {
          await using gateway = await start(capacity);
          await until("the ring has the new capacity", () => ringHead(folder.ring)?.capacity === capacity);
          follower ??= new Follower(60);
          await send(gateway, 20);
          count += 20;
          await follower.seen(count);
          expect(idsInRing()).toEqual(upTo(count).slice(-capacity));
          await gateway[how]();
        }
        await follower?.expectEnd(upTo(60));
        expect(follower?.told.filter((kind) => kind === "replaced").length).toBe(2);
        expect(follower?.told).not.toContain("lost");
      } finally {
        await follower?.[Symbol.asyncDispose]();
      }
    },
  );
});

describe("a ring file that changed between two runs", () => {
  test("with another version: the reader says so, and the gateway makes a new ring with all frames", async () => {
    const args = await leaveRing(30);
    const fd = openSync(folder.ring, "r+");
    writeSync(fd, new Uint8Array([2]), 0, 1, 8);
    closeSync(fd);
    await expectReaderRefuses(/version 2/);
    await using gateway = await Gateway.start(folder, { args });
    await until("there is a new ring", () => (ringHead(folder.ring)?.state ?? 0) === 1);
    expect(gateway.log).toContain("it is of version 2");
    await using follower = new Follower(31);
    await send(gateway, 1);
    await follower.expectEnd(upTo(31));
  });

  test.each([
    ["in the middle of its frames", 64 + 10 * 4224 + 17],
    ["after its header", 64],
  ])("truncated %s: the reader says so, the gateway makes a new one with all frames", async (_, bytes) => {
    const args = await leaveRing(30);
    truncateSync(folder.ring, bytes);
    await expectReaderRefuses(new RegExp(`damaged.*${bytes} bytes`));
    await using gateway = await Gateway.start(folder, { args });
    await until("there is a new ring", () => (ringHead(folder.ring)?.state ?? 0) === 1);
    await using follower = new Follower(31);
    await send(gateway, 1);
    await follower.expectEnd(upTo(31));
    expect(idsInRing()).toEqual(upTo(31));
  });

  test.each([
    ["within its header", 40],
    ["to nothing", 0],
  ])("truncated %s it could be anybody's: both refuse it, and it stays as it is", async (_, bytes) => {
    const args = await leaveRing(3);
    truncateSync(folder.ring, bytes);
    await expectReaderRefuses(new RegExp(`${bytes} bytes`));
    await expectGatewayRefuses(/is not a ring file.*remove it/, { args });
    expect(lstatSync(folder.ring).size).toBe(bytes);
  });
});

describe("a ring of another user", () => {
  const test_ = test.skipIf(!CAN_BE_NOBODY);

  /** Runs the executable as a user who owns no files. */
  function nobodysGateway(): StartOptions {
    chmodSync(folder.path, 0o777);
    cpSync(BINARY, folder.file("one_file_gateway"));
    const wrapper = folder.file("as-nobody");
    const command = asNobody([folder.file("one_file_gateway")]);
    const [program = "", ...rest] = command;
    writeFileSync(wrapper, `#!/bin/sh\nexec ${[Bun.which(program) ?? program, ...rest].join(" ")} "$@"\n`);
    chmodSync(wrapper, 0o755);
    return { binary: wrapper };
  }

  test_(
    "that may not be read: gateway and reader refuse it by name (root needs setpriv for this test)",
    async () => {
      await leaveRing(3);
      if (!IS_ROOT) chmodSync(folder.ring, 0);
      await expectReaderRefuses(/may not read .*--ring-mode/, asNobody);
      const before = readFileSync(IS_ROOT ? folder.ring : "/dev/null");
      // Once with an unreadable lock, and once with an unreadable ring only.
      if (IS_ROOT) await expectGatewayRefuses(/permission denied/i, nobodysGateway());
      rmSync(`${folder.ring}.lock`);
      await expectGatewayRefuses(/permission denied.*untouched/i, nobodysGateway());
      if (IS_ROOT) expect(before.equals(readFileSync(folder.ring))).toBe(true);
    },
  );

  test_(
    "that may only be read is polled, because the reader cannot set the waiters flag (root needs setpriv for this test)",
    async () => {
      await using gateway = await Gateway.start(folder, { args: ["--ring-mode", "0644"] });
      await until("the ring exists", () => ringHead(folder.ring) !== null);
      // A user other than root owns the file here, so the mode must forbid writing.
      if (!IS_ROOT) chmodSync(folder.ring, 0o444);
      await send(gateway, 5);
      await framed(5);
      await using follower = new Follower(10, asNobody);
      await follower.seen(5);
      expect(follower.wait).toBe("poll");
      // The reader now waits for the sixth frame and could not set the flag in the header.
      for (let n = 0; n < 5; n++) {
        await send(gateway, 1);
        await follower.seen(6 + n);
        expect(readFileSync(folder.ring).readUInt32LE(56)).toBe(0);
      }
      await follower.expectEnd(upTo(10));
    },
  );
});

describe("a planted symbolic link", () => {
  const victim = (): string => folder.file("victim");
  const untouched = (): void => {
    expect(readFileSync(victim(), "utf8")).toBe("private");
    expect(lstatSync(victim()).mode & 0o777).toBe(0o600);
  };
  const plant = (suffix: string): void => {
    if (!existsSync(victim())) writeFileSync(victim(), "private", { mode: 0o600 });
    symlinkSync(victim(), folder.ring + suffix);
  };

  test.each(["", ".lock"])(
    "at the ring's path%s: the gateway refuses and does not follow it",
    async (suffix) => {
      plant(suffix);
      await expectGatewayRefuses(/is a symbolic link.*remove it/);
      expect(lstatSync(folder.ring + suffix).isSymbolicLink()).toBe(true);
      untouched();
      if (suffix === "") await expectReaderRefuses(/has 7 bytes/);
    },
  );

  test("at the path of a finished ring: the gateway does not adopt the ring through it", async () => {
    const args = await leaveRing(3);
    const real = `${folder.ring}-real`;
    cpSync(folder.ring, real);
    const before = readFileSync(real);
    rmSync(folder.ring);
    symlinkSync(real, folder.ring);
    await expectGatewayRefuses(/is a symbolic link.*remove it/, { args });
    expect(readFileSync(real).equals(before)).toBe(true);
  });

  test("at the labels' path: the labels file replaces it", async () => {
    plant(".json");
    await using gateway = await Gateway.start(folder);
    await send(gateway, 1, "Planted");
    await framed(1);
    expect(lstatSync(`${folder.ring}.json`).isFile()).toBe(true);
    expect(readFileSync(`${folder.ring}.json`, "utf8")).toContain("Planted");
    untouched();
  });

  test("at the labels' path, a folder instead: the gateway refuses to start, by name", async () => {
    mkdirSync(`${folder.ring}.json`);
    await expectGatewayRefuses(/\.json: is a folder; remove what is there/);
    expect(lstatSync(`${folder.ring}.json`).isDirectory()).toBe(true);
  });

  test("at the labels' path, a folder that comes later: frames go on, and the labels follow when it is gone", async () => {
    await using gateway = await Gateway.start(folder);
    await send(gateway, 1, "Before");
    await framed(1);
    await until("a folder is at the labels' path", () => {
      // A heartbeat in between writes the file again.
      rmSync(`${folder.ring}.json`, { force: true });
      return Bun.spawnSync(["mkdir", `${folder.ring}.json`]).exitCode === 0;
    });
    await send(gateway, 3, "Planted");
    await framed(4);
    const ringState = async (): Promise<{ state: string; detail: string }> =>
      (await gateway.json<{ parts: { ring: { state: string; detail: string } } }>("/ready")).parts.ring;
    expect(await ringState()).toMatchObject({
      state: "degraded",
      detail: expect.stringContaining("is a folder"),
    });
    rmdirSync(`${folder.ring}.json`);
    await until("the labels are there", () => existsSync(`${folder.ring}.json`));
    expect(readFileSync(`${folder.ring}.json`, "utf8")).toContain("Planted");
    await until("the ring is ok", async () => (await ringState()).state === "ok");
  });

  test("at the paths where ring and labels are built: it is removed and not followed", async () => {
    plant(".new.1");
    plant(".json.new.1");
    // These links hit, because `exec` gives the gateway the shell's pid.
    const wrapper = folder.file("planting");
    const links = ["new", "json.new"].map((name) => `ln -s '${victim()}' '${folder.ring}.${name}.'$$`);
    writeFileSync(
      wrapper,
      ["#!/bin/sh", "PATH=/usr/bin:/bin", ...links, `exec '${BINARY}' "$@"`, ""].join("\n"),
    );
    chmodSync(wrapper, 0o755);
    await using gateway = await Gateway.start(folder, { binary: wrapper });
    await send(gateway, 1, "Planted");
    await framed(1);
    const { pid } = gateway.process;
    for (const name of ["new.1", "json.new.1", `new.${pid}`, `json.new.${pid}`]) {
      expect(() => lstatSync(`${folder.ring}.${name}`)).toThrow("ENOENT");
    }
    expect(lstatSync(folder.ring).isFile()).toBe(true);
    untouched();
  });

  test("beside the labels while the gateway runs: a link at a guessed name delays nothing", async () => {
    await using gateway = await Gateway.start(folder);
    await send(gateway, 1);
    await framed(1);
    plant(`.json.new.${gateway.process.pid}`);
    await send(gateway, 1, "Another");
    await framed(2);
    expect(readFileSync(`${folder.ring}.json`, "utf8")).toContain("Another");
    untouched();
  });
});

test.skipIf(IN_PID_NAMESPACE === null)(
  "a reader in another pid namespace reads, sleeps and is woken like any other (needs unshare)",
  async () => {
    await using gateway = await Gateway.start(folder);
    await until("the ring exists", () => ringHead(folder.ring) !== null);
    await using follower = new Follower(20, (args) => [...(IN_PID_NAMESPACE ?? []), ...args]);
    await until("the follower has attached", () => follower.wait !== "");
    if (process.platform === "linux") expect(follower.wait).toBe("futex");
    for (let n = 0; n < 20; n++) {
      await until("the follower sleeps", () => readFileSync(folder.ring).readUInt32LE(56) === 1);
      await send(gateway, 1);
      await follower.seen(n + 1);
    }
    await follower.expectEnd(upTo(20));
  },
);
