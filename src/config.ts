/**
 * Flags, environment and `.env` → one frozen Config. The table OPTIONS stands behind the parser,
 * `--help`, the README's table, `.env.example` and /api/config: what is not in it does not exist.
 */
import { isIP } from "node:net";
import { dirname, join, resolve } from "node:path";
import { parseEnv } from "node:util";
import { GatewayError } from "./errors.ts";
import { LOG_LEVELS, type LogLevel } from "./log.ts";

export interface Config {
  /** DuckDB file; null: nothing is kept, everything lives in a private temporary folder. */
  readonly dbPath: string | null;
  readonly token: string | null;
  readonly tui: boolean;
  readonly host: string;
  readonly port: number;
  readonly insecure: boolean;
  readonly maxBacklogEvents: number;
  readonly maxBodyBytes: number;
  /** Base URL of an OpenAI-compatible endpoint; null: off. */
  readonly llmBaseUrl: string | null;
  readonly llmApiKey: string | null;
  /** Null: the endpoint's first chat model. */
  readonly llmModel: string | null;
  /** How long one answer of the language model may take. */
  readonly llmTimeoutMs: number;
  /** Calls a day (UTC); null: no limit. */
  readonly llmBudgetCalls: number | null;
  /** How long a frame waits for the language model. */
  readonly frameWaitMs: number;
  readonly embedder: EmbedderChoice;
  /** Null: the default of the embedder that is chosen. */
  readonly embeddingModel: string | null;
  /** Older events get vectors of the embedder in use. */
  readonly reembed: boolean;
  readonly modelsDir: string;
  readonly ringPath: string;
  /** Frames; null: the default, or less where /dev/shm is small. */
  readonly ringCapacity: number | null;
  readonly ringMode: number;
  /** DuckDB's own notation, as "150MB". */
  readonly memoryLimit: string;
  /** Without dbPath: what the temporary folder may hold. */
  readonly tempLimitBytes: number;
  readonly logLevel: LogLevel;
  readonly logFormat: "json" | "text";
}

export type EmbedderChoice = "auto" | "local" | "remote" | "hashing" | "off";

/** What the command line asked for. */
export type Command =
  | { readonly name: "run" | "demo"; readonly config: Config; readonly notes: readonly string[] }
  | {
      readonly name: "pull-model";
      readonly config: Config;
      readonly model: string;
      readonly from: string | null;
    }
  | {
      readonly name: "ring";
      readonly action: "stat" | "tail" | "verify";
      readonly path: string;
      readonly json: boolean;
      /** tail: how many of the newest frames come first. */
      readonly count: number;
      /** tail: whether it goes on with what is published. */
      readonly follow: boolean;
    }
  | { readonly name: "help" | "version" | "self-test" };

/** Where the values come from; all of it arrives from outside so that tests own it. */
export interface ConfigSources {
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Text of `.env` in the working folder; null where there is none. */
  readonly dotenv: string | null;
  readonly workingDir: string;
  /** Folder of the executable, for the default of --models-dir. */
  readonly executableDir: string;
  readonly platform: string;
  readonly stdoutIsTty: boolean;
  readonly stderrIsTty: boolean;
  readonly readFile: (path: string) => string;
}

/** One row of the table; `metavar` null marks a flag without a value. */
export interface OptionRow {
  readonly flag: string;
  readonly metavar: string | null;
  readonly env: string | null;
  readonly defaultText: string;
  readonly help: string;
}

