/**
 * Local embedding models on disk: what a model's folder holds, how one is found, and how one gets
 * there (`pull-model`, from the hub, from a mirror of it or from a folder).
 *
 * A model's folder is models/NAME with tokenizer.json, tokenizer_config.json, config.json, one graph
 * under onnx/ and gateway-model.json, the manifest written here. A folder copied there by hand works
 * without a manifest: pooling is then read from 1_Pooling/config.json or known from the name.
 */
import { createReadStream, existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { copyFile, mkdir, open, readFile, rename, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import * as v from "valibot";
import { GatewayError, messageOf } from "../errors.ts";
import type { Embedder } from "./embedder.ts";

/** The manifest's name within a model's folder. */
export const MANIFEST_FILE = "gateway-model.json";

/**
 * Texts are cut after so many tokens unless the manifest says otherwise: attention grows with the
 * square of the length, and BGE-M3 at its own 8,192 tokens takes minutes a text on two cores.
 */
export const MAX_TOKENS_DEFAULT = 512;
/** What no manifest may exceed. */
export const MAX_TOKENS_LIMIT = 8192;

export type Pooling = "cls" | "mean";

const FileSchema = v.object({ path: v.string(), bytes: v.number(), sha256: v.string() });
const ManifestSchema = v.object({
  name: v.string(),
  pooling: v.picklist(["cls", "mean"]),
  precision: v.string(),
  /** Floats in a vector. */
  dim: v.pipe(v.number(), v.integer(), v.minValue(1)),
  /** Texts are cut after so many tokens, special ones included. */
  max_tokens: v.pipe(v.number(), v.integer(), v.minValue(8), v.maxValue(MAX_TOKENS_LIMIT)),
  /** Put before every text; models of the E5 family want "query: ". */
  prefix: v.string(),
  source: v.string(),
  files: v.array(FileSchema),
});

/** `gateway-model.json`. */
export type ModelManifest = v.InferOutput<typeof ManifestSchema>;

/** All that has to be known of a model's folder to run it. */
export interface ModelDescription {
  readonly folder: string;
  /** Full name: everything that changes a vector is in it, e.g. "bge-m3@int8+cls". */
  readonly fullName: string;
  readonly pooling: Pooling;
  readonly maxTokens: number;
  readonly prefix: string;
  /** Path of the graph within the folder. */
  readonly graph: string;
}

interface KnownModel {
  readonly repository: string;
  readonly pooling: Pooling;
  readonly prefix?: string;
}

const KNOWN: Readonly<Record<string, KnownModel>> = {
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

/** Graphs that are run, the one preferred first, and what their names say of their precision. */
const GRAPHS: readonly { readonly path: string; readonly precision: string }[] = [
  { path: "onnx/model_quantized.onnx", precision: "int8" },
  { path: "onnx/model_int8.onnx", precision: "int8" },
  { path: "onnx/model.onnx", precision: "fp32" },
];
const REQUIRED = ["tokenizer.json", "tokenizer_config.json", "config.json"] as const;
const POOLING_FILE = "1_Pooling/config.json";
const HUB = "https://huggingface.co";
const PROGRESS_MS = 2000;
const ANSWER_MS = 30_000;

/** Whether a folder holds what is needed to run a model. */
export function isModelFolder(folder: string): boolean {
  return REQUIRED.every((file) => existsSync(join(folder, file))) && graphIn(folder) !== null;
}

/**
 * The folder of a local model, or null where there is none.
 * @param name wanted by name (a folder of `modelsDir`); null takes bge-m3 where it is there, else the first by name.
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

function folderName(name: string): string {
  return name.includes("/") ? basename(name) : name;
}

function graphIn(folder: string): { readonly path: string; readonly precision: string } | null {
  return GRAPHS.find((graph) => existsSync(join(folder, graph.path))) ?? null;
}

/**
 * Reads what a model's folder says of itself.
 * @throws GatewayError model_missing where files are absent, model_invalid where they contradict the manifest.
 */
export function describeModel(folder: string): ModelDescription {
  const graph = graphIn(folder);
  const absent = REQUIRED.find((file) => !existsSync(join(folder, file)));
  if (graph === null || absent !== undefined) {
    throw new GatewayError({
      code: "model_missing",
      operation: "embed: open model",
      object: folder,
      detail: `there is no ${absent ?? GRAPHS[0]?.path}`,
      hint: 'run "one_file_gateway pull-model" or pass --embedder remote or hashing',
    });
  }
  const manifest = readManifest(folder);
  for (const file of manifest?.files ?? []) {
    const path = join(folder, file.path);
    const bytes = existsSync(path) ? statSync(path).size : -1;
    if (bytes === file.bytes) continue;
    throw invalid(folder, `${file.path} has ${bytes} bytes, its manifest says ${file.bytes}`);
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
  if (!parsed.success) throw invalid(path, v.summarize(parsed.issues).replaceAll("\n", " "));
  return parsed.output;
}

function readJson(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, "utf8"));
  } catch (cause) {
    throw invalid(path, messageOf(cause), cause);
  }
}

/** sentence-transformers' own file first, then what is known of the name; mean is their default. */
function poolingOf(folder: string, name: string): Pooling {
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
    throw invalid(path, "pooling is neither cls nor mean");
  }
  return KNOWN[name]?.pooling ?? (/bge/i.test(name) ? "cls" : "mean");
}

