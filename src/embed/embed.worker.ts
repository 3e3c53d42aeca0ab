/**
 * The one Worker that embeds. It owns the local ONNX models, the hashing embedder and the indexes of examples.
 *
 * It starts once and never ends: `session.run` blocks its thread, and onnxruntime 1.14 crashes the process if the thread
 * that loaded it ends and another loads it again. It runs at a lower priority, so that ingest stays fast under load while
 * vectors catch up later. The runtime starts its own threads from here, so they inherit the priority.
 */

import { GatewayError, messageOf, type SerialisedError, serialiseError } from "../errors.ts";
import { lowerThreadPriority } from "../native/libc.ts";
import {
  type Calibration,
  ExampleIndex,
  type LabelledVectors,
  type Nearest,
  Outdated,
} from "../nearest/nearest.ts";
import { HASHING_DIM, hashingEmbed } from "./hashing.ts";
import { embedNew, type LoadedModel, loadModel } from "./onnx-model.ts";
import type { Comparison, WorkerReply, WorkerRequest } from "./protocol.ts";

const NICE = 10;

const models = new Map<number, LoadedModel>();
const indexes = new Map<number, ExampleIndex>();
/** The newest request to build each index. The building of an older one stops. */
const building = new Map<number, number>();

declare const self: Worker;

if (!Bun.isMainThread) {
  // On other systems this would change the priority of the whole process.
  if (process.platform === "linux") lowerThreadPriority(NICE);
  let queue = Promise.resolve();
  self.onmessage = (event: MessageEvent<WorkerRequest>) => {
    // Requests run one after the other, because loading is asynchronous and later requests need the model.
    // Learning from examples takes seconds, in slices, so it does not wait in the queue nor block it.
    if (event.data.kind === "index") void handle(event.data);
    else queue = queue.then(() => handle(event.data));
  };
}

async function handle(request: WorkerRequest): Promise<void> {
  try {
    const reply = await replyTo(request);
    postMessage(reply, reply.kind === "rows" ? [reply.rows.buffer] : []);
  } catch (error) {
    postMessage({ id: request.id, kind: "failed", failure: failureOf(error) } satisfies WorkerReply);
  }
}

async function replyTo(request: WorkerRequest): Promise<WorkerReply> {
  const { id } = request;
  if (request.kind === "hash") return withNearest(id, hashAll(request.texts), request.comparison);
  if (request.kind === "nearest")
    return { id, kind: "nearest", nearest: nearestOf(request.rows, request.comparison) };
  if (request.kind === "index")
    return { id, kind: "indexed", calibration: await learn(request.index, id, request.examples) };
  if (request.kind === "unload") {
    models.delete(request.model);
    return { id, kind: "unloaded" };
  }
  if (request.kind === "load") {
    const model = await loadModel(request.folder);
    models.set(request.model, model);
    return { id, kind: "loaded", name: model.description.fullName, dim: model.dim };
  }
  const model = models.get(request.model);
  if (model === undefined) throw new Error(`embed: model ${request.model} was not loaded`);
  return withNearest(id, await embedNew(model, request.texts), request.comparison);
}

function withNearest(
  id: number,
  rows: Float32Array<ArrayBuffer>,
  comparison: Comparison | null,
): WorkerReply {
  return { id, kind: "rows", rows, nearest: comparison === null ? null : nearestOf(rows, comparison) };
}

function nearestOf(rows: Float32Array, { index, wanted }: Comparison): readonly (Nearest | null)[] {
  return indexes.get(index)?.nearest(rows, wanted) ?? wanted.map(() => null);
}

/** @returns null if there are no examples, or if others arrived before these were learned. */
async function learn(index: number, request: number, examples: LabelledVectors): Promise<Calibration | null> {
  building.set(index, request);
  const isWanted = (): boolean => building.get(index) === request;
  if (examples.labels.length === 0) {
    indexes.delete(index);
    return null;
  }
  try {
    const learned = await ExampleIndex.build(examples, isWanted);
    if (!isWanted()) return null;
    indexes.set(index, learned);
    return learned.calibration;
  } catch (error) {
    if (error instanceof Outdated) return null;
    throw error;
  }
}

function failureOf(error: unknown): SerialisedError {
  if (!(error instanceof GatewayError)) {
    return {
      code: "embedder_unavailable",
      operation: "embed",
      object: "in its worker",
      detail: messageOf(error),
    };
  }
  return serialiseError(error);
}

function hashAll(texts: readonly string[]): Float32Array<ArrayBuffer> {
  const rows = new Float32Array(texts.length * HASHING_DIM);
  texts.forEach((text, index) => {
    hashingEmbed(text, rows, index * HASHING_DIM);
  });
  return rows;
}