const ROWS = {
  dbPath: row(
    "--db-path",
    "PATH",
    "DB_PATH",
    "none: nothing is kept",
    "DuckDB file; its journal is PATH.journal",
  ),
  token: row(
    "--token",
    "TOKEN",
    "GATEWAY_TOKEN",
    "none",
    "bearer token for everything but /health and /ready",
  ),
  tokenFile: row("--token-file", "FILE", null, "none", "read the token from the first line of FILE"),
  noTui: row("--no-tui", null, null, "", "headless, also in a terminal"),
  host: row(
    "--host",
    "HOST",
    "HOST",
    "127.0.0.1",
    "address to listen on; another than loopback needs a token",
  ),
  port: row("--port", "PORT", "PORT", "9382", "port to listen on; 0 takes a free one"),
  insecure: row("--insecure", null, null, "", "allow another host than loopback without a token"),
  maxBacklog: row(
    "--max-backlog",
    "EVENTS",
    "MAX_BACKLOG",
    "2000000",
    "events waiting in the journal; beyond: 503",
  ),
  maxBody: row("--max-body", "SIZE", "MAX_BODY", "64MiB", "bytes of an NDJSON body; beyond: 413"),
  llmBaseUrl: row(
    "--llm-base-url",
    "URL",
    "LLM_BASE_URL",
    "http://localhost:1234/v1",
    "OpenAI-compatible endpoint (LM Studio's default); off disables",
  ),
  llmApiKey: row("--llm-api-key", "KEY", "LLM_API_KEY", "none", "key of that endpoint"),
  llmModel: row(
    "--llm-model",
    "NAME",
    "LLM_MODEL",
    "the endpoint's first chat model",
    "language model to ask",
  ),
  llmTimeout: row(
    "--llm-timeout",
    "DURATION",
    "LLM_TIMEOUT",
    "60s",
    "how long one answer of it may take, a thinking model's thoughts included",
  ),
  llmBudget: row(
    "--llm-budget",
    "CALLS",
    "LLM_BUDGET",
    "none",
    "calls of the language model a day (UTC) at most",
  ),
  frameWait: row(
    "--frame-wait",
    "DURATION",
    "FRAME_WAIT",
    "2s",
    "how long a frame waits for the language model at most; what comes later is added to the event; 0 never waits",
  ),
  embedder: row(
    "--embedder",
    "NAME",
    "EMBEDDER",
    "auto",
    "auto, local, remote, hashing or off; auto is decided once per database",
  ),
  embeddingModel: row(
    "--embedding-model",
    "NAME",
    "EMBEDDING_MODEL",
    "bge-m3, or text-embedding-bge-m3@f16 at an endpoint",
    "embedding model to use",
  ),
  reembed: row(
    "--reembed",
    null,
    null,
    "",
    "compute vectors of the embedder in use for older events, in the background",
  ),
  modelsDir: row(
    "--models-dir",
    "DIR",
    "MODELS_DIR",
    "models beside the executable",
    "folder of local models",
  ),
  ringPath: row(
    "--ring-path",
    "PATH",
    "CS_PHYSICS_PATH",
    "/dev/shm/cs_physics (macOS: /tmp/cs_physics)",
    "the ring's file in shared memory",
  ),
  ringCapacity: row(
    "--ring-capacity",
    "FRAMES",
    "RING_CAPACITY",
    "100000",
    "frames in the ring, 4,224 bytes each; the default shrinks to half of what is free in /dev/shm",
  ),
  ringMode: row("--ring-mode", "MODE", "RING_MODE", "0600", "permissions of the ring's file, octal"),
  memoryLimit: row("--memory-limit", "SIZE", "MEMORY_LIMIT", "150MB", "DuckDB's memory"),
  tempLimit: row(
    "--temp-limit",
    "SIZE",
    "TEMP_LIMIT",
    "1GiB",
    "without --db-path: what is held in the temporary folder; at the bound the oldest events go",
  ),
  logLevel: row("--log-level", "LEVEL", "LOG_LEVEL", "info", "debug, info, warn or error"),
  logFormat: row(
    "--log-format",
    "FORMAT",
    "LOG_FORMAT",
    "text; json where stderr is no terminal",
    "text or json",
  ),
} as const;

function row(
  flag: string,
  metavar: string | null,
  env: string | null,
  defaultText: string,
  help: string,
): OptionRow {
  return { flag, metavar, env, defaultText, help };
}

