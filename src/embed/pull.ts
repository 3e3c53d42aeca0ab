/** `pull-model`: downloads or copies a model, checks it and installs it, completely or not at all. */
import { existsSync, statSync } from "node:fs";
import { mkdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type Clock, systemClock } from "../clock.ts";
import { GatewayError } from "../errors.ts";
import { copyModel } from "./copy.ts";
import type { Embedder } from "./embedder.ts";
import { hashFile } from "./hash-file.ts";
import { downloadModel } from "./hub.ts";
import {
  describeModel,
  folderName,
  graphIn,
  installedManifest,
  invalidModel,
  KNOWN,
  MANIFEST_FILE,
  MAX_TOKENS_DEFAULT,
  type ModelManifest,
  ownMaxTokens,
  POOLING_FILE,
  poolingOf,
  REQUIRED,
} from "./models.ts";
import { checkParaphrases, type Paraphrase } from "./paraphrases.ts";

export interface PullOptions {
  /** A known name ("bge-m3") or a repository of the hub ("owner/name"). */
  readonly name: string;
  /** A folder to copy the model from; null: download it from the hub. */
  readonly from: string | null;
  readonly modelsDir: string;
  /** The address of a mirror (HF_ENDPOINT); null: the hub itself. */
  readonly hfEndpoint: string | null;
  /** Opens a model's folder as an embedder, for the check before the installation. */
  readonly openModel: (folder: string) => Promise<Embedder>;
  /** Receives a line per file and per check, and one every two seconds of a download. */
  readonly progress: (line: string) => void;
  readonly fetch: typeof fetch;
  /** Ends the download; what is here by then is kept, and the next call continues. */
  readonly signal?: AbortSignal;
  /** Sentences for the check; the default is one set in Portuguese and one in English. */
  readonly paraphrases?: readonly Paraphrase[];
  readonly clock?: Clock;
}

/**
 * Downloads or copies a model, checks it and installs it as models/NAME, completely or not at all. A broken download
 * continues at the byte where it stopped, within this call and in the next one.
 * @returns the model's folder.
 * @throws GatewayError usage (not a model's name), model_missing (no such model, file or folder), model_invalid (wrong
 *   hash, not loadable, or a paraphrase is not nearer than an unrelated sentence), embedder_unavailable (no network).
 */
export async function pullModel(o: PullOptions): Promise<string> {
  if (!/^[\w-][\w.-]*(\/[\w-][\w.-]*)?$/.test(o.name)) {
    throw new GatewayError({
      code: "usage",
      operation: "pull-model",
      object: o.name,
      detail: "a model's name is NAME or OWNER/NAME",
      hint: `known names: ${Object.keys(KNOWN).join(", ")}`,
    });
  }
  const name = folderName(o.name);
  const folder = join(o.modelsDir, name);
  const partial = join(o.modelsDir, `.${name}.partial`);
  if (o.from === null && installedManifest(folder) !== null) {
    o.progress(`${folder} is installed already; remove the folder to install it again`);
    await check(o, folder);
    return folder;
  }
  await mkdir(partial, { recursive: true });
  const source = await fetchInto(o, partial);
  await writeManifest(o, partial, { name, source, dim: 1 });
  let dim: number;
  try {
    dim = await check(o, partial);
  } catch (error) {
    // The files are complete and the model is bad: keeping them would only fill the disk.
    await rm(partial, { recursive: true, force: true });
    throw error;
  }
  await writeManifest(o, partial, { name, source, dim });
  await install(partial, folder);
  o.progress(`installed ${describeModel(folder).fullName}, ${dim} dimensions, in ${folder}`);
  return folder;
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
  if (graph === null) throw invalidModel(folder, "it has no graph");
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
    o.progress(`the files of ${given.name} do not say how to pool; using ${manifest.pooling}`);
  }
}

/** @returns where the files came from. */
async function fetchInto(o: PullOptions, partial: string): Promise<string> {
  const { from, progress, fetch, signal = new AbortController().signal, clock = systemClock } = o;
  if (from !== null) return copyModel(from, partial, progress);
  return downloadModel(o, partial, { fetch, clock, progress, signal });
}

/** Opens the model and runs the check. @returns the model's dimension. */
async function check({ openModel, paraphrases, progress }: PullOptions, folder: string): Promise<number> {
  await using embedder = await openModel(folder);
  await checkParaphrases(embedder, { folder, paraphrases, progress });
  return embedder.dim;
}