/** The longest text the model itself takes, in tokens with the special ones. */
function ownMaxTokens(folder: string): number {
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
    // RoBERTa counts positions from pad_token_id + 1, so its table has that much more than it can use.
    const roberta = /roberta|camembert/.test(config.output.model_type ?? "");
    const offset = roberta ? (config.output.pad_token_id ?? 1) + 1 : 0;
    tokens = Math.min(tokens, config.output.max_position_embeddings - offset);
  }
  return Math.max(8, tokens);
}

// --- pull-model -------------------------------------------------------------------------------

export interface PullOptions {
  /** A known name ("bge-m3") or a repository of the hub ("owner/name"). */
  readonly name: string;
  /** A folder to install from instead of the hub; null: the hub. */
  readonly from: string | null;
  readonly modelsDir: string;
  /** HF_ENDPOINT, a mirror of the hub; null: the hub itself. */
  readonly hfEndpoint: string | null;
  /** Opens a model's folder as an embedder, for the check at the end. */
  readonly openModel: (folder: string) => Promise<Embedder>;
  /** Takes a line for each file and question, and every two seconds of a download. */
  readonly progress: (line: string) => void;
  readonly fetch?: typeof fetch;
  /** What the model has to tell apart; the default asks in Portuguese and English. */
  readonly questions?: readonly ParaphraseQuestion[];
  /** Between two tries of a download that broke; default 1,000. */
  readonly retryDelayMs?: number;
}

export interface ParaphraseQuestion {
  readonly language: string;
  readonly text: string;
  readonly paraphrase: string;
  readonly unrelated: string;
}

/** What a model is asked before it is installed. */
export const PARAPHRASE_QUESTIONS: readonly ParaphraseQuestion[] = [
  {
    language: "pt",
    text: "Meu cartão ainda não chegou",
    paraphrase: "Ainda estou esperando o meu cartão chegar",
    unrelated: "Vai chover amanhã",
  },
  {
    language: "en",
    text: "My card has not arrived yet",
    paraphrase: "I am still waiting for my card to arrive",
    unrelated: "It is going to rain tomorrow",
  },
];

/**
 * Gets a model, checks it and installs it as models/NAME, whole or not at all. A broken download is
 * taken up where it stopped, within this call and by the next one.
 * @returns the folder.
 * @throws GatewayError model_missing (no such model, file or folder), model_invalid (wrong sha256, not
 *   loadable, or it does not tell a paraphrase from an unrelated sentence), embedder_unavailable (no network).
 */
export async function pullModel(o: PullOptions): Promise<string> {
  if (!/^[\w-][\w.-]*(\/[\w-][\w.-]*)?$/.test(o.name)) {
    throw new GatewayError({
      code: "usage",
      operation: "pull-model",
      object: o.name,
      detail: "a model is NAME or OWNER/NAME",
      hint: `known names: ${Object.keys(KNOWN).join(", ")}`,
    });
  }
  const name = folderName(o.name);
  const folder = join(o.modelsDir, name);
  const partial = join(o.modelsDir, `.${name}.partial`);
  if (o.from === null && readManifestQuietly(folder) !== null) {
    o.progress(`${folder} is there already; remove the folder to get it again`);
    await check(o, folder);
    return folder;
  }
  await mkdir(partial, { recursive: true });
  const source = o.from === null ? await download(o, partial) : await copyFrom(o.from, partial, o.progress);
  await writeManifest(o, partial, { name, source, dim: 1 });
  let dim: number;
  try {
    dim = await check(o, partial);
  } catch (error) {
    // Whole and no good: to keep it would only fill the disk.
    await rm(partial, { recursive: true, force: true });
    throw error;
  }
  await writeManifest(o, partial, { name, source, dim });
  await install(partial, folder);
  o.progress(`installed ${describeModel(folder).fullName}, ${dim} dimensions, in ${folder}`);
  return folder;
}

