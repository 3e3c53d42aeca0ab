/**
 * The table of options. The parser, the type and the defaults of Config, `--help`, the README's table, `.env.example` and
 * /api/config are derived from it: an option that is not in it does not exist.
 */
import { join, resolve } from "node:path";
import { LOG_LEVELS } from "../log.ts";
import type { ConfigSources } from "./sources.ts";
import {
  anyText,
  durationMs,
  fileMode,
  HOUR_MS,
  type Kind,
  oneOf,
  type Parsed,
  path,
  ringPath,
  secret,
  sizeBytes,
  sizeBytesFrom,
  tokenFile,
  urlOrOff,
  whole,
} from "./values.ts";

/** What users see of an option. */
export interface OptionRow {
  readonly flag: string;
  /** Stands for the value in help and README; null: the flag takes no value. */
  readonly metavar: string | null;
  /** The environment variable; null: there is none. */
  readonly env: string | null;
  readonly defaultText: string;
  readonly help: string;
}

export interface Option<T> extends OptionRow {
  /** @param given what the user wrote; null: nothing. */
  read(given: string | null, sources: ConfigSources): Parsed<T>;
}

interface Written<T> extends Omit<OptionRow, "defaultText"> {
  readonly kind: Kind<T>;
}

/** An option whose default is written as users would write it, and read in the same way. */
function option<T>({ kind, byDefault, ...row }: Written<T> & { readonly byDefault: string }): Option<T> {
  return { ...row, defaultText: byDefault, read: (given, sources) => kind(given ?? byDefault, sources) };
}

/** An option whose default depends on the surroundings, or is not a value that users could write. */
function optional<T, Absent>({
  kind,
  absent,
  defaultText,
  ...row
}: Written<T> & {
  readonly defaultText: string;
  readonly absent: (sources: ConfigSources) => Absent;
}): Option<T | Absent> {
  const read = (given: string | null, sources: ConfigSources): Parsed<T | Absent> =>
    given === null ? { value: absent(sources) } : kind(given, sources);
  return { ...row, defaultText, read };
}

/** A flag without a value. */
function flag(
  name: string,
  help: string,
  value: (isGiven: boolean, sources: ConfigSources) => boolean = (isGiven) => isGiven,
): Option<boolean> {
  const read = (given: string | null, sources: ConfigSources) => ({
    value: value(given !== null, sources),
  });
  return { flag: name, metavar: null, env: null, defaultText: "", help, read };
}

const none = (): null => null;

/** LM Studio's address. */
export const LLM_BASE_URL_DEFAULT = "http://localhost:1234/v1";

