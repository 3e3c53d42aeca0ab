/** Copies a model from a folder. */
import { existsSync } from "node:fs";
import { copyFile, mkdir, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { GatewayError } from "../errors.ts";
import { hashFile } from "./hash-file.ts";
import { GRAPHS, installedManifest, invalidModel, POOLING_FILE, REQUIRED } from "./models.ts";

/**
 * Copies the files of a model into `partial`, from a folder laid out as on the hub or flat, as in many packages.
 * @returns `from`.
 * @throws GatewayError model_missing, model_invalid.
 */
export async function copyModel(
  from: string,
  partial: string,
  progress: (line: string) => void,
): Promise<string> {
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
      detail: `${absent} is missing`,
      hint: `a model's folder has ${REQUIRED.join(", ")} and a graph under onnx/, as on the hub`,
    });
  }
  await rm(partial, { recursive: true, force: true });
  const listed = installedManifest(from)?.files ?? [];
  const copies = [...REQUIRED, POOLING_FILE].map((path) => ({ path, to: path as string }));
  copies.push(graph, { path: `${graph.path}_data`, to: `${graph.to}_data` });
  for (const { path, to } of copies) {
    const source = join(from, path);
    if (!existsSync(source)) continue;
    const target = join(partial, to);
    await mkdir(dirname(target), { recursive: true });
    await copyFile(source, target);
    const sha256 = await hashFile(target, "sha256");
    const expected = listed.find((file) => file.path === path)?.sha256 ?? (await hashFile(source, "sha256"));
    if (sha256 !== expected) throw invalidModel(source, `sha256 is ${sha256}, expected ${expected}`);
    progress(`copied ${path}, sha256 ${sha256}`);
  }
  return from;
}
