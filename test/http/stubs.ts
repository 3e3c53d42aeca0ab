/** What the tests of `http` need around it: a journal in memory, a pipeline without parts, bare sockets. */
import { expect } from "bun:test";
import { connect } from "node:net";
import * as v from "valibot";
import { Chat, type ChatModel } from "../../src/brain/chat.ts";
import type { Changed, IntentExamples, IntentsState } from "../../src/brain/intents.ts";
import { isLoopback } from "../../src/config/config.ts";
import { GatewayError } from "../../src/errors.ts";
import type { ParsedEvent } from "../../src/event/event.ts";
import * as events from "../../src/event/event.ts";
import { type GatewayServer, type HttpOptions, serve } from "../../src/http/http.ts";
import type { Enrichment, Refusal, Snapshot } from "../../src/pipeline/snapshot.ts";
import { Schemas } from "../../src/schemas/schemas.ts";
import type { EventsPage, EventsQuery } from "../../src/store/protocol.ts";

export interface Kept {
  seq: number;
  id: string;
  key: string | null;
  type: string | null;
  body: string;
  receivedUs: number;
}

/** Commits at the next setImmediate, as the real journal does. Knows repeats, and fails on request. */
export class MemoryJournal {
  readonly journalId = 3_000_000_000;
  kept: Kept[] = [];
  /** How many events each append had. */
  appends: number[] = [];
  keepBodies = true;
  failWith: GatewayError | Error | null = null;
  /** Commits wait for this promise, if there is one. */
  hold: Promise<void> | null = null;
  readonly #byKey = new Map<string, Kept>();

  headSeq(): number {
    return this.kept.length;
  }

  async append(
    parsed: readonly ParsedEvent[],
    o: { source: string; receivedUs: number },
  ): Promise<{ seq: number; id: string; duplicate: boolean }[]> {
    this.appends.push(parsed.length);
    await (this.hold ?? new Promise((turn) => setImmediate(turn)));
    const failure = this.failWith;
    if (failure !== null) throw failure;
    return parsed.map((event) => {
      const same = event.dedupByBody ? `body ${Buffer.from(event.body)}` : null;
      const own = event.key ?? same;
      const key = own === null ? null : `${o.source} ${own}`;
      const first = key === null ? undefined : this.#byKey.get(key);
      if (first !== undefined) return { seq: first.seq, id: event.id ?? first.id, duplicate: true };
      const seq = this.kept.length + 1;
      const body = this.keepBodies ? Buffer.from(event.body).toString("utf8") : "";
      const row = {
        seq,
        id: event.id ?? `made-${seq}`,
        key: event.key,
        type: event.type,
        body,
        receivedUs: o.receivedUs,
      };
      this.kept.push(row);
      if (key !== null) this.#byKey.set(key, row);
      return { seq, id: row.id, duplicate: false };
    });
  }
}

export class StubPipeline {
  refusal: Refusal | null = null;
  enrichment: Enrichment | null = null;
  /** Whether enrichedWithin returns only after its timeout. */
  silent = false;
  frameBytes: Uint8Array = new Uint8Array(0);
  asked: { after: number | null; limit: number }[] = [];

  admission(): Refusal | null {
    return this.refusal;
  }

  async enrichedWithin(_seq: number, timeoutMs: number): Promise<Enrichment | null> {
    if (this.silent) await new Promise((done) => setTimeout(done, timeoutMs).unref());
    return this.enrichment;
  }

