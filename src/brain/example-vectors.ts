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

/** Each probe has a text of its own, because an embedder may remember vectors. */
let probes = 0;

/**
 * One vector per text; null: the text holds nothing to embed, or the embedder fails with it while it takes others.
 * @throws what the embedder threw, if it takes no other text either.
 */
async function embedEach(embedder: Embedder, texts: readonly string[]): Promise<(Float32Array | null)[]> {
  try {
    const rows = await embedder.embed(texts);
    const { dim } = embedder;
    return texts.map((_, at) => {
      const row = rows.subarray(at * dim, (at + 1) * dim);
      return row.some((value) => value !== 0) ? row : null;
    });
  } catch (error) {
    if (!(error instanceof GatewayError)) throw error;
    await embedder.embed([`ready ${++probes}`]).catch(() => {
      throw error;
    });
    if (texts.length === 1) return [null];
    const middle = texts.length >> 1;
    const first = await embedEach(embedder, texts.slice(0, middle));
    return [...first, ...(await embedEach(embedder, texts.slice(middle)))];
  }
}
