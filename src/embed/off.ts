/** The embedder of `--embedder off`. */
import type { EmbeddedTexts, Embedder } from "./embedder.ts";

export class OffEmbedder implements Embedder {
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
