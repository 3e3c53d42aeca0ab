import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import {
  type Config,
  describeConfig,
  helpText,
  moveSecrets,
  parseCommand,
  secretsOf,
} from "../../src/config/config.ts";
import { OPTIONS } from "../../src/config/options.ts";
import type { ConfigSources } from "../../src/config/sources.ts";
import { GatewayError } from "../../src/errors.ts";

const ROOT = join(import.meta.dir, "../..");

function sources(o: Partial<ConfigSources> = {}): ConfigSources {
  return {
    args: [],
    env: {},
    dotenv: null,
    workingDir: "/folder",
    executableDir: "/programs",
    platform: "linux",
    hostIsFound: false,
    stdoutIsTty: false,
    stderrIsTty: true,
    readFile: (path) => {
      throw new Error(`ENOENT: no such file, open '${path}'`);
    },
    ...o,
  };
}

function configOf(o: Partial<ConfigSources> = {}): Config {
  const command = parseCommand(sources(o));
  if (command.name !== "run") throw new Error(`the command is ${command.name}`);
  return command.config;
}

/** The one line that a user sees. */
function refusal(o: Partial<ConfigSources>): string {
  try {
    parseCommand(sources(o));
  } catch (error) {
    if (!(error instanceof GatewayError)) throw error;
    expect(error.code).toBe("usage");
    expect(error.message).not.toContain("\n");
    return error.message;
  }
  throw new Error(`${JSON.stringify(o)} was not refused`);
}

interface OptionCase {
  readonly flag: string;
  readonly field: keyof Config;
  /** The value without flag and environment. */
  readonly byDefault: unknown;
  /** Pairs of what a user writes and what it means. The precedence test needs the first three to differ. */
  readonly good: readonly (readonly [string, unknown])[];
  readonly bad: readonly string[];
}

