/**
 * The composition root and the command line: it parses, wires, serves and drains. It holds no domain logic, and no
 * module imports it.
 */
import { lookup } from "node:dns/promises";
import { existsSync, readFileSync } from "node:fs";
import { claimLabels, openRing, RingLock, ringFits } from "./collider.ts";
import packageJson from "./package.json" with { type: "json" };
import { INTENT_LIMITS } from "./src/brain/brain.ts";
import { systemClock } from "./src/clock.ts";
import {
  type Command,
  type Config,
  describeConfig,
  helpText,
  isAddress,
  isLoopback,
  moveSecrets,
  parseCommand,
  secretsOf,
} from "./src/config/config.ts";
import { checkEmbedder, openHashing, pullModel } from "./src/embed/embed.ts";
import type { Embedder } from "./src/embed/embedder.ts";
import { GatewayError } from "./src/errors.ts";
import * as events from "./src/event/event.ts";
import { type GatewayServer, serve } from "./src/http/http.ts";
import type { Journal } from "./src/journal/journal.ts";
import type { Log } from "./src/log.ts";
import { replaceProcess } from "./src/native/libc.ts";
import { Rest } from "./src/native/rest.ts";
import { executableDir, isCompiled, workerUrl } from "./src/native/worker-url.ts";
import { Kinetics, spin } from "./src/physics.ts";
import { Pipeline } from "./src/pipeline/pipeline.ts";
import { type Scrub, scrubber } from "./src/secrets.ts";
import { compareStore, noteStoreLeft } from "./src/start/compare-store.ts";
import { playDemo } from "./src/start/demo.ts";
import { Desk, whyHeadless } from "./src/start/desk.ts";
import {
  checkUnpackFolder,
  freeDiskBytes,
  type Home,
  nameJournalFailure,
  openHome,
  openJournal,
} from "./src/start/home.ts";
import { makeLog } from "./src/start/log.ts";
import { openStore } from "./src/start/open-store.ts";
import { outboundFetch } from "./src/start/outbound.ts";
import { runRingCommand } from "./src/start/ring-command.ts";
import { complain, print, stderr } from "./src/start/stdio.ts";
import { STOP_MS_MAX, Stop } from "./src/start/stop.ts";
import { openEmbedder, openUnderstanding, type Understanding } from "./src/start/understanding.ts";
import type { Store } from "./src/store/store.ts";

const VERSION = packageJson.version;
/** Only x86-64 keeps the order of stores and loads that the ring's sequences need (docs/decisions/0006-order-of-stores.md). */
const CHECKSUMS = process.arch !== "x64";
/** How long ingest still answers 503 after a drain began, so that senders learn why they are refused. */
const DRAIN_GRACE_MS = 200;
/** How long the name in the variable HOST may take to resolve. */
const LOOKUP_MS = 2000;
/**
 * How long the start waits for DuckDB before it accepts events.
 * @bound the start waits for DuckDB to open | events are accepted, and wait for DuckDB in the journal
 */
const OPEN_FIRST_MS = 2000;
/** Until when, after a stop has begun, its parts are waited for; see {@link STOP_MS_MAX}. */
const SETTLED_MS = 2500;
const ANSWERED_MS = 4000;
const CLOSED_MS = 6500;
/** What came while the server stopped is framed within this time. */
const LAST_SETTLE_MS = 500;

const { nowUs } = systemClock;

/** Masks the secrets of the configuration, once that is read. */
let scrub: Scrub = (text) => text;

/** What a running gateway consists of, apart from its server, its dashboard and its pipeline. */
interface Parts extends Understanding {
  readonly config: Config;
  readonly log: Log;
  readonly home: Home;
  readonly journal: Journal;
  readonly hashing: Embedder;
  /** For whatever is asked of others. */
  readonly fetch: typeof fetch;
}

/** Takes the locks and opens everything that must be open before the first event is accepted. */
function openParts(config: Config, stack: DisposableStack, log: Log): Parts {
  checkUnpackFolder();
  checkEmbedder({ ...config, choice: config.embedder, hasEndpoint: config.llmBaseUrl !== null });
  const home = stack.use(openHome(config));
  stack.use(RingLock.acquire(config.ringPath, "pass another --ring-path"));
  ringFits({ path: config.ringPath, capacity: config.ringCapacity });
  claimLabels({ path: config.ringPath, mode: config.ringMode });
  const journal = stack.use(openJournal(config, home, nowUs));
  const fetch = outboundFetch();
  const understanding = stack.use(openUnderstanding(config, journal, { log, fetch }));
  return { ...understanding, config, log, home, journal, fetch, hashing: openHashing(workerUrl("embed")) };
}

interface PipelineOpening {
  readonly desk: Desk | null;
  /** The store that is being opened; taken up when the pipeline starts. */
  readonly store: Promise<Store>;
  readonly fatal: (error: GatewayError) => void;
}

