/** Pools the vectors of tokens that a graph returns into one vector per text. */
import { GatewayError } from "../errors.ts";
import type { ModelDescription } from "./models.ts";

type Described = Pick<ModelDescription, "fullName" | "pooling">;

/**
 * Returns one row of length 1 per text.
 * @param batch the ids of each text, before padding.
 * @param output texts × tokens × floats, or texts × floats.
 * @throws GatewayError embedder_invalid.
 */
export function poolRows(
  description: Described,
  batch: readonly number[][],
  output: { data: Float32Array; dims: readonly number[] },
): Float32Array {
  const tokens = output.dims.length === 3 ? (output.dims[1] as number) : 1;
  const dim = output.dims.at(-1) as number;
  if (
    output.dims.length < 2 ||
    output.dims[0] !== batch.length ||
    output.data.length !== batch.length * tokens * dim
  ) {
    throw brokenModel(description, `output of shape ${output.dims.join(" × ")} for ${batch.length} texts`);
  }
  const rows = new Float32Array(batch.length * dim);
  batch.forEach((ids, row) => {
    const target = rows.subarray(row * dim, (row + 1) * dim);
    const used = description.pooling === "cls" || tokens === 1 ? 1 : ids.length;
    for (let token = 0; token < used; token++) {
      const from = (row * tokens + token) * dim;
      for (let at = 0; at < dim; at++)
        target[at] = (target[at] as number) + (output.data[from + at] as number);
    }
    if (!normalise(target)) throw brokenModel(description, "a vector is zero or not finite");
  });
  return rows;
}

/** Scales a row to length 1, in place, so that a sum serves as a mean. @returns false if the row has no direction. */
function normalise(row: Float32Array): boolean {
  let squares = 0;
  for (const value of row) squares += value * value;
  const length = Math.sqrt(squares);
  if (!Number.isFinite(length) || length === 0) return false;
  for (let at = 0; at < row.length; at++) row[at] = (row[at] as number) / length;
  return true;
}

export function brokenModel(description: Described, detail: string): GatewayError {
  return new GatewayError({
    code: "embedder_invalid",
    operation: "embed: run",
    object: description.fullName,
    detail,
    hint: "choose another model",
  });
}
