/**
 * Embedders behind one interface: a local ONNX model, an OpenAI-compatible endpoint, feature
 * hashing, or none; and the choice between them, which is made once per database.
 */

import { basename } from "node:path";
import OpenAI, { APIConnectionError, APIConnectionTimeoutError, APIError, APIUserAbortError } from "openai";
import * as v from "valibot";
import { GatewayError, messageOf } from "../errors.ts";
import { modelId, SEMANTIC_DIM_MAX } from "../frame.ts";
import type { Log } from "../log.ts";
import type { Calibration, LabelledVectors } from "../nearest/nearest.ts";
import type { EmbeddedTexts, Embedder, EmbedderKind } from "./embedder.ts";
import { HASHING_DIM, HASHING_NAME } from "./hashing.ts";
import { findModel, type PullOptions, pullModel as pull } from "./models.ts";
import { RecentVectors } from "./recent.ts";
import { type EmbedWorker, Examples, embeddedOf, workerOf } from "./thread.ts";

/** What the journal keeps of the choice. */
export interface RecordedEmbedder {
  readonly kind: EmbedderKind;
  readonly name: string;
  /** 0 where it was not known yet. */
  readonly dim: number;
}

export interface ChooseOptions {
  readonly choice: "auto" | EmbedderKind;
  /** Null: this database has not decided yet. */
  readonly recorded: RecordedEmbedder | null;
  readonly modelsDir: string;
  /** As given by the user; null: the default of the kind. */
  readonly embeddingModel: string | null;
  /** Null or "off": there is no endpoint. */
  readonly baseUrl: string | null;
  readonly apiKey: string | null;
  readonly workerUrl: string | URL;
  readonly log: Log;
  readonly fetch?: typeof fetch;
  /** For asking the endpoint what it has; default 1,000. */
  readonly probeTimeoutMs?: number;
  /** For a call to the endpoint; default 30,000. */
  readonly timeoutMs?: number;
}

export interface ChosenEmbedder {
  readonly embedder: Embedder;
  /** To be recorded in the database in place of what was. */
  readonly record: RecordedEmbedder;
  /** One line for the user at this start, or null. */
  readonly advice: string | null;
}

export const REMOTE_MODEL_DEFAULT = "text-embedding-bge-m3@f16";
export const LOCAL_MODEL_DEFAULT = "bge-m3";

/**
 * Decides the embedder by --embedder and what this database recorded.
 *
 * `auto` without a record: a local model where --models-dir holds one, else an endpoint that lists an
 * embedding model, else hashing. `auto` with a record keeps it: a recorded model that is away is returned
 * all the same and fails with embedder_unavailable until it is back. Anything else switches to what it says.
 * @throws GatewayError model_missing, model_invalid, embedder_invalid, usage: what was asked for cannot be.
 */
export async function chooseEmbedder(o: ChooseOptions): Promise<ChosenEmbedder> {
  const chosen = await choose(o);
  const { kind, name, dim } = chosen.embedder;
  let { advice } = chosen;
  if (o.recorded !== null && o.recorded.name !== name && advice === null) {
    advice = `embeddings are now ${name}; frames so far have those of ${o.recorded.name} and keep them`;
  }
  return { embedder: chosen.embedder, record: { kind, name, dim }, advice };
}

type Choice = Pick<ChosenEmbedder, "embedder" | "advice">;

async function choose(o: ChooseOptions): Promise<Choice> {
  if (o.choice === "off") return { embedder: new OffEmbedder(), advice: null };
  if (o.choice === "hashing") return { embedder: openHashing(o.workerUrl), advice: null };
  if (o.choice === "local") return { embedder: await openLocal(o), advice: null };
  if (o.choice === "remote") return { embedder: await openRemote(o), advice: null };
  if (o.recorded === null) return decide(o);
  if (o.recorded.kind === "local") return { embedder: await openRecordedLocal(o, o.recorded), advice: null };
  if (o.recorded.kind === "remote") return { embedder: recordedRemote(o, o.recorded), advice: null };
  const embedder = o.recorded.kind === "off" ? new OffEmbedder() : openHashing(o.workerUrl);
  return { embedder, advice: await betterThan(o, embedder) };
}

