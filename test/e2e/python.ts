/** Python beside the gateway: consumer.py as a user runs it, and small scripts that import it. */
import { join, resolve } from "node:path";
import { until } from "./gateway.ts";

const ROOT = resolve(import.meta.dir, "../..");
export const CONSUMER = join(ROOT, "consumer.py");
/** With numpy and torch, as `bun run setup` makes it. */
export const PYTHON = join(ROOT, ".venv/bin/python");
/** With numpy 2 and without torch. */
export const PYTHON_WITHOUT_TORCH = join(ROOT, ".venv-numpy2/bin/python");

export interface PythonOptions {
  readonly python?: string;
  /** CS_PHYSICS_PATH of the process. */
  readonly ring: string;
  readonly cwd?: string;
}

export interface Outcome {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

function spawn(args: readonly string[], options: PythonOptions): Bun.Subprocess<"ignore", "pipe", "pipe"> {
  return Bun.spawn([options.python ?? PYTHON, ...args], {
    cwd: options.cwd ?? ROOT,
    env: {
      CS_PHYSICS_PATH: options.ring,
      PYTHONPATH: `${ROOT}:${join(ROOT, "test/py")}`,
      PYTHONDONTWRITEBYTECODE: "1",
      PYTHONUTF8: "1",
      PATH: process.env.PATH ?? "",
    },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
}

/** Runs to the end. */
export async function python(args: readonly string[], options: PythonOptions): Promise<Outcome> {
  const process_ = spawn(args, options);
  const [out, err, code] = await Promise.all([
    new Response(process_.stdout).text(),
    new Response(process_.stderr).text(),
    process_.exited,
  ]);
  return { code, out, err };
}

/** Runs `consumer.py` to the end. */
export function consumer(args: readonly string[], options: PythonOptions): Promise<Outcome> {
  return python([CONSUMER, ...args], options);
}

/** Runs a script that prints one JSON value, and gives that value. */
export async function pythonJson<T>(script: string, options: PythonOptions): Promise<T> {
  const { code, out, err } = await python(["-c", script], options);
  if (code !== 0) throw new Error(`the script ended with ${code}\n${err}`);
  return JSON.parse(out) as T;
}

/** `consumer.py --follow` in the background; its lines as they come. */
export class Follower implements AsyncDisposable {
  readonly lines: string[] = [];
  err = "";
  readonly #process: Bun.Subprocess<"ignore", "pipe", "pipe">;
  readonly #reading: Promise<unknown>;

  constructor(args: readonly string[], options: PythonOptions) {
    this.#process = spawn([CONSUMER, "--follow", ...args], options);
    this.#reading = Promise.all([this.#readLines(), this.#readErrors()]);
  }

  async #readLines(): Promise<void> {
    const decoder = new TextDecoder();
    let rest = "";
    for await (const chunk of this.#process.stdout) {
      const parts = (rest + decoder.decode(chunk, { stream: true })).split("\n");
      rest = parts.pop() ?? "";
      this.lines.push(...parts);
    }
  }

  async #readErrors(): Promise<void> {
    const decoder = new TextDecoder();
    for await (const chunk of this.#process.stderr) this.err += decoder.decode(chunk, { stream: true });
  }

  /** Waits for a condition on what it printed; an end of the process is a failure at once. */
  async until(what: string, condition: () => boolean, withinMs = 30_000): Promise<void> {
    const seen = (): string => `${this.lines.length} lines, the last: ${this.lines.at(-1)}\n${this.err}`;
    const check = (): boolean => {
      if (condition()) return true;
      if (this.#process.exitCode !== null) {
        throw new Error(`the follower ended with ${this.#process.exitCode}: ${seen()}`);
      }
      return false;
    };
    await until(what, check, withinMs).catch((error: Error) => {
      throw new Error(`${error.message}: ${seen()}`);
    });
  }

  /** Ctrl-C. @returns the exit code. */
  async interrupt(): Promise<number> {
    this.#process.kill("SIGINT");
    const code = await this.#process.exited;
    await this.#reading;
    return code;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#process.exitCode === null) this.#process.kill("SIGKILL");
    await this.#process.exited;
  }
}
