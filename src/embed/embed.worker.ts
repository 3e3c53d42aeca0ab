/**
 * The one Worker that embeds: it owns the local ONNX model and the hashing embedder.
 *
 * It is started once and never terminated: `session.run` blocks its thread, and onnxruntime 1.14
 * crashes the process when a thread that loaded it ends and another loads it again. It runs at a
 * lower priority, so that under load ingest stays fast and vectors catch up; the runtime's own
 * threads are started from here and inherit that.
 */

import { GatewayError, messageOf, type SerialisedError, serialiseError } from "../errors.ts";
import { SEMANTIC_DIM_MAX } from "../frame.ts";
import { lowerThreadPriority } from "../native/libc.ts";
import {
  type Calibration,
  ExampleIndex,
  type LabelledVectors,
  type Nearest,
  Outdated,
} from "../nearest/nearest.ts";
import { HASHING_DIM, hashingEmbed } from "./hashing.ts";
import { describeModel, type ModelDescription } from "./models.ts";
import type { Asked, WorkerReply, WorkerRequest } from "./protocol.ts";
import { RecentVectors } from "./recent.ts";

/** Padded tokens of one run: bounds its memory and, on int8, how much one long text disturbs others. */
const RUN_TOKENS_MAX = 2048;
/**
 * A text that is longer than the shortest of a run by this begins the next one, once the run has RUN_TEXTS_MIN: on
 * messages of banking77 two thirds of a batch of 32 would be padding, and this doubles the speed.
 */
const RUN_STRETCH_MAX = 1.5;
const RUN_TEXTS_MIN = 4;
const NICE = 10;

type Onnx = typeof import("../native/onnx.ts");
type Session = Awaited<ReturnType<Onnx["onnxruntime"]["InferenceSession"]["create"]>>;

interface LoadedModel {
  readonly description: ModelDescription;
  readonly session: Session;
  readonly dim: number;
  /** Ids of a text with its special tokens, not cut. */
  readonly tokenize: (text: string) => number[];
  readonly padId: number;
  /** Special tokens after a text, which a cut has to keep. */
  readonly suffix: readonly number[];
  readonly recent: RecentVectors;
}

interface Run {
  /** Positions of the texts in the request. */
  readonly at: number[];
  readonly ids: number[][];
}

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
    const model = await load(request.folder);
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

async function load(folder: string): Promise<LoadedModel> {
  const description = describeModel(folder);
  // Loaded here and not above: the hashing embedder must not pay for the runtime.
  const { PreTrainedTokenizer, onnxruntime } = await import("../native/onnx.ts");
  const opening = { code: "model_invalid", operation: "embed: open model", object: folder } as const;
  const hint = 'run "one_file_gateway pull-model" again, or pass --embedder remote or hashing';
  try {
    const tokenizer = new PreTrainedTokenizer(
      modernised(await Bun.file(`${folder}/tokenizer.json`).json()),
      await Bun.file(`${folder}/tokenizer_config.json`).json(),
    );
    repairUnigram(tokenizer.model);
    const tokenize = (text: string): number[] =>
      tokenizer(description.prefix + text, { padding: false, truncation: false, return_tensor: false })
        .input_ids;
    // By path and not by buffer: the weights are then never in JavaScript's memory, and external data is found.
    const session = await onnxruntime.InferenceSession.create(`${folder}/${description.graph}`, {
      logSeverityLevel: 3,
    });
    const padId = Number(tokenizer.pad_token_id ?? 0);
    const recent = new RecentVectors();
    const bare = { description, session, tokenize, padId, suffix: suffixOf(tokenize), recent, dim: 0 };
    const probe = await runModel(bare, [tokenize("a")]);
    const dim = probe.length;
    if (dim > SEMANTIC_DIM_MAX) {
      throw new Error(
        `${description.fullName} has ${dim} dimensions, a frame has room for ${SEMANTIC_DIM_MAX}`,
      );
    }
    return { ...bare, dim };
  } catch (cause) {
    if (cause instanceof GatewayError && cause.code !== "embedder_invalid") throw cause;
    throw new GatewayError({ ...opening, detail: messageOf(cause), hint, cause });
  }
}

