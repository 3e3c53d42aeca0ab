/** The vectors of labelled examples: reads those that the journal has, and makes the others. Part of intents. */
import type { Embedder } from "../embed/embedder.ts";
import { GatewayError } from "../errors.ts";
import type { IntentRows, StoredExample } from "../journal/journal.ts";

/**
 * The examples of a label with vectors of this embedder. Makes those that are missing, and keeps them in the journal
 * unless they are cheap to compute again.
 */
export async function embeddedExamples(
  embedder: Embedder,
  rows: Pick<IntentRows, "of" | "setVectors">,
  label: string,
): Promise<StoredExample[]> {
  const examples = rows.of(label);
  const known = ({ model, vector }: StoredExample): boolean =>
    vector !== null && model === embedder.name && (embedder.dim === 0 || vector.length === embedder.dim);
  const missing = examples.filter((example) => !known(example));
  const made = new Map<number, Float32Array>();
  for (let from = 0; from < missing.length; from += embedder.maxBatch) {
    const part = missing.slice(from, from + embedder.maxBatch);
    const vectors = await embedEach(
      embedder,
      part.map(({ text }) => text),
    );
    const fresh = part.map((example, at) => ({ ...example, vector: vectors[at] ?? null }));
    if (!embedder.recomputed) rows.setVectors(embedder.name, fresh);
    for (const { position, vector } of fresh) if (vector !== null) made.set(position, vector);
  }
  return examples.map((example) =>
    known(example) ? example : { ...example, vector: made.get(example.position) ?? null },
  );
}

/** One vector per text; null: the text holds nothing to embed, or the embedder refuses it while it takes others. */
async function embedEach(embedder: Embedder, texts: readonly string[]): Promise<(Float32Array | null)[]> {
  try {
    const rows = await embedder.embed(texts);
    const { dim } = embedder;
    return texts.map((_, at) => {
      const row = rows.subarray(at * dim, (at + 1) * dim);
      return row.some((value) => value !== 0) ? row : null;
    });
  } catch (error) {
    if (!(error instanceof GatewayError) || error.code !== "embedder_invalid") throw error;
    if (texts.length === 1) return [null];
    const vectors: (Float32Array | null)[] = [];
    for (const text of texts) vectors.push(...(await embedEach(embedder, [text])));
    // If it refuses every single text, the fault is not in the texts.
    if (vectors.every((vector) => vector === null)) throw error;
    return vectors;
  }
}