/** The table, in the order in which help and README show it. */
export const OPTIONS: readonly OptionRow[] = Object.values(ROWS);

type OptionName = keyof typeof ROWS;

const USAGE_LINES = [
  "one_file_gateway [options]                        run the gateway, with its dashboard where there is a terminal",
  "one_file_gateway demo [options]                   run it on bundled messages in Portuguese",
  "one_file_gateway pull-model [NAME] [--from DIR]   get a local embedding model, or install one from a folder",
  "one_file_gateway ring stat [--json]               look at the ring: header, fill, heartbeat, models",
  "one_file_gateway ring tail [-n N] [--no-follow] [--json]   its newest 10 (N) frames, and each new one until Ctrl-C",
  "one_file_gateway ring verify [--json]             check every frame in it; exit code 1 where one is damaged",
  "one_file_gateway --help | --version",
];

/** The text of `--help`. */
export function helpText(version: string): string {
  const lines = [
    `one_file_gateway ${version}: webhooks in, tensors out`,
    "",
    ...USAGE_LINES,
    "",
    "Options (flag, environment, default):",
  ];
  for (const option of OPTIONS) {
    const head = option.metavar === null ? option.flag : `${option.flag} ${option.metavar}`;
    const names = [option.env, option.defaultText === "" ? null : `default ${option.defaultText}`].filter(
      (part) => part !== null,
    );
    lines.push(`  ${head}${names.length === 0 ? "" : `  [${names.join("; ")}]`}`, `      ${option.help}`);
  }
  lines.push(
    "",
    "A .env file in the working folder is read. Flags win over the environment, the environment over .env.",
    "Exit codes: 0 after q, SIGTERM or SIGINT, 1 it failed (ring verify: damage), 2 wrong usage.",
  );
  return `${lines.join("\n")}\n`;
}

function usage(object: string, detail: string, hint = "see one_file_gateway --help"): GatewayError {
  return new GatewayError({ code: "usage", operation: "usage:", object, detail, hint });
}

interface Given {
  readonly value: string;
  /** How the user wrote it: the flag, or the variable's name. */
  readonly from: string;
}

interface CommandFlag {
  readonly metavar: string | null;
  /** The command that it belongs to. */
  readonly of: string;
}

/** The flags that belong to a single command. */
const COMMAND_FLAGS: Readonly<Record<string, CommandFlag>> = {
  "--from": { metavar: "DIR", of: "pull-model" },
  "--json": { metavar: null, of: "ring" },
  "-n": { metavar: "N", of: "ring tail" },
  "--no-follow": { metavar: null, of: "ring tail" },
};

const RING_ACTIONS = ["stat", "tail", "verify"] as const;
const TAIL_FRAMES = 10;

/** Splits the arguments by the table. A flag given twice keeps the last value, as usual. */
function readFlags(args: readonly string[]): { flags: Map<string, string>; words: string[] } {
  const flags = new Map<string, string>();
  const words: string[] = [];
  for (let index = 0; index < args.length; index++) {
    const arg = args[index] ?? "";
    if (!arg.startsWith("-") || arg === "-") {
      words.push(arg);
      continue;
    }
    const equals = arg.indexOf("=");
    const flag = equals < 0 ? arg : arg.slice(0, equals);
    const known = OPTIONS.find((option) => option.flag === flag) ?? COMMAND_FLAGS[flag];
    if (known === undefined) throw usage(flag, "there is no such flag");
    if (known.metavar === null) {
      if (equals >= 0) throw usage(flag, "takes no value");
      flags.set(flag, "true");
      continue;
    }
    let value = arg.slice(equals + 1);
    if (equals < 0) {
      index += 1;
      const next = args[index];
      if (next === undefined || next.startsWith("--")) throw usage(flag, `needs a value (${known.metavar})`);
      value = next;
    }
    flags.set(flag, value);
  }
  return { flags, words };
}

/**
 * Reads the command line with its surroundings.
 * @throws GatewayError `usage`, one line that names the flag or variable and what it takes.
 */