  /** The id of the first frame in `frameBytes`. */
  get #firstFrameId(): number {
    return Number(new DataView(this.frameBytes.buffer, this.frameBytes.byteOffset).getBigUint64(8, true));
  }

  /** Gives the frames after `after` in two chunks. */
  async frames(after: number | null, limit: number): Promise<{ chunks: Uint8Array[]; count: number }> {
    if (this.frameBytes.byteLength === 0) return { chunks: [], count: 0 };
    const from = Math.max(0, (after ?? 0) + 1 - this.#firstFrameId) * 4224;
    const bytes = this.frameBytes.subarray(from, from + limit * 4224);
    const count = bytes.byteLength / 4224;
    const half = bytes.subarray(0, Math.ceil(count / 2) * 4224);
    this.framesRead += count;
    const chunks = [half, bytes.subarray(half.byteLength)];
    return { chunks: chunks.filter((chunk) => chunk.byteLength > 0), count };
  }

  framesRead = 0;

  async framesExtent(after: number | null, limit: number): Promise<{ first: number; count: number } | null> {
    this.asked.push({ after, limit });
    const all = this.frameBytes.byteLength / 4224;
    const from = all === 0 ? 0 : Math.max(0, (after ?? 0) + 1 - this.#firstFrameId);
    const count = Math.min(all - from, limit);
    return count <= 0 ? null : { first: this.#firstFrameId + from, count };
  }

  next = 140;
  shownLabels = { intents: { "5": "Cancelar" }, types: {}, models: { "9": { name: "hashing", dim: 1024 } } };

  nextFrameId(): number {
    return this.next;
  }

  labels(): unknown {
    return this.shownLabels;
  }

  snapshot(): Snapshot {
    const ok = { state: "ok", detail: "" } as const;
    return {
      version: "0.0.0-test",
      startedUs: 1_700_000_000_000_000,
      nowUs: 1_700_000_001_000_000,
      embedderName: "hashing-1024-v1",
      parts: {
        journal: ok,
        store: { state: "starting", detail: "DuckDB is being opened" },
        ring: ok,
        embedder: ok,
        llm: ok,
      },
      counters: { frames_total: 7, ignored_fields_total: 0 },
      gauges: { head_seq: 12, store_lag_events: 3 },
      drift: [{ kind: "new_field", type: "Order", path: "late", at_us: 1_700_000_000_500_000 }],
    };
  }
}

/** Examples in memory. Tests decide whether a change is in force at once. */
export class StubIntents {
  readonly kept = new Map<string, readonly string[]>();
  inForce = true;
  refusal: string | null = null;
  failWith: GatewayError | null = null;
  readonly limits = {
    labelsMax: 10,
    labelCharsMax: 128,
    examplesPerLabelMax: 20,
    examplesMax: 100,
    exampleCharsMax: 200,
  } as unknown as HttpOptions["intents"]["limits"];
  state: IntentsState = {
    state: "ready",
    detail: "",
    calibration: { threshold: 0.4, accuracy: 0.9, answered: 0.8 },
    labels: 0,
    examples: 0,
    withoutVector: 0,
  };

  list(): IntentExamples[] {
    return [...this.kept].map(([label, examples]) => ({ label, examples }));
  }

  get(label: string): IntentExamples | null {
    const examples = this.kept.get(label);
    return examples === undefined ? null : { label, examples };
  }

  async put(label: string, examples: readonly string[]): Promise<Changed> {
    if (this.failWith !== null) throw this.failWith;
    if (this.refusal !== null) return { refused: this.refusal };
    this.kept.set(label, examples);
    return { inForce: this.inForce };
  }

  async delete(label: string): Promise<{ inForce: boolean } | null> {
    return this.kept.delete(label) ? { inForce: this.inForce } : null;
  }
}

export class StubStore {
  queries: EventsQuery[] = [];
  lag = 0;
  failWith: Error | null = null;
  /** The JSON of the events 1 to N. */
  kept: string[] = [];

  async events(query: EventsQuery): Promise<EventsPage & { lag: number }> {
    this.queries.push(query);
    if (this.failWith !== null) throw this.failWith;
    const { before, after, limit, bodyBytesMax = Number.POSITIVE_INFINITY } = query;
    const seqs = this.kept.map((_, index) => index + 1);
    const found =
      after === undefined
        ? seqs.filter((seq) => seq < (before ?? Number.POSITIVE_INFINITY)).reverse()
        : seqs.filter((seq) => seq > after);
    let bytes = 0;
    const page = found.slice(0, limit).filter((seq, index) => {
      bytes += this.kept[seq - 1]?.length ?? 0;
      return index === 0 || bytes <= bodyBytesMax;
    });
    const next = found.length > page.length ? (page.at(-1) ?? null) : null;
    const json = `{"events":[${page.map((seq) => this.kept[seq - 1]).join(",")}],"next":${next}}`;
    return { json, count: page.length, next, lag: this.lag };
  }

  async event(seq: number): Promise<{ json: string | null; lag: number }> {
    return { json: seq === 1 ? '{"seq":1}' : null, lag: this.lag };
  }
}

type Asked = Parameters<ChatModel["ask"]>[0];
type Streamed = Parameters<ChatModel["stream"]>[0];

/** A language model whose replies the test decides. A reply is checked by the schema of its question. */
export class StubModel implements ChatModel {
  state = { name: "ok", detail: "" };
  /** The reply to `ask`: unchecked JSON, unless there is a refusal. */
  found: unknown = { intent: null, slots: [] };
  refusal: { reason: string; retryable: boolean } | null = null;
  /** The reply to `stream`, piece by piece. An error among the pieces is thrown. */
  pieces: (string | Error)[] = ["Certo."];
  /** Streams wait for this promise before each piece, if there is one. */
  hold: Promise<void> | null = null;
  readonly asked: Omit<Asked, "schema">[] = [];
  readonly streamed: Streamed[] = [];
  /** How often a stream waited for `hold`. */
  held = 0;
  /** Streams that have ended, for whatever reason. */
  ended = 0;

  async ask<T>(
    request: Parameters<ChatModel["ask"]>[0] & { schema: v.GenericSchema<unknown, T> },
  ): Promise<{ ok: true; value: T } | { ok: false; reason: string; retryable: boolean }> {
    this.asked.push(request);
    if (this.refusal !== null) return { ok: false, ...this.refusal };
    const checked = v.safeParse(request.schema, this.found);
    return checked.success
      ? { ok: true, value: checked.output }
      : { ok: false, reason: "invalid", retryable: false };
  }

  async *stream(request: Streamed): AsyncGenerator<string> {
    this.streamed.push(request);
    const aborted = new Promise<void>((resolve) => {
      request.signal?.addEventListener("abort", () => resolve());
    });
    try {
      for (const piece of this.pieces) {
        if (this.hold !== null) this.held += 1;
        if (this.hold !== null) await Promise.race([this.hold, aborted]);
        if (request.signal?.aborted === true)
          throw new GatewayError({
            code: "llm_unavailable",
            operation: "llm: ask",
            object: "stub",
            detail: "aborted",
          });
        if (piece instanceof Error) throw piece;
        yield piece;
      }
    } finally {
      this.ended += 1;
    }
  }
}

export interface Harness extends AsyncDisposable {
  readonly server: GatewayServer;
  readonly url: string;
  readonly journal: MemoryJournal;
  readonly pipeline: StubPipeline;
  readonly schemas: Schemas;
  readonly model: StubModel;
  readonly chat: Chat;
  readonly intents: StubIntents;
  store: StubStore | null;
  readonly logged: string[];
  post(
    body: BodyInit | null,
    options?: { path?: string; headers?: Record<string, string> },
  ): Promise<Response>;
  postLines(body: BodyInit | null, headers?: Record<string, string>): Promise<Response>;
}

export function start(
  config: Partial<HttpOptions["config"]> = {},
  o: { readonly noModel?: boolean } = {},
): Harness {
  const journal = new MemoryJournal();
  const pipeline = new StubPipeline();
  const intents = new StubIntents();
  const logged: string[] = [];
  const schemas = new Schemas({ table: null, log: () => {} });
  const model = new StubModel();
  let sessions = 0;
  const chat = new Chat({
    llm: o.noModel === true ? null : model,
    knownTypes: (limit, also) => schemas.mostFrequent(limit, also),
    labels: () => [],
    envelope: events.FIELD_NAMES,
    nowMs: () => performance.now(),
    newSessionId: () => `session-${++sessions}`,
  });
  const server = serve({
    config: {
      host: "127.0.0.1",
      port: 0,
      token: null,
      insecure: false,
      maxBodyBytes: 64 * 1024 * 1024,
      ...config,
    },
    isLoopback,
    describeConfig: () => ({ port: 1, token: "set" }),
    journal,
    events,
    store: () => harness.store,
    pipeline,
    schemas,
    chat,
    intents: { limits: intents.limits, examples: intents },
    log: (level, message) => logged.push(`${level} ${message}`),
  });
  const harness: Harness = {
    server,
    url: server.url,
    journal,
    pipeline,
    schemas,
    model,
    chat,
    intents,
    store: new StubStore(),
    logged,
    post: (body, { path = "/ingest", headers = {} } = {}) =>
      fetch(server.url + path, {
        method: "POST",
        body,
        headers: { "content-type": "application/json", ...headers },
      }),
    postLines: (body, headers = {}) =>
      harness.post(body, { headers: { "content-type": "application/x-ndjson", ...headers } }),
    [Symbol.asyncDispose]: () => server.stop(),
  };
  return harness;
}

type BodyInit = string | Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array>;

export interface RawAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** Sends bytes as they are. Settles with the first response, or with "closed" if there is none. */
export function raw(port: number, bytes: string | Uint8Array): Promise<RawAnswer | "closed"> {
  return new Promise((resolve, reject) => {
    let text = "";
    const socket = connect(port, "127.0.0.1", () => socket.write(bytes));
    socket.on("data", (chunk) => {
      text += chunk.toString("latin1");
      const answer = parse(text);
      if (answer === null) return;
      socket.destroy();
      resolve(answer);
    });
    socket.on("close", () => resolve("closed"));
    socket.on("error", reject);
  });
}

function parse(text: string): RawAnswer | null {
  const end = text.indexOf("\r\n\r\n");
  if (end < 0) return null;
  const [first = "", ...lines] = text.slice(0, end).split("\r\n");
  const headers = Object.fromEntries(
    lines.map((line) => [
      line.slice(0, line.indexOf(":")).toLowerCase(),
      line.slice(line.indexOf(":") + 1).trim(),
    ]),
  );
  const body = text.slice(end + 4);
  if (body.length < Number(headers["content-length"] ?? 0)) return null;
  return { status: Number(first.split(" ")[1]), headers, body };
}

/** Settles when `condition` holds. @throws (rejects) Error if it does not hold within 30 s. */
export async function until(what: string, condition: () => boolean): Promise<void> {
  const endMs = performance.now() + 30_000;
  while (!condition()) {
    if (performance.now() > endMs) throw new Error(`waited 30 s for: ${what}`);
    await Bun.sleep(2);
  }
}

export function failure(code: "disk_full" | "journal_failed" | "store_failed", detail: string): GatewayError {
  return new GatewayError({ code, operation: "journal: append", object: "/x.journal", detail });
}

/** The problem in a response, after checking everything that all problems have in common. */
export async function problem(
  answer: Response,
  status: number,
  code: string,
): Promise<Record<string, unknown>> {
  const text = await answer.text();
  expect(`${answer.status} ${text}`).toStartWith(`${status} {`);
  expect(answer.headers.get("content-type")).toBe("application/problem+json");
  expect(answer.headers.get("x-request-id")).toMatch(/^[\x21-\x7e]{1,128}$/);
  const body = JSON.parse(text);
  expect(body).toMatchObject({ status, code, type: `urn:one-file-gateway:problem:${code}` });
  for (const member of ["title", "detail"]) expect(body[member]).toBeString();
  expect(body).toHaveProperty("hint");
  if (status === 503) expect(Number(answer.headers.get("retry-after"))).toBeGreaterThan(0);
  return body;
}

export const lines = (count: number, make = (n: number) => `{"message":"m${n}"}`): string =>
  Array.from({ length: count }, (_, n) => `${make(n)}\n`).join("");

/** A body whose chunks the test sends one by one. */
export function feed(): { body: ReadableStream<Uint8Array>; send(text: string): void; end(): void } {
  let controller: ReadableStreamDefaultController<Uint8Array> | undefined;
  const body = new ReadableStream<Uint8Array>({
    start(given) {
      controller = given;
    },
  });
  return {
    body,
    send: (text) => controller?.enqueue(new TextEncoder().encode(text)),
    end: () => controller?.close(),
  };
}

export const get = (url: string, headers: Record<string, string> = {}): Promise<Response> =>
  fetch(url, { headers });

export function learn(http: Harness, type: string | null, ...bodies: unknown[]): void {
  for (const body of bodies)
    http.schemas.observe(type, new TextEncoder().encode(JSON.stringify(body)), 1_700_000_000_000_000);
}