/** By the name of the value in Config, in the order in which help and README show them. */
export const TABLE = {
  /** The DuckDB file. null: everything is in a private temporary folder, and nothing is kept. */
  dbPath: optional({
    flag: "--db-path",
    metavar: "PATH",
    env: "DB_PATH",
    kind: path,
    defaultText: "none: nothing is kept",
    absent: none,
    help: "DuckDB file; its journal is PATH.journal",
  }),
  token: optional({
    flag: "--token",
    metavar: "TOKEN",
    env: "GATEWAY_TOKEN",
    kind: secret,
    defaultText: "none",
    absent: none,
    help: "bearer token that every route but /health and /ready requires; others on the machine may see it here, so better use the variable or --token-file",
  }),
  /** Another source of `token`; not in Config. */
  tokenFile: optional({
    flag: "--token-file",
    metavar: "FILE",
    env: null,
    kind: tokenFile,
    defaultText: "none",
    absent: none,
    help: "read the token from the first line of FILE",
  }),
  tui: flag(
    "--no-tui",
    "run headless even in a terminal",
    (isGiven, { stdoutIsTty }) => !isGiven && stdoutIsTty,
  ),
  host: option({
    flag: "--host",
    metavar: "HOST",
    env: "HOST",
    kind: anyText,
    byDefault: "127.0.0.1",
    help: "address to listen on; non-loopback addresses require a token",
  }),
  port: option({
    flag: "--port",
    metavar: "PORT",
    env: "PORT",
    kind: whole("a port", 0, 65_535),
    byDefault: "9382",
    help: "port to listen on; 0 takes a free one",
  }),
  insecure: flag("--insecure", "allow a non-loopback address without a token"),
  maxBacklogEvents: option({
    flag: "--max-backlog",
    metavar: "EVENTS",
    env: "MAX_BACKLOG",
    kind: whole("a number of events", 1, 1_000_000_000),
    byDefault: "2000000",
    help: "events that may wait in the journal; beyond that, ingest answers 503",
  }),
  maxBodyBytes: option({
    flag: "--max-body",
    metavar: "SIZE",
    env: "MAX_BODY",
    kind: sizeBytes,
    byDefault: "64MiB",
    help: "largest NDJSON body; beyond that, ingest answers 413",
  }),
  /** Base URL of an OpenAI-compatible endpoint; null: off. */
  llmBaseUrl: option({
    flag: "--llm-base-url",
    metavar: "URL",
    env: "LLM_BASE_URL",
    kind: urlOrOff,
    byDefault: LLM_BASE_URL_DEFAULT,
    help: "OpenAI-compatible endpoint (the default is LM Studio's); off disables it",
  }),
  llmApiKey: optional({
    flag: "--llm-api-key",
    metavar: "KEY",
    env: "LLM_API_KEY",
    kind: secret,
    defaultText: "none",
    absent: none,
    help: "API key of that endpoint; better set as the variable",
  }),
  /** Null: the endpoint's first chat model. */
  llmModel: optional({
    flag: "--llm-model",
    metavar: "NAME",
    env: "LLM_MODEL",
    kind: anyText,
    defaultText: "the endpoint's first chat model",
    absent: none,
    help: "language model to use",
  }),
  /** How long one reply of the language model may take. */
  llmTimeoutMs: option({
    flag: "--llm-timeout",
    metavar: "DURATION",
    env: "LLM_TIMEOUT",
    kind: durationMs({ min: 10, max: HOUR_MS, takes: "a duration from 10ms to 1h, such as 30s" }),
    byDefault: "60s",
    help: "how long one reply of the model may take, including a thinking model's thoughts",
  }),
  /** Calls per day (UTC); null: no limit. */
  llmBudgetCalls: optional({
    flag: "--llm-budget",
    metavar: "CALLS",
    env: "LLM_BUDGET",
    kind: whole("a number of calls", 0, 1_000_000_000),
    defaultText: "none",
    absent: none,
    help: "most calls of the language model per day (UTC)",
  }),
  /** How long a frame waits for the language model. */
  frameWaitMs: option({
    flag: "--frame-wait",
    metavar: "DURATION",
    env: "FRAME_WAIT",
    kind: durationMs({ min: 0, max: 60_000, takes: "a duration from 0 to 60s, such as 2s or 500ms" }),
    byDefault: "2s",
    help: "how long a frame waits at most for the language model; a later reply becomes an update of the event; 0 never waits",
  }),
  embedder: option({
    flag: "--embedder",
    metavar: "NAME",
    env: "EMBEDDER",
    kind: oneOf("auto", "local", "remote", "hashing", "off"),
    byDefault: "auto",
    help: "auto, local, remote, hashing or off; auto is decided once per database",
  }),
  /** Null: the default model of the chosen embedder. */
  embeddingModel: optional({
    flag: "--embedding-model",
    metavar: "NAME",
    env: "EMBEDDING_MODEL",
    kind: anyText,
    defaultText: "bge-m3, or text-embedding-bge-m3@f16 at an endpoint",
    absent: none,
    help: "embedding model to use",
  }),
  /** Whether older events get vectors of the embedder in use. */
  reembed: flag("--reembed", "compute vectors of the embedder in use for older events, in the background"),
  modelsDir: optional({
    flag: "--models-dir",
    metavar: "DIR",
    env: "MODELS_DIR",
    kind: path,
    defaultText: "models beside the executable",
    absent: ({ executableDir, workingDir }) => resolve(workingDir, join(executableDir, "models")),
    help: "folder of local models",
  }),
  ringPath: optional({
    flag: "--ring-path",
    metavar: "PATH",
    env: "CS_PHYSICS_PATH",
    kind: ringPath,
    defaultText: "/dev/shm/cs_physics (macOS: /tmp/cs_physics)",
    absent: ({ platform }) => (platform === "darwin" ? "/tmp/cs_physics" : "/dev/shm/cs_physics"),
    help: "the ring's file in shared memory",
  }),
  /** Frames; null: the default, or less if /dev/shm is small. */
  ringCapacity: optional({
    flag: "--ring-capacity",
    metavar: "FRAMES",
    env: "RING_CAPACITY",
    kind: whole("a number of frames", 1, 2 ** 31),
    defaultText: "100000",
    absent: none,
    help: "frames in the ring, 4,224 bytes each; a default that does not fit shrinks to half of the free space in /dev/shm",
  }),
  ringMode: option({
    flag: "--ring-mode",
    metavar: "MODE",
    env: "RING_MODE",
    kind: fileMode,
    byDefault: "0600",
    help: "permissions of the ring's file, in octal",
  }),
  memoryLimitBytes: option({
    flag: "--memory-limit",
    metavar: "SIZE",
    env: "MEMORY_LIMIT",
    kind: sizeBytesFrom(64, "with less, DuckDB cannot hold one event of 8 MiB beside a transaction"),
    byDefault: "150MB",
    help: "memory limit of DuckDB, at least 64MB; raised, with a warning, if DuckDB runs out of memory",
  }),
  /** Without dbPath: the size that the temporary folder may reach. */
  tempLimitBytes: option({
    flag: "--temp-limit",
    metavar: "SIZE",
    env: "TEMP_LIMIT",
    kind: sizeBytesFrom(10),
    byDefault: "1GiB",
    help: "without --db-path: size limit of the temporary folder; at the limit the oldest events are dropped",
  }),
  logLevel: option({
    flag: "--log-level",
    metavar: "LEVEL",
    env: "LOG_LEVEL",
    kind: oneOf(...LOG_LEVELS),
    byDefault: "info",
    help: "debug, info, warn or error",
  }),
  logFormat: optional({
    flag: "--log-format",
    metavar: "FORMAT",
    env: "LOG_FORMAT",
    kind: oneOf("text", "json"),
    defaultText: "text; json if stderr is not a terminal",
    absent: ({ stderrIsTty }): "text" | "json" => (stderrIsTty ? "text" : "json"),
    help: "text or json",
  }),
} as const;

export type OptionName = keyof typeof TABLE;

/** What every option was read as. */
export type OptionValues = {
  readonly [Name in OptionName]: (typeof TABLE)[Name] extends Option<infer T> ? T : never;
};

/** The same for users. */
export const OPTIONS: readonly OptionRow[] = Object.values(TABLE);