const CASES: readonly OptionCase[] = [
  {
    flag: "--db-path",
    field: "dbPath",
    byDefault: null,
    good: [
      ["events.duckdb", "/folder/events.duckdb"],
      ["/data/a.duckdb", "/data/a.duckdb"],
      ["../b.duckdb", "/b.duckdb"],
    ],
    bad: [],
  },
  {
    flag: "--token",
    field: "token",
    byDefault: null,
    good: [
      ["secret", "secret"],
      ["another", "another"],
      ["!~#=:", "!~#=:"],
    ],
    bad: ["two words", "tokén", "line\nline", "\u007f"],
  },
  {
    flag: "--host",
    field: "host",
    byDefault: "127.0.0.1",
    good: [
      ["localhost", "localhost"],
      ["::1", "::1"],
      ["127.0.0.2", "127.0.0.2"],
    ],
    bad: ["0.0.0.0", "192.168.1.5", "::"],
  },
  {
    flag: "--port",
    field: "port",
    byDefault: 9382,
    good: [
      ["0", 0],
      ["65535", 65_535],
      ["8080", 8080],
    ],
    bad: ["65536", "-1", "80.5", "http", "0x50", "1e3", " 80"],
  },
  {
    flag: "--max-backlog",
    field: "maxBacklogEvents",
    byDefault: 2_000_000,
    good: [
      ["1", 1],
      ["1000000000", 1_000_000_000],
      ["500", 500],
    ],
    bad: ["0", "-5", "1000000001", "99999999999", "many"],
  },
  {
    flag: "--max-body",
    field: "maxBodyBytes",
    byDefault: 64 * 1024 ** 2,
    good: [
      ["1MiB", 1024 ** 2],
      ["10MB", 10_000_000],
      ["4096", 4096],
    ],
    bad: ["0", "-1MiB", "big", "1,5MiB", "1PiB"],
  },
  {
    flag: "--llm-base-url",
    field: "llmBaseUrl",
    byDefault: "http://localhost:1234/v1",
    good: [
      ["https://example.org/v1/", "https://example.org/v1"],
      ["off", null],
      ["http://10.0.0.1:8000", "http://10.0.0.1:8000"],
    ],
    bad: ["localhost:1234", "ftp://example.org", "http://", "no url"],
  },
  {
    flag: "--llm-api-key",
    field: "llmApiKey",
    byDefault: null,
    good: [
      ["sk-1", "sk-1"],
      ["sk-2", "sk-2"],
      ["sk-3", "sk-3"],
    ],
    bad: [],
  },
  {
    flag: "--llm-model",
    field: "llmModel",
    byDefault: null,
    good: [
      ["qwen3-4b", "qwen3-4b"],
      ["owner/name", "owner/name"],
      ["m:latest", "m:latest"],
    ],
    bad: [],
  },
  {
    flag: "--llm-timeout",
    field: "llmTimeoutMs",
    byDefault: 60_000,
    good: [
      ["30s", 30_000],
      ["2m", 120_000],
      ["1h", 3_600_000],
      ["10ms", 10],
      ["90", 90_000],
    ],
    bad: ["0", "5ms", "2h", "soon", "-1s", "1 week", "1e3s"],
  },
  {
    flag: "--llm-budget",
    field: "llmBudgetCalls",
    byDefault: null,
    good: [
      ["1000", 1000],
      ["0", 0],
      ["1000000000", 1_000_000_000],
    ],
    bad: ["-1", "none", "1.5", "1000000001"],
  },
  {
    flag: "--frame-wait",
    field: "frameWaitMs",
    byDefault: 2000,
    good: [
      ["500ms", 500],
      ["0", 0],
      ["1.5s", 1500],
      ["1m", 60_000],
    ],
    bad: ["61s", "-2s", "two", "2 s s"],
  },
  {
    flag: "--embedder",
    field: "embedder",
    byDefault: "auto",
    good: [
      ["local", "local"],
      ["remote", "remote"],
      ["hashing", "hashing"],
      ["off", "off"],
      ["auto", "auto"],
    ],
    bad: ["onnx", "true"],
  },
  {
    flag: "--embedding-model",
    field: "embeddingModel",
    byDefault: null,
    good: [
      ["bge-m3", "bge-m3"],
      ["owner/name", "owner/name"],
      ["x@f16", "x@f16"],
    ],
    bad: [],
  },
  {
    flag: "--models-dir",
    field: "modelsDir",
    byDefault: "/programs/models",
    good: [
      ["models", "/folder/models"],
      ["/opt/models", "/opt/models"],
      ["./m", "/folder/m"],
    ],
    bad: [],
  },
  {
    flag: "--ring-path",
    field: "ringPath",
    byDefault: "/dev/shm/cs_physics",
    good: [
      ["/dev/shm/other", "/dev/shm/other"],
      ["ring", "/folder/ring"],
      ["/tmp/ring", "/tmp/ring"],
    ],
    bad: ["/"],
  },
  {
    flag: "--ring-capacity",
    field: "ringCapacity",
    byDefault: null,
    good: [
      ["1", 1],
      ["100000", 100_000],
      ["2147483648", 2 ** 31],
    ],
    bad: ["0", "2147483649", "-16", "16.5", "lots"],
  },
  {
    flag: "--ring-mode",
    field: "ringMode",
    byDefault: 0o600,
    good: [
      ["0644", 0o644],
      ["660", 0o660],
      ["0600", 0o600],
    ],
    bad: ["0888", "rw-r--r--", "06444", "4755", "6"],
  },
  {
    flag: "--memory-limit",
    field: "memoryLimitBytes",
    byDefault: 150_000_000,
    good: [
      ["64MB", 64_000_000],
      ["1GiB", 1024 ** 3],
      ["1Gi", 1024 ** 3],
      ["512m", 512_000_000],
      ["512 MiB", 512 * 1024 ** 2],
      ["0.5GB", 500_000_000],
      ["536870912", 536_870_912],
    ],
    bad: ["63MB", "1KB", "half"],
  },
  {
    flag: "--temp-limit",
    field: "tempLimitBytes",
    byDefault: 1024 ** 3,
    good: [
      ["10MB", 10_000_000],
      ["100MiB", 100 * 1024 ** 2],
      ["2GB", 2_000_000_000],
    ],
    bad: ["9MB", "0", "some"],
  },
  {
    flag: "--log-level",
    field: "logLevel",
    byDefault: "info",
    good: [
      ["debug", "debug"],
      ["warn", "warn"],
      ["error", "error"],
      ["info", "info"],
    ],
    bad: ["trace"],
  },
  {
    flag: "--log-format",
    field: "logFormat",
    byDefault: "text",
    good: [
      ["json", "json"],
      ["text", "text"],
      ["json", "json"],
    ],
    bad: ["yaml"],
  },
];

