/**
 * Steps and child processes for the scripts. A step prints what it does and how long it took. A child process is
 * bounded in time and never outlives the script. This file imports only modules that Bun brings, because start and setup
 * use it before any package is installed.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";

/** The top of the repository. */
export const ROOT = resolve(import.meta.dir, "..");
/** Holds stamps, reports and other files that may be deleted at any time. Git ignores it. */
export const CACHE = join(ROOT, ".cache");

/** The version of Bun that the repository is pinned to, from the devDependencies in package.json. */
export function pinnedBun(): string {
  const manifest = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
  return manifest.devDependencies.bun;
}

/** A failed step: which one, why, and what to do. The scripts print it without a stack trace. */
export class StepError extends Error {
  readonly fix: string;
  constructor(what: string, why: string, fix: string) {
    super(`${what}: ${why}`);
    this.fix = fix;
  }
}

/** Prints a line, runs the action, and prints how it ended: the text that the action returns, or "done". */
export async function step(name: string, action: () => Promise<string | undefined>): Promise<void> {
  const started = performance.now();
  console.error(`[..] ${name}`);
  // Prints while it runs, because a long silence looks like a hang.
  const ticker = setInterval(() => console.error(`[..] ${name}: ${elapsed(started)} so far`), 15_000);
  try {
    const words = await action();
    console.error(`[ok] ${name}: ${words ?? "done"} (${elapsed(started)})`);
  } catch (error) {
    console.error(`[!!] ${name}: failed (${elapsed(started)})`);
    throw error;
  } finally {
    clearInterval(ticker);
  }
}

/** Seconds since `started` (performance.now()), as text. */
export function elapsed(started: number): string {
  const seconds = (performance.now() - started) / 1000;
  return seconds < 10 ? `${seconds.toFixed(1)} s` : `${Math.round(seconds)} s`;
}

/** Ends a script: prints a failure as what, why and what to do, and exits with 1. */
export function fail(error: unknown): never {
  if (error instanceof StepError) {
    console.error(`\n${error.message}\nWhat to do: ${error.fix}`);
  } else {
    console.error(error);
  }
  process.exit(1);
}

export interface RunOptions {
  readonly cwd?: string;
  /** Variables to add to the script's environment; undefined removes one. */
  readonly env?: Record<string, string | undefined>;
  /** Replaces the environment. */
  readonly onlyEnv?: Record<string, string>;
  /** After this long the child and everything that it started are killed. Default: ten minutes. */
  readonly timeoutMs?: number;
  /** Also prints the output while the program runs. */
  readonly show?: boolean;
}

export interface RunResult {
  /** The exit code; 128 if a signal ended it, 127 if it could not be started. */
  readonly code: number;
  /** Standard output and error in the order of arrival; the last 16 MiB. */
  readonly output: string;
  readonly timedOut: boolean;
}

const OUTPUT_CHARS_MAX = 16 * 1024 * 1024;
const running = new Set<ChildProcess>();

function killGroup(child: ChildProcess): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, "SIGKILL");
  } catch {
    // The group has already ended.
  }
}

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => {
    for (const child of running) killGroup(child);
    process.exit(signal === "SIGINT" ? 130 : 143);
  });
}

/** Runs a program in a process group of its own until it ends. Never rejects. */
export function run(command: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const [program = "", ...args] = command;
  const env: Record<string, string> = {};
  for (const [name, value] of Object.entries(options.onlyEnv ?? { ...process.env, ...options.env })) {
    if (value !== undefined) env[name] = value;
  }
  return new Promise((done) => {
    let output = "";
    let timedOut = false;
    const take = (chunk: Buffer): void => {
      const text = chunk.toString();
      output = (output + text).slice(-OUTPUT_CHARS_MAX);
      if (options.show) process.stderr.write(text);
    };
    const child = spawn(program, args, {
      cwd: options.cwd ?? ROOT,
      env,
      detached: true,
      stdio: ["ignore", "pipe", "pipe"],
    });
    running.add(child);
    const timer = setTimeout(() => {
      timedOut = true;
      killGroup(child);
    }, options.timeoutMs ?? 600_000);
    const end = (code: number): void => {
      clearTimeout(timer);
      // Ends what the child left running, such as the gateway of a failed test.
      killGroup(child);
      running.delete(child);
      done({ code, output, timedOut });
    };
    child.stdout?.on("data", take);
    child.stderr?.on("data", take);
    child.on("error", (error) => {
      output += `${program}: ${error.message}\n`;
      end(127);
    });
    // Waits for "exit" and a moment for the pipes. "close" would wait for grandchildren that hold the pipes open.
    child.on("exit", (code) => setTimeout(() => end(code ?? 128), 50));
  });
}

/** Runs a program that must succeed. @returns its output. @throws StepError with the last lines of its output. */
export async function must(
  what: string,
  command: readonly string[],
  fix: string,
  options: RunOptions = {},
): Promise<string> {
  const result = await run(command, options);
  if (result.code === 0) return result.output;
  const why = result.timedOut ? "it took too long and was ended" : `exit code ${result.code}`;
  // Output that was already printed is not repeated.
  const end = options.show ? "" : `\n${command.join(" ")}\n${lastLines(result.output, 25)}`;
  throw new StepError(what, `${why}${end}`, fix);
}

export function lastLines(text: string, count: number): string {
  return text.trimEnd().split("\n").slice(-count).join("\n");
}

/** The SHA-256 of files (paths and content) and texts, in hex. A missing file changes the result, too. */
export function fingerprint(files: readonly string[], texts: readonly string[] = []): string {
  const hash = createHash("sha256");
  for (const file of files) {
    const path = resolve(ROOT, file);
    hash.update(`\0${file}\0`);
    if (existsSync(path) && statSync(path).isFile()) hash.update(readFileSync(path));
    else hash.update("\0missing\0");
  }
  for (const text of texts) hash.update(`\0${text}\0`);
  return hash.digest("hex");
}

/** Whether the stamp file holds exactly this value. */
export function stamped(path: string, value: string): boolean {
  return existsSync(path) && readFileSync(path, "utf8") === value;
}

export function stamp(path: string, value: string): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, value);
}

/** The installed, pinned Bun; before the first install, the Bun that runs this script. */
export function bunPath(): string {
  const installed = join(ROOT, "node_modules", ".bin", "bun");
  return existsSync(installed) ? installed : process.execPath;
}
