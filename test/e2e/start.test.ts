/** The command line and the start as a user sees them: one clear line, the right exit code, nothing left behind. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { foldersOfTests } from "./folders.ts";
import { BINARY, duckRows, Gateway, ringHead, type StartOptions, type TempFolder, until } from "./gateway.ts";

// These tests start processes, which is slow on a busy machine.
setDefaultTimeout(300_000);

const folder = foldersOfTests();

/** Runs the executable to its end. @returns its exit code and output. */
async function outcome(
  where: TempFolder,
  options: StartOptions,
): Promise<{ code: number; lines: string[]; out: string }> {
  const gateway = Gateway.launch(where, options);
  const code = await gateway.exited();
  return { code, lines: gateway.log.trim().split("\n"), out: gateway.out };
}

async function withEvents(where: TempFolder, db: string, count: number): Promise<void> {
  await using gateway = await Gateway.start(where, { args: ["--db-path", db] });
  const lines = Array.from({ length: count }, (_, n) =>
    JSON.stringify({ n, message: `mensagem ${n}`, type: "T" }),
  );
  expect((await gateway.postLines(lines.join("\n"))).status).toBe(200);
  await until("every event is framed", () => (ringHead(where.ring)?.head ?? 0) === count + 1);
  expect(await gateway.stop()).toBe(0);
}

describe("usage", () => {
  test("--version and --help print and end with 0", async () => {
    const version = await outcome(folder(), { args: ["--version"] });
    expect(version).toMatchObject({ code: 0, out: expect.stringMatching(/^\d+\.\d+\.\d+\n$/) });
    const help = await outcome(folder(), { args: ["--help"] });
    expect(help.code).toBe(0);
    expect(help.out).toContain("--db-path PATH");
  });

  test.each([
    [["--no-such-flag"], "--no-such-flag"],
    [["--port", "99999"], "--port"],
    [["--port"], "--port"],
    [["--memory-limit", "lots"], "--memory-limit"],
    [["--embedder", "magic"], "--embedder"],
    [["--host", "0.0.0.0"], "--host 0.0.0.0"],
    [["serve"], "serve"],
    [["--token", "two words"], "--token"],
  ])("%j is refused with one line that names it, exit code 2", async (args, name) => {
    const { code, lines } = await outcome(folder(), { args });
    expect(lines.length).toBe(1);
    expect(lines[0]).toContain(name);
    expect(code).toBe(2);
  });

  test("a bad value from the environment is named by its variable; .env is read and loses to the environment", async () => {
    const where = folder();
    writeFileSync(where.file(".env"), "LOG_LEVEL=loud\n");
    const second = await outcome(where, {});
    expect(second).toMatchObject({ code: 2 });
    expect(second.lines[0]).toContain("LOG_LEVEL");
    const third = await outcome(where, { env: { LOG_LEVEL: "shout" } });
    expect(third.lines[0]).toContain("shout");
  });

  test("a token on the command line is soon in nobody's list of processes, and in no crash report", async () => {
    const args = ["--token", "T0KEN-abcdefgh", "--llm-api-key=KEY-abcdefgh", "--embedder", "hashing"];
    const gateway = await Gateway.start(folder(), { args });
    const post = (token: string): Promise<Response> =>
      fetch(`${gateway.url}/ingest`, {
        method: "POST",
        body: "{}",
        headers: { authorization: `Bearer ${token}` },
      });
    expect((await post("T0KEN-abcdefgh")).status).not.toBe(401);
    expect((await post("another")).status).toBe(401);
    const seen = readFileSync(`/proc/${gateway.process.pid}/cmdline`, "latin1");
    expect(seen).toContain("hashing");
    gateway.process.kill("SIGSEGV");
    await gateway.exited();
    expect(gateway.log).toContain("Args:");
    expect(seen + gateway.log).not.toMatch(/(T0KEN|KEY)-abcdefgh/);
  });

  test("a token is never printed", async () => {
    await using gateway = await Gateway.start(folder(), { args: ["--token", "s3cr3t-t0ken"] });
    const authorized = { headers: { authorization: "Bearer s3cr3t-t0ken" } };
    expect(await (await gateway.fetch("/api/config", authorized)).text()).not.toContain("s3cr3t");
    await gateway.stop();
    expect(gateway.log + gateway.out).not.toContain("s3cr3t");
  });
});