/** Options without a variable or without a value. Each has a test below. */
const SPECIAL = ["--token-file", "--no-tui", "--insecure", "--reembed"];

const envOf = (flag: string): string => {
  const env = OPTIONS.find((option) => option.flag === flag)?.env;
  if (env === undefined || env === null) throw new Error(`${flag} has no variable`);
  return env;
};

describe("every option", () => {
  test("of the table is tested here", () => {
    expect([...CASES.map(({ flag }) => flag), ...SPECIAL].sort()).toEqual(
      OPTIONS.map(({ flag }) => flag).sort(),
    );
  });

  test("has its own flag and variable, and is in --help", () => {
    const help = helpText("1.2.3");
    expect(help).toStartWith("one_file_gateway 1.2.3:");
    for (const option of OPTIONS) {
      expect(OPTIONS.filter(({ flag }) => flag === option.flag).length).toBe(1);
      if (option.env !== null) expect(OPTIONS.filter(({ env }) => env === option.env).length).toBe(1);
      for (const part of [option.flag, option.env ?? "", option.help]) expect(help).toContain(part);
    }
  });

  for (const { flag, field, byDefault, good, bad } of CASES) {
    test(`${flag}: default, flag, variable and .env`, () => {
      const env = envOf(flag);
      expect(configOf()[field]).toEqual(byDefault as never);
      for (const [written, meant] of good) {
        expect(configOf({ args: [flag, written] })[field]).toEqual(meant as never);
        expect(configOf({ args: [`${flag}=${written}`] })[field]).toEqual(meant as never);
        expect(configOf({ env: { [env]: written } })[field]).toEqual(meant as never);
        expect(configOf({ dotenv: `${env}="${written}"\n` })[field]).toEqual(meant as never);
      }
    });

    test(`${flag}: the flag wins over the variable, the variable over .env, an empty one counts as absent`, () => {
      const env = envOf(flag);
      const [[first, a], [second, b], [third, c]] = good as [
        [string, unknown],
        [string, unknown],
        [string, unknown],
      ];
      const all = { args: [flag, first], env: { [env]: second }, dotenv: `${env}="${third}"` };
      expect(configOf(all)[field]).toEqual(a as never);
      expect(configOf({ ...all, args: [] })[field]).toEqual(b as never);
      expect(configOf({ ...all, args: [], env: {} })[field]).toEqual(c as never);
      expect(configOf({ env: { [env]: "" }, dotenv: `${env}=` })[field]).toEqual(byDefault as never);
      expect(configOf({ args: [flag, second, flag, first] })[field]).toEqual(a as never);
    });

    test(`${flag}: a bad value is refused by the name of its flag or variable`, () => {
      const env = envOf(flag);
      for (const value of bad) {
        expect(refusal({ args: [`${flag}=${value}`] })).toContain(flag);
        expect(refusal({ env: { [env]: value } })).toContain(env);
        refusal({ dotenv: `${env}="${value}"` });
      }
      expect(refusal({ args: [flag] })).toContain("needs a value");
      expect(refusal({ args: [flag, "--no-tui"] })).toContain("needs a value");
    });
  }
});

