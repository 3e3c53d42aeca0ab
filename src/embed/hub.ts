/** Downloads models from the hub or a mirror of it: finds out which files a model has there, and their hashes. */
import { join } from "node:path";
import * as v from "valibot";
import { GatewayError } from "../errors.ts";
import { getFile, type HubFile, request, type Transfer, textOf } from "./download.ts";
import { GRAPHS, KNOWN, POOLING_FILE, REQUIRED } from "./models.ts";

const HUB = "https://huggingface.co";
/**
 * @bound the hub's list of a model's files | the model is downloaded as from a mirror without lists
 */
const LISTING_BYTES_MAX = 8 * 1024 * 1024;

const TreeSchema = v.array(
  v.object({
    type: v.string(),
    path: v.string(),
    oid: v.optional(v.string()),
    size: v.optional(v.number()),
    lfs: v.optional(v.nullable(v.object({ oid: v.string(), size: v.optional(v.number()) }))),
  }),
);

/**
 * Downloads the files of a model into `partial`.
 * @param name a known name ("bge-m3") or a repository of the hub ("owner/name").
 * @returns the repository and revision that the files came from.
 * @throws GatewayError model_missing, model_invalid, embedder_unavailable.
 */
export async function downloadModel(
  { name, hfEndpoint }: { name: string; hfEndpoint: string | null },
  partial: string,
  transfer: Transfer,
): Promise<string> {
  const repository = name.includes("/") ? name : KNOWN[name]?.repository;
  if (repository === undefined) {
    throw new GatewayError({
      code: "model_missing",
      operation: "pull-model",
      object: name,
      detail: "not a known model",
      hint: `known: ${Object.keys(KNOWN).join(", ")}; name any other as OWNER/NAME of the hub, or pass --from DIR`,
    });
  }
  const endpoint = (hfEndpoint ?? HUB).replace(/\/+$/, "");
  const { revision, tree } = await listFiles(transfer, endpoint, repository);
  const graph = tree === null ? GRAPHS[0] : GRAPHS.find((known) => tree.has(known.path));
  if (graph === undefined) {
    throw new GatewayError({
      code: "model_missing",
      operation: "pull-model",
      object: `${endpoint}/${repository}`,
      detail: `it has no ${GRAPHS.map((known) => known.path).join(" or ")}`,
      hint: "choose a repository with ONNX files, for example one of Xenova",
    });
  }
  const wanted = [...REQUIRED, POOLING_FILE, graph.path, `${graph.path}_data`];
  for (const path of wanted) {
    const optional = path === POOLING_FILE || path.endsWith("_data");
    if (tree === null ? path.endsWith("_data") : optional && !tree.has(path)) continue;
    const file = tree?.get(path) ?? { path, bytes: null, sha256: null, gitSha1: null };
    const url = `${endpoint}/${repository}/resolve/${revision}/${path}`;
    await getFile(transfer, { url, file, target: join(partial, path), optional });
  }
  return `${endpoint}/${repository}@${revision}`;
}

/** Asks the hub for a list of files with their hashes. @returns a null tree for a plain mirror without that API. */
async function listFiles(
  transfer: Transfer,
  endpoint: string,
  repository: string,
): Promise<{ revision: string; tree: Map<string, HubFile> | null }> {
  const api = `${endpoint}/api/models/${repository}`;
  // All files come from one revision, because the repository may change during the download.
  const about = await getJson(transfer, `${api}/revision/main`);
  const sha = v.safeParse(v.object({ sha: v.pipe(v.string(), v.regex(/^[0-9a-f]{40}$/)) }), about);
  const revision = sha.success ? sha.output.sha : "main";
  const listed = v.safeParse(TreeSchema, await getJson(transfer, `${api}/tree/${revision}?recursive=true`));
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

async function getJson(transfer: Transfer, url: string): Promise<unknown> {
  const response = await request(transfer, url, {});
  if (!response.ok) {
    await response.body?.cancel();
    return null;
  }
  try {
    return JSON.parse(await textOf(transfer, response, LISTING_BYTES_MAX));
  } catch {
    return null;
  }
}