/** The first start of a database without a word from the user. */
async function decide(o: ChooseOptions): Promise<Choice> {
  if (findModel(o.modelsDir, o.embeddingModel) !== null)
    return { embedder: await openLocal(o), advice: null };
  const listed = await listedModel(o);
  let why = "no model is in --models-dir and no endpoint lists one";
  if (listed !== null) {
    const remote = new RemoteEmbedder(o, { name: listed, dim: 0 });
    const refused = await probe(remote, o);
    if (refused === null) return { embedder: remote, advice: null };
    await remote[Symbol.asyncDispose]();
    why = refused.message;
  }
  return {
    embedder: openHashing(o.workerUrl),
    advice: `embeddings are lexical (${HASHING_NAME}), not semantic: ${why}; run "one_file_gateway pull-model" and pass --embedder local`,
  };
}

/** Points out a real embedder to somebody who runs without. */
async function betterThan(o: ChooseOptions, embedder: Embedder): Promise<string | null> {
  const folder = findModel(o.modelsDir, o.embeddingModel);
  const listed = folder === null ? await listedModel(o) : null;
  if (folder === null && listed === null) return null;
  const found = folder === null ? `the endpoint has ${listed}` : `there is a model at ${folder}`;
  const flag = folder === null ? "remote" : "local";
  return `this database was begun with --embedder ${embedder.kind} and stays with it; ${found}: pass --embedder ${flag} to use it from now on`;
}

/** The hashing embedder in the embed Worker; never fails. */
export function openHashing(workerUrl: string | URL): Embedder {
  return new HashingEmbedder(workerOf(workerUrl));
}

async function openLocal(o: ChooseOptions): Promise<Embedder> {
  const folder = findModel(o.modelsDir, o.embeddingModel);
  if (folder === null) {
    throw new GatewayError({
      code: "model_missing",
      operation: "embed: find model",
      object: `${o.embeddingModel ?? LOCAL_MODEL_DEFAULT} in ${o.modelsDir}`,
      detail: "there is no such model",
      hint: 'run "one_file_gateway pull-model" or pass --embedder remote or hashing',
    });
  }
  return openModel(folder, o.workerUrl);
}

/**
 * Opens one model's folder in the embed Worker.
 * @throws GatewayError model_missing, model_invalid.
 */
export async function openModel(folder: string, workerUrl: string | URL): Promise<Embedder> {
  const embedder = new LocalEmbedder(workerOf(workerUrl), {
    find: () => folder,
    name: basename(folder),
    dim: 0,
  });
  await embedder.load();
  return embedder;
}

/**
 * Gets a model and opens it in the embed Worker for the check at the end: see `pullModel` of models.ts.
 * @returns the model's folder.
 */
export function pullModel(
  o: Omit<PullOptions, "openModel"> & { readonly workerUrl: string | URL },
): Promise<string> {
  return pull({ ...o, openModel: (folder) => openModel(folder, o.workerUrl) });
}

async function openRecordedLocal(o: ChooseOptions, recorded: RecordedEmbedder): Promise<Embedder> {
  const wanted = o.embeddingModel ?? (recorded.name.split("@")[0] as string);
  const find = (): string | null => findModel(o.modelsDir, wanted);
  const embedder = new LocalEmbedder(workerOf(o.workerUrl), { find, name: recorded.name, dim: recorded.dim });
  try {
    await embedder.load();
  } catch (error) {
    // The database stays with its model; frames wait for it, and go out without vector if it does not come.
    o.log("warn", `${messageOf(error)}; this database is embedded by ${recorded.name} and waits for it`);
  }
  return embedder;
}

async function openRemote(o: ChooseOptions): Promise<Embedder> {
  if (endpointOf(o) === null) {
    throw new GatewayError({
      code: "usage",
      operation: "embed: choose",
      object: "--embedder remote",
      detail: "there is no endpoint",
      hint: "pass --llm-base-url URL",
    });
  }
  const recorded = o.recorded?.kind === "remote" ? o.recorded : null;
  if (recorded !== null) return recordedRemote(o, recorded);
  const name = o.embeddingModel ?? (await listedModel(o)) ?? REMOTE_MODEL_DEFAULT;
  const remote = new RemoteEmbedder(o, { name, dim: 0 });
  // An endpoint that lies now may be mended while the gateway runs: frames wait for it as for one that is away.
  const refused = await probe(remote, o);
  if (refused !== null) o.log("error", `${refused.message}; frames wait for it`);
  return remote;
}

