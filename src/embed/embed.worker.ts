/**
 * The one Worker that embeds: it owns the local ONNX model and the hashing embedder.
 *
 * It is started once and never terminated: `session.run` blocks its thread, and onnxruntime 1.14
 * crashes the process when a thread that loaded it ends and another loads it again. It runs at a
 * lower priority, so that under load ingest stays fast and vectors catch up; the runtime's own
 * threads are started from here and inherit that.
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
import type { Asked, WorkerReply, WorkerRequest } from "./protocol.ts";

const NICE = 10;

const models = new Map<number, LoadedModel>();
const indexes = new Map<number, ExampleIndex>();
/** The newest request to build each index: one before it is not built any further. */
const building = new Map<number, number>();

declare const self: Worker;

if (!Bun.isMainThread) {
  // Elsewhere than on Linux it would be the priority of the whole process.
  if (process.platform === "linux") lowerThreadPriority(NICE);
  let queue = Promise.resolve();
  self.onmessage = (event: MessageEvent<WorkerRequest>) => {
    // One after the other: loading is asynchronous, and what follows it must find the model.
    // What is learned from examples takes seconds, in slices: it stands beside the queue.
    if (event.data.kind === "index") void handle(event.data);
    else queue = queue.then(() => handle(event.data));
  };
}

async function handle(request: WorkerRequest): Promise<void> {
  try {
    const reply = await answer(request);
    postMessage(reply, reply.kind === "rows" ? [reply.rows.buffer] : []);
  } catch (error) {
    postMessage({ id: request.id, kind: "failed", failure: failureOf(error) } satisfies WorkerReply);
  }
}

async function answer(request: WorkerRequest): Promise<WorkerReply> {
  const { id } = request;
  if (request.kind === "hash") return withNearest(id, hashAll(request.texts), request.asked);
  if (request.kind === "nearest") return { id, kind: "nearest", nearest: ask(request.rows, request.asked) };
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
  return withNearest(id, await embedNew(model, request.texts), request.asked);
}

function withNearest(id: number, rows: Float32Array<ArrayBuffer>, asked: Asked | null): WorkerReply {
  return { id, kind: "rows", rows, nearest: asked === null ? null : ask(rows, asked) };
}

function ask(rows: Float32Array, { index, wanted }: Asked): readonly (Nearest | null)[] {
  return indexes.get(index)?.nearest(rows, wanted) ?? wanted.map(() => null);
}

/** Null where there are no examples, or others have come before these were learned. */
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
