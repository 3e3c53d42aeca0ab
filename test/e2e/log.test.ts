/** Checks that the gateway lives on whatever becomes of its log, and that nothing from outside can forge a line of it. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { foldersOfTests } from "./folders.ts";
import { BINARY, Gateway, until } from "./gateway.ts";

// These tests start processes, which is slow on a busy machine.
setDefaultTimeout(300_000);

const folder = foldersOfTests();

/** Runs argv with a standard error that has gone, is full or is never read. The pipe without a reader holds one page. */
const WRAPPER = `
import fcntl, os, sys
what, argv = sys.argv[1], sys.argv[2:]
if what == "full":
    end = os.open("/dev/full", os.O_WRONLY)
else:
    reader, end = os.pipe()
    if what == "asleep":
        fcntl.fcntl(end, 1031, 4096)
        os.set_inheritable(reader, True)
    else:
        os.close(reader)
os.dup2(end, 2)
os.execv(argv[0], argv)
`;

/** A port that was free a moment ago: the log that would name it is not to be read. */
function freePort(): number {
  const listener = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => {} } });
  const { port } = listener;
  listener.stop(true);
  return port;
}

describe("a log that goes nowhere", () => {
  test.each(["gone", "full", "asleep"])(
    "events are taken and the stop is clean if standard error is %s",
    async (what) => {
      const where = folder();
      const port = freePort();
      const process = Bun.spawn(
        [
          ...["python3", "-c", WRAPPER, what, BINARY, "--port", String(port), "--ring-path", where.ring],
          ...["--ring-capacity", "100", "--llm-base-url", "off", "--log-level", "debug"],
        ],
        { cwd: where.path, env: { PATH: "/usr/bin:/bin" }, stdout: "ignore" },
      );
      try {
        const post = (body: string): Promise<number> =>
          fetch(`http://127.0.0.1:${port}/ingest`, {
            method: "POST",
            headers: { "content-type": "application/json" },
            body,
          }).then(({ status }) => status);
        await until("it listens", () =>
          post('{"message":"oi"}').then(
            (status) => status === 200,
            () => false,
          ),
        );
        for (let n = 0; n < 50; n++) {
          expect(await post(`{"message":"mensagem ${n}"}`)).toBe(200);
          expect(await post("{bad")).toBe(400);
        }
        process.kill("SIGTERM");
        expect(await process.exited).toBe(0);
      } finally {
        process.kill("SIGKILL");
        await process.exited;
      }
    },
  );

  test("--help into a reader that has gone ends with 0 and says nothing", async () => {
    const run = Bun.spawnSync(["bash", "-c", `"$0" --help | true; echo "\${PIPESTATUS[0]}"`, BINARY], {
      env: { PATH: "/usr/bin:/bin" },
    });
    expect([run.stdout.toString(), run.stderr.toString()]).toEqual(["0\n", ""]);
  });
});

test("an endpoint's words cannot forge a log line or command the terminal", async () => {
  using endpoint = Bun.serve({
    port: 0,
    fetch: () =>
      Response.json(
        { error: { message: "no\n2026-01-01T00:00:00.000Z info  forged\x1b]0;title\x07\u009b2J" } },
        { status: 400 },
      ),
  });
  for (const format of ["text", "json"]) {
    const where = folder();
    await using gateway = await Gateway.start(where, {
      args: [
        "--llm-base-url",
        `http://127.0.0.1:${endpoint.port}/v1`,
        "--log-format",
        format,
        "--embedder",
        "hashing",
      ],
    });
    await gateway.post({ message: "Quero cancelar" });
    await until("the log has the endpoint's words", () => gateway.log.includes("forged"));
    expect(gateway.log).not.toMatch(/^2026-01-01/m);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: it looks for control characters
    expect(gateway.log).not.toMatch(/[\x00-\x09\x0b-\x1f\x7f-\x9f]/);
  }
});
