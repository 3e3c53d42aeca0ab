/** Starts the writers and readers of the torture tests, reads their output, and ends them. */
import { closeSync, openSync, readSync } from "node:fs";
import { join } from "node:path";
import type { WriterOptions, WriterSaid } from "./writer.ts";

const ROOT = join(import.meta.dir, "../..");
const PYTHON = join(ROOT, ".venv/bin/python");
export const CC = Bun.which("cc");

export interface ReaderSaid {
  readonly accepted: number;
  /** Accepted frames with a wrong byte. */
  readonly torn: number;
  readonly lost: number;
  /** The first id, and the last accepted one. */
  readonly first: number;
  readonly last: number;
  /** Violations of the protocol or of the reader's own counts. */
  readonly violations: number;
  readonly events?: Record<string, number>;
  readonly done: boolean;
}

export type ReaderMode = "since" | "follow" | "batch" | "latest" | "view" | "c";

/** A child process that prints JSON lines, and ends when its stdin closes. */
export class Program<Said> implements AsyncDisposable {
  readonly process: Bun.Subprocess<"pipe", "pipe", "pipe">;
  readonly name: string;
  /** The newest line. */
  said: Said | null = null;
  readonly #heard: Promise<void>;
  readonly #errors: Promise<string>;

  constructor(name: string, command: readonly string[]) {
    this.name = name;
    this.process = Bun.spawn([...command], {
      env: { ...process.env, PYTHONPATH: ROOT, PYTHONDONTWRITEBYTECODE: "1" },
      stdin: "pipe",
      stdout: "pipe",
      stderr: "pipe",
    });
    this.#errors = new Response(this.process.stderr).text();
    this.#heard = this.#hear();
  }

  async #hear(): Promise<void> {
    const decoder = new TextDecoder();
    let rest = "";
    for await (const bytes of this.process.stdout) {
      const lines = (rest + decoder.decode(bytes, { stream: true })).split("\n");
      rest = lines.pop() as string;
      const line = lines.at(-1);
      if (line !== undefined) this.said = JSON.parse(line) as Said;
    }
  }

  /** Waits for a certain line. */
  async until(what: string, condition: (said: Said) => boolean, withinMs = 60_000): Promise<Said> {
    const deadlineMs = performance.now() + withinMs;
    for (;;) {
      if (this.said !== null && condition(this.said)) return this.said;
      if (this.process.exitCode !== null || this.process.signalCode !== null) {
        throw new Error(`${this.name} ended before ${what}: ${await this.#lastWords()}`);
      }
      if (performance.now() > deadlineMs) {
        throw new Error(
          `${this.name}: waited ${withinMs} ms in vain until ${what}: ${JSON.stringify(this.said)}`,
        );
      }
      await Bun.sleep(2);
    }
  }

  /** Ends the process. @returns its last line. */
  async end(withinMs = 60_000): Promise<Said> {
    this.process.stdin.end();
    const timer = setTimeout(() => this.process.kill("SIGKILL"), withinMs);
    const code = await this.process.exited;
    clearTimeout(timer);
    await this.#heard;
    if (code !== 0 || this.said === null) throw new Error(`${this.name}: ${await this.#lastWords()}`);
    return this.said;
  }

  async kill(): Promise<void> {
    this.process.kill("SIGKILL");
    await this.process.exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.process.exitCode === null && this.process.signalCode === null) await this.kill();
  }

  async #lastWords(): Promise<string> {
    const { exitCode, signalCode } = this.process;
    return `exit code ${exitCode}, signal ${signalCode}\n${await this.#errors}`;
  }
}

export type Writer = Program<WriterSaid>;
export type Reader = Program<ReaderSaid>;

const WRITER_DEFAULTS = { nextFrameId: 1, adopt: false, batchFrames: 1, burstSeed: null, neverOdd: false };

/** Starts a writer and waits until its ring exists. */
export async function startWriter(
  o: Pick<WriterOptions, "path" | "capacity"> & Partial<WriterOptions>,
): Promise<Writer> {
  const options: WriterOptions = { ...WRITER_DEFAULTS, ...o };
  const script = join(import.meta.dir, "writer.ts");
  const writer = new Program<WriterSaid>("writer", [process.execPath, script, JSON.stringify(options)]);
  await writer.until("the ring is there", () => true);
  return writer;
}

export interface ReaderOptions {
  readonly path: string;
  readonly mode: ReaderMode;
  /** The compiled reader.c, for mode c. */
  readonly binary?: string;
  /** The first frame_id to read; 0 starts at the head. */
  readonly first?: number;
  readonly statusMs?: number;
  readonly seed?: number;
  /** The control: leaves out the second check. */
  readonly trusting?: boolean;
}

/** Starts a reader and waits until it has attached. */
export async function startReader(o: ReaderOptions): Promise<Reader> {
  const { path, mode, first = 0, statusMs = 100, seed = 0, trusting = false } = o;
  const command =
    mode === "c"
      ? [o.binary as string, path, `${first}`, `${statusMs}`, ...(trusting ? ["trusting"] : [])]
      : [
          ...[PYTHON, join(import.meta.dir, "reader.py"), path, mode, "--first", `${first}`],
          ...["--status-s", `${statusMs / 1000}`, "--seed", `${seed}`, ...(trusting ? ["--trusting"] : [])],
        ];
  const reader = new Program<ReaderSaid>(`reader ${mode}`, command);
  await reader.until("it has attached", () => true);
  return reader;
}

/** Compiles reader.c into a folder. */
export function compileReader(folder: string): string {
  const binary = join(folder, "reader");
  const source = join(import.meta.dir, "reader.c");
  const { exitCode, stderr } = Bun.spawnSync([
    ...["cc", "-O3", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-o", binary, source],
  ]);
  if (exitCode !== 0) throw new Error(`torture: cc ${source}: ${stderr.toString()}`);
  return binary;
}

/** The head of a ring that a writer may be changing. */
export function headOf(path: string): number {
  const fd = openSync(path, "r");
  const bytes = new Uint8Array(8);
  readSync(fd, bytes, 0, 8, 24);
  closeSync(fd);
  return Number(new DataView(bytes.buffer).getBigUint64(0, true));
}
