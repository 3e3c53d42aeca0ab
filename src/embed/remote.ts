/** The embedder at an OpenAI-compatible endpoint. */
import { type Clock, systemClock } from "../clock.ts";
import { GatewayError } from "../errors.ts";
import { modelId } from "../frame.ts";
import type { Endpoint, EndpointFailure } from "../llm/endpoint-contract.ts";
import type { Calibration, LabelledVectors } from "../nearest/nearest.ts";
import type { EmbeddedTexts, Embedder } from "./embedder.ts";
import { readEmbeddings } from "./embeddings.ts";
import { Pace } from "./pace.ts";
import { RecentVectors } from "./recent.ts";
import { type EmbedWorker, Examples } from "./thread.ts";

const BATCH_MAX = 64;
/** Statuses of a request that would fail again. */
const REFUSALS = [400, 404, 405, 413, 422, 501];
const RETRY_AFTER_MS_MAX = 3_600_000;
/** LM Studio's name of BGE-M3. */
export const MODEL_DEFAULT = "text-embedding-bge-m3@f16";

type LimitMs = (texts: readonly string[]) => number;

export interface RemoteOptions {
  /** Null: none is set, and each call fails. */
  readonly endpoint: Endpoint | null;
  readonly name: string;
  /** 0: learned from the first reply. */
  readonly dim: number;
  /** The Worker that compares examples; called at its first use. */
  readonly worker: () => EmbedWorker;
  readonly clock?: Clock;
}

export class RemoteEmbedder implements Embedder {
  readonly kind = "remote";
  readonly name: string;
  readonly modelId: number;
  readonly recomputed = false;
  readonly maxBatch = BATCH_MAX;
  readonly #endpoint: Endpoint | null;
  readonly #stop = new AbortController();
  readonly #examples: Examples;
  readonly #recent = new RecentVectors();
  readonly #clock: Clock;
  readonly #pace = new Pace();
  #dim: number;

  constructor({ endpoint, name, dim, worker, clock = systemClock }: RemoteOptions) {
    this.#clock = clock;
    this.#endpoint = endpoint;
    this.#examples = new Examples(worker);
    this.name = name;
    this.modelId = modelId(name);
    this.#dim = dim;
  }

  get dim(): number {
    return this.#dim;
  }

  embed(texts: readonly string[], patienceMs = 0): Promise<Float32Array> {
    return this.#embedWithin(texts, (batch) => this.#pace.limitMs(batch, patienceMs));
  }

  async embedNearest(
    texts: readonly string[],
    wanted: readonly boolean[],
    patienceMs = 0,
  ): Promise<EmbeddedTexts> {
    const rows = await this.embed(texts, patienceMs);
    return { rows, nearest: await this.#examples.nearest(rows, wanted) };
  }

  setExamples(examples: LabelledVectors): Promise<Calibration | null> {
    return this.#examples.set(examples);
  }

  /**
   * Embeds a text, and so learns the dimension.
   * @returns null: it works; else why not: embedder_unavailable (not now) or embedder_invalid (never).
   */
  async probe(timeoutMs: number): Promise<GatewayError | null> {
    try {
      await this.#embedWithin(["ready"], () => timeoutMs);
      return null;
    } catch (error) {
      if (error instanceof GatewayError) return error;
      throw error;
    }
  }

  /** @param limitMs how long a request with these texts may take; a call with many texts makes several. */
  #embedWithin(texts: readonly string[], limitMs: LimitMs): Promise<Float32Array> {
    const dim = (): number => this.#dim;
    return this.#recent.fill(texts, dim, (fresh) => this.#embedFresh(fresh, limitMs));
  }

  async #embedFresh(texts: readonly string[], limitMs: LimitMs): Promise<Float32Array<ArrayBuffer>> {
    // Endpoints refuse empty texts, and there is nothing to embed in them.
    const present = texts.flatMap((text, at) => (text.trim() === "" ? [] : [at]));
    const batches: Float32Array[] = [];
    for (let from = 0; from < present.length; from += BATCH_MAX) {
      const batch = present.slice(from, from + BATCH_MAX).map((at) => texts[at] as string);
      batches.push(this.#read(await this.#request(batch, limitMs(batch)), batch.length));
    }
    const rows = new Float32Array(texts.length * this.#dim);
    present.forEach((at, index) => {
      const batch = batches[Math.floor(index / BATCH_MAX)] as Float32Array;
      const row = index % BATCH_MAX;
      rows.set(batch.subarray(row * this.#dim, (row + 1) * this.#dim), at * this.#dim);
    });
    return rows;
  }

  async #request(input: string[], timeoutMs: number): Promise<unknown> {
    if (this.#endpoint === null) {
      throw this.#unavailable("no endpoint is set", { hint: "pass --llm-base-url URL" });
    }
    const startedMs = this.#clock.monotonicMs();
    using limit = this.#endpoint.limit(timeoutMs, [this.#stop.signal]);
    const reply = await this.#endpoint.embed({ model: this.name, input }, limit);
    if (reply.ok) {
      this.#pace.succeeded(input, this.#clock.monotonicMs() - startedMs);
      return reply.value;
    }
    throw this.#failure(reply.failure);
  }

  #failure({ kind, status, detail, retryAfterMs, cause }: EndpointFailure): GatewayError {
    if (this.#stop.signal.aborted) return this.#unavailable("the gateway stops", { cause });
    // It refuses the texts, or makes no embeddings with this model: it would do so again.
    const refused = kind === "status" && (status === null || REFUSALS.includes(status));
    if (refused || kind === "not_json") return this.#invalid(detail, cause);
    const wait = retryAfterMs === null ? {} : { retryAfterMs: Math.min(retryAfterMs, RETRY_AFTER_MS_MAX) };
    return this.#unavailable(detail, { cause, ...wait });
  }

  #read(reply: unknown, count: number): Float32Array {
    const read = readEmbeddings(reply, { count, dimBefore: this.#dim });
    if (!read.ok) throw this.#invalid(this.#endpoint?.scrub(read.why) ?? read.why);
    this.#dim = read.dim;
    return read.rows;
  }

  get #object(): string {
    return this.#endpoint === null ? this.name : `${this.name} at ${this.#endpoint.address}`;
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
    more: { hint?: string; retryAfterMs?: number; cause?: unknown },
  ): GatewayError {
    return new GatewayError({
      code: "embedder_unavailable",
      operation: "embed: ask",
      object: this.#object,
      detail,
      hint: "start the endpoint and load the model; until then frames go out without a vector",
      ...more,
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
  }
}
