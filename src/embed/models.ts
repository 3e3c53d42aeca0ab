/**
 * Finds local embedding models on disk and reads what their folders say. pull.ts installs them.
 *
 * A model's folder is models/NAME with tokenizer.json, tokenizer_config.json, config.json, one graph
 * under onnx/ and gateway-model.json, the manifest that `pull-model` writes. A folder copied there by hand works
 * without a manifest: pooling then comes from 1_Pooling/config.json or from the name.
 */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import * as v from "valibot";
import { GatewayError, messageOf } from "../errors.ts";

/** The name of the manifest in a model's folder. */
export const MANIFEST_FILE = "gateway-model.json";

/**
 * Tokens of a text that are read, unless the manifest says otherwise. Attention grows with the square of the length, and
 * BGE-M3 at its own limit of 8,192 tokens takes minutes per text on two cores.
 */
export const MAX_TOKENS_DEFAULT = 512;
/** The highest `max_tokens` that a manifest may have. */
export const MAX_TOKENS_LIMIT = 8192;

export type Pooling = "cls" | "mean";

const FileSchema = v.object({ path: v.string(), bytes: v.number(), sha256: v.string() });
const ManifestSchema = v.object({
  name: v.string(),
  pooling: v.picklist(["cls", "mean"]),
  precision: v.string(),
  /** Floats in a vector. */
  dim: v.pipe(v.number(), v.integer(), v.minValue(1)),
  /** Tokens of a text that are read, special tokens included. */
  max_tokens: v.pipe(v.number(), v.integer(), v.minValue(8), v.maxValue(MAX_TOKENS_LIMIT)),
  /** Stands before every text. Models of the E5 family need "query: ". */
  prefix: v.string(),
  source: v.string(),
  files: v.array(FileSchema),
});

/** `gateway-model.json`. */
export type ModelManifest = v.InferOutput<typeof ManifestSchema>;

/** Everything that is needed to run a model. */
export interface ModelDescription {
  readonly folder: string;
  /** Full name, which contains everything that changes a vector, for example "bge-m3@int8+cls". */
  readonly fullName: string;
  readonly pooling: Pooling;
  readonly maxTokens: number;
  readonly prefix: string;
  /** Path of the graph in the folder. */
  readonly graph: string;
}

interface KnownModel {
  readonly repository: string;
  readonly pooling: Pooling;
  readonly prefix?: string;
}

export const KNOWN: Readonly<Record<string, KnownModel>> = {
  "bge-m3": { repository: "Xenova/bge-m3", pooling: "cls" },
  "bge-small-en-v1.5": { repository: "Xenova/bge-small-en-v1.5", pooling: "cls" },
  "multilingual-e5-small": { repository: "Xenova/multilingual-e5-small", pooling: "mean", prefix: "query: " },
  "multilingual-e5-base": { repository: "Xenova/multilingual-e5-base", pooling: "mean", prefix: "query: " },
  "multilingual-e5-large": { repository: "Xenova/multilingual-e5-large", pooling: "mean", prefix: "query: " },
  "all-MiniLM-L6-v2": { repository: "Xenova/all-MiniLM-L6-v2", pooling: "mean" },
  "paraphrase-multilingual-MiniLM-L12-v2": {
    repository: "Xenova/paraphrase-multilingual-MiniLM-L12-v2",
    pooling: "mean",
  },
};

/** Graphs that the gateway can run, the preferred one first, and the precision that their names tell. */
export const GRAPHS: readonly { readonly path: string; readonly precision: string }[] = [
  { path: "onnx/model_quantized.onnx", precision: "int8" },
  { path: "onnx/model_int8.onnx", precision: "int8" },
  { path: "onnx/model.onnx", precision: "fp32" },
];
export const REQUIRED = ["tokenizer.json", "tokenizer_config.json", "config.json"] as const;
export const POOLING_FILE = "1_Pooling/config.json";

/** Whether a folder holds all files that a model needs. */
export function isModelFolder(folder: string): boolean {
  return REQUIRED.every((file) => existsSync(join(folder, file))) && graphIn(folder) !== null;
}

/**
 * Finds the folder of a local model.
 * @param name the model's name or repository; null takes bge-m3 if it is there, else the first model by name.
 * @returns null if there is no such model.
 */
export function findModel(modelsDir: string, name: string | null): string | null {
  const candidates = name === null ? ["bge-m3", ...foldersIn(modelsDir)] : [folderName(name)];
  for (const candidate of candidates) {
    const folder = join(modelsDir, candidate);
    if (isModelFolder(folder)) return folder;
  }
  return null;
}

function foldersIn(modelsDir: string): string[] {
  if (!existsSync(modelsDir)) return [];
  const entries = readdirSync(modelsDir, { withFileTypes: true });
  return entries
    .filter((entry) => !entry.name.startsWith(".") && !entry.isFile())
    .map((entry) => entry.name)
    .sort();
}

export function folderName(name: string): string {
  return name.includes("/") ? basename(name) : name;
}

