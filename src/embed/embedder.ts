/** The interface that every embedder implements. */
import type { Calibration, LabelledVectors, Nearest } from "../nearest/nearest.ts";

/** The vectors of texts, and the labels nearest to them. */
export interface EmbeddedTexts {
  /** texts.length × dim floats. */
  readonly rows: Float32Array;
  /** One per text; null if the text did not want one, has no vector, or no examples are set. */
  readonly nearest: readonly (Nearest | null)[];
}

export type EmbedderKind = "local" | "remote" | "hashing" | "off";

/** Turns texts into vectors by one model. Vectors of different embedders are never compared. */
export interface Embedder extends AsyncDisposable {
  readonly kind: EmbedderKind;
  /** Full name with precision and pooling, for example "hashing-1024-v1" or "bge-m3@int8+cls"; for an endpoint the model's id. */
  readonly name: string;
  /** Floats in a vector, 1 to SEMANTIC_DIM_MAX; 0 for `off`, and until an endpoint or model has embedded its first text. */
  readonly dim: number;
  /** 0 for `off`. */
  readonly modelId: number;
  /** True for hashing: its vectors are a pure function of the text and need not be kept. */
  readonly recomputed: boolean;
  /** How many texts one call should carry at most. A call may carry more. */
  readonly maxBatch: number;
  /**
   * @returns texts.length × dim floats: one L2-normalised row per text. A row of zeros means that the text has no
   *   vector, because it holds nothing to embed (only white space; for hashing, no letter, digit or emoji).
   * @param patienceMs an embedder that gives up after a while waits at least this long, for example for a model that has
   *   to be loaded; up to 30 s.
   * @throws GatewayError embedder_unavailable (try again; see {@link GatewayError.retryAfterMs}) or
   *   embedder_invalid (the vectors cannot be right: wrong count, dimension or values).
   */
  embed(texts: readonly string[], patienceMs?: number): Promise<Float32Array>;
  /**
   * Like `embed`, and also returns the nearest example label for each text with a true in `wanted`.
   * @throws GatewayError as `embed`.
   */
  embedNearest(
    texts: readonly string[],
    wanted: readonly boolean[],
    patienceMs?: number,
  ): Promise<EmbeddedTexts>;
  /**
   * The vector of one text, at once, if that takes microseconds; zeros if it has none. Only hashing can.
   * @param wanted whether the nearest example is wanted, too. @returns null: ask {@link embedNearest}.
   */
  embedNow?(text: string, wanted: boolean): Float32Array | null;
  /**
   * Replaces the labelled examples. Their vectors must come from this embedder; the call takes over their memory.
   * @returns what was learned from the examples; null if there are none, or if others were set meanwhile.
   * @throws GatewayError embedder_unavailable if the Worker has ended.
   */
  setExamples(examples: LabelledVectors): Promise<Calibration | null>;
}