function recordedRemote(o: ChooseOptions, recorded: RecordedEmbedder): Embedder {
  const name = o.embeddingModel ?? recorded.name;
  return new RemoteEmbedder(o, { name, dim: name === recorded.name ? recorded.dim : 0 });
}

/** Learns the dimension. Returns why the model cannot be used; away or slow is no reason. */
async function probe(remote: RemoteEmbedder, o: ChooseOptions): Promise<GatewayError | null> {
  try {
    await remote.embedWithin(["ready"], o.probeTimeoutMs ?? PROBE_TIMEOUT_MS);
    return null;
  } catch (error) {
    if (!(error instanceof GatewayError)) throw error;
    if (error.code === "embedder_invalid") return error;
    o.log("warn", `${error.message}; frames wait for it`);
    return null;
  }
}

const NO_TEXTS: EmbeddedTexts = { rows: new Float32Array(0), nearest: [] };

// --- off and hashing --------------------------------------------------------------------------

class OffEmbedder implements Embedder {
  readonly kind = "off";
  readonly name = "off";
  readonly dim = 0;
  readonly modelId = 0;
  readonly recomputed = false;
  readonly maxBatch = 1024;

  async embed(): Promise<Float32Array> {
    return new Float32Array(0);
  }

  async embedNearest(texts: readonly string[]): Promise<EmbeddedTexts> {
    return { rows: new Float32Array(0), nearest: texts.map(() => null) };
  }

  async setExamples(): Promise<null> {
    return null;
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}

class HashingEmbedder implements Embedder {
  readonly kind = "hashing";
  readonly name = HASHING_NAME;
  readonly dim = HASHING_DIM;
  readonly modelId = modelId(HASHING_NAME);
  readonly recomputed = true;
  readonly maxBatch = 256;
  readonly #worker: EmbedWorker;
  readonly #examples: Examples;

  constructor(worker: EmbedWorker) {
    this.#worker = worker;
    this.#examples = new Examples(() => worker);
  }

  async embed(texts: readonly string[]): Promise<Float32Array> {
    return (await this.embedNearest(texts, [])).rows;
  }

  async embedNearest(texts: readonly string[], wanted: readonly boolean[]): Promise<EmbeddedTexts> {
    if (texts.length === 0) return NO_TEXTS;
    const asked = this.#examples.asked(wanted);
    return embeddedOf(await this.#worker.ask({ kind: "hash", texts, asked }), texts);
  }

  setExamples(examples: LabelledVectors): Promise<Calibration | null> {
    return this.#examples.set(examples);
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}

// --- local ------------------------------------------------------------------------------------

interface LocalSource {
  readonly find: () => string | null;
  readonly name: string;
  readonly dim: number;
}

class LocalEmbedder implements Embedder {
  readonly kind = "local";
  readonly recomputed = false;
  readonly maxBatch = 32;
  readonly #worker: EmbedWorker;
  readonly #source: LocalSource;
  readonly #examples: Examples;
  readonly #model: number;
  #name: string;
  #dim: number;
  #loading: Promise<void> | null = null;

  constructor(worker: EmbedWorker, source: LocalSource) {
    this.#worker = worker;
    this.#source = source;
    this.#name = source.name;
    this.#dim = source.dim;
    this.#examples = new Examples(() => worker);
    this.#model = worker.nextNumber();
  }

  get name(): string {
    return this.#name;
  }

  get dim(): number {
    return this.#dim;
  }

  get modelId(): number {
    return modelId(this.#name);
  }

  /** Loads the model once; after a failure the next call tries again. */
  load(): Promise<void> {
    this.#loading ??= this.#load().catch((error: unknown) => {
      this.#loading = null;
      throw error;
    });
    return this.#loading;
  }

  async #load(): Promise<void> {
    const folder = this.#source.find();
    if (folder === null) throw this.#unavailable("the model's folder is not there");
    const reply = await this.#worker.ask({ kind: "load", model: this.#model, folder });
    if (reply.kind !== "loaded") throw new Error(`embed: the worker answered ${reply.kind} to load`);
    this.#name = reply.name;
    this.#dim = reply.dim;
  }

