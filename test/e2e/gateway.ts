/**
 * Runs the compiled gateway as a user would: from an empty folder, with an empty environment, over a
 * real socket. Also has a ring reader that is written from the byte table of docs/FRAME.md alone, and reads DuckDB.
 */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { DuckDBInstance } from "../../src/native/duckdb.ts";
import { randomOf } from "../random.ts";

const ROOT = resolve(import.meta.dir, "../..");
export const BINARY = process.env.GATEWAY_BINARY ?? join(ROOT, "one_file_gateway");

/** The messages of banking77, from the fixtures. */
export function bankingMessages(): { text: string; category: string }[] {
  const csv = readFileSync(join(ROOT, "test/fixtures/banking77.csv"), "utf8");
  const rows: { text: string; category: string }[] = [];
  // RFC 4180: a field may be quoted, quotes in it are doubled, and a quoted field may contain line breaks.
  for (const match of csv.matchAll(/(?:"((?:[^"]|"")*)"|([^",\r\n]*)),([a-zA-Z_?]+)\r?\n/g)) {
    rows.push({ text: match[1]?.replaceAll('""', '"') ?? match[2] ?? "", category: match[3] ?? "" });
  }
  return rows.slice(1);
}

/** Builds a gateway with a mutation of scripts/mutations.ts. @returns its path. */
export async function mutatedBuild(mutation: string): Promise<string> {
  const outfile = join(ROOT, ".cache", `one_file_gateway-${mutation}`);
  const build = Bun.spawn(
    [process.execPath, "scripts/build.ts", "--mutation", mutation, "--outfile", outfile],
    {
      cwd: ROOT,
      stdout: "pipe",
      stderr: "pipe",
    },
  );
  if ((await build.exited) !== 0) throw new Error(await new Response(build.stderr).text());
  return outfile;
}

export class TempFolder implements Disposable {
  readonly path = mkdtempSync(join(tmpdir(), "gateway-test-"));
  /** A ring path in shared memory that no other test uses. */
  readonly ring = join("/dev/shm", `gateway-test-${process.pid}-${Math.random().toString(36).slice(2)}`);
  file(name: string): string {
    return join(this.path, name);
  }
  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
    // Removes lock and labels, too, and what a gateway left that was killed while it made the ring.
    const beside = readdirSync(dirname(this.ring)).filter((name) => name.startsWith(basename(this.ring)));
    for (const name of beside) rmSync(join(dirname(this.ring), name), { recursive: true, force: true });
  }
}

export interface StartOptions {
  readonly args?: readonly string[];
  readonly env?: Record<string, string>;
  readonly binary?: string;
  readonly cwd?: string;
  /** Uses the default ring of 422 MB. Otherwise the ring has 20,000 frames, unless args say otherwise. */
  readonly defaultRing?: boolean;
}

/** A running gateway. Its log is kept for the messages of failing tests. */
export class Gateway implements AsyncDisposable {
  readonly process: Bun.Subprocess<"ignore", "pipe", "pipe">;
  url = "";
  log = "";
  out = "";
  readyMs = 0;
  readonly #reading: Promise<unknown>;

  private constructor(folder: TempFolder, options: StartOptions) {
    const args = ["--port", "0", "--ring-path", folder.ring, "--llm-base-url", "off", "--log-format", "text"];
    if (options.defaultRing !== true) args.push("--ring-capacity", "20000");
    this.process = Bun.spawn([options.binary ?? BINARY, ...args, ...(options.args ?? [])], {
      cwd: options.cwd ?? folder.path,
      env: { ...(options.env ?? {}) },
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    });
    const read = async (stream: ReadableStream<Uint8Array>, add: (text: string) => void): Promise<void> => {
      const decoder = new TextDecoder();
      for await (const chunk of stream) add(decoder.decode(chunk, { stream: true }));
    };
    this.#reading = Promise.all([
      read(this.process.stderr, (text) => {
        this.log += text;
      }),
      read(this.process.stdout, (text) => {
        this.out += text;
      }),
    ]);
  }

  /** Starts a gateway and returns at once. `url` is empty until {@link listening} resolves. */
  static launch(folder: TempFolder, options: StartOptions = {}): Gateway {
    return new Gateway(folder, options);
  }

  /** Starts a gateway and waits until it accepts events. */
  static async start(folder: TempFolder, options: StartOptions = {}): Promise<Gateway> {
    const gateway = new Gateway(folder, options);
    await gateway.listening();
    return gateway;
  }

  async listening(): Promise<void> {
    const startedMs = performance.now();
    await until("the gateway listens", () => {
      const match = /listening on (http:\/\/\S+?)[;\s]/.exec(this.log);
      if (match?.[1] !== undefined) this.url = match[1].replace(/\/$/, "");
      if (this.process.exitCode !== null) throw new Error(`exit code ${this.process.exitCode}\n${this.log}`);
      return this.url !== "";
    });
    this.readyMs = performance.now() - startedMs;
  }

  async exited(): Promise<number> {
    const code = await this.process.exited;
    await this.#reading;
    return code;
  }

  kill(): Promise<number> {
    this.process.kill("SIGKILL");
    return this.exited();
  }

  stop(): Promise<number> {
    this.process.kill("SIGTERM");
    return this.exited();
  }

  fetch(path: string, init: RequestInit = {}): Promise<Response> {
    return fetch(this.url + path, init);
  }

  async json<T = Record<string, unknown>>(path: string, init: RequestInit = {}): Promise<T> {
    return (await (await this.fetch(path, init)).json()) as T;
  }

  post(body: unknown, headers: Record<string, string> = {}): Promise<Response> {
    const text = typeof body === "string" ? body : JSON.stringify(body);
    return this.fetch("/ingest", {
      method: "POST",
      body: text,
      headers: { "content-type": "application/json", ...headers },
    });
  }

  postLines(lines: string, headers: Record<string, string> = {}): Promise<Response> {
    return this.post(lines, { "content-type": "application/x-ndjson", ...headers });
  }

  async metrics(headers: Record<string, string> = {}): Promise<Record<string, number>> {
    const text = await (await this.fetch("/metrics", { headers })).text();
    const found: Record<string, number> = {};
    for (const line of text.split("\n")) {
      const match = /^(\w+) ([-\d.e+]+)$/.exec(line);
      if (match?.[1] !== undefined) found[match[1]] = Number(match[2]);
    }
    return found;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.process.exitCode === null) await this.kill();
  }
}

