/** Stubs for the tests of labelled examples: an embedder without a model, and the journal's rows in memory. */
import type { Embedder } from "../../src/embed/embedder.ts";
import { GatewayError } from "../../src/errors.ts";
import type { StoredExample } from "../../src/journal/journal.ts";
import type { LabelledVectors } from "../../src/nearest/nearest.ts";

const DIM = 4;
export const CALIBRATION = { threshold: 0.5, accuracy: 1, answered: 1 };

export function embedderError(code: "embedder_invalid" | "embedder_unavailable"): GatewayError {
  return new GatewayError({ code, operation: "embed", object: "test", detail: code });
}

/** Makes a vector from the length of a text; a text without letters gets none. Fails on request. */
export class StubEmbedder implements Embedder {
  kind: Embedder["kind"] = "local";
  recomputed = false;
  readonly modelId = 1;
  readonly maxBatch = 2;
  dim = DIM;
  /** The texts of each call that succeeded. */
  readonly batches: (readonly string[])[] = [];
  /** The examples of each call, the newest last. */
  readonly learned: LabelledVectors[] = [];
  failWith: Error | null = null;
  /** It refuses texts that contain this. */
  refuses: string | null = null;
  refusal = embedderError("embedder_invalid");
  /** While set, learning waits for it. */
  hold: Promise<void> | null = null;

  constructor(readonly name = "model-1") {}

  async embed(texts: readonly string[]): Promise<Float32Array> {
    if (this.failWith !== null) throw this.failWith;
    const { refuses } = this;
    if (refuses !== null && texts.some((text) => text.includes(refuses))) throw this.refusal;
    this.batches.push(texts);
    const rows = new Float32Array(texts.length * this.dim);
    for (const [at, text] of texts.entries()) if (/\p{L}/u.test(text)) rows[at * this.dim] = text.length;
    return rows;
  }

  async embedNearest(): Promise<never> {
    throw new Error("not of these tests");
  }

  async setExamples(examples: LabelledVectors) {
    await this.hold;
    if (this.failWith !== null) throw this.failWith;
    this.learned.push(examples);
    return examples.labels.length === 0 ? null : CALIBRATION;
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}

export class MemoryExamples {
  readonly kept = new Map<string, StoredExample[]>();

  replace(label: string, texts: readonly string[]): void {
    this.kept.set(
      label,
      texts.map((text, position) => ({ label, position, text, model: null, vector: null })),
    );
  }

  of(label: string): StoredExample[] {
    return this.kept.get(label) ?? [];
  }

  setVectors(model: string, examples: readonly StoredExample[]): void {
    for (const { label, position, vector } of examples) {
      const rows = this.of(label);
      if (vector !== null) rows[position] = { ...(rows[position] as StoredExample), model, vector };
    }
  }
}