function openPipeline(parts: Parts, { desk, store, fatal }: PipelineOpening): Pipeline {
  const { config, log, home, journal, schemas, intents, replies, brain, hashing } = parts;
  return new Pipeline({
    version: VERSION,
    watch: desk?.dashboard ?? null,
    journal,
    kinetics: new Kinetics({}),
    spin,
    checksums: CHECKSUMS,
    schemas,
    textOf: events.textOf,
    hashing,
    openStore: () => store,
    openRing: (newest) => {
      const { ringPath: path, ringCapacity: capacity, ringMode: mode, dbPath } = config;
      const adopt = journal.sameBoot && dbPath !== null;
      const { journalId } = journal;
      const nextFrameId = journal.nextFrameId();
      const { firstFrameId } = journal.gaps;
      return openRing({ path, capacity, mode, journalId, nextFrameId, firstFrameId, adopt, log }, newest);
    },
    openEmbedder: async () => {
      const embedder = await openEmbedder(config, journal, { log, fetch: parts.fetch });
      // Waits for the examples to be learned: otherwise the backlog of the last run would be framed without them.
      await intents.attach(embedder);
      return embedder;
    },
    otherMetrics: () => ({
      counters: replies.counters,
      gauges: { ...intents.gauges, remembered_answers: replies.size },
    }),
    brain,
    frameWaitMs: config.frameWaitMs,
    reembed: config.reembed,
    maxBacklogEvents: config.maxBacklogEvents,
    freeDiskBytes: () => freeDiskBytes(home.journalPath),
    clock: systemClock,
    log,
    fatal,
  });
}

function openServer(
  { config, log, journal, schemas, chat, intents }: Parts,
  pipeline: Pipeline,
): GatewayServer {
  return serve({
    config,
    isLoopback,
    describeConfig: () => describeConfig(config),
    journal,
    events,
    store: () => pipeline.store(),
    pipeline,
    schemas,
    chat,
    intents: { limits: INTENT_LIMITS, examples: intents },
    log,
  });
}

/** Begins to open DuckDB, and waits for it if only DuckDB can tell which numbers the journal may give. */
async function startStore({
  config,
  home,
  journal,
  log,
}: Parts): Promise<{ readonly store: Promise<Store> }> {
  const open = (): Promise<Store> => openStore(config, home, journal, log);
  const opened = await compareStore({ config, home, journal, log, openStore: open });
  return { store: opened === null ? open() : Promise.resolve(opened) };
}

/** Runs the gateway until a signal, the dashboard's `q` or a fatal error ends it. @returns the exit code. */
async function run(command: Extract<Command, { name: "run" | "demo" }>): Promise<number> {
  const { config, notes } = command;
  let desk: Desk | null = null;
  scrub = scrubber(secretsOf(config));
  const log = makeLog({ ...config, scrub, taker: () => desk });
  for (const note of notes) log("info", note);
  using stack = new DisposableStack();
  const parts = openParts(config, stack, log);
  const { store } = await startStore(parts);
  const ended = Promise.withResolvers<number>();
  const headless = whyHeadless(config);
  const quit = (): void => stop("q");
  const later = { pipeline: () => pipeline, server: () => server };
  if (headless === null) desk = stack.use(new Desk({ version: VERSION, ...parts, ...later, quit }));
  const fatal = (error: GatewayError): void => {
    log("error", error.message);
    ended.resolve(1);
  };
  const pipeline: Pipeline = openPipeline(parts, { desk, store, fatal });
  let stopping: Stop | null = null;
  const stop = (signal: string): void => {
    // A closing terminal may send SIGHUP more than once.
    if (stopping !== null && signal === "SIGHUP") return;
    if (stopping !== null) process.exit(130);
    stopping = new Stop({ clock: systemClock, log });
    log("info", `${signal}: finishing what was received; again to stop at once`);
    pipeline.beginDrain();
    ended.resolve(0);
  };
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => stop(signal));
  // A database that cannot be opened is told before an event is acknowledged, except if that is found out only after a long replay.
  await Promise.race([store, systemClock.sleep(OPEN_FIRST_MS)]);
  const server: GatewayServer = openServer(parts, pipeline);
  stack.use(new Rest(systemClock, () => server.metrics.bodyBytes));
  const kept = config.dbPath === null ? "; nothing is kept without --db-path" : "";
  log("info", `listening on ${server.url}${kept}`);
  if (headless !== null) log("info", `headless: ${headless}`);
  parts.brain.llm.start();
  pipeline.start();
  if (command.name === "demo") {
    const isStopping = (): boolean => stopping !== null;
    void playDemo({
      ...{ url: server.url, token: config.token, log },
      ...{ fetch: parts.fetch, clock: systemClock, isStopping },
    });
  }
  if (desk !== null) {
    process.on("SIGHUP", () => stop("SIGHUP"));
    await desk.open();
  }
  try {
    const exitCode = await ended.promise;
    await drain(parts, server, pipeline, stopping ?? new Stop({ clock: systemClock, log }));
    return exitCode;
  } finally {
    await desk?.close();
  }
}