function readManifestQuietly(folder: string): ModelManifest | null {
  try {
    describeModel(folder);
    return readManifest(folder);
  } catch (error) {
    // A folder that is not whole is what pull-model is there to replace.
    if (error instanceof GatewayError) return null;
    throw error;
  }
}

async function install(partial: string, folder: string): Promise<void> {
  const old = `${partial}.old`;
  await rm(old, { recursive: true, force: true });
  if (existsSync(folder)) await rename(folder, old);
  await rename(partial, folder);
  await rm(old, { recursive: true, force: true });
}

async function writeManifest(
  o: PullOptions,
  folder: string,
  given: { name: string; source: string; dim: number },
): Promise<void> {
  const graph = graphIn(folder);
  if (graph === null) throw invalid(folder, "there is no graph");
  const files = [];
  for (const path of [...REQUIRED, POOLING_FILE, graph.path, `${graph.path}_data`]) {
    const full = join(folder, path);
    if (existsSync(full))
      files.push({ path, bytes: statSync(full).size, sha256: await hashFile(full, "sha256") });
  }
  const manifest: ModelManifest = {
    name: given.name,
    pooling: poolingOf(folder, given.name),
    precision: graph.precision,
    dim: given.dim,
    max_tokens: Math.min(MAX_TOKENS_DEFAULT, ownMaxTokens(folder)),
    prefix: KNOWN[given.name]?.prefix ?? "",
    source: given.source,
    files,
  };
  await writeFile(join(folder, MANIFEST_FILE), `${JSON.stringify(manifest, null, 2)}\n`);
  if (!existsSync(join(folder, POOLING_FILE)) && KNOWN[given.name] === undefined && given.dim > 1) {
    o.progress(`pooling of ${given.name} is not said by its files; taken: ${manifest.pooling}`);
  }
}

/** Opens the model and asks the questions. Returns its dimension. */
async function check(o: PullOptions, folder: string): Promise<number> {
  await using embedder = await o.openModel(folder);
  let failed: string | null = null;
  for (const question of o.questions ?? PARAPHRASE_QUESTIONS) {
    const near = await compare(embedder, question);
    const passed = near.paraphrase > near.unrelated;
    o.progress(
      `paraphrase check ${question.language}: "${question.text}" ~ "${question.paraphrase}" ${near.paraphrase.toFixed(3)}, ` +
        `~ "${question.unrelated}" ${near.unrelated.toFixed(3)}: ${passed ? "ok" : "FAILED"}`,
    );
    if (!passed) failed = question.language;
  }
  if (failed !== null) {
    throw invalid(
      folder,
      `an unrelated sentence is nearer than a paraphrase (${failed}); it was not installed`,
    );
  }
  return embedder.dim;
}

/** Cosines of the question's text with its paraphrase and, the larger of both, with the unrelated sentence. */
async function compare(
  embedder: Embedder,
  question: ParaphraseQuestion,
): Promise<{ paraphrase: number; unrelated: number }> {
  const rows = await embedder.embed([question.text, question.paraphrase, question.unrelated]);
  const cosine = (a: number, b: number): number => {
    let sum = 0;
    for (let at = 0; at < embedder.dim; at++) {
      sum += (rows[a * embedder.dim + at] as number) * (rows[b * embedder.dim + at] as number);
    }
    return sum;
  };
  return { paraphrase: cosine(0, 1), unrelated: Math.max(cosine(0, 2), cosine(1, 2)) };
}

// --- from a folder ----------------------------------------------------------------------------

