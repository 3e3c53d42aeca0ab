/** Reads the vectors in an endpoint's reply, which may hold anything. */
import * as v from "valibot";
import { SEMANTIC_DIM_MAX } from "../frame.ts";

const ReplySchema = v.object({
  data: v.array(v.object({ index: v.optional(v.number()), embedding: v.unknown() })),
});

export type ReadEmbeddings =
  | { readonly ok: true; readonly rows: Float32Array; readonly dim: number }
  | { readonly ok: false; readonly why: string };

/**
 * Checks a reply, puts its vectors in order and normalises them: `count` rows of one dimension, each of length 1.
 * @param o.dimBefore the dimension of earlier vectors; 0: there were none.
 */
export function readEmbeddings(
  reply: unknown,
  { count, dimBefore }: { count: number; dimBefore: number },
): ReadEmbeddings {
  const parsed = v.safeParse(ReplySchema, reply);
  if (!parsed.success) return invalid("the reply is not a list of embeddings");
  const { data } = parsed.output;
  if (data.length !== count) return invalid(`${data.length} vectors for ${count} texts`);
  const dim = Array.isArray(data[0]?.embedding) ? data[0].embedding.length : 0;
  if (dim > SEMANTIC_DIM_MAX) {
    return invalid(`vectors of ${dim} dimensions; a frame has room for ${SEMANTIC_DIM_MAX}`);
  }
  if (dimBefore !== 0 && dim !== 0 && dim !== dimBefore) {
    return invalid(`vectors of ${dim} dimensions; so far they had ${dimBefore}. Is another model loaded?`);
  }
  const rows = new Float32Array(count * dim);
  const seen = new Set<number>();
  for (const [position, entry] of data.entries()) {
    const index = entry.index ?? position;
    if (!Number.isInteger(index) || index < 0 || index >= count || seen.has(index)) {
      return invalid(`index ${index} comes twice or is not one of 0 to ${count - 1}`);
    }
    seen.add(index);
    const why = readRow(entry.embedding, rows.subarray(index * dim, (index + 1) * dim));
    if (why !== null) return invalid(why);
  }
  return { ok: true, rows, dim };
}

/** Fills the row. @returns why it cannot, or null. */
function readRow(embedding: unknown, row: Float32Array): string | null {
  if (typeof embedding === "string") return "a vector is base64, although floats were asked for";
  if (!Array.isArray(embedding) || embedding.length === 0) return "a vector is not a list of numbers";
  if (embedding.length !== row.length) {
    return `vectors of ${row.length} and of ${embedding.length} dimensions in one reply`;
  }
  let squares = 0;
  for (const value of embedding as unknown[]) {
    if (typeof value !== "number" || !Number.isFinite(value)) return `a vector holds ${shown(value)}`;
    squares += value * value;
  }
  const length = Math.sqrt(squares);
  if (length === 0 || !Number.isFinite(length)) return "a vector is all zeros, or its length overflows";
  for (let at = 0; at < row.length; at++) row[at] = (embedding[at] as number) / length;
  return null;
}

function shown(value: unknown): string {
  return typeof value === "number" || value === null ? String(value) : `a ${typeof value}`;
}

function invalid(why: string): ReadEmbeddings {
  return { ok: false, why };
}