/** Polls a condition. @throws Error that names the condition if it does not hold within `withinMs`. */
export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  withinMs = 120_000,
): Promise<void> {
  const deadline = performance.now() + withinMs;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`not within ${withinMs} ms: ${what}`);
    await Bun.sleep(5);
  }
}

const HEADER_BYTES = 64;
const FRAME_BYTES = 4224;

export interface RingHead {
  readonly capacity: number;
  readonly head: number;
  readonly tail: number;
  readonly epoch: number;
  readonly state: number;
}

/** Reads the ring's header by plain file reads; null if there is no ring yet. */
export function ringHead(path: string): RingHead | null {
  if (!existsSync(path)) return null;
  const bytes = new Uint8Array(HEADER_BYTES);
  readAt(path, bytes, 0);
  const view = new DataView(bytes.buffer);
  if (view.getBigUint64(0, true) !== 0x5048595349435300n) return null;
  return {
    capacity: Number(view.getBigUint64(16, true)),
    head: Number(view.getBigUint64(24, true)),
    tail: Number(view.getBigUint64(32, true)),
    epoch: view.getUint32(40, true),
    state: view.getUint32(60, true),
  };
}

function readAt(path: string, target: Uint8Array, position: number): void {
  const fs = require("node:fs") as typeof import("node:fs");
  const descriptor = fs.openSync(path, "r");
  try {
    fs.readSync(descriptor, target, 0, target.byteLength, position);
  } finally {
    fs.closeSync(descriptor);
  }
}

export interface RingFrame {
  readonly frameId: number;
  readonly eventSeq: number;
  readonly journalId: number;
  readonly flags: number;
  readonly bytes: Uint8Array;
}

/** All frames between tail and head, in order. The writer must be at rest. @throws Error if a frame is not whole. */
export function ringFrames(path: string): RingFrame[] {
  const header = ringHead(path);
  if (header === null) throw new Error(`no ring at ${path}`);
  const frames: RingFrame[] = [];
  const file = readFileSync(path);
  for (let id = header.tail; id < header.head; id++) {
    const at = HEADER_BYTES + (id % header.capacity) * FRAME_BYTES;
    const bytes = new Uint8Array(file.subarray(at, at + FRAME_BYTES));
    const view = new DataView(bytes.buffer, bytes.byteOffset, FRAME_BYTES);
    const whole = BigInt(2 * (Math.floor(id / header.capacity) + 1));
    const sequence = view.getBigUint64(0, true);
    const frameId = Number(view.getBigUint64(8, true));
    if (sequence !== whole || frameId !== id) {
      throw new Error(
        `frame ${id} between tail ${header.tail} and head ${header.head} is damaged: sequence ${sequence}, id ${frameId}`,
      );
    }
    frames.push({
      frameId,
      eventSeq: Number(view.getBigUint64(4192, true)),
      journalId: view.getUint32(4212, true),
      flags: view.getUint16(4202, true),
      bytes,
    });
  }
  return frames;
}

/** Runs SQL on a stopped gateway's database. */
export async function duckRows(path: string, sql: string): Promise<Record<string, unknown>[]> {
  const instance = await DuckDBInstance.create(path, { access_mode: "READ_ONLY" });
  try {
    const connection = await instance.connect();
    const reader = await connection.runAndReadAll(sql);
    const rows = reader.getRowObjects();
    connection.closeSync();
    return rows;
  } finally {
    instance.closeSync();
  }
}

/** All frames of /api/frames as raw bytes. */
export async function apiFrames(
  gateway: Gateway,
  headers: Record<string, string> = {},
): Promise<Uint8Array[]> {
  const frames: Uint8Array[] = [];
  let after: number | null = null;
  for (;;) {
    const query = after === null ? "?limit=1000" : `?limit=1000&after=${after}`;
    const response = await gateway.fetch(`/api/frames${query}`, {
      headers: { accept: "application/vnd.cs-physics.frames", ...headers },
    });
    if (response.status !== 200) throw new Error(`/api/frames: ${response.status} ${await response.text()}`);
    const bytes = new Uint8Array(await response.arrayBuffer());
    for (let at = 0; at < bytes.byteLength; at += FRAME_BYTES) frames.push(bytes.slice(at, at + FRAME_BYTES));
    const last = frames.at(-1);
    if (bytes.byteLength === 0 || last === undefined) return frames;
    after = Number(new DataView(last.buffer).getBigUint64(8, true));
  }
}

/** A small seeded generator. It prints its seed; `SEED` repeats a run. */
export function seededRandom(name: string): {
  seed: number;
  next: () => number;
  below: (n: number) => number;
} {
  const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 31));
  console.log(`${name}: SEED=${seed}`);
  const next = randomOf(seed);
  return { seed, next, below: (n) => Math.floor(next() * n) };
}
