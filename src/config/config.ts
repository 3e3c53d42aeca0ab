/** Reads flags, environment and `.env` by the table of options, and returns the command with one frozen Config. */
import { parseEnv } from "node:util";
import { GatewayError } from "../errors.ts";
import { urlSecrets } from "../secrets.ts";
import { OPTIONS, type OptionName, type OptionValues, TABLE } from "./options.ts";
import type { ConfigSources } from "./sources.ts";
import { isAddress, isLoopback, parseWhole } from "./values.ts";

export { helpText } from "./help.ts";
export { LLM_BASE_URL_DEFAULT } from "./options.ts";
export { moveSecrets } from "./secret-arguments.ts";
export { isAddress, isLoopback } from "./values.ts";

/** Everything that can be configured. A --token-file is read, so only its token is here. */
export type Config = Omit<OptionValues, "tokenFile">;

/** What the command line asks for. */
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
      /** tail: how many of the newest frames it shows first. */
      readonly count: number;
      /** tail: whether it goes on with each new frame. */
      readonly follow: boolean;
    }
  | { readonly name: "help" | "version" | "self-test" };

function usage(object: string, detail: string, hint = "see one_file_gateway --help"): GatewayError {
  return new GatewayError({ code: "usage", operation: "usage:", object, detail, hint });
}

interface Given {
  readonly value: string;
  /** Where the user wrote it: the flag or the variable. */
  readonly from: string;
}

interface CommandFlag {
  readonly metavar: string | null;
  /** The command whose flag it is. */
  readonly of: string;
}

/** The flags of single commands. */
const COMMAND_FLAGS: Readonly<Record<string, CommandFlag>> = {
  "--from": { metavar: "DIR", of: "pull-model" },
  "--json": { metavar: null, of: "ring" },
  "-n": { metavar: "N", of: "ring tail" },
  "--no-follow": { metavar: null, of: "ring tail" },
};

const RING_ACTIONS = ["stat", "tail", "verify"] as const;
/** Shorter ones are everyday words, such as "secret": masking them would make messages unreadable. */
const SECRET_CHARS_MIN = 8;
const TAIL_FRAMES = 10;
/** What looks like a flag or a command may be repeated in a message; anything else may be a secret that was put in the wrong place. */
const COMMAND_LIKE = /^[a-z][a-z-]{0,11}$/;
const FLAG_LIKE = /^--?[a-z][a-z-]{0,23}$/;

/** Splits the arguments into flags and other words. Of a repeated flag the last value counts, as usual. */
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
    if (known === undefined)
      throw usage(FLAG_LIKE.test(flag) ? flag : `argument ${index + 1}`, "there is no such flag");
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
 * Reads the command line, the environment and `.env`.
 * @throws GatewayError `usage`: one line that names the flag or variable and says what it takes.
 */
export function parseCommand(sources: ConfigSources): Command {
  const { args } = sources;
  if (args.includes("--help") || args.includes("-h")) return { name: "help" };
  if (args.includes("--version")) return { name: "version" };
  if (args.length === 1 && args[0] === "--self-test") return { name: "self-test" };
  const { flags, words } = readFlags(args);
  const verb = words.shift();
  for (const [flag, { of }] of Object.entries(COMMAND_FLAGS)) {
    const command = of.includes(" ") ? `${verb} ${words[0]}` : verb;
    if (flags.has(flag) && command !== of) throw usage(flag, `is a flag of ${of} only`);
  }
  if (verb === "ring") return ringCommand(sources, flags, words);
  const { config, notes } = readConfig(sources, flags, verb === "demo");
  if (verb === "pull-model") {
    const model = words.shift() ?? config.embeddingModel ?? "bge-m3";
    if (words.length > 0) throw usage("pull-model", "takes one model name");
    return { name: "pull-model", config, model, from: flags.get("--from") ?? null };
  }
  if (verb !== undefined && verb !== "demo") {
    const named = mayRepeat(verb, flags) ? `${verb}: there is no such command` : "there is none of that name";
    throw usage("command", `${named}; there are demo, pull-model and ring`);
  }
  if (words.length > 0) throw usage(verb ?? "", `takes no further words, and got ${words.length}`);
  return { name: verb === "demo" ? "demo" : "run", config, notes };
}

/** Whether a word is a mistyped command, and not a token whose flag was forgotten or the second half of a secret with a space. */
function mayRepeat(word: string, flags: ReadonlyMap<string, string>): boolean {
  return !flags.has(TABLE.token.flag) && !flags.has(TABLE.llmApiKey.flag) && COMMAND_LIKE.test(word);
}

/** `ring` needs no other option than the place of the ring. */
function ringCommand(
  sources: ConfigSources,
  flags: ReadonlyMap<string, string>,
  words: readonly string[],
): Command {
  const action = RING_ACTIONS.find((name) => name === words[0]);
  if (action === undefined || words.length > 1)
    throw usage("ring", `takes one of ${RING_ACTIONS.join(", ")}`);
  for (const flag of flags.keys()) {
    if (flag !== TABLE.ringPath.flag && !(flag in COMMAND_FLAGS))
      throw usage(flag, `is not a flag of ring ${action}`);
  }
  const given = flags.get("-n") ?? String(TAIL_FRAMES);
  const count = parseWhole(given, 0, 2 ** 31);
  if (count === null) throw usage("-n", `"${given}" is not a number of frames from 0 to 2147483648`);
  return {
    name: "ring",
    action,
    path: reader(sources, flags).read("ringPath"),
    json: flags.has("--json"),
    count,
    follow: !flags.has("--no-follow"),
  };
}

