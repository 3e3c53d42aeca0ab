/** The interface that every embedder implements. */
import type { Calibration, LabelledVectors, Nearest } from "../nearest/nearest.ts";

/** The vectors of texts, and what is nearest to them. */
export interface EmbeddedTexts {
  /** texts.length × dim floats. */
  readonly rows: Float32Array;
  /** One for each text; null where none was wanted, it has no vector, or there are no examples. */
  readonly nearest: readonly (Nearest | null)[];
}

export type EmbedderKind = "local" | "remote" | "hashing" | "off";

/** Texts to vectors. One embedder, one model: vectors of different names are never compared. */
export interface Embedder extends AsyncDisposable {
  readonly kind: EmbedderKind;
  /** Full name with precision and pooling, e.g. "hashing-1024-v1", "bge-m3@int8+cls"; of an endpoint its model's id. */
  readonly name: string;
  /** Floats in a vector, 1 to SEMANTIC_DIM_MAX; 0 for `off`, and while an endpoint or model has never answered. */
  readonly dim: number;
  /** 0 for `off`. */
  readonly modelId: number;
  /** True for hashing, a pure function of the text: its vectors need not be kept. */
  readonly recomputed: boolean;
  /** Texts that one call should bring at most; more are taken, too. */
  readonly maxBatch: number;
  /**
   * @returns texts.length × dim floats, a row a text, each L2-normalised; a row of zeros is no vector: the
   *   text has nothing to embed (white space; for hashing, no letter, digit or emoji).
   * @throws GatewayError embedder_unavailable (try again; see {@link GatewayError.retryAfterMs}) or
   *   embedder_invalid (the answer cannot be right: count, dimension, NaN).
   */
  embed(texts: readonly string[]): Promise<Float32Array>;
  /**
   * Like `embed`; and for the texts that are `wanted` the nearest label of the examples that were set last.
   * @throws GatewayError as `embed`.
   */
  embedNearest(texts: readonly string[], wanted: readonly boolean[]): Promise<EmbeddedTexts>;
  /**
   * Replaces the labelled examples. Their vectors must be of this embedder; their memory is taken over.
   * @returns what was learned from them; null where there are none, or others were set meanwhile.
   * @throws GatewayError embedder_unavailable where the Worker is gone.
   */
  setExamples(examples: LabelledVectors): Promise<Calibration | null>;
}
