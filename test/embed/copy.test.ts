import { afterEach, beforeEach, expect, test } from "bun:test";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { copyModel } from "../../src/embed/copy.ts";
import { FIXTURE, refusal } from "./embedders.ts";

let folder = "";
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "gateway-copy-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

test("a folder laid out as on the hub is copied completely and replaces the earlier copy; each file's hash is shown", async () => {
  const target = join(folder, "target");
  mkdirSync(target);
  writeFileSync(join(target, "stale"), "");
  const lines: string[] = [];
  expect(await copyModel(FIXTURE, target, (line) => lines.push(line))).toBe(FIXTURE);
  for (const path of ["config.json", "1_Pooling/config.json", "onnx/model_quantized.onnx"]) {
    expect(readFileSync(join(target, path))).toEqual(readFileSync(join(FIXTURE, path)));
  }
  expect([existsSync(join(target, "stale")), lines.length]).toEqual([false, 5]);
  expect(lines.every((line) => /^copied .*, sha256 [0-9a-f]{64}$/.test(line))).toBe(true);
});

test("a flat folder is copied to the layout of the hub, with the data of its graph", async () => {
  const flat = join(folder, "flat");
  mkdirSync(flat);
  const files = ["tokenizer.json", "tokenizer_config.json", "config.json", "model.onnx", "model.onnx_data"];
  for (const path of files) writeFileSync(join(flat, path), path);
  const target = join(folder, "target");
  await copyModel(flat, target, () => {});
  expect(readFileSync(join(target, "onnx/model.onnx"), "utf8")).toBe("model.onnx");
  expect(readFileSync(join(target, "onnx/model.onnx_data"), "utf8")).toBe("model.onnx_data");
});

test("a folder that lacks a file is refused, and the file is named", async () => {
  const lacking = join(folder, "lacking");
  cpSync(FIXTURE, lacking, { recursive: true });
  rmSync(join(lacking, "config.json"));
  const error = await refusal(copyModel(lacking, join(folder, "target"), () => {}));
  expect([error.code, error.detail]).toEqual(["model_missing", "config.json is missing"]);
  rmSync(join(lacking, "onnx"), { recursive: true });
  expect((await refusal(copyModel(lacking, join(folder, "target"), () => {}))).detail).toContain(
    "onnx/model",
  );
});

test("a file whose hash differs from its manifest is refused", async () => {
  const wrong = join(folder, "wrong");
  cpSync(FIXTURE, wrong, { recursive: true });
  const bytes = readFileSync(join(wrong, "config.json")).byteLength;
  const manifest = {
    ...{ name: "m", pooling: "cls", precision: "int8", dim: 1, max_tokens: 128, prefix: "", source: "" },
    files: [{ path: "config.json", bytes, sha256: "0".repeat(64) }],
  };
  writeFileSync(join(wrong, "gateway-model.json"), JSON.stringify(manifest));
  const error = await refusal(copyModel(wrong, join(folder, "target"), () => {}));
  expect([error.code, error.detail.includes("0000")]).toEqual(["model_invalid", true]);
});