interface OptionReader {
  /** What the user wrote: with the flag, else in the environment, else in `.env`. null: nothing. */
  given(name: OptionName): Given | null;
  /** @throws GatewayError `usage`. */
  read<Name extends OptionName>(name: Name): OptionValues[Name];
}

/** `parseEnv` ends a value at any `#`. As in shells, only one after white space begins a comment here: tokens contain `#`. */
function withHashes(dotenv: string): string {
  return dotenv.replace(/^([^=#\r\n]+=[ \t]*)([^\s'"`#]+#[^\s'"`]*)(?=\s|$)/gm, "$1'$2'");
}

function reader(sources: ConfigSources, flags: ReadonlyMap<string, string>): OptionReader {
  const dotenv = sources.dotenv === null ? {} : parseEnv(withHashes(sources.dotenv));
  const given = (name: OptionName): Given | null => {
    const { flag, env } = TABLE[name];
    const byFlag = flags.get(flag);
    if (byFlag !== undefined) return { value: byFlag, from: flag };
    if (env === null) return null;
    const value = sources.env[env] ?? dotenv[env];
    return value === undefined || value === "" ? null : { value, from: env };
  };
  return {
    given,
    read: <Name extends OptionName>(name: Name) => {
      const entry = given(name);
      const parsed = TABLE[name].read(entry?.value ?? null, sources);
      if ("fault" in parsed) throw usage(entry?.from ?? TABLE[name].flag, parsed.fault);
      return parsed.value as OptionValues[Name];
    },
  };
}

function readConfig(
  sources: ConfigSources,
  flags: ReadonlyMap<string, string>,
  demo: boolean,
): { config: Config; notes: string[] } {
  const options = reader(sources, flags);
  const token = readToken(options);
  const noHost = strangeHost(sources, options);
  const host = noHost === null ? options.read("host") : "127.0.0.1";
  if (!isLoopback(host) && token === null && !options.read("insecure")) {
    throw usage(
      options.given("host")?.from === TABLE.host.env ? `${TABLE.host.env}=${host}` : `--host ${host}`,
      "anyone who can reach this address could read and write everything",
      "set GATEWAY_TOKEN or pass --token-file, or --insecure if that is intended",
    );
  }
  const values: Partial<Record<OptionName, unknown>> = {};
  for (const name of Object.keys(TABLE) as OptionName[]) {
    if (name === "tokenFile") continue;
    values[name] = name === "token" ? token : name === "host" ? host : options.read(name);
  }
  const config = Object.freeze(values as Config);
  const notes = noHost === null ? [] : [noHost];
  if (demo && config.dbPath === null) notes.push("demo: nothing is kept; add --db-path FILE to keep it");
  return { config, notes };
}

/** Why the variable HOST is ignored; null if it is not. conda's compilers, for one, set it to the kind of the machine. */
function strangeHost({ env, hostIsFound }: ConfigSources, options: OptionReader): string | null {
  const given = options.given("host");
  const name = TABLE.host.env;
  if (given === null || given.from !== name || given.value !== env[name]) return null;
  if (hostIsFound || isAddress(given.value)) return null;
  return `HOST=${given.value} is ignored, because it is neither an address nor the name of a host that can be found; to choose an address pass --host`;
}

/** A --token-file wins over the environment. Together with --token it is a contradiction. */
function readToken(options: OptionReader): string | null {
  if (options.given("tokenFile") === null) return options.read("token");
  if (options.given("token")?.from === TABLE.token.flag)
    throw usage(TABLE.tokenFile.flag, "contradicts --token: pass one of them");
  return options.read("tokenFile");
}

/** The body of /api/config: the configuration in force, with "set" in place of each secret. */
export function describeConfig(config: Config): Record<string, unknown> {
  return {
    ...config,
    token: config.token === null ? null : "set",
    llmApiKey: config.llmApiKey === null ? null : "set",
    llmBaseUrl: config.llmBaseUrl === null ? null : maskedUrl(config.llmBaseUrl),
    ringMode: `0${config.ringMode.toString(8)}`,
  };
}

/** The URL with "set" in place of what may be secret: user and password, the query, and what follows `#`. */
function maskedUrl(text: string): string {
  const { protocol, username, password, host, pathname, search, hash } = new URL(text);
  const user = username === "" && password === "" ? "" : "set@";
  const more = search === "" && hash === "" ? "" : "?set";
  return `${protocol}//${user}${host}${pathname.replace(/\/$/, "")}${more}`;
}

/** What no message may contain. */
export function secretsOf({ token, llmApiKey, llmBaseUrl }: Config): string[] {
  const all = [token, llmApiKey, ...(llmBaseUrl === null ? [] : urlSecrets(llmBaseUrl))];
  return all.filter((secret) => secret !== null && secret.length >= SECRET_CHARS_MIN) as string[];
}