export function parseCommand(sources: ConfigSources): Command {
  const { args } = sources;
  if (args.includes("--help") || args.includes("-h")) return { name: "help" };
  if (args.includes("--version")) return { name: "version" };
  if (args.length === 1 && args[0] === "--self-test") return { name: "self-test" };
  const { flags, words } = readFlags(args);
  const verb = words.shift();
  for (const [flag, { of }] of Object.entries(COMMAND_FLAGS)) {
    const asked = of.includes(" ") ? `${verb} ${words[0]}` : verb;
    if (flags.has(flag) && asked !== of) throw usage(flag, `belongs to ${of}`);
  }
  if (verb === "ring") return ringCommand(sources, flags, words);
  const { config, notes } = readConfig(sources, flags, verb === "demo");
  if (verb === "pull-model") {
    const model = words.shift() ?? config.embeddingModel ?? "bge-m3";
    if (words.length > 0) throw usage(words.join(" "), "pull-model takes one model name");
    return { name: "pull-model", config, model, from: flags.get("--from") ?? null };
  }
  if (verb !== undefined && verb !== "demo") throw usage(verb, "there is no such command");
  if (words.length > 0) throw usage(words.join(" "), "nothing was expected here");
  return { name: verb === "demo" ? "demo" : "run", config, notes };
}

/** Looks at a ring, and so needs to know nothing of the gateway but where that ring is. */
function ringCommand(
  sources: ConfigSources,
  flags: ReadonlyMap<string, string>,
  words: readonly string[],
): Command {
  const action = RING_ACTIONS.find((name) => name === words[0]);
  if (action === undefined || words.length > 1)
    throw usage(["ring", ...words].join(" "), `ring takes one of ${RING_ACTIONS.join(", ")}`);
  for (const flag of flags.keys()) {
    if (flag !== ROWS.ringPath.flag && !(flag in COMMAND_FLAGS))
      throw usage(flag, `does not go with ring ${action}`);
  }
  const given = flags.get("-n") ?? String(TAIL_FRAMES);
  const count = wholeNumber(given, 0, 2 ** 31);
  if (count === null) throw usage("-n", `"${given}" is not a number of frames from 0 to 2147483648`);
  return {
    name: "ring",
    action,
    path: ringPathOf(sources, givenBy(sources, flags)("ringPath")?.value ?? null),
    json: flags.has("--json"),
    count,
    follow: !flags.has("--no-follow"),
  };
}

function ringPathOf(sources: ConfigSources, given: string | null): string {
  const byDefault = sources.platform === "darwin" ? "/tmp/cs_physics" : "/dev/shm/cs_physics";
  const path = resolve(sources.workingDir, given ?? byDefault);
  if (dirname(path) === path) throw usage("--ring-path", `"${path}" is a folder`);
  return path;
}

/** What was said of an option: by its flag, else in the environment, else in `.env`. */
function givenBy(
  sources: ConfigSources,
  flags: ReadonlyMap<string, string>,
): (name: OptionName) => Given | null {
  const dotenv = sources.dotenv === null ? {} : parseEnv(sources.dotenv);
  return (name) => {
    const { flag, env } = ROWS[name];
    const byFlag = flags.get(flag);
    if (byFlag !== undefined) return { value: byFlag, from: flag };
    if (env === null) return null;
    const value = sources.env[env] ?? dotenv[env];
    return value === undefined || value === "" ? null : { value, from: env };
  };
}