describe("the rest of the command line", () => {
  test("--token-file reads the first line of a file, from the working folder", () => {
    const files: Record<string, string> = { "/folder/t": " from-file \nsecond\n", "/folder/empty": "\nx" };
    const readFile = (path: string): string => files[path] ?? sources().readFile(path);
    expect(configOf({ args: ["--token-file", "t"], readFile }).token).toBe("from-file");
    expect(configOf({ args: ["--token-file", "t"], env: { GATEWAY_TOKEN: "e" }, readFile }).token).toBe(
      "from-file",
    );
    expect(refusal({ args: ["--token-file", "empty"], readFile })).toContain(
      "the first line of the file is empty",
    );
    expect(refusal({ args: ["--token-file", "none"], readFile })).toContain("the file cannot be read");
    expect(refusal({ args: ["--token-file", "t", "--token", "x"], readFile })).toContain(
      "contradicts --token",
    );
  });

  test("a refused token is never repeated", () => {
    expect(refusal({ args: ["--token", "top secret"] })).not.toContain("top secret");
    expect(refusal({ env: { GATEWAY_TOKEN: "top secret" } })).not.toContain("top secret");
  });

  test("the dashboard needs a terminal, and --no-tui turns it off", () => {
    expect(configOf().tui).toBe(false);
    expect(configOf({ stdoutIsTty: true }).tui).toBe(true);
    expect(configOf({ stdoutIsTty: true, args: ["--no-tui"] }).tui).toBe(false);
    expect(refusal({ args: ["--no-tui=yes"] })).toContain("takes no value");
  });

  test("--reembed has a flag and no variable", () => {
    expect([configOf().reembed, configOf({ args: ["--reembed"] }).reembed]).toEqual([false, true]);
  });

  test("a non-loopback address requires a token or --insecure", () => {
    const args = ["--host", "0.0.0.0"];
    expect(refusal({ args })).toContain("--token");
    expect(configOf({ args: [...args, "--token", "t"] }).host).toBe("0.0.0.0");
    expect(configOf({ args, env: { GATEWAY_TOKEN: "t" } }).host).toBe("0.0.0.0");
    const open = configOf({ args: [...args, "--insecure"] });
    expect([open.host, open.insecure, configOf().insecure]).toEqual(["0.0.0.0", true, false]);
  });

  test.each([
    ["as a word", ["T0KEN-x"]],
    ["as a word after a command", ["demo", "T0KEN-x"]],
    ["as a word after ring", ["ring", "T0KEN-x"]],
    ["as words after a model", ["pull-model", "m", "T0KEN-x"]],
    ["as a flag", ["--T0KEN-x"]],
    ["after a misspelt flag", ["--tokne=T0KEN-x"]],
    ["with a space in it", ["--token", "T0KEN-x y"]],
    ["as a key with a line break", ["--llm-api-key", "T0KEN-x\n"]],
    ["in a URL that is none", ["--llm-base-url", "http://u:T0KEN-x@[bad"]],
    ["in a URL of another protocol", ["--llm-base-url", "ftp://u:T0KEN-x@host"]],
    ["in place of a file", ["--token-file", "T0KEN-x"]],
  ])("a secret %s is in no message", (_, args) => {
    expect(refusal({ args })).not.toContain("T0KEN-x");
  });

  test("what is not in the table does not exist", () => {
    expect(refusal({ args: ["--frobnicate"] })).toContain("--frobnicate: there is no such flag");
    expect(refusal({ args: ["-x"] })).toContain("-x");
    expect(refusal({ args: ["--from", "dir"] })).toContain("--from");
    expect(refusal({ args: ["serve"] })).toContain("there are demo, pull-model and ring");
    expect(refusal({ args: ["demo", "now"] })).toContain("demo: takes no further words");
  });

  test("each command is recognised", () => {
    const name = (...args: string[]): string => parseCommand(sources({ args })).name;
    expect([
      name(),
      name("demo"),
      name("--version"),
      name("--help"),
      name("-h"),
      name("--self-test"),
    ]).toEqual(["run", "demo", "version", "help", "help", "self-test"]);
    // --help wins over everything else.
    expect(name("--port", "x", "--help")).toBe("help");
  });

  test("demo says that nothing is kept, unless it is", () => {
    const notes = (...args: string[]) => {
      const command = parseCommand(sources({ args }));
      return command.name === "demo" ? command.notes.length : -1;
    };
    expect([notes("demo"), notes("demo", "--db-path", "x"), notes("--db-path", "x", "demo")]).toEqual([
      1, 0, 0,
    ]);
  });

  test("pull-model takes a name, a folder, and nothing else", () => {
    const pull = (...args: string[]) => {
      const command = parseCommand(sources({ args: ["pull-model", ...args] }));
      return command.name === "pull-model" ? [command.model, command.from] : null;
    };
    expect(pull()).toEqual(["bge-m3", null]);
    expect(pull("a/b", "--from", "dir")).toEqual(["a/b", "dir"]);
    expect(pull("--embedding-model", "c")).toEqual(["c", null]);
    expect(refusal({ args: ["pull-model", "a", "b"] })).toContain("one model name");
  });

  test("ring takes an action, the place of the ring, and the flags of that action", () => {
    const ring = (o: Partial<ConfigSources>, ...args: string[]) =>
      parseCommand(sources({ ...o, args: ["ring", ...args] }));
    expect(ring({}, "stat")).toEqual({
      ...{ name: "ring", action: "stat", path: "/dev/shm/cs_physics" },
      ...{ json: false, count: 10, follow: true },
    });
    expect(ring({ platform: "darwin" }, "verify", "--json")).toMatchObject({
      ...{ action: "verify", path: "/tmp/cs_physics", json: true },
    });
    expect(ring({}, "tail", "-n", "0", "--no-follow")).toMatchObject({ count: 0, follow: false });
    expect(ring({}, "--ring-path=r", "tail", "-n", "2147483648")).toMatchObject({
      ...{ path: "/folder/r", count: 2 ** 31, follow: true },
    });
    // `ring` does not start a gateway, so a gateway's bad options do not matter.
    const env = { CS_PHYSICS_PATH: "/by/env", PORT: "none", HOST: "0.0.0.0" };
    expect(ring({ env }, "stat")).toMatchObject({ path: "/by/env" });
    expect(ring({ dotenv: "CS_PHYSICS_PATH=by-file" }, "stat")).toMatchObject({ path: "/folder/by-file" });
    expect(ring({ env }, "stat", "--ring-path", "/by/flag")).toMatchObject({ path: "/by/flag" });
    const refused = (...args: string[]): string => refusal({ args });
    expect(refused("ring")).toContain("ring: takes one of stat, tail, verify");
    expect(refused("ring", "look")).toContain("ring: takes one of");
    expect(refused("ring", "stat", "again")).toContain("ring: takes one of");
    expect(refused("ring", "stat", "--port", "1")).toContain("--port: is not a flag of ring stat");
    expect(refused("ring", "stat", "-n", "3")).toContain("-n: is a flag of ring tail only");
    expect(refused("ring", "verify", "--no-follow")).toContain("--no-follow: is a flag of ring tail only");
    expect(refused("--json")).toContain("--json: is a flag of ring only");
    expect(refused("ring", "tail", "-n")).toContain("-n: needs a value (N)");
    expect(refused("ring", "tail", "-n", "few")).toContain('-n: "few" is not a number of frames');
    expect(refused("ring", "tail", "-n", "2147483649")).toContain("is not a number of frames");
    expect(refused("ring", "stat", "--ring-path", "/")).toContain('--ring-path: "/" is a folder');
    expect(refused("ring", "tail", "--from", "x")).toContain("--from: is a flag of pull-model only");
  });

  test("the ring is in /tmp on macOS, and the log is JSON if stderr is not a terminal", () => {
    expect(configOf({ platform: "darwin" }).ringPath).toBe("/tmp/cs_physics");
    expect(configOf({ stderrIsTty: false }).logFormat).toBe("json");
    expect(configOf({ stderrIsTty: false, args: ["--log-format", "text"] }).logFormat).toBe("text");
  });

  test("the configuration cannot be changed", () => {
    expect(Object.isFrozen(configOf())).toBe(true);
  });

  test("any .env and any arguments give a configuration or one usage line", () => {
    const word = fc.oneof(fc.string(), fc.constantFrom("--", "-", "=", ...OPTIONS.map(({ flag }) => flag)));
    fc.assert(
      fc.property(fc.array(word, { maxLength: 6 }), fc.string(), (args, dotenv) => {
        try {
          parseCommand(sources({ args, dotenv }));
        } catch (error) {
          if (!(error instanceof GatewayError && error.code === "usage")) throw error;
        }
      }),
    );
  });
});