describe("a start that must fail", () => {
  test("names a port in use", async () => {
    const first = await Gateway.start(folder());
    const port = new URL(first.url).port;
    const where = folder();
    const { code, lines } = await outcome(where, { args: ["--port", port] });
    expect(lines.length).toBe(1);
    expect(lines[0]).toContain(port);
    expect(code).toBe(1);
    expect(existsSync(where.ring)).toBe(false);
    await first.stop();
  });

  test("refuses a second gateway on the same ring or database", async () => {
    const where = folder();
    const db = where.file("events.duckdb");
    await using gateway = await Gateway.start(where, { args: ["--db-path", db] });
    const sameRing = await outcome(where, {});
    expect(sameRing.lines.length).toBe(1);
    expect(sameRing.lines[0]).toContain(where.ring);
    expect(sameRing.code).toBe(1);
    const other = folder();
    const sameDb = await outcome(other, { args: ["--db-path", db] });
    expect(sameDb.lines.length).toBe(1);
    expect(sameDb.lines[0]).toContain(db);
    expect(sameDb.code).toBe(1);
    expect((await gateway.fetch("/health")).status).toBe(200);
  });

  test("names an unwritable or missing folder for the database", async () => {
    const where = folder();
    const missing = await outcome(where, { args: ["--db-path", where.file("no/such/events.duckdb")] });
    expect(missing).toMatchObject({ code: 1 });
    expect(missing.lines.length).toBe(1);
    expect(missing.lines[0]).toContain("no/such");
    // Root can write everywhere, except into a "folder" that is a file.
    writeFileSync(where.file("plain"), "");
    const plain = await outcome(where, { args: ["--db-path", where.file("plain/events.duckdb")] });
    expect(plain).toMatchObject({ code: 1 });
    expect(plain.lines.length).toBe(1);
  });

  test("refuses what DuckDB cannot open before it listens, and leaves its log where it is", async () => {
    const where = folder();
    mkdirSync(where.file("o que?"));
    const marked = await outcome(where, { args: ["--db-path", where.file("o que?/events.duckdb")] });
    expect(marked).toMatchObject({ code: 2, lines: [expect.stringContaining('"?"')] });
    expect(readdirSync(where.file("o que?"))).toEqual([]);

    const db = where.file("events.duckdb");
    await withEvents(where, db, 10);
    const { DuckDBInstance } = await import("../../src/native/duckdb.ts");
    const other = await DuckDBInstance.create(db);
    writeFileSync(`${db}.wal`, "the log of the program that has it open");
    for (let round = 0; round < 3; round++) {
      const locked = await outcome(where, { args: ["--db-path", db] });
      expect(locked.code).toBe(1);
      expect(locked.lines.at(-1)).toContain("lock");
      expect(readdirSync(where.path).filter((name) => name.includes("set-aside"))).toEqual([]);
    }
    other.closeSync();
  });

  test("says what a file is that is no database of a gateway, and leaves it as it was", async () => {
    const where = folder();
    const { Database } = await import("bun:sqlite");
    const sqlite = new Database(where.file("app.db"));
    sqlite.run("CREATE TABLE t(a)");
    sqlite.close();
    writeFileSync(where.file("notes.txt"), "hello, this is no database");
    for (const [name, words] of [
      ["app.db", "it is a SQLite file, not a DuckDB database"],
      ["notes.txt", "it is another program's file, not a DuckDB database"],
    ] as const) {
      const before = readFileSync(where.file(name));
      const { code, lines } = await outcome(where, { args: ["--db-path", where.file(name)] });
      expect([code, lines.length]).toEqual([1, 1]);
      expect(lines[0]).toContain(`${where.file(name)}: ${words}`);
      expect(readFileSync(where.file(name)).equals(before)).toBe(true);
    }
  });

  test("names a journal whose pages are damaged, in one line", async () => {
    const where = folder();
    const db = where.file("events.duckdb");
    await withEvents(where, db, 50);
    const path = `${db}.journal`;
    const bytes = readFileSync(path);
    writeFileSync(path, bytes.fill(0, 4096));
    const { code, lines } = await outcome(where, { args: ["--db-path", db] });
    expect(code).toBe(1);
    expect(lines.at(-1)).toContain(`${path}: `);
    expect(lines.join("\n")).not.toMatch(/^\s+at /m);
  });

  test("refuses an embedder that cannot exist before it listens", async () => {
    const where = folder();
    const missing = await outcome(where, { args: ["--embedder", "local", "--models-dir", where.file("no")] });
    expect(missing).toMatchObject({ code: 1, lines: [expect.stringContaining(where.file("no"))] });
    const off = await outcome(where, { args: ["--embedder", "remote", "--llm-base-url", "off"] });
    expect(off).toMatchObject({ code: 2, lines: [expect.stringContaining("--llm-base-url")] });
  });

  test("refuses an explicit ring capacity for which there is no room", async () => {
    const where = folder();
    const { code, lines } = await outcome(where, { args: ["--ring-capacity", "2000000000"] });
    expect(lines.length).toBe(1);
    expect(lines[0]).toContain(where.ring);
    expect(code).toBe(1);
    expect(existsSync(where.ring)).toBe(false);
  });

  test("names a missing temporary folder, and the variable to set", async () => {
    const where = folder();
    const { code, lines } = await outcome(where, {
      env: { TMPDIR: where.file("nowhere"), BUN_TMPDIR: where.file("nowhere") },
    });
    expect(code).toBe(1);
    expect(lines.join("\n")).toContain("TMPDIR");
  });
});

