import { expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { downloadModel } from "../../src/embed/hub.ts";
import { FakeClock } from "../fake-clock.ts";
import { refusal } from "./embedders.ts";

const COMMIT = "0123456789abcdef0123456789abcdef01234567";
const REQUIRED = ["tokenizer.json", "tokenizer_config.json", "config.json"];

/** Downloads from a hub with these files, each with its path as its content. */
async function download(
  files: readonly string[],
  { name = "acme/tiny", hasApi = true }: { name?: string; hasApi?: boolean } = {},
) {
  const folder = mkdtempSync(join(tmpdir(), "gateway-hub-"));
  const paths: string[] = [];
  const fetching = (async (input: string | URL | Request) => {
    const path = new URL(String(input)).pathname;
    paths.push(path);
    const revision = path.indexOf("/revision/main");
    if (path.startsWith("/api/") && !hasApi) return new Response("no", { status: 404 });
    if (revision > 0) return Response.json({ sha: COMMIT });
    if (path.includes("/tree/")) {
      return Response.json(files.map((file) => ({ type: "file", path: file, size: file.length })));
    }
    const file = path.split(/\/resolve\/[^/]+\//)[1] ?? "";
    return files.includes(file) ? new Response(file) : new Response("no", { status: 404 });
  }) as typeof fetch;
  const transfer = { fetch: fetching, clock: new FakeClock(), progress: () => {} };
  try {
    const source = await downloadModel({ name, hfEndpoint: "http://hub/" }, folder, transfer);
    const got = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((path) =>
      /\.(json|onnx|onnx_data)$/.test(path),
    );
    return { source, paths, got: got.sort() };
  } finally {
    rmSync(folder, { recursive: true, force: true });
    expect(existsSync(folder)).toBe(false);
  }
}

test("the files of a model come from one revision: those that every model has, and one graph with its data", async () => {
  const files = [
    ...REQUIRED,
    "onnx/model_quantized.onnx",
    "onnx/model_quantized.onnx_data",
    "onnx/model.onnx",
  ];
  const { source, paths, got } = await download([...files, "README.md"]);
  expect(source).toBe(`http://hub/acme/tiny@${COMMIT}`);
  expect(got).toEqual(files.filter((path) => path !== "onnx/model.onnx").sort());
  expect(paths.filter((path) => path.includes("/resolve/")).every((path) => path.includes(COMMIT))).toBe(
    true,
  );
});

test("the fp32 graph is taken if there is none in int8", async () => {
  expect((await download([...REQUIRED, "onnx/model.onnx"])).got).toContain("onnx/model.onnx");
});

test("each file is requested by its name from a mirror that lists nothing", async () => {
  const { source, got } = await download([...REQUIRED, "onnx/model_quantized.onnx"], { hasApi: false });
  expect([source, got.length]).toEqual(["http://hub/acme/tiny@main", 4]);
});

test("a known name stands for its repository", async () => {
  const { paths } = await download([...REQUIRED, "onnx/model.onnx"], { name: "bge-m3" });
  expect(paths[0]).toBe("/api/models/Xenova/bge-m3/revision/main");
});

test("an unknown name and a repository without a graph are refused, and named", async () => {
  const unknown = await refusal(download([], { name: "no-such-model" }));
  expect([unknown.code, unknown.hint?.includes("bge-m3")]).toEqual(["model_missing", true]);
  const graphless = await refusal(download(REQUIRED));
  expect([graphless.code, graphless.object]).toEqual(["model_missing", "http://hub/acme/tiny"]);
});