export function graphIn(folder: string): { readonly path: string; readonly precision: string } | null {
  return GRAPHS.find((graph) => existsSync(join(folder, graph.path))) ?? null;
}

/**
 * Reads the description of a model from its folder.
 * @throws GatewayError model_missing if files are absent, model_invalid if they contradict the manifest.
 */
export function describeModel(folder: string): ModelDescription {
  const graph = graphIn(folder);
  const absent = REQUIRED.find((file) => !existsSync(join(folder, file)));
  if (graph === null || absent !== undefined) {
    throw new GatewayError({
      code: "model_missing",
      operation: "embed: open model",
      object: folder,
      detail: `${absent ?? GRAPHS[0]?.path} is missing`,
      hint: 'run "one_file_gateway pull-model" or pass --embedder remote or hashing',
    });
  }
  const manifest = readManifest(folder);
  for (const file of manifest?.files ?? []) {
    const path = join(folder, file.path);
    const bytes = existsSync(path) ? statSync(path).size : -1;
    if (bytes === file.bytes) continue;
    throw invalidModel(folder, `${file.path} has ${bytes} bytes, but the manifest says ${file.bytes}`);
  }
  const name = manifest?.name ?? basename(folder);
  const pooling = manifest?.pooling ?? poolingOf(folder, name);
  const prefix = manifest?.prefix ?? KNOWN[name]?.prefix ?? "";
  const own = ownMaxTokens(folder);
  const maxTokens = Math.min(manifest?.max_tokens ?? MAX_TOKENS_DEFAULT, own);
  const precision = manifest?.precision ?? graph.precision;
  const cut = maxTokens === Math.min(MAX_TOKENS_DEFAULT, own) ? "" : `+${maxTokens}t`;
  const fullName = `${name}@${precision}+${pooling}${prefix === "" ? "" : `+${prefix.trim()}`}${cut}`;
  return { folder, fullName, pooling, maxTokens, prefix, graph: graph.path };
}

function readManifest(folder: string): ModelManifest | null {
  const path = join(folder, MANIFEST_FILE);
  if (!existsSync(path)) return null;
  const parsed = v.safeParse(ManifestSchema, readJson(path));
  if (!parsed.success) throw invalidModel(path, v.summarize(parsed.issues).replaceAll("\n", " "));
  return parsed.output;
}

function readJson(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, "utf8"));
  } catch (cause) {
    throw invalidModel(path, messageOf(cause), cause);
  }
}

/** Reads the file of sentence-transformers if it exists, else judges by the name; mean is the library's default. */
export function poolingOf(folder: string, name: string): Pooling {
  const path = join(folder, POOLING_FILE);
  if (existsSync(path)) {
    const modes = v.safeParse(
      v.object({
        pooling_mode_cls_token: v.optional(v.boolean()),
        pooling_mode_mean_tokens: v.optional(v.boolean()),
      }),
      readJson(path),
    );
    if (modes.success && modes.output.pooling_mode_cls_token === true) return "cls";
    if (modes.success && modes.output.pooling_mode_mean_tokens === true) return "mean";
    throw invalidModel(path, "its pooling is neither cls nor mean");
  }
  return KNOWN[name]?.pooling ?? (/bge/i.test(name) ? "cls" : "mean");
}

/** The longest text that the model itself accepts, in tokens with the special ones. */
export function ownMaxTokens(folder: string): number {
  const Numbers = v.object({
    model_max_length: v.optional(v.number()),
    max_position_embeddings: v.optional(v.number()),
    model_type: v.optional(v.string()),
    pad_token_id: v.optional(v.nullable(v.number())),
  });
  const tokenizer = v.safeParse(Numbers, readJson(join(folder, "tokenizer_config.json")));
  const config = v.safeParse(Numbers, readJson(join(folder, "config.json")));
  let tokens = MAX_TOKENS_LIMIT;
  if (tokenizer.success) tokens = Math.min(tokens, tokenizer.output.model_max_length ?? tokens);
  if (config.success && config.output.max_position_embeddings !== undefined) {
    // RoBERTa counts positions from pad_token_id + 1, so the first entries of its table are unused.
    const roberta = /roberta|camembert/.test(config.output.model_type ?? "");
    const offset = roberta ? (config.output.pad_token_id ?? 1) + 1 : 0;
    tokens = Math.min(tokens, config.output.max_position_embeddings - offset);
  }
  return Math.max(8, tokens);
}

/** The manifest of an installed model; null if the folder is not complete or has none. */
export function installedManifest(folder: string): ModelManifest | null {
  try {
    describeModel(folder);
    return readManifest(folder);
  } catch (error) {
    // pull-model replaces a folder that is not complete.
    if (error instanceof GatewayError) return null;
    throw error;
  }
}

export function invalidModel(object: string, detail: string, cause?: unknown): GatewayError {
  return new GatewayError({
    code: "model_invalid",
    operation: "embed: check model",
    object,
    detail,
    hint: 'run "one_file_gateway pull-model" again, or choose another model',
    cause,
  });
}