/** Layouts that are understood: as on the hub, or flat, as many packages carry a model. */
async function copyFrom(from: string, partial: string, progress: (line: string) => void): Promise<string> {
  const graph = GRAPHS.flatMap((known) =>
    [known.path, basename(known.path)].map((path) => ({ path, to: known.path })),
  ).find(({ path }) => existsSync(join(from, path)));
  const absent =
    graph === undefined
      ? "onnx/model_quantized.onnx or onnx/model.onnx"
      : REQUIRED.find((file) => !existsSync(join(from, file)));
  if (graph === undefined || absent !== undefined) {
    throw new GatewayError({
      code: "model_missing",
      operation: "pull-model: install from",
      object: from,
      detail: `there is no ${absent}`,
      hint: `a model's folder has ${REQUIRED.join(", ")} and a graph under onnx/, as on the hub`,
    });
  }
  await rm(partial, { recursive: true, force: true });
  const said = readManifestQuietly(from)?.files ?? [];
  const copies = [...REQUIRED, POOLING_FILE].map((path) => ({ path, to: path as string }));
  copies.push(graph, { path: `${graph.path}_data`, to: `${graph.to}_data` });
  for (const { path, to } of copies) {
    const source = join(from, path);
    if (!existsSync(source)) continue;
    const target = join(partial, to);
    await mkdir(dirname(target), { recursive: true });
    await copyFile(source, target);
    const sha256 = await hashFile(target, "sha256");
    const expected = said.find((file) => file.path === path)?.sha256 ?? (await hashFile(source, "sha256"));
    if (sha256 !== expected) throw invalid(source, `sha256 is ${sha256}, expected ${expected}`);
    progress(`copied ${path}, sha256 ${sha256}`);
  }
  return from;
}

// --- from the hub -----------------------------------------------------------------------------

interface HubFile {
  readonly path: string;
  readonly bytes: number | null;
  readonly sha256: string | null;
  /** Git's own hash of a file that is not in LFS: SHA-1 of "blob LENGTH\0" and the content. */
  readonly gitSha1: string | null;
}

const TreeSchema = v.array(
  v.object({
    type: v.string(),
    path: v.string(),
    oid: v.optional(v.string()),
    size: v.optional(v.number()),
    lfs: v.optional(v.nullable(v.object({ oid: v.string(), size: v.optional(v.number()) }))),
  }),
);

async function download(o: PullOptions, partial: string): Promise<string> {
  const repository = o.name.includes("/") ? o.name : KNOWN[o.name]?.repository;
  if (repository === undefined) {
    throw new GatewayError({
      code: "model_missing",
      operation: "pull-model",
      object: o.name,
      detail: "is no known model",
      hint: `known: ${Object.keys(KNOWN).join(", ")}; any other as OWNER/NAME of the hub, or with --from DIR`,
    });
  }
  const endpoint = (o.hfEndpoint ?? HUB).replace(/\/+$/, "");
  const { revision, tree } = await listFiles(o, endpoint, repository);
  const graph = tree === null ? GRAPHS[0] : GRAPHS.find((known) => tree.has(known.path));
  if (graph === undefined) {
    throw new GatewayError({
      code: "model_missing",
      operation: "pull-model",
      object: `${endpoint}/${repository}`,
      detail: `has no ${GRAPHS.map((known) => known.path).join(" or ")}`,
      hint: "take a repository with ONNX files, such as those of Xenova",
    });
  }
  const wanted = [...REQUIRED, POOLING_FILE, graph.path, `${graph.path}_data`];
  for (const path of wanted) {
    const optional = path === POOLING_FILE || path.endsWith("_data");
    if (tree === null ? path.endsWith("_data") : optional && !tree.has(path)) continue;
    const file = tree?.get(path) ?? { path, bytes: null, sha256: null, gitSha1: null };
    const url = `${endpoint}/${repository}/resolve/${revision}/${path}`;
    await getFile(o, { url, file, target: join(partial, path), optional });
  }
  return `${endpoint}/${repository}@${revision}`;
}

/** The hub's list of files with their hashes; a plain mirror without that API gives null. */
async function listFiles(
  o: PullOptions,
  endpoint: string,
  repository: string,
): Promise<{ revision: string; tree: Map<string, HubFile> | null }> {
  const api = `${endpoint}/api/models/${repository}`;
  // One revision for all files: the repository may change while they are fetched.
  const about = await getJson(o, `${api}/revision/main`);
  const sha = v.safeParse(v.object({ sha: v.pipe(v.string(), v.regex(/^[0-9a-f]{40}$/)) }), about);
  const revision = sha.success ? sha.output.sha : "main";
  const listed = v.safeParse(TreeSchema, await getJson(o, `${api}/tree/${revision}?recursive=true`));
  if (!listed.success) return { revision, tree: null };
  const tree = new Map<string, HubFile>();
  for (const entry of listed.output) {
    if (entry.type !== "file") continue;
    const lfs = entry.lfs ?? null;
    tree.set(entry.path, {
      path: entry.path,
      bytes: lfs?.size ?? entry.size ?? null,
      sha256: lfs === null ? null : lfs.oid.replace(/^sha256:/, ""),
      gitSha1: lfs === null && entry.oid !== undefined && /^[0-9a-f]{40}$/.test(entry.oid) ? entry.oid : null,
    });
  }
  return { revision, tree };
}