test.skipIf(process.platform !== "linux" || process.getuid?.() !== 0)(
  "a temporary folder that is mounted noexec is named before anything is opened",
  async () => {
    const where = folder();
    mkdirSync(where.file("noexec"));
    const mount = ["mount", "-t", "tmpfs", "-o", "noexec,size=200m", "tmpfs", where.file("noexec")];
    expect(Bun.spawnSync(mount).exitCode).toBe(0);
    const db = where.file("events.duckdb");
    const env = { BUN_TMPDIR: where.file("noexec") };
    const { code, lines } = await outcome(where, { args: ["--db-path", db], env });
    Bun.spawnSync(["umount", "-l", where.file("noexec")]);
    expect(code).toBe(1);
    expect(lines.length).toBe(1);
    expect(lines[0]).toMatch(/noexec.*BUN_TMPDIR/);
    expect([existsSync(`${db}.journal`), existsSync(where.ring)]).toEqual([false, false]);
  },
);

describe("files that do not belong together", () => {
  test("a database without its journal is refused and untouched", async () => {
    const where = folder();
    const db = where.file("events.duckdb");
    await withEvents(where, db, 5);
    rmSync(`${db}.journal`);
    const before = readFileSync(db);
    const { code, lines } = await outcome(where, { args: ["--db-path", db] });
    expect(code).toBe(1);
    expect(lines.length).toBe(1);
    expect(lines[0]).toContain("journal");
    expect(Buffer.compare(before, readFileSync(db))).toBe(0);
  });

  test("a journal that handed events over is refused without its database", async () => {
    const where = folder();
    const db = where.file("events.duckdb");
    await withEvents(where, db, 5);
    // The second run prunes below its own checkpoint.
    await using gateway = await Gateway.start(where, { args: ["--db-path", db, "--max-backlog", "8"] });
    for (let n = 0; n < 4; n++) await gateway.post({ n, message: "mais uma" });
    await until(
      "events are pruned",
      async () => ((await gateway.metrics()).gateway_pruned_events_total ?? 0) > 0,
    );
    await gateway.stop();
    rmSync(db);
    const { code, lines } = await outcome(where, { args: ["--db-path", db] });
    expect(code).toBe(1);
    expect(lines[0]).toContain("missing");
  });

  test("a journal of another database is refused by name, the database is untouched and accepted events are kept", async () => {
    const ours = folder();
    const theirs = folder();
    await withEvents(ours, ours.file("events.duckdb"), 5);
    await withEvents(theirs, theirs.file("events.duckdb"), 3);
    const db = ours.file("events.duckdb");
    for (const suffix of ["", "-wal", "-shm"]) {
      rmSync(`${db}.journal${suffix}`, { force: true });
      const source = `${theirs.file("events.duckdb")}.journal${suffix}`;
      if (existsSync(source)) cpSync(source, `${db}.journal${suffix}`);
    }
    const before = readFileSync(db);
    const gateway = Gateway.launch(ours, { args: ["--db-path", db] });
    expect(await gateway.exited()).toBe(1);
    expect(gateway.log).toContain(db);
    expect(Buffer.compare(before, readFileSync(db))).toBe(0);
  });

  test("a file that is not a journal is refused and untouched", async () => {
    const where = folder();
    const db = where.file("events.duckdb");
    writeFileSync(`${db}.journal`, "these are my notes");
    const { code, lines } = await outcome(where, { args: ["--db-path", db] });
    expect(code).toBe(1);
    expect(lines.length).toBe(1);
    expect(readFileSync(`${db}.journal`, "utf8")).toBe("these are my notes");
  });

  test("a foreign file at the ring's path is refused and untouched", async () => {
    const where = folder();
    writeFileSync(where.ring, "somebody's shared memory");
    const gateway = Gateway.launch(where, {});
    await until(
      "the gateway says so or ends",
      () => gateway.log.includes(where.ring) || gateway.process.exitCode !== null,
    );
    expect(readFileSync(where.ring, "utf8")).toBe("somebody's shared memory");
    await gateway.kill();
  });
});