/**
 * A tokenizer.json as transformers 2.17 reads it. Since tokenizers 0.19 the file no longer says
 * `add_prefix_space` of Metaspace but only `prepend_scheme`; without it the package would leave out the
 * mark before the first word of every text, in silence.
 */
function modernised(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(modernised);
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).map(([key, inner]) => [
    key,
    key === "vocab" ? inner : modernised(inner),
  ]);
  const copy = Object.fromEntries(entries);
  if (copy.type === "Metaspace") copy.add_prefix_space ??= copy.prepend_scheme !== "never";
  return copy;
}

interface TrieNode {
  readonly isLeaf: boolean;
  readonly children: ReadonlyMap<string, TrieNode>;
}

/** What is used of the package's Unigram model, which it does not declare. */
interface UnigramModel {
  readonly trie: { readonly root: TrieNode };
  readonly scores: readonly number[];
  readonly tokens_to_ids: ReadonlyMap<string, number>;
  readonly unkScore: number;
  tokenize: (text: string) => string[];
}

/**
 * Puts another search into the package's Unigram model: its own builds the trie by code points but walks
 * it by UTF-16 units, so that no emoji is ever found, and copies the rest of the text at every position.
 */
function repairUnigram(model: unknown): void {
  const unigram = model as Partial<UnigramModel>;
  if (unigram.trie === undefined || unigram.scores === undefined) return;
  const known = unigram as UnigramModel;
  known.tokenize = (text) => bestPieces(known, text);
}

/** Viterbi: the pieces of the highest total score (Kudo 2018, arXiv 1804.10959); ties go to the first found. */
function bestPieces(model: UnigramModel, text: string): string[] {
  const scores = new Float64Array(text.length + 1).fill(Number.NEGATIVE_INFINITY);
  const starts = new Int32Array(text.length + 1).fill(-1);
  scores[0] = 0;
  const reach = (start: number, end: number, score: number): void => {
    const total = (scores[start] as number) + score;
    if (starts[end] !== -1 && total <= (scores[end] as number)) return;
    scores[end] = total;
    starts[end] = start;
  };
  for (let start = 0; start < text.length; ) {
    const first = String.fromCodePoint(text.codePointAt(start) as number);
    let single = false;
    let node = model.trie.root.children.get(first);
    for (let end = start + first.length; node !== undefined; ) {
      if (node.isLeaf) {
        const piece = text.slice(start, end);
        reach(start, end, model.scores[model.tokens_to_ids.get(piece) as number] as number);
        single ||= piece.length === first.length;
      }
      if (end >= text.length) break;
      const next = String.fromCodePoint(text.codePointAt(end) as number);
      end += next.length;
      node = node.children.get(next);
    }
    if (!single) reach(start, start + first.length, model.unkScore);
    start += first.length;
  }
  const pieces: string[] = [];
  for (let end = text.length; end > 0; end = starts[end] as number) {
    pieces.push(text.slice(starts[end] as number, end));
  }
  return pieces.reverse();
}

/** The special tokens behind a text: what the ids of two different texts end with in common. */
function suffixOf(tokenize: (text: string) => number[]): number[] {
  const one = tokenize("a");
  const other = tokenize("1 2");
  let length = 0;
  while (length < one.length && one[one.length - 1 - length] === other[other.length - 1 - length])
    length += 1;
  return one.slice(one.length - length);
}

/** Cut so that the special tokens at the end stay: the model was trained with them. */
function cut(model: Omit<LoadedModel, "dim">, ids: number[]): number[] {
  const { maxTokens } = model.description;
  if (ids.length <= maxTokens) return ids;
  return [...ids.slice(0, maxTokens - model.suffix.length), ...model.suffix];
}

/** Rows of all texts; what was embedded a moment ago is not embedded again. */
function embedNew(model: LoadedModel, texts: readonly string[]): Promise<Float32Array<ArrayBuffer>> {
  return model.recent.fill(
    texts,
    () => model.dim,
    (fresh) => embedAll(model, fresh),
  );
}

