/** Shared by the tests of the embedders. */
import { join } from "node:path";
import type { Embedder } from "../../src/embed/embedder.ts";
import { GatewayError } from "../../src/errors.ts";

/** Longer than any test takes, even on a machine whose cores are all busy. */
export const PATIENCE_MS = 60_000;
export const WORKER = new URL("../../src/embed/embed.worker.ts", import.meta.url);
export const FIXTURE = join(import.meta.dir, "../fixtures/tiny-xlmr");
export const LOCAL_NAME = "tiny-xlmr@int8+cls";

export function dot(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, value, at) => sum + value * (b[at] as number), 0);
}

export function row(embedder: Embedder, rows: Float32Array, at: number): Float32Array {
  return rows.subarray(at * embedder.dim, (at + 1) * embedder.dim);
}

export async function refusal(promise: Promise<unknown>): Promise<GatewayError> {
  const error = await promise.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof GatewayError)) throw new Error(`expected a refusal, got ${String(error)}`);
  return error;
}

export function described(embedder: Embedder) {
  const { kind, name, dim } = embedder;
  return { kind, name, dim, modelId: embedder.modelId };
}

export async function until(condition: () => boolean): Promise<void> {
  const untilMs = performance.now() + PATIENCE_MS;
  while (!condition()) {
    if (performance.now() > untilMs) throw new Error(`waited in vain: ${condition}`);
    await Bun.sleep(1);
  }
}