async function getJson(o: PullOptions, url: string): Promise<unknown> {
  const response = await request(o, url, {});
  if (!response.ok) {
    await response.body?.cancel();
    return null;
  }
  return response.json().catch(() => null);
}

/** One request; `fetch` follows redirects itself, but the hub says the hash on the redirect. */
async function request(
  o: PullOptions,
  url: string,
  headers: Record<string, string>,
  linked?: { sha256: string | null },
): Promise<Response> {
  let at = url;
  for (let hops = 0; hops < 8; hops++) {
    const response = await answerOf(o, at, headers);
    const etag = response.headers.get("x-linked-etag")?.replace(/^W\/|"/g, "") ?? "";
    if (linked !== undefined && /^[0-9a-f]{64}$/.test(etag)) linked.sha256 = etag;
    const location = response.headers.get("location");
    if (response.status < 300 || response.status > 399 || location === null) return response;
    await response.body?.cancel();
    at = new URL(location, at).href;
  }
  throw offline(url, "too many redirects");
}

async function answerOf(o: PullOptions, url: string, headers: Record<string, string>): Promise<Response> {
  // For the headers only: a body may take hours, and a broken one is noticed by the runtime.
  const slow = new AbortController();
  const timer = setTimeout(() => slow.abort(new Error(`no answer within ${ANSWER_MS} ms`)), ANSWER_MS);
  try {
    return await (o.fetch ?? fetch)(url, {
      headers: { "user-agent": "one_file_gateway", "accept-encoding": "identity", ...headers },
      redirect: "manual",
      signal: slow.signal,
    });
  } catch (cause) {
    throw offline(url, messageOf(cause), cause);
  } finally {
    clearTimeout(timer);
  }
}

interface Download {
  readonly url: string;
  readonly file: HubFile;
  readonly target: string;
  readonly optional: boolean;
}

const TRIES_MAX = 6;

async function getFile(o: PullOptions, d: Download): Promise<void> {
  const linked = { sha256: d.file.sha256 };
  await mkdir(dirname(d.target), { recursive: true });
  if (existsSync(d.target) && (await hashMatches(d, linked.sha256)) === true) {
    o.progress(`${d.file.path}: there already`);
    return;
  }
  const part = `${d.target}.part`;
  for (let tries = 1; ; tries++) {
    const before = bytesOf(part);
    try {
      if ((await fetchPart(o, d, part, linked)) === "absent") return;
      break;
    } catch (error) {
      // A try that brought something does not count: a slow line may break many times.
      if (bytesOf(part) > before) tries = 0;
      const retryable = error instanceof GatewayError && error.code === "embedder_unavailable";
      if (!retryable || tries >= TRIES_MAX) throw error;
      o.progress(`${d.file.path}: ${error.detail}; going on at ${bytesOf(part)} bytes`);
      await Bun.sleep(o.retryDelayMs ?? 1000);
    }
  }
  await rename(part, d.target);
  await rm(`${part}.etag`, { force: true });
  const matches = await hashMatches(d, linked.sha256);
  if (matches === false) {
    const found = await hashFile(d.target, "sha256");
    await rm(d.target);
    throw invalid(
      d.url,
      `what arrived has sha256 ${found}, expected ${linked.sha256 ?? d.file.gitSha1}; it was removed`,
    );
  }
  o.progress(
    `${d.file.path}: ${bytesOf(d.target)} bytes, ${matches === null ? "no hash known to check against" : "hash checked"}`,
  );
}

function bytesOf(path: string): number {
  return existsSync(path) ? statSync(path).size : 0;
}

/** Null where no hash is known. */
async function hashMatches(d: Download, sha256: string | null): Promise<boolean | null> {
  if (sha256 !== null) return (await hashFile(d.target, "sha256")) === sha256;
  if (d.file.gitSha1 !== null) return (await hashFile(d.target, "git")) === d.file.gitSha1;
  return null;
}

/** Brings `part` to its full length, going on where it stands if the server still has the same file. */
async function fetchPart(
  o: PullOptions,
  d: Download,
  part: string,
  linked: { sha256: string | null },
): Promise<"whole" | "absent"> {
  const have = bytesOf(part);
  const etagPath = `${part}.etag`;
  const etag = have > 0 && existsSync(etagPath) ? await readFile(etagPath, "utf8") : null;
  if (have > 0 && have === d.file.bytes) return "whole";
  // Without a strong ETag nothing says that the rest belongs to the beginning.
  const headers: Record<string, string> = etag === null ? {} : { range: `bytes=${have}-`, "if-range": etag };
  const response = await request(o, d.url, headers, linked);
  if (d.optional && response.status === 404) {
    await response.body?.cancel();
    return "absent";
  }
  if (response.status === 416) {
    await response.body?.cancel();
    await rm(part, { force: true });
    throw offline(d.url, "the server has another file than the one that was begun");
  }
  if (!response.ok || response.body === null) throw await refusal(d, response);
  const from = response.status === 206 ? rangeStart(response) : 0;
  const length = Number(response.headers.get("content-length") ?? Number.NaN);
  const totalBytes = d.file.bytes ?? (Number.isFinite(length) ? from + length : null);
  const newEtag = response.headers.get("etag");
  if (from === 0 || from !== have) {
    if (from !== 0) throw invalid(d.url, `the server went on at byte ${from}, ${have} are here`);
    await writeFile(part, "");
    if (newEtag?.startsWith('"')) await writeFile(etagPath, newEtag);
    else await rm(etagPath, { force: true });
  }
  await appendBody(o, d, { body: response.body, part, from, totalBytes });
  return "whole";
}

function rangeStart(response: Response): number {
  return Number(/^bytes (\d+)-/.exec(response.headers.get("content-range") ?? "")?.[1] ?? Number.NaN);
}

async function appendBody(
  o: PullOptions,
  d: Download,
  w: { body: ReadableStream<Uint8Array>; part: string; from: number; totalBytes: number | null },
): Promise<void> {
  const file = await open(w.part, "a");
  let bytes = w.from;
  let toldMs = performance.now();
  try {
    for await (const chunk of w.body) {
      await file.write(chunk);
      bytes += chunk.byteLength;
      const nowMs = performance.now();
      if (nowMs - toldMs < PROGRESS_MS) continue;
      toldMs = nowMs;
      o.progress(
        `${d.file.path}: ${megabytes(bytes)} of ${w.totalBytes === null ? "?" : megabytes(w.totalBytes)} MB`,
      );
    }
    await file.sync();
  } catch (cause) {
    throw offline(d.url, `broke off after ${bytes} bytes: ${messageOf(cause)}`, cause);
  } finally {
    await file.close();
  }
  if (w.totalBytes !== null && bytes < w.totalBytes) {
    throw offline(d.url, `broke off after ${bytes} of ${w.totalBytes} bytes`);
  }
}

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(1);
}

