/**
 * Composition root and command line: parse, wire, serve, drain. No domain logic; imported by nobody.
 */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statfsSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { openRing, RingLock, ringFits } from "./collider.ts";
import demoConversations from "./examples/demo.json" with { type: "json" };
import packageJson from "./package.json" with { type: "json" };
import { Brain, Chat, type ChatPart, INTENT_LIMITS, Intents, MESSAGE_QUESTION } from "./src/brain/brain.ts";
import { systemClock } from "./src/clock.ts";
import { type Command, type Config, describeConfig, helpText, parseCommand } from "./src/config.ts";
import { Dashboard } from "./src/dashboard/dashboard.ts";
import { chooseEmbedder, openHashing, pullModel, type RecordedEmbedder } from "./src/embed/embed.ts";
import { GatewayError, messageOf } from "./src/errors.ts";
import * as events from "./src/event/event.ts";
import { type GatewayServer, serve } from "./src/http/http.ts";
import { Journal } from "./src/journal/journal.ts";
import { openLlm } from "./src/llm/llm.ts";
import { LOG_LEVELS, type Log, type LogLevel } from "./src/log.ts";
import { whyNotExecutable } from "./src/native/libc.ts";
import { executableDir, isCompiled, workerUrl } from "./src/native/worker-url.ts";
import { Kinetics, spin } from "./src/physics.ts";
import { Pipeline } from "./src/pipeline/pipeline.ts";
import { type RingCommand, ringTool } from "./src/ring/ring.ts";
import { Schemas } from "./src/schemas/schemas.ts";
import { Store } from "./src/store/store.ts";
import type { LlmView } from "./src/tui/model.ts";
import { openTui, type Terminal, whyNoTerminal } from "./tui.ts";

const VERSION = packageJson.version;
/** Set by test builds only (scripts/build.ts --mutation): a gateway that is wrong on purpose, or as on another machine. */
const MUTATION: string = process.env.GATEWAY_MUTATION ?? "";
/** Only x86-64 keeps the order of stores and loads that the ring's sequences need: see docs/decisions/0006. */
const CHECKSUMS = process.arch !== "x64" || MUTATION === "checksums";
const DRAIN_GRACE_MS = 200;
const TEMP_PREFIX = "one_file_gateway-";
const TEMP_LOCK_HINT = "set TMPDIR to another folder";

/** What is printed of the warnings that came while the dashboard lay over the terminal. */
const WITHHELD_LINES_MAX = 20;

const { nowUs } = systemClock;

/** @param desk where the dashboard is, once there is one: it keeps lines off the terminal that it lies over. */
function makeLog(config: Config, desk: () => Desk | null): Log {
  const least = LOG_LEVELS.indexOf(config.logLevel);
  return (level, message) => {
    if (LOG_LEVELS.indexOf(level) < least) return;
    const time = new Date().toISOString();
    const line =
      config.logFormat === "json"
        ? JSON.stringify({ time, level, message })
        : `${time} ${level.padEnd(5)} ${message}`;
    if (desk()?.takes(level, message, line) !== true) process.stderr.write(`${line}\n`);
  };
}

/** Tells boots apart: a ring that survived a power loss on a disk is not to be trusted. */
function bootId(): string {
  try {
    return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  } catch {
    const kernel = Bun.spawnSync(["sysctl", "-n", "kern.boottime"]);
    return kernel.stdout.toString().trim();
  }
}

/** Where journal and DuckDB live, and what is to be undone when the gateway ends. */
interface Home extends Disposable {
  readonly databasePath: string;
  readonly journalPath: string;
  readonly tempFolder: string;
}

/** The files of --db-path, owned by this process for as long as it lives. */
function openHome(config: Config): Home {
  return config.dbPath === null ? openTemporaryHome() : openPersistentHome(config.dbPath);
}

function openPersistentHome(databasePath: string): Home {
  const journalPath = `${databasePath}.journal`;
  const operation = "start: database";
  const folder = dirname(databasePath);
  if (!existsSync(folder)) {
    const detail = `the folder ${folder} does not exist`;
    throw new GatewayError({
      code: "store_failed",
      operation,
      object: databasePath,
      detail,
      hint: "create it first",
    });
  }
  const lock = RingLock.acquire(databasePath, "stop it, or pass another --db-path");
  if (existsSync(databasePath) && !existsSync(journalPath)) {
    lock[Symbol.dispose]();
    throw new GatewayError({
      code: "journal_missing",
      operation,
      object: databasePath,
      detail: `its journal ${basename(journalPath)} is missing, so events may be missing too`,
      hint: "put the journal back beside it, or choose another --db-path",
    });
  }
  return {
    databasePath,
    journalPath,
    tempFolder: `${databasePath}.tmp`,
    [Symbol.dispose]: () => lock[Symbol.dispose](),
  };
}