describe(".env.example", () => {
  const lines = readFileSync(join(ROOT, ".env.example"), "utf8").split("\n");
  const settings = lines.filter((line) => /^#[A-Z_]+=/.test(line)).map((line) => line.slice(1));

  test("names every variable once, in the order of the table", () => {
    const named = settings.map((line) => line.split("=")[0]);
    expect(named).toEqual(OPTIONS.flatMap(({ env }) => (env === null ? [] : [env])));
  });

  test("changes nothing as it is, nor with every line uncommented and left empty", () => {
    expect(configOf({ dotenv: lines.join("\n") })).toEqual(configOf());
    expect(configOf({ dotenv: settings.join("\n") })).toEqual(configOf());
  });
});

test.each([
  ["GATEWAY_TOKEN=s3c#ret", "s3c#ret"],
  ["PORT=1\r\nexport GATEWAY_TOKEN=s3c#r#et # the token\r\n", "s3c#r#et"],
  ["GATEWAY_TOKEN=s3cret # the token", "s3cret"],
  ["GATEWAY_TOKEN='s3c#ret'", "s3c#ret"],
  ["#GATEWAY_TOKEN=a#b\nGATEWAY_TOKEN=s3cret", "s3cret"],
])("in .env, # begins a comment only after white space: %j", (dotenv, token) => {
  expect(configOf({ dotenv }).token).toBe(token);
});

describe("the variable HOST", () => {
  const run = (o: Partial<ConfigSources>) => {
    const command = parseCommand(sources(o));
    if (command.name !== "run") throw new Error(`the command is ${command.name}`);
    return { host: command.config.host, notes: command.notes };
  };

  test("of a compiler, which names no host, is ignored with one line that says so", () => {
    const { host, notes } = run({ env: { HOST: "x86_64-conda-linux-gnu" } });
    expect(host).toBe("127.0.0.1");
    expect(notes).toEqual([expect.stringContaining("HOST=x86_64-conda-linux-gnu is ignored")]);
    expect(run({ env: { HOST: "999.1.1.1" } }).host).toBe("127.0.0.1");
  });

  test("of a host that is found counts, and is named by its variable if it is refused", () => {
    const env = { HOST: "example.org" };
    expect(refusal({ env, hostIsFound: true })).toContain("HOST=example.org:");
    expect(run({ env, hostIsFound: true, args: ["--insecure"] })).toEqual({ host: "example.org", notes: [] });
  });

  test("is not asked if there is a flag, and what .env or a flag names is taken as it is", () => {
    expect(run({ env: { HOST: "x86_64" }, args: ["--host", "::1"] })).toEqual({ host: "::1", notes: [] });
    expect(refusal({ args: ["--host", "example.org"] })).toContain("--host example.org:");
    expect(refusal({ dotenv: "HOST=example.org" })).toContain("HOST=example.org:");
  });
});

test.each([
  ["--log-level", "INFO", "logLevel", "info"],
  ["--log-format", "Json", "logFormat", "json"],
  ["--embedder", "HASHING", "embedder", "hashing"],
  ["--llm-base-url", "OFF", "llmBaseUrl", null],
] as const)("%s takes %s as well, also from the environment", (flag, text, field, value) => {
  expect(configOf({ args: [flag, text] })[field]).toBe(value);
  expect(configOf({ env: { [envOf(flag)]: text } })[field]).toBe(value);
});

describe("secrets", () => {
  test("move from the arguments into the environment, and everything else stays", () => {
    const url = "http://u:p4ss@host/v1?key=k";
    const args = ["demo", "--token=a", "--port", "1", "--token", "b=c", "--llm-base-url", url, "--no-tui"];
    expect(moveSecrets([...args, "--llm-api-key", "sk"])).toEqual({
      args: ["demo", "--port", "1", "--no-tui"],
      env: { GATEWAY_TOKEN: "b=c", LLM_BASE_URL: url, LLM_API_KEY: "sk" },
    });
    expect(moveSecrets(["--llm-base-url", "http://host/v1", "--db-path", "--token"])).toBeNull();
  });

  test("mean the same in both places", () => {
    const args = [
      "--token",
      "b=c",
      "--llm-base-url",
      "http://u:p4ss@host/v1/",
      "--llm-api-key",
      "sk",
      "--port",
      "7",
    ];
    const moved = moveSecrets(args);
    expect(configOf(moved ?? {})).toEqual(configOf({ args }));
  });

  test("that messages must not contain are those of token, key and URL, but no everyday words", () => {
    const args = [
      "--token",
      "secret",
      "--llm-api-key",
      "sk-12345678",
      "--llm-base-url",
      "http://u:passw0rd@h/?k=querykey1",
    ];
    expect(secretsOf(configOf({ args }))).toEqual(["sk-12345678", "passw0rd", "querykey1"]);
  });
});

describe("describeConfig", () => {
  test.each([
    ["http://u:p4ss@host:81/v1?api_key=p4ss#p4ss", "http://set@host:81/v1?set"],
    ["http://p4ss@host", "http://set@host"],
    ["http://host/v1?p4ss", "http://host/v1?set"],
    ["http://host/v1", "http://host/v1"],
  ])("masks what may be secret in %s", (url, shown) => {
    expect(describeConfig(configOf({ args: ["--llm-base-url", url] })).llmBaseUrl).toBe(shown);
  });

  test("masks every secret and shows everything else", () => {
    const config = configOf({
      args: ["--token", "t0ken", "--llm-api-key", "k3y", "--llm-base-url", "https://me:pa55@example.org/v1"],
    });
    const described = describeConfig(config);
    const text = JSON.stringify(described);
    for (const secret of ["t0ken", "k3y", "pa55"]) expect(text).not.toContain(secret);
    expect(described).toMatchObject({
      token: "set",
      llmApiKey: "set",
      llmBaseUrl: "https://set@example.org/v1",
      ringMode: "0600",
      port: 9382,
    });
    expect(Object.keys(described).sort()).toEqual(Object.keys(config).sort());
  });

  test("has the token of a --token-file masked, and no other trace of the file", () => {
    const config = configOf({ args: ["--token-file", "t"], readFile: () => "t0ken\n" });
    expect(config).not.toHaveProperty("tokenFile");
    expect(JSON.stringify(describeConfig(config))).not.toContain("t0ken");
  });

  test("shows what is absent as null", () => {
    const described = describeConfig(configOf({ args: ["--llm-base-url", "off"] }));
    expect(described).toMatchObject({ token: null, llmApiKey: null, llmBaseUrl: null });
  });
});