function readConfig(
  sources: ConfigSources,
  flags: ReadonlyMap<string, string>,
  demo: boolean,
): { config: Config; notes: string[] } {
  const notes: string[] = [];
  const given = givenBy(sources, flags);
  const text = (name: OptionName): string | null => given(name)?.value ?? null;
  const read = <T>(name: OptionName, fallback: T, parse: (value: string) => T | null, takes: string): T => {
    const entry = given(name);
    if (entry === null) return fallback;
    const parsed = parse(entry.value);
    if (parsed === null) throw usage(entry.from, `"${entry.value}" is not ${takes}`);
    return parsed;
  };
  const oneOf = <T extends string>(name: OptionName, choices: readonly T[], fallback: T): T =>
    read<T>(
      name,
      fallback,
      (value) => choices.find((choice) => choice === value) ?? null,
      `one of ${choices.join(", ")}`,
    );

  const host = text("host") ?? "127.0.0.1";
  const token = readToken(sources, given("token"), flags.get("--token-file") ?? null);
  const insecure = flags.has("--insecure");
  if (!isLoopback(host) && token === null && !insecure) {
    throw usage(
      `--host ${host}`,
      "anybody who reaches this address could read and write everything",
      "give a --token, or --insecure if that is meant",
    );
  }
  const dbPath = text("dbPath");
  if (demo && dbPath === null) notes.push("demo: nothing is kept; add --db-path FILE to keep it");
  const base = text("llmBaseUrl") ?? "http://localhost:1234/v1";
  const config: Config = {
    dbPath: dbPath === null ? null : resolve(sources.workingDir, dbPath),
    token,
    tui: !flags.has("--no-tui") && sources.stdoutIsTty,
    host,
    port: read("port", 9382, (value) => wholeNumber(value, 0, 65_535), "a port from 0 to 65535"),
    insecure,
    maxBacklogEvents: read(
      "maxBacklog",
      2_000_000,
      (value) => wholeNumber(value, 1, 1_000_000_000),
      "a number of events from 1 to 1000000000",
    ),
    maxBodyBytes: read("maxBody", 64 * 1024 ** 2, parseSizeBytes, "a size such as 64MiB"),
    llmBaseUrl: base === "off" ? null : readUrl(base, given("llmBaseUrl")?.from ?? "--llm-base-url"),
    llmApiKey: text("llmApiKey"),
    llmModel: text("llmModel"),
    llmTimeoutMs: read(
      "llmTimeout",
      60_000,
      (value) => boundedMs(value, 10, HOUR_MS),
      "a duration from 10ms to 1h, such as 30s",
    ),
    llmBudgetCalls: read<number | null>(
      "llmBudget",
      null,
      (value) => wholeNumber(value, 0, 1_000_000_000),
      "a number of calls from 0 to 1000000000",
    ),
    frameWaitMs: read(
      "frameWait",
      2000,
      (value) => boundedMs(value, 0, 60_000),
      "a duration from 0 to 60s, such as 2s or 500ms",
    ),
    embedder: oneOf("embedder", ["auto", "local", "remote", "hashing", "off"], "auto"),
    embeddingModel: text("embeddingModel"),
    reembed: flags.has("--reembed"),
    modelsDir: resolve(sources.workingDir, text("modelsDir") ?? join(sources.executableDir, "models")),
    ringPath: ringPathOf(sources, text("ringPath")),
    ringCapacity: read<number | null>(
      "ringCapacity",
      null,
      (value) => wholeNumber(value, 1, 2 ** 31),
      "a number of frames from 1 to 2147483648",
    ),
    ringMode: read(
      "ringMode",
      0o600,
      (value) => (/^0?[0-7]{3}$/.test(value) ? Number.parseInt(value, 8) : null),
      "an octal mode such as 0600 or 0644",
    ),
    memoryLimit: read(
      "memoryLimit",
      "150MB",
      (value) => ((parseSizeBytes(value) ?? 0) >= 64_000_000 ? value : null),
      "a size of at least 64MB",
    ),
    tempLimitBytes: read(
      "tempLimit",
      1024 ** 3,
      (value) => {
        const bytes = parseSizeBytes(value);
        return bytes !== null && bytes >= 10_000_000 ? bytes : null;
      },
      "a size of at least 10MB",
    ),
    logLevel: oneOf("logLevel", LOG_LEVELS, "info"),
    logFormat: oneOf("logFormat", ["text", "json"], sources.stderrIsTty ? "text" : "json"),
  };
  return { config: Object.freeze(config), notes };
}

