/** `pull-model`: gets a model, checks it and installs it, whole or not at all. */
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
import { checkParaphrases, type ParaphraseQuestion } from "./paraphrases.ts";

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
  readonly clock?: Clock;
}

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
  if (o.from === null && installedManifest(folder) !== null) {
    o.progress(`${folder} is there already; remove the folder to get it again`);
    await check(o, folder);
    return folder;
  }
  await mkdir(partial, { recursive: true });
  const source = await bring(o, partial);
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
  if (graph === null) throw invalidModel(folder, "there is no graph");
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

async function bring(o: PullOptions, partial: string): Promise<string> {
  const { from, progress, clock = systemClock } = o;
  if (from !== null) return copyModel(from, partial, progress);
  return downloadModel(o, partial, { fetch: o.fetch ?? fetch, clock, progress });
}

/** Opens the model and asks the questions. Returns its dimension. */
async function check({ openModel, questions, progress }: PullOptions, folder: string): Promise<number> {
  await using embedder = await openModel(folder);
  await checkParaphrases(embedder, { folder, questions, progress });
  return embedder.dim;
}