/** A folder of its own (0700), gone at exit; what a killed gateway left is removed at the next start. */
function openTemporaryHome(): Home {
  const root = process.env.TMPDIR ?? tmpdir();
  let folder: string;
  try {
    removeLeftOver(root);
    folder = mkdtempSync(join(root, TEMP_PREFIX));
  } catch (error) {
    throw new GatewayError({
      code: "temp_folder",
      operation: "start: temporary folder",
      object: root,
      detail: messageOf(error),
      hint: "set TMPDIR to a folder that can be written, or give --db-path",
      cause: error,
    });
  }
  const lock = RingLock.acquire(join(folder, "gateway"), TEMP_LOCK_HINT);
  return {
    databasePath: join(folder, "events.duckdb"),
    journalPath: join(folder, "events.duckdb.journal"),
    tempFolder: join(folder, "duckdb"),
    [Symbol.dispose]: () => {
      lock[Symbol.dispose]();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/**
 * Removes the temporary folders of gateways that are no more. Only a folder that holds a gateway's lock file is one of
 * these, and only where nobody holds that lock.
 */
function removeLeftOver(root: string): void {
  for (const name of readdirSync(root)) {
    const stale = join(root, name);
    if (!name.startsWith(TEMP_PREFIX) || !existsSync(join(stale, "gateway.lock"))) continue;
    try {
      using _lock = RingLock.acquire(join(stale, "gateway"), TEMP_LOCK_HINT);
      rmSync(stale, { recursive: true, force: true });
    } catch {
      // Its gateway is alive, or it is somebody else's: not ours to remove.
    }
  }
}

/**
 * The executable unpacks its native libraries into a temporary folder at the first start. Where that cannot be, nothing
 * is begun: DuckDB would fail later, behind events that were already acknowledged.
 */
function checkUnpackFolder(): void {
  if (!isCompiled()) return;
  const folder = process.env.BUN_TMPDIR ?? process.env.TMPDIR ?? tmpdir();
  const why = whyNotExecutable(folder);
  if (why === null) return;
  throw new GatewayError({
    code: "temp_folder",
    operation: "start: unpack libraries into",
    object: folder,
    detail: why,
    hint: "set BUN_TMPDIR (or TMPDIR) to a folder that is writable, has 100 MB free and is not mounted noexec",
  });
}

function openJournal(config: Config, home: Home): Journal {
  const journal = Journal.open({
    path: home.journalPath,
    ephemeral: config.dbPath === null ? { limitBytes: Math.floor(config.tempLimitBytes / 2) } : null,
    nowUs,
    randomU32: () => crypto.getRandomValues(new Uint32Array(1))[0] ?? 1,
    bootId: bootId(),
  });
  if (journal.pruned().seq > 0 && !existsSync(home.databasePath)) {
    const detail = "the journal has handed events over to this database, and it is missing";
    journal[Symbol.dispose]();
    throw new GatewayError({
      code: "store_missing",
      operation: "start: database",
      object: home.databasePath,
      detail,
      hint: "put the database back beside its journal, or choose another --db-path",
    });
  }
  return journal;
}

/**
 * Opens DuckDB. An attempt is counted in the journal before and cleared after, because replaying a broken WAL can abort
 * the process; after two failures in a row the WAL is set aside and its gap refilled from the journal.
 */
async function openStore(config: Config, home: Home, journal: Journal, log: Log): Promise<Store> {
  for (;;) {
    const quarantine = journal.openAttempts() >= 2;
    if (quarantine)
      log("error", `store ${home.databasePath}: opening failed twice; its WAL is set aside and refilled`);
    journal.raiseOpenAttempts();
    try {
      const store = await Store.open({
        databasePath: home.databasePath,
        journalPath: home.journalPath,
        journalId: journal.journalId,
        memoryLimit: config.memoryLimit,
        tempFolder: home.tempFolder,
        ephemeral: config.dbPath === null ? { limitBytes: Math.floor(config.tempLimitBytes / 2) } : null,
        workerUrl: workerUrl("store"),
        quarantine,
        pruned: journal.pruned(),
        onNotice: (message) => log("warn", message),
      });
      journal.clearOpenAttempts();
      return store;
    } catch (error) {
      // Neither is a broken WAL: the database is another's, or the Worker itself could not be started.
      const fatal = ["foreign_store", "store_behind", "temp_folder"];
      const known = error instanceof GatewayError && fatal.includes(error.code);
      if (known) journal.clearOpenAttempts();
      if (known || quarantine) throw error;
      log("error", `${messageOf(error)}; trying again`);
      await Bun.sleep(500);
    }
  }
}

/** Free bytes beside the journal, and what ingest needs: a twentieth of the disk, at most 256 MB. */
function freeDiskBytes(path: string): { freeBytes: number; neededBytes: number } {
  // Not asynchronous: it takes microseconds, and a pool thread would be woken for it.
  const { bavail, blocks, bsize } = statfsSync(dirname(path));
  return { freeBytes: bavail * bsize, neededBytes: Math.min(256_000_000, (blocks * bsize) / 20) };
}

async function run(command: Extract<Command, { name: "run" | "demo" }>): Promise<number> {
  const { config, notes } = command;
  let desk: Desk | null = null;
  const log = makeLog(config, () => desk);
  for (const note of notes) log("info", note);
  checkUnpackFolder();
  using stack = new DisposableStack();
  const home = stack.use(openHome(config));
  stack.use(RingLock.acquire(config.ringPath, "stop it, or pass another --ring-path"));
  ringFits({ path: config.ringPath, capacity: config.ringCapacity });
  const journal = stack.use(openJournal(config, home));
  // A temporary journal ends with the process, and so does what was learned from it.
  const schemas = stack.use(
    new Schemas({ table: config.dbPath === null ? null : journal.table("schemas"), log }),
  );
  const intents = new Intents({ rows: journal.intents, log });
  const brain = openBrain(config, journal, { schemas, intents }, log);
  const chat = new Chat({
    llm: brain.llm,
    knownTypes: (limit, also) => schemas.mostFrequent(limit, also),
    labels: () => intents.list().map(({ label }) => label),
    envelope: events.FIELD_NAMES,
    nowMs: () => performance.now(),
    newSessionId: () => crypto.randomUUID(),
  });
  const ended = Promise.withResolvers<number>();
  const hashing = openHashing(workerUrl("embed"));
  const headless = whyHeadless(config);
  if (headless === null)
    desk = stack.use(
      new Desk({
        config,
        journal,
        schemas,
        brain,
        chat,
        pipeline: () => pipeline,
        server: () => server,
        quit: () => stop("q"),
        log,
      }),
    );
  const pipeline: Pipeline = new Pipeline({
    version: VERSION,
    watch: desk?.dashboard ?? null,
    journal,
    kinetics: new Kinetics({}),
    spin,
    checksums: CHECKSUMS,
    schemas,
    textOf: events.textOf,
    hashing,
    openStore: () => openStore(config, home, journal, log),
    openRing: (newest) =>
      openRing(
        {
          path: config.ringPath,
          capacity: config.ringCapacity,
          mode: config.ringMode,
          journalId: journal.journalId,
          nextFrameId: journal.nextFrameId(),
          adopt: journal.sameBoot && config.dbPath !== null,
          nowUs,
          log,
        },
        newest,
      ),
    openEmbedder: async () => {
      const embedder = await openEmbedder(config, journal, log);
      // Else what came before this start would be framed without them.
      await intents.attach(embedder);
      return embedder;
    },
    otherMetrics: () => intents.metrics(),
    brain,
    frameWaitMs: config.frameWaitMs,
    reembed: config.reembed,
    maxBacklogEvents: config.maxBacklogEvents,
    freeDiskBytes: () => freeDiskBytes(home.journalPath),
    nowUs,
    log,
    fatal: (error) => {
      log("error", error.message);
      ended.resolve(1);
    },
    mutation: MUTATION,
  });
  let stopping = false;
  const stop = (signal: string): void => {
    // A terminal that goes away may say so more than once.
    if (stopping && signal === "SIGHUP") return;
    if (stopping) process.exit(130);
    stopping = true;
    log("info", `${signal}: finishing what was received; again to stop at once`);
    pipeline.beginDrain();
    ended.resolve(0);
  };
  process.on("SIGTERM", () => stop("SIGTERM"));
  process.on("SIGINT", () => stop("SIGINT"));
  const server: GatewayServer = serve({
    config,
    version: VERSION,
    describeConfig: () => describeConfig(config),
    journal: MUTATION === "ack-before-commit" ? ackBeforeCommit(journal) : journal,
    events,
    store: () => pipeline.store(),
    pipeline,
    schemas,
    chat,
    intents: { limits: INTENT_LIMITS, examples: intents },
    nowUs,
    log,
  });
  log(
    "info",
    `listening on ${server.url}${config.dbPath === null ? "; nothing is kept without --db-path" : ""}`,
  );
  if (headless !== null) log("info", `headless: ${headless}`);
  brain.llm.start();
  pipeline.start();
  if (command.name === "demo") void playDemo(server, config, log);
  if (desk !== null) {
    process.on("SIGHUP", () => stop("SIGHUP"));
    await desk.open();
  }
  try {
    const exitCode = await ended.promise;
    // For a moment the door still answers, with 503, so that whoever sends sees why.
    server.drain();
    await Promise.all([pipeline.settle(), Bun.sleep(DRAIN_GRACE_MS)]);
    // Whoever still waits for the model or for examples to be learned is answered, and does not hold up the door.
    await brain.llm[Symbol.asyncDispose]();
    intents.stop();
    await server.stop();
    await pipeline.close();
    await hashing[Symbol.asyncDispose]();
    return exitCode;
  } finally {
    await desk?.close();
  }
}

/** The model's states in words that need no knowledge of its breaker. */
const LLM_WORDS: Readonly<Record<Brain["llm"]["state"]["name"], string>> = {
  ...{ off: "off", unknown: "starting", away: "away", ok: "ok" },
  ...{ open: "failing", "half-open": "failing", budget: "used up" },
};

/** The model for the dashboard. */
function llmView({ state, counters, gauges }: Brain["llm"], limit: number | null): LlmView {
  const left = gauges.llm_budget_left_calls;
  return {
    state: LLM_WORDS[state.name],
    detail: state.detail,
    model: state.model,
    calls: counters.llm_calls_total ?? 0,
    failures: counters.llm_failures_total ?? 0,
    breaker: state.name === "open" || state.name === "half-open" ? state.name : "closed",
    budget: { used: limit === null || left === undefined ? 0 : limit - left, limit },
  };
}

/** What to do so that the chat has somebody who answers. */
function chatAdvice({ name, detail }: Brain["llm"]["state"]): string {
  return name === "off"
    ? "The gateway runs with --llm-base-url off. Start LM Studio, Ollama or another OpenAI-compatible server, load a chat model, and start the gateway again with --llm-base-url and its address"
    : detail;
}

/** Why there is no dashboard; null: there is one. */
function whyHeadless(config: Config): string | null {
  const { stdin, stdout, env } = process;
  const why = whyNoTerminal({ stdinIsTty: stdin.isTTY, stdoutIsTty: stdout.isTTY, term: env.TERM });
  if (why !== null) return why;
  return config.tui ? null : "--no-tui";
}

interface DeskOptions {
  readonly config: Config;
  readonly journal: Journal;
  readonly schemas: Schemas;
  readonly brain: Brain;
  readonly chat: Chat;
  readonly pipeline: () => Pipeline;
  readonly server: () => GatewayServer;
  readonly quit: () => void;
  readonly log: Log;
}

/** The dashboard with its terminal: what it is wired to, and that the terminal is given back whatever happens. */
class Desk implements Disposable {
  readonly dashboard: Dashboard;
  readonly #o: DeskOptions;
  #terminal: Terminal | null = null;
  #closed = false;
  /** The one conversation of the dashboard; null before its first turn. */
  #session: string | null = null;
  /** Warnings and errors of the time in which the terminal was not to be written to. */
  #withheld: string[] = [];

  constructor(options: DeskOptions) {
    this.#o = options;
    const { config, journal, schemas, brain, pipeline, server } = options;
    this.dashboard = new Dashboard({
      version: VERSION,
      database: config.dbPath,
      tokenSet: config.token !== null,
      address: () => server().url,
      snapshot: () => pipeline().snapshot(),
      metrics: () => server().metrics,
      draining: () => pipeline().draining,
      journalEvent: (seq) => journal.eventsAt([seq])[0] ?? null,
      enrichment: (seq) => pipeline().enrichedWithin(seq, 0),
      storedEvent: async (seq) => (await pipeline().store()?.event(seq, 0))?.json ?? null,
      storedEvents: (query) => {
        const store = pipeline().store();
        return store === null ? null : store.events(query, journal.headSeq()).then(({ json }) => json);
      },
      frames: (after, limit) => pipeline().frames(after, limit),
      schemas,
      llm: () => llmView(brain.llm, config.llmBudgetCalls),
      chat: () => (brain.llm.usable ? (message, signal) => this.#talk(message, signal) : null),
      chatAdvice: () => chatAdvice(brain.llm.state),
      nowUs,
    });
  }

  /** A turn of the dashboard's conversation. One that was forgotten meanwhile begins anew under the same id. */
  async *#talk(message: string, signal: AbortSignal): AsyncGenerator<ChatPart> {
    for await (const part of this.#o.chat.turn(message, this.#session, signal)) {
      if (part.kind === "state") this.#session = part.state.session_id;
      yield part;
    }
  }

  /** Opens it over the terminal. Where that fails, the gateway goes on headless. */
  async open(): Promise<void> {
    this.dashboard.start();
    try {
      this.#terminal = await openTui({
        feed: this.dashboard,
        noColor: (process.env.NO_COLOR ?? "") !== "",
        quit: this.#o.quit,
        failed: (error) => this.#goHeadless(error),
      });
    } catch (error) {
      this.#goHeadless(error);
      return;
    }
    // OpenTUI takes these two for itself and would leave the terminal as it is.
    for (const event of ["uncaughtException", "unhandledRejection"])
      process.on(event, (error) => void this.#crash(error));
    process.on("exit", () => {
      if (!this.#closed) this.#terminal?.restoreNow();
    });
    if (MUTATION === "crash-under-the-dashboard")
      setTimeout(() => {
        throw new Error("a mutation of the tests");
      }, 1000);
  }

  /** Whether this line must not be written to the terminal. Where standard error is a file, it goes there as well. */
  takes(level: LogLevel, message: string, line: string): boolean {
    this.dashboard.note(level, message);
    if (this.#terminal === null || this.#closed || !process.stderr.isTTY) return false;
    if (level === "warn" || level === "error")
      this.#withheld = [...this.#withheld.slice(1 - WITHHELD_LINES_MAX), line];
    return true;
  }

  #goHeadless(error: unknown): void {
    this.#closed = true;
    const trace = error instanceof Error ? (error.stack ?? error.message) : String(error);
    this.#o.log("error", `dashboard: ${trace}; the gateway goes on without it`);
  }

  async #crash(error: unknown): Promise<void> {
    await this.close();
    process.stderr.write(`one_file_gateway: ${error instanceof Error ? error.stack : messageOf(error)}\n`);
    process.exit(1);
  }

  /** Gives the terminal back and prints what was withheld. */
  async close(): Promise<void> {
    await this.#terminal?.close();
    this.#closed = true;
    for (const line of this.#withheld) process.stderr.write(`${line}\n`);
    this.#withheld = [];
  }

  [Symbol.dispose](): void {
    this.dashboard[Symbol.dispose]();
  }
}

/** The brain with the endpoint of --llm-base-url, which is looked for once the gateway listens. */
function openBrain(
  config: Config,
  journal: Journal,
  { schemas, intents }: { schemas: Schemas; intents: Intents },
  log: Log,
): Brain {
  const llm = openLlm({
    baseUrl: config.llmBaseUrl,
    apiKey: config.llmApiKey,
    model: config.llmModel,
    budgetCalls: config.llmBudgetCalls,
    kept: { read: () => journal.meta("llm.budget"), write: (text) => journal.setMeta("llm.budget", text) },
    trial: MESSAGE_QUESTION,
    nowUs,
    log,
  });
  return new Brain({
    llm,
    deadlineMs: config.llmTimeoutMs,
    fingerprint: (body) => schemas.fingerprint(body),
    shapes: journal.table("shapes"),
    answers: intents.answers,
  });
}

/** The embedder that --embedder, the journal's record and what is there now lead to. */
async function openEmbedder(config: Config, journal: Journal, log: Log) {
  const text = journal.meta("embedder");
  const recorded = text === null ? null : (JSON.parse(text) as RecordedEmbedder);
  // An endpoint's dimension is known with its first answer; the label of its frames has it.
  const label = journal.labels().find(({ kind, label }) => kind === "model" && label === recorded?.name);
  const { embedder, record, advice } = await chooseEmbedder({
    choice: config.embedder,
    recorded: recorded === null ? null : { ...recorded, dim: label?.dim ?? recorded.dim },
    modelsDir: config.modelsDir,
    embeddingModel: config.embeddingModel,
    baseUrl: config.llmBaseUrl,
    apiKey: config.llmApiKey,
    workerUrl: workerUrl("embed"),
    log,
  });
  journal.setMeta("embedder", JSON.stringify(record));
  log("info", `embedder ${embedder.name}`);
  if (advice !== null) log("warn", advice);
  return embedder;
}

/** A wrong build for the tests: answers first, commits a moment later. */
function ackBeforeCommit(journal: Journal): Pick<Journal, "append" | "headSeq" | "journalId"> {
  let next = journal.headSeq();
  return {
    journalId: journal.journalId,
    headSeq: () => journal.headSeq(),
    append: async (parsed, options) => {
      setTimeout(() => void journal.append(parsed, options), 50);
      return parsed.map((event) => {
        next += 1;
        return { seq: next, id: event.id ?? "", duplicate: false };
      });
    },
  };
}

/** Sends the bundled conversations to the gateway's own door, at the pace at which people type. */
async function playDemo(server: GatewayServer, config: Config, log: Log): Promise<void> {
  const headers = {
    "content-type": "application/json",
    ...(config.token === null ? {} : { authorization: `Bearer ${config.token}` }),
  };
  for (let round = 1; ; round++) {
    for (const turn of demoConversations.turns) {
      await Bun.sleep(300 + 900 * Math.random());
      const event = { ...turn, conversation_id: `${turn.conversation_id}-${round}` };
      const response = await fetch(new URL("/ingest", server.url), {
        method: "POST",
        headers,
        body: JSON.stringify(event),
      }).catch((error: unknown) => messageOf(error));
      if (typeof response === "string" || response.status === 503) return;
      log("info", `demo ${event.actor}: ${event.message}`);
    }
  }
}

/** Looks at a ring, as a reader; a signal ends it as well as the end of what it has to say. */
function lookAtRing(command: RingCommand): Promise<number> {
  const stop = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.on(signal, () => {
      if (stop.signal.aborted) process.exit(130);
      stop.abort();
    });
  }
  // Told to the writer by its callback; without a listener the same error would end the process as uncaught.
  process.stdout.on("error", () => {});
  return ringTool(command, {
    write: (text) =>
      new Promise((taken, failed) => {
        process.stdout.write(text, (error) => (error ? failed(error) : taken()));
      }),
    say: (line) => process.stderr.write(`${line}\n`),
    nowUs,
    stop: stop.signal,
  });
}

async function main(): Promise<number> {
  // Events are private: what is created is for this user alone, unless --ring-mode says otherwise.
  process.umask(0o077);
  const command = parseCommand({
    args: process.argv.slice(2),
    env: process.env,
    dotenv: existsSync(".env") ? readFileSync(".env", "utf8") : null,
    workingDir: process.cwd(),
    executableDir: executableDir(),
    platform: process.platform,
    stdoutIsTty: process.stdout.isTTY === true,
    stderrIsTty: process.stderr.isTTY === true,
    readFile: (path) => readFileSync(path, "utf8"),
  });
  switch (command.name) {
    case "help":
      process.stdout.write(helpText(VERSION));
      return 0;
    case "version":
      process.stdout.write(`${VERSION}\n`);
      return 0;
    case "self-test": {
      const { selfTest } = await import("./src/start/selftest.ts");
      for (const line of await selfTest()) process.stdout.write(`${line}\n`);
      return Number(process.exitCode ?? 0);
    }
    case "ring":
      return lookAtRing(command);
    case "pull-model":
      await pullModel({
        name: command.model,
        from: command.from,
        modelsDir: command.config.modelsDir,
        hfEndpoint: process.env.HF_ENDPOINT ?? null,
        workerUrl: workerUrl("embed"),
        progress: (line) => process.stderr.write(`${line}\n`),
      });
      return 0;
    default:
      return run(command);
  }
}

main().then(
  (exitCode) => process.exit(exitCode),
  (error: unknown) => {
    const expected = error instanceof GatewayError;
    process.stderr.write(`one_file_gateway: ${expected ? error.message : (error as Error).stack}\n`);
    process.exit(expected && error.code === "usage" ? 2 : 1);
  },
);