describe("a DuckDB write-ahead log that cannot be replayed", () => {
  test.each(["garbage from the start", "a flipped byte in the middle"])(
    "%s: its rows come again from the journal",
    async (how) => {
      const where = folder();
      const db = where.file("events.duckdb");
      await withEvents(where, db, 20);
      const killed = await Gateway.start(where, { args: ["--db-path", db] });
      for (let n = 20; n < 60; n++) await killed.post({ n, message: `depois ${n}`, type: "T" });
      await until(
        "every event is stored",
        async () => (await killed.metrics()).gateway_store_lag_frames === 0,
      );
      await killed.kill();
      const wal = readFileSync(`${db}.wal`);
      expect(wal.length).toBeGreaterThan(1000);
      if (how.startsWith("garbage")) wal.fill(0xa5);
      else wal[wal.length >> 1] = (wal[wal.length >> 1] ?? 0) ^ 0xff;
      writeFileSync(`${db}.wal`, wal);
      // DuckDB may refuse the log or abort the process. If it aborts, the next start finds the counted attempt.
      let gateway = await Gateway.start(where, { args: ["--db-path", db] });
      const stored = async (): Promise<boolean> => {
        if (gateway.process.exitCode !== null)
          gateway = await Gateway.start(where, { args: ["--db-path", db] });
        const metrics = await gateway.metrics().catch(() => ({}) as Record<string, number>);
        return (
          metrics.gateway_head_seq === 60 &&
          metrics.gateway_store_lag_frames === 0 &&
          metrics.gateway_store_lag_events === 0
        );
      };
      await until("every row is stored again", stored);
      expect(await gateway.stop()).toBe(0);
      if (how.startsWith("a flipped")) expect(gateway.log).toContain("was set aside");
      const rows = await duckRows(db, "SELECT count(*) AS n, count(DISTINCT seq) AS d FROM events");
      expect(rows[0]).toEqual({ n: 60n, d: 60n });
      expect(
        (await duckRows(db, "SELECT count(*) AS n, count(DISTINCT frame_id) AS d FROM enrichments"))[0],
      ).toEqual({ n: 60n, d: 60n });
    },
  );
});