/** A row a text in the order given; zeros for a text without anything but white space. */
async function embedAll(model: LoadedModel, texts: readonly string[]): Promise<Float32Array<ArrayBuffer>> {
  const rows = new Float32Array(texts.length * model.dim);
  for (const run of plan(model, texts)) {
    const pooled = await runModel(model, run.ids);
    if (pooled.length !== run.at.length * model.dim) {
      throw new Error(`embed: ${pooled.length} floats for ${run.at.length} texts of ${model.dim}`);
    }
    run.at.forEach((at, index) => {
      rows.set(pooled.subarray(index * model.dim, (index + 1) * model.dim), at * model.dim);
    });
  }
  return rows;
}

/** Texts of like length together, so that little is padding. */
function plan(model: LoadedModel, texts: readonly string[]): Run[] {
  const entries = texts.flatMap((text, at) =>
    text.trim() === "" ? [] : [{ at, ids: cut(model, model.tokenize(text)) }],
  );
  entries.sort((a, b) => a.ids.length - b.ids.length || a.at - b.at);
  const runs: Run[] = [];
  let run: Run = { at: [], ids: [] };
  for (const { at, ids } of entries) {
    const shortest = run.ids[0]?.length ?? ids.length;
    const isFull = run.at.length > 0 && (run.at.length + 1) * ids.length > RUN_TOKENS_MAX;
    const isStretched = run.at.length >= RUN_TEXTS_MIN && ids.length > RUN_STRETCH_MAX * shortest;
    if (isFull || isStretched) {
      runs.push(run);
      run = { at: [], ids: [] };
    }
    run.at.push(at);
    run.ids.push(ids);
  }
  if (run.at.length > 0) runs.push(run);
  return runs;
}

/** Runs the graph over one padded batch and pools: rows of length 1, one after the other. */
async function runModel(model: Omit<LoadedModel, "dim">, batch: readonly number[][]): Promise<Float32Array> {
  const { Tensor } = (await import("../native/onnx.ts")).onnxruntime;
  const { session, padId, description } = model;
  const length = Math.max(...batch.map((ids) => ids.length));
  const dims = [batch.length, length];
  const inputIds = new BigInt64Array(batch.length * length).fill(BigInt(padId));
  const mask = new BigInt64Array(batch.length * length);
  batch.forEach((ids, row) => {
    ids.forEach((tokenId, at) => {
      inputIds[row * length + at] = BigInt(tokenId);
      mask[row * length + at] = 1n;
    });
  });
  const available: Record<string, BigInt64Array> = {
    input_ids: inputIds,
    attention_mask: mask,
    token_type_ids: new BigInt64Array(batch.length * length),
  };
  const feeds: Record<string, InstanceType<typeof Tensor>> = {};
  for (const name of session.inputNames) {
    const data = available[name];
    if (data === undefined) throw broken(description, `its graph asks for ${name}`);
    feeds[name] = new Tensor("int64", data, dims);
  }
  const wanted = session.outputNames.find((name) => name === "last_hidden_state") ?? session.outputNames[0];
  const output = wanted === undefined ? undefined : (await session.run(feeds, [wanted]))[wanted];
  if (output === undefined || !(output.data instanceof Float32Array))
    throw broken(description, "no float32 output");
  return pool(description, batch, { data: output.data, dims: output.dims });
}

function pool(
  description: ModelDescription,
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
    throw broken(description, `output of shape ${output.dims.join(" × ")} for ${batch.length} texts`);
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
    if (!normalise(target)) throw broken(description, "a vector that is zero or not finite");
  });
  return rows;
}

/** To length 1, in place; false where it has no direction. (A mean's division falls out of it.) */
function normalise(row: Float32Array): boolean {
  let squares = 0;
  for (const value of row) squares += value * value;
  const length = Math.sqrt(squares);
  if (!Number.isFinite(length) || length === 0) return false;
  for (let at = 0; at < row.length; at++) row[at] = (row[at] as number) / length;
  return true;
}

function broken(description: ModelDescription, detail: string): GatewayError {
  return new GatewayError({
    code: "embedder_invalid",
    operation: "embed: run",
    object: description.fullName,
    detail,
    hint: "take another model",
  });
}