/** Finishes what was received, then stops everything in the reverse order of its start, all before the deadline of `stop`. */
async function drain(parts: Parts, server: GatewayServer, pipeline: Pipeline, stop: Stop): Promise<void> {
  server.drain();
  const settle = () =>
    Promise.all([pipeline.settle(stop.leftMs(SETTLED_MS)), systemClock.sleep(DRAIN_GRACE_MS)]);
  await stop.step("framing what was received", SETTLED_MS + 100, settle);
  // Ends the requests that still wait for the model or for examples to be learned, so that the server can stop.
  await stop.step("the language model", ANSWERED_MS, () => parts.brain.llm[Symbol.asyncDispose]());
  parts.intents.stop();
  await stop.step("the model's replies", ANSWERED_MS, () => parts.replies.flush());
  await stop.step("the HTTP server", ANSWERED_MS + 500, () => server.stop(stop.leftMs(ANSWERED_MS)));
  await stop.step("ring, DuckDB and embedder", CLOSED_MS + 500, () =>
    pipeline.close({
      settleMs: Math.min(LAST_SETTLE_MS, stop.leftMs(CLOSED_MS)),
      storeMs: stop.leftMs(CLOSED_MS),
    }),
  );
  await stop.step("the hashing embedder", CLOSED_MS + 500, () => parts.hashing[Symbol.asyncDispose]());
  await stop.step("the journal", STOP_MS_MAX, () => {
    // An attempt to open DuckDB that a stop has cut off says nothing about its log.
    parts.journal.clearOpenAttempts();
    noteStoreLeft(parts);
  });
}

/**
 * Takes secrets off the command line: starts this process anew with them in its environment. That costs a tenth of a second. If it fails,
 * the gateway runs as it is.
 */
function hideSecrets(): void {
  const moved = isCompiled() ? moveSecrets(process.argv.slice(2)) : null;
  if (moved === null) return;
  replaceProcess(process.execPath, [process.argv0, ...moved.args], { ...process.env, ...moved.env });
}

/** Whether a name of a host can be resolved. */
async function isFound(host: string): Promise<boolean> {
  if (host === "" || isAddress(host)) return false;
  const late = systemClock.sleep(LOOKUP_MS).then(() => false);
  const found = lookup(host).then(
    () => true,
    () => false,
  );
  return Promise.race([found, late]);
}

async function main(): Promise<number> {
  // Events are private: new files are readable by this user only, unless --ring-mode says otherwise.
  process.umask(0o077);
  const command = parseCommand({
    args: process.argv.slice(2),
    env: process.env,
    dotenv: existsSync(".env") ? readFileSync(".env", "utf8") : null,
    workingDir: process.cwd(),
    executableDir: executableDir(),
    platform: process.platform,
    hostIsFound: await isFound(process.env.HOST ?? ""),
    stdoutIsTty: process.stdout.isTTY === true,
    stderrIsTty: process.stderr.isTTY === true,
    readFile: (path) => readFileSync(path, "utf8"),
  });
  if ("config" in command) hideSecrets();
  switch (command.name) {
    case "help":
      print(helpText(VERSION));
      return 0;
    case "version":
      print(`${VERSION}\n`);
      return 0;
    case "self-test": {
      const { selfTest } = await import("./src/start/selftest.ts");
      for (const line of await selfTest()) print(`${line}\n`);
      return Number(process.exitCode ?? 0);
    }
    case "ring":
      return runRingCommand(command);
    case "pull-model": {
      const stop = new AbortController();
      for (const signal of ["SIGTERM", "SIGINT"] as const) {
        process.on(signal, () => (stop.signal.aborted ? process.exit(130) : stop.abort()));
      }
      await pullModel({
        name: command.model,
        fetch: outboundFetch(),
        signal: stop.signal,
        from: command.from,
        modelsDir: command.config.modelsDir,
        hfEndpoint: process.env.HF_ENDPOINT ?? null,
        workerUrl: workerUrl("embed"),
        progress: (line) => stderr.write(line),
      });
      return 0;
    }
    default:
      return run(command).catch((error: unknown) => {
        throw nameJournalFailure(error, command.config);
      });
  }
}

main().then(
  (exitCode) => process.exit(exitCode),
  (error: unknown) => {
    const expected = error instanceof GatewayError;
    complain(scrub(expected ? error.message : String((error as Error).stack ?? error)));
    process.exit(expected && error.code === "usage" ? 2 : 1);
  },
);