  async embed(texts: readonly string[]): Promise<Float32Array> {
    return (await this.embedNearest(texts, [])).rows;
  }

  setExamples(examples: LabelledVectors): Promise<Calibration | null> {
    return this.#examples.set(examples);
  }

  async embedNearest(texts: readonly string[], wanted: readonly boolean[]): Promise<EmbeddedTexts> {
    if (texts.length === 0) return NO_TEXTS;
    try {
      await this.load();
    } catch (error) {
      // Whatever is wrong with the folder can be put right while the gateway runs.
      throw error instanceof GatewayError && error.code !== "embedder_unavailable"
        ? this.#unavailable(error.detail, error)
        : error;
    }
    const asked = this.#examples.asked(wanted);
    return embeddedOf(await this.#worker.ask({ kind: "embed", model: this.#model, texts, asked }), texts);
  }

  #unavailable(detail: string, cause?: unknown): GatewayError {
    return new GatewayError({
      code: "embedder_unavailable",
      operation: "embed: open model",
      object: this.#name,
      detail,
      hint: 'bring it back, or run "one_file_gateway pull-model"',
      cause,
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#loading !== null) await this.#worker.ask({ kind: "unload", model: this.#model });
  }
}

// --- remote -----------------------------------------------------------------------------------

const PROBE_TIMEOUT_MS = 1000;
const TIMEOUT_MS = 30_000;
const REMOTE_BATCH_MAX = 64;
/** What embedding models are called, where an endpoint lists models of all kinds. */
const EMBEDDING_NAMES = /embed|bge|\be5\b|gte|minilm/i;

const ModelsSchema = v.object({ data: v.array(v.object({ id: v.string() })) });
const ReplySchema = v.object({
  data: v.array(v.object({ index: v.optional(v.number()), embedding: v.unknown() })),
});

function endpointOf(o: ChooseOptions): string | null {
  return o.baseUrl === null || o.baseUrl === "" || o.baseUrl === "off" ? null : o.baseUrl;
}

function clientOf(o: ChooseOptions, baseURL: string): OpenAI {
  return new OpenAI({
    baseURL,
    apiKey: o.apiKey ?? "none",
    // Nothing of the environment's OPENAI_* settings is meant for this endpoint.
    adminAPIKey: null,
    organization: null,
    project: null,
    webhookSecret: null,
    maxRetries: 0,
    logLevel: "off",
    ...(o.apiKey === null ? { defaultHeaders: { authorization: null } } : {}),
    ...(o.fetch === undefined ? {} : { fetch: o.fetch }),
  });
}

/** The embedding model that the endpoint lists: the wanted one first, else the first that is called like one. */
async function listedModel(o: ChooseOptions): Promise<string | null> {
  const baseURL = endpointOf(o);
  if (baseURL === null) return null;
  const timeoutMs = o.probeTimeoutMs ?? PROBE_TIMEOUT_MS;
  let answer: unknown;
  try {
    const signal = AbortSignal.timeout(timeoutMs);
    answer = await clientOf(o, baseURL).get("/models", { timeout: timeoutMs, signal });
  } catch (error) {
    // No endpoint is the usual case where nobody runs one, and no failure of ours.
    o.log("debug", `embed: list models ${shown(baseURL)}: ${messageOf(error)}`);
    return null;
  }
  const models = v.safeParse(ModelsSchema, answer);
  if (!models.success) return null;
  const ids = models.output.data.map((model) => model.id);
  const wanted = o.embeddingModel ?? REMOTE_MODEL_DEFAULT;
  if (ids.includes(wanted)) return wanted;
  return o.embeddingModel === null ? (ids.find((id) => EMBEDDING_NAMES.test(id)) ?? null) : null;
}

/** An address without what is secret in it. */
function shown(address: string): string {
  if (!URL.canParse(address)) return "(no valid address)";
  const url = new URL(address);
  return `${url.origin}${url.pathname}`;
}

class RemoteEmbedder implements Embedder {
  readonly kind = "remote";
  readonly name: string;
  readonly modelId: number;
  readonly recomputed = false;
  readonly maxBatch = REMOTE_BATCH_MAX;
  readonly #client: OpenAI | null;
  readonly #object: string;
  readonly #timeoutMs: number;
  readonly #stop = new AbortController();
  readonly #examples: Examples;
  readonly #recent = new RecentVectors();
  #dim: number;

  constructor(o: ChooseOptions, model: { name: string; dim: number }) {
    const baseURL = endpointOf(o);
    this.#client = baseURL === null ? null : clientOf(o, baseURL);
    this.#object = baseURL === null ? model.name : `${model.name} at ${shown(baseURL)}`;
    this.#timeoutMs = o.timeoutMs ?? TIMEOUT_MS;
    this.#examples = new Examples(() => workerOf(o.workerUrl));
    this.name = model.name;
    this.modelId = modelId(model.name);
    this.#dim = model.dim;
  }

  get dim(): number {
    return this.#dim;
  }

  embed(texts: readonly string[]): Promise<Float32Array> {
    return this.embedWithin(texts, this.#timeoutMs);
  }

  async embedNearest(texts: readonly string[], wanted: readonly boolean[]): Promise<EmbeddedTexts> {
    const rows = await this.embed(texts);
    return { rows, nearest: await this.#examples.nearest(rows, wanted) };
  }

  setExamples(examples: LabelledVectors): Promise<Calibration | null> {
    return this.#examples.set(examples);
  }

  /** `timeoutMs` is for each request. */
  embedWithin(texts: readonly string[], timeoutMs: number): Promise<Float32Array> {
    const dim = (): number => this.#dim;
    return this.#recent.fill(texts, dim, (fresh) => this.#embedFresh(fresh, timeoutMs));
  }

  async #embedFresh(texts: readonly string[], timeoutMs: number): Promise<Float32Array<ArrayBuffer>> {
    // Endpoints refuse empty texts; there is nothing to embed in them.
    const present = texts.flatMap((text, at) => (text.trim() === "" ? [] : [at]));
    const batches: Float32Array[] = [];
    for (let from = 0; from < present.length; from += REMOTE_BATCH_MAX) {
      const batch = present.slice(from, from + REMOTE_BATCH_MAX).map((at) => texts[at] as string);
      batches.push(this.#read(await this.#request(batch, timeoutMs), batch.length));
    }
    const rows = new Float32Array(texts.length * this.#dim);
    present.forEach((at, index) => {
      const batch = batches[Math.floor(index / REMOTE_BATCH_MAX)] as Float32Array;
      const row = index % REMOTE_BATCH_MAX;
      rows.set(batch.subarray(row * this.#dim, (row + 1) * this.#dim), at * this.#dim);
    });
    return rows;
  }

  async #request(input: string[], timeoutMs: number): Promise<unknown> {
    if (this.#client === null)
      throw this.#unavailable("there is no endpoint", null, undefined, "pass --llm-base-url URL");
    // The SDK's own timeout ends when the headers are there; this one holds for the body, too.
    const signal = AbortSignal.any([AbortSignal.timeout(timeoutMs), this.#stop.signal]);
    try {
      // Without encoding_format the SDK asks for base64, which some servers ignore or get wrong.
      return await this.#client.embeddings.create(
        { model: this.name, input, encoding_format: "float" },
        { signal, timeout: timeoutMs },
      );
    } catch (error) {
      throw this.#failure(error, timeoutMs);
    }
  }

  #failure(error: unknown, timeoutMs: number): GatewayError {
    if (this.#stop.signal.aborted) return this.#unavailable("the gateway stops", null, error);
    const late = error instanceof APIConnectionTimeoutError || error instanceof APIUserAbortError;
    if (late || (error instanceof Error && /abort|timeout/i.test(error.name))) {
      return this.#unavailable(`no answer within ${timeoutMs} ms`, null, error);
    }
    if (error instanceof SyntaxError) return this.#invalid("the answer is no JSON", error);
    if (!(error instanceof APIError) || error instanceof APIConnectionError || error.status === undefined) {
      const reason =
        error instanceof Error && error.cause !== undefined ? messageOf(error.cause) : messageOf(error);
      return this.#unavailable(reason, null, error);
    }
    const detail = `the endpoint answered ${error.status}: ${oneLine(error.message)}`;
    // These say that the texts themselves were refused, so the same again would be refused again.
    if ([400, 413, 422].includes(error.status)) return this.#invalid(detail, error);
    return this.#unavailable(detail, retryAfterMs(error.headers?.get("retry-after") ?? null), error);
  }

  /** Checks an answer and brings it in order: `count` rows of one dimension, each of length 1. */
  #read(answer: unknown, count: number): Float32Array {
    const reply = v.safeParse(ReplySchema, answer);
    if (!reply.success) throw this.#invalid("the answer is no list of embeddings");
    const { data } = reply.output;
    if (data.length !== count) throw this.#invalid(`${data.length} vectors for ${count} texts`);
    const dim = Array.isArray(data[0]?.embedding) ? data[0].embedding.length : 0;
    if (dim > SEMANTIC_DIM_MAX) {
      throw this.#invalid(`vectors of ${dim} dimensions, a frame has room for ${SEMANTIC_DIM_MAX}`);
    }
    if (this.#dim !== 0 && dim !== 0 && dim !== this.#dim) {
      throw this.#invalid(
        `vectors of ${dim} dimensions, so far they had ${this.#dim}: is another model loaded?`,
      );
    }
    const rows = new Float32Array(count * dim);
    const seen = new Set<number>();
    data.forEach((entry, position) => {
      const index = entry.index ?? position;
      if (!Number.isInteger(index) || index < 0 || index >= count || seen.has(index)) {
        throw this.#invalid(`index ${index} twice or out of ${count}`);
      }
      seen.add(index);
      this.#readRow(entry.embedding, rows.subarray(index * dim, (index + 1) * dim));
    });
    this.#dim = dim;
    return rows;
  }

  #readRow(embedding: unknown, row: Float32Array): void {
    if (typeof embedding === "string") throw this.#invalid("base64 came, float was asked for");
    if (!Array.isArray(embedding) || embedding.length === 0)
      throw this.#invalid("a vector is no list of numbers");
    if (embedding.length !== row.length) {
      throw this.#invalid(`vectors of ${row.length} and of ${embedding.length} dimensions in one answer`);
    }
    let squares = 0;
    for (const value of embedding as unknown[]) {
      if (typeof value !== "number" || !Number.isFinite(value))
        throw this.#invalid(`a vector holds ${String(value)}`);
      squares += value * value;
    }
    const length = Math.sqrt(squares);
    if (length === 0 || !Number.isFinite(length))
      throw this.#invalid("a vector is all zeros or beyond measure");
    for (let at = 0; at < row.length; at++) row[at] = (embedding[at] as number) / length;
  }

  #invalid(detail: string, cause?: unknown): GatewayError {
    return new GatewayError({
      code: "embedder_invalid",
      operation: "embed: ask",
      object: this.#object,
      detail,
      hint: "choose another model with --embedding-model",
      cause,
    });
  }

  #unavailable(
    detail: string,
    retryAfter: number | null,
    cause?: unknown,
    hint = "start the endpoint and load the model; until then frames go out without vector",
  ): GatewayError {
    const options = { operation: "embed: ask", object: this.#object, detail, hint, cause } as const;
    return new GatewayError({
      code: "embedder_unavailable",
      ...options,
      ...(retryAfter === null ? {} : { retryAfterMs: retryAfter }),
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
  }
}

function oneLine(text: string): string {
  return text.replace(/\s+/g, " ").slice(0, 300);
}

/** Seconds or a date (RFC 9110); at most an hour. */
function retryAfterMs(header: string | null): number | null {
  if (header === null || header.trim() === "") return null;
  const ms = /^\s*\d+\s*$/.test(header) ? 1000 * Number(header) : Date.parse(header) - Date.now();
  return Number.isFinite(ms) ? Math.min(Math.max(0, ms), 3_600_000) : null;
}
