/** The embedder that runs the hashing function in the embed Worker. */
import { modelId } from "../frame.ts";
import type { Calibration, LabelledVectors } from "../nearest/nearest.ts";
import type { EmbeddedTexts, Embedder } from "./embedder.ts";
import { HASHING_DIM, HASHING_NAME, hashingEmbed } from "./hashing.ts";
import { type EmbedWorker, Examples, embeddedOf, NO_TEXTS } from "./thread.ts";

/** Never fails while the Worker runs. */
export class HashingEmbedder implements Embedder {
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
    const comparison = this.#examples.comparison(wanted);
    return embeddedOf(await this.#worker.ask({ kind: "hash", texts, comparison }), texts);
  }

  embedNow(text: string, wanted: boolean): Float32Array | null {
    if (this.#examples.comparison([wanted]) !== null) return null;
    const row = new Float32Array(HASHING_DIM);
    hashingEmbed(text, row, 0);
    return row;
  }

  setExamples(examples: LabelledVectors): Promise<Calibration | null> {
    return this.#examples.set(examples);
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}
