/** Loads a local model and embeds texts with it. It blocks its thread, so only the embed Worker uses it. */
import { GatewayError, messageOf } from "../errors.ts";
import { SEMANTIC_DIM_MAX } from "../frame.ts";
import { describeModel, type ModelDescription } from "./models.ts";
import { brokenModel, poolRows } from "./pooling.ts";
import { RecentVectors } from "./recent.ts";
import { planRuns, type Tokenized } from "./runs.ts";
import { repairUnigram, suffixOf, withPrefixSpace } from "./tokenizer.ts";

type Onnx = typeof import("../native/onnx.ts");
type Session = Awaited<ReturnType<Onnx["onnxruntime"]["InferenceSession"]["create"]>>;

export interface LoadedModel extends Tokenized {
  readonly description: ModelDescription;
  readonly session: Session;
  readonly dim: number;
  readonly padId: number;
  readonly recent: RecentVectors;
}

/** @throws GatewayError model_missing, model_invalid. */
export async function loadModel(folder: string): Promise<LoadedModel> {
  const description = describeModel(folder);
  // Imported here and not above, because the hashing embedder must not pay for the runtime.
  const { PreTrainedTokenizer, onnxruntime } = await import("../native/onnx.ts");
  const opening = { code: "model_invalid", operation: "embed: open model", object: folder } as const;
  const hint = 'run "one_file_gateway pull-model" again, or pass --embedder remote or hashing';
  try {
    const tokenizer = new PreTrainedTokenizer(
      withPrefixSpace(await Bun.file(`${folder}/tokenizer.json`).json()),
      await Bun.file(`${folder}/tokenizer_config.json`).json(),
    );
    repairUnigram(tokenizer.model);
    const tokenize = (text: string): number[] =>
      tokenizer(description.prefix + text, { padding: false, truncation: false, return_tensor: false })
        .input_ids;
    // By path and not by buffer: this keeps the weights out of JavaScript's memory and finds external data.
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
        `${description.fullName} has ${dim} dimensions; a frame has room for ${SEMANTIC_DIM_MAX}`,
      );
    }
    return { ...bare, dim };
  } catch (cause) {
    if (cause instanceof GatewayError && cause.code !== "embedder_invalid") throw cause;
    throw new GatewayError({ ...opening, detail: messageOf(cause), hint, cause });
  }
}

/** Returns one row per text. Texts that were embedded a moment ago are not embedded again. */
export function embedNew(model: LoadedModel, texts: readonly string[]): Promise<Float32Array<ArrayBuffer>> {
  return model.recent.fill(
    texts,
    () => model.dim,
    (fresh) => embedAll(model, fresh),
  );
}

/** Returns one row per text, in order; zeros for a text of white space only. */
async function embedAll(model: LoadedModel, texts: readonly string[]): Promise<Float32Array<ArrayBuffer>> {
  const rows = new Float32Array(texts.length * model.dim);
  for (const run of planRuns(model, texts)) {
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

/** Runs the graph over one padded batch and pools its output: one row of length 1 per text. */
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
    if (data === undefined) throw brokenModel(description, `its graph needs the input ${name}`);
    feeds[name] = new Tensor("int64", data, dims);
  }
  const wanted = session.outputNames.find((name) => name === "last_hidden_state") ?? session.outputNames[0];
  const output = wanted === undefined ? undefined : (await session.run(feeds, [wanted]))[wanted];
  if (output === undefined || !(output.data instanceof Float32Array))
    throw brokenModel(description, "its graph has no float32 output");
  return poolRows(description, batch, { data: output.data, dims: output.dims });
}