function readToken(sources: ConfigSources, given: Given | null, file: string | null): string | null {
  if (file !== null) {
    if (given?.from === "--token") throw usage("--token-file", "a token is given by --token as well");
    let line: string;
    try {
      line = sources.readFile(resolve(sources.workingDir, file)).split("\n")[0]?.trim() ?? "";
    } catch (error) {
      throw usage(
        "--token-file",
        `${file} cannot be read (${error instanceof Error ? error.message : error})`,
      );
    }
    if (line === "") throw usage("--token-file", `the first line of ${file} is empty`);
    return readTokenText(line, "--token-file");
  }
  return given === null ? null : readTokenText(given.value, given.from);
}

/** A token has to fit into a header as it is. The value itself is never repeated in a message. */
function readTokenText(token: string, from: string): string {
  if (!/^[\x21-\x7e]+$/.test(token))
    throw usage(from, "a token consists of visible ASCII characters without spaces");
  return token;
}

function wholeNumber(value: string, min: number, max: number): number | null {
  if (!/^\d{1,10}$/.test(value)) return null;
  const parsed = Number(value);
  return parsed >= min && parsed <= max ? parsed : null;
}

const HOUR_MS = 3_600_000;

/** "2s", "500ms", "1.5m", "1h", "0" → ms; null where it is no duration. A bare number is seconds. */
export function parseDurationMs(value: string): number | null {
  const match = /^(\d{1,9}(?:\.\d{1,3})?)\s*(ms|s|m|h)?$/i.exec(value.trim());
  if (match === null) return null;
  const unitMs = { ms: 1, s: 1000, m: 60_000, h: HOUR_MS }[(match[2] ?? "s").toLowerCase()] ?? 1000;
  return Math.round(Number(match[1]) * unitMs);
}

function boundedMs(value: string, min: number, max: number): number | null {
  const ms = parseDurationMs(value);
  return ms !== null && ms >= min && ms <= max ? ms : null;
}

/** "64MiB", "150MB", "1GB", "4096" → bytes; null where it is no size. Decimal and binary units. */
export function parseSizeBytes(value: string): number | null {
  const match = /^(\d{1,12})(?:\s*([KMGT])(i?)B?|\s*B)?$/i.exec(value.trim());
  if (match === null) return null;
  const power = "KMGT".indexOf((match[2] ?? "").toUpperCase());
  const unit = match[2] === undefined ? 1 : (match[3] === "" ? 1000 : 1024) ** (power + 1);
  const bytes = Number(match[1]) * unit;
  return Number.isSafeInteger(bytes) && bytes > 0 ? bytes : null;
}

function readUrl(value: string, from: string): string {
  const url = URL.canParse(value) ? new URL(value) : null;
  if (url === null || !["http:", "https:"].includes(url.protocol)) {
    throw usage(from, `"${value}" is not an http or https URL (or "off")`);
  }
  return value.replace(/\/+$/, "");
}

/** Whether only this machine reaches an address: localhost, 127.0.0.0/8 and ::1. */
export function isLoopback(host: string): boolean {
  const bare = host.replace(/^\[|\]$/g, "").toLowerCase();
  return bare === "localhost" || bare === "::1" || (isIP(bare) === 4 && bare.startsWith("127."));
}

/** The body of /api/config: everything in force, secrets only as "set". */
export function describeConfig(config: Config): Record<string, unknown> {
  const url = config.llmBaseUrl === null ? null : new URL(config.llmBaseUrl);
  if (url !== null && url.password !== "") url.password = "set";
  return {
    ...config,
    token: config.token === null ? null : "set",
    llmApiKey: config.llmApiKey === null ? null : "set",
    llmBaseUrl: url === null ? null : url.href.replace(/\/$/, ""),
    ringMode: `0${config.ringMode.toString(8)}`,
  };
}