async function refusal(d: Download, response: Response): Promise<GatewayError> {
  await response.body?.cancel();
  const { status } = response;
  if (status === 429 || status >= 500) return offline(d.url, `the server answered ${status}`);
  return new GatewayError({
    code: "model_missing",
    operation: "pull-model",
    object: d.url,
    detail: `the server answered ${status}`,
    hint: "check the model's name and HF_ENDPOINT (the hub answers 401 for what does not exist, too)",
  });
}

function offline(url: string, detail: string, cause?: unknown): GatewayError {
  return new GatewayError({
    code: "embedder_unavailable",
    operation: "pull-model",
    object: url,
    detail,
    hint: "run it again to go on where it stopped; without network, bring the model's folder here and pass --from DIR",
    cause,
  });
}

function invalid(object: string, detail: string, cause?: unknown): GatewayError {
  return new GatewayError({
    code: "model_invalid",
    operation: "embed: check model",
    object,
    detail,
    hint: 'run "one_file_gateway pull-model" again, or take another model',
    cause,
  });
}

async function hashFile(path: string, kind: "sha256" | "git"): Promise<string> {
  const hasher = new Bun.CryptoHasher(kind === "git" ? "sha1" : "sha256");
  if (kind === "git") hasher.update(`blob ${statSync(path).size}\0`);
  for await (const chunk of createReadStream(path)) hasher.update(chunk as Uint8Array);
  return hasher.digest("hex");
}