describe("a restart", () => {
  test("keeps every event, continues the frame ids and adopts the ring", async () => {
    const where = folder();
    const db = where.file("events.duckdb");
    await withEvents(where, db, 20);
    const before = ringHead(where.ring);
    await using gateway = await Gateway.start(where, { args: ["--db-path", db] });
    const reply = await gateway.post({ message: "depois do reinício", type: "T" });
    expect(await reply.json()).toMatchObject({ seq: 21 });
    await until("every event is framed", () => (ringHead(where.ring)?.head ?? 0) === 22);
    expect(ringHead(where.ring)?.epoch).toBe((before?.epoch ?? 0) + 1);
    expect(ringHead(where.ring)?.tail).toBe(before?.tail ?? -1);
    const page = await gateway.json<{ events: { seq: number }[] }>("/api/events?limit=1000");
    expect(page.events.length).toBe(21);
    await gateway.stop();
    expect((await duckRows(db, "SELECT count(*) AS n FROM enrichments"))[0]).toEqual({ n: 21n });
  });

  test("refills a ring that was deleted, as by a reboot, with the frames that it had", async () => {
    const where = folder();
    const db = where.file("events.duckdb");
    await withEvents(where, db, 50);
    const before = readFileSync(where.ring);
    rmSync(where.ring);
    await using _gateway = await Gateway.start(where, { args: ["--db-path", db] });
    await until("the ring is refilled", () => (ringHead(where.ring)?.head ?? 0) === 51);
    const after = readFileSync(where.ring);
    for (let id = 1; id <= 50; id++) {
      const at = 64 + id * 4224;
      const [was, is] = [before.subarray(at, at + 4224), after.subarray(at, at + 4224)];
      // Only bit 4, the refill flag, differs.
      expect(is.readUInt16LE(4202)).toBe(was.readUInt16LE(4202) | 16);
      is.writeUInt16LE(was.readUInt16LE(4202), 4202);
      expect(Buffer.compare(was, is)).toBe(0);
    }
  });

  test("without --db-path leaves nothing in the temporary folder, and removes what a killed gateway left", async () => {
    const where = folder();
    mkdirSync(where.file("tmp"));
    const env = { TMPDIR: where.file("tmp") };
    const first = await Gateway.start(where, { env });
    const inside = readdirSync(where.file("tmp")).filter((name) => name.startsWith("one_file_gateway-"));
    expect(inside.length).toBe(1);
    await first.kill();
    // A folder with that name but without a gateway's lock file belongs to another program.
    mkdirSync(where.file("tmp/one_file_gateway-release"));
    writeFileSync(where.file("tmp/one_file_gateway-release/notes.txt"), "mine");
    const second = await Gateway.start(where, { env });
    expect(readFileSync(where.file("tmp/one_file_gateway-release/notes.txt"), "utf8")).toBe("mine");
    rmSync(where.file("tmp/one_file_gateway-release"), { recursive: true });
    expect(readdirSync(where.file("tmp"))).not.toContain(inside[0] ?? "");
    expect(await second.stop()).toBe(0);
    expect(readdirSync(where.file("tmp")).filter((name) => name.startsWith("one_file_gateway-"))).toEqual([]);
  });

  test("runs an executable that is alone in its folder", async () => {
    const where = folder();
    cpSync(BINARY, where.file("one_file_gateway"));
    chmodSync(where.file("one_file_gateway"), 0o755);
    await using gateway = await Gateway.start(where, { binary: where.file("one_file_gateway") });
    expect((await gateway.post({ message: "oi" })).status).toBe(200);
  });
});
