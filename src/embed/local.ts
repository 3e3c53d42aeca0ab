/** The embedder that runs a local model in the embed Worker. */
import { GatewayError } from "../errors.ts";
import { modelId } from "../frame.ts";
import type { Calibration, LabelledVectors } from "../nearest/nearest.ts";
import type { EmbeddedTexts, Embedder } from "./embedder.ts";
import { type EmbedWorker, Examples, embeddedOf, NO_TEXTS } from "./thread.ts";

export interface LocalSource {
  readonly find: () => string | null;
  readonly name: string;
  readonly dim: number;
}

export class LocalEmbedder implements Embedder {
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
    if (folder === null) throw this.#unavailable("the model's folder is missing");
    const reply = await this.#worker.ask({ kind: "load", model: this.#model, folder });
    if (reply.kind !== "loaded") throw new Error(`embed: the worker replied ${reply.kind} to load`);
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
      // A broken folder can be repaired while the gateway runs, so the caller should try again.
      throw error instanceof GatewayError && error.code !== "embedder_unavailable"
        ? this.#unavailable(error.detail, error)
        : error;
    }
    const comparison = this.#examples.comparison(wanted);
    return embeddedOf(
      await this.#worker.ask({ kind: "embed", model: this.#model, texts, comparison }),
      texts,
    );
  }

  #unavailable(detail: string, cause?: unknown): GatewayError {
    return new GatewayError({
      code: "embedder_unavailable",
      operation: "embed: open model",
      object: this.#name,
      detail,
      hint: 'put it back, or run "one_file_gateway pull-model"',
      cause,
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#loading !== null) await this.#worker.ask({ kind: "unload", model: this.#model });
  }
}
