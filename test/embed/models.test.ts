import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  describeModel,
  findModel,
  installedManifest,
  isModelFolder,
  type ModelManifest,
  ownMaxTokens,
  poolingOf,
} from "../../src/embed/models.ts";
import { GatewayError } from "../../src/errors.ts";
import { FIXTURE } from "./embedders.ts";

let modelsDir = "";
beforeEach(() => {
  modelsDir = mkdtempSync(join(tmpdir(), "gateway-models-"));
});
afterEach(() => rmSync(modelsDir, { recursive: true, force: true }));

/** A folder with the files of a model, empty unless given. */
function bareModel(name: string, files: Record<string, unknown> = {}): string {
  const folder = join(modelsDir, name);
  mkdirSync(join(folder, "onnx"), { recursive: true });
  const whole: Record<string, unknown> = {
    "tokenizer.json": {},
    "tokenizer_config.json": {},
    "config.json": {},
    "onnx/model.onnx": {},
    ...files,
  };
  for (const [path, content] of Object.entries(whole)) {
    if (path.includes("1_Pooling")) mkdirSync(join(folder, "1_Pooling"), { recursive: true });
    if (content !== null) {
      writeFileSync(join(folder, path), typeof content === "string" ? content : JSON.stringify(content));
    }
  }
  return folder;
}

const MANIFEST: ModelManifest = {
  ...{ name: "mine", pooling: "mean", precision: "fp32", dim: 384, max_tokens: 512, prefix: "" },
  ...{ source: "", files: [] },
};

function refusalOf(read: () => unknown): GatewayError {
  try {
    read();
  } catch (error) {
    if (error instanceof GatewayError) return error;
  }
  throw new Error("expected a refusal");
}

describe("finding", () => {
  test("prefers bge-m3, then the first model by name", () => {
    expect([findModel(modelsDir, null), findModel(join(modelsDir, "none"), null)]).toEqual([null, null]);
    for (const name of ["zeta", "alpha"]) bareModel(name);
    expect(findModel(modelsDir, null)).toBe(join(modelsDir, "alpha"));
    bareModel("bge-m3");
    expect(findModel(modelsDir, null)).toBe(join(modelsDir, "bge-m3"));
  });

  test("takes only the model that is named, by its name or its repository", () => {
    bareModel("alpha");
    expect(findModel(modelsDir, "beta")).toBeNull();
    expect(findModel(modelsDir, "acme/alpha")).toBe(join(modelsDir, "alpha"));
  });

  test("ignores hidden folders, files, and folders that are not complete", () => {
    bareModel(".alpha.partial");
    bareModel("broken", { "tokenizer.json": null });
    writeFileSync(join(modelsDir, "notes.txt"), "");
    const graphless = bareModel("graphless");
    rmSync(join(graphless, "onnx"), { recursive: true });
    expect(findModel(modelsDir, null)).toBeNull();
    expect([isModelFolder(graphless), isModelFolder(FIXTURE)]).toEqual([false, true]);
  });
});

describe("describing", () => {
  test("gives a full name with everything that changes a vector", () => {
    const names: [folder: string, fullName: string][] = [
      [bareModel("plain"), "plain@fp32+mean"],
      [bareModel("int8", { "onnx/model_quantized.onnx": "" }), "int8@int8+mean"],
      [bareModel("bge-m3"), "bge-m3@fp32+cls"],
      [bareModel("multilingual-e5-small"), "multilingual-e5-small@fp32+mean+query:"],
      [bareModel("a", { "gateway-model.json": { ...MANIFEST, max_tokens: 2048 } }), "mine@fp32+mean+2048t"],
      [
        bareModel("b", { "gateway-model.json": { ...MANIFEST, prefix: "q: ", pooling: "cls" } }),
        "mine@fp32+cls+q:",
      ],
    ];
    expect(names.map(([folder]) => describeModel(folder).fullName)).toEqual(names.map(([, name]) => name));
  });

  test("limits a text to 512 tokens, or the model's own limit, or the manifest's", () => {
    const limits = { "tokenizer_config.json": { model_max_length: 256 } };
    expect(describeModel(bareModel("plain")).maxTokens).toBe(512);
    expect(describeModel(bareModel("short", limits)).maxTokens).toBe(256);
    const manifest = { "gateway-model.json": { ...MANIFEST, max_tokens: 64 } };
    expect(describeModel(bareModel("manifest", manifest)).maxTokens).toBe(64);
    const both = { ...limits, "gateway-model.json": { ...MANIFEST, max_tokens: 1024 } };
    expect(describeModel(bareModel("both", both)).maxTokens).toBe(256);
  });

  test("reads the model's own limit from its table of positions", () => {
    const of = (config: object): number => ownMaxTokens(bareModel("m", { "config.json": config }));
    expect(of({})).toBe(8192);
    expect(of({ max_position_embeddings: 512, model_type: "bert" })).toBe(512);
    expect(of({ max_position_embeddings: 514, model_type: "xlm-roberta", pad_token_id: 1 })).toBe(512);
    expect(of({ max_position_embeddings: 514, model_type: "camembert" })).toBe(512);
    expect(of({ max_position_embeddings: 1 })).toBe(8);
  });

  test("reads pooling from the model's files, else judges by the name, else takes mean", () => {
    const said = (modes: object): string => bareModel("said", { "1_Pooling/config.json": modes });
    expect(poolingOf(said({ pooling_mode_cls_token: true }), "all-MiniLM-L6-v2")).toBe("cls");
    expect(poolingOf(said({ pooling_mode_mean_tokens: true }), "bge-m3")).toBe("mean");
    expect(refusalOf(() => poolingOf(said({ pooling_mode_max_tokens: true }), "x")).code).toBe(
      "model_invalid",
    );
    const bare = bareModel("bare");
    expect(["bge-large-zh", "bge-m3", "whatever"].map((name) => poolingOf(bare, name))).toEqual([
      "cls",
      "cls",
      "mean",
    ]);
  });

  test("refuses a folder that is not complete, has a bad manifest, or contradicts it", () => {
    const faults: [folder: string, code: string, detail: RegExp][] = [
      [join(modelsDir, "none"), "model_missing", /tokenizer.json is missing/],
      [bareModel("a", { "gateway-model.json": "{" }), "model_invalid", /JSON/],
      [bareModel("b", { "gateway-model.json": { ...MANIFEST, dim: 0 } }), "model_invalid", /dim/],
      [
        bareModel("c", { "gateway-model.json": { ...MANIFEST, max_tokens: 9000 } }),
        "model_invalid",
        /max_tokens/,
      ],
      [
        bareModel("d", {
          "gateway-model.json": { ...MANIFEST, files: [{ path: "config.json", bytes: 9, sha256: "" }] },
        }),
        "model_invalid",
        /config.json has 2 bytes, but the manifest says 9/,
      ],
    ];
    for (const [folder, code, detail] of faults) {
      const error = refusalOf(() => describeModel(folder));
      expect([error.code, error.detail]).toEqual([code as typeof error.code, expect.stringMatching(detail)]);
      expect(installedManifest(folder)).toBeNull();
    }
  });

  test("accepts a folder without a manifest, but not as an installed model", () => {
    const copied = join(modelsDir, "copied");
    cpSync(FIXTURE, copied, { recursive: true });
    expect(describeModel(copied).fullName).toBe("copied@int8+cls");
    expect(installedManifest(copied)).toBeNull();
    writeFileSync(join(copied, "gateway-model.json"), JSON.stringify(MANIFEST));
    expect(installedManifest(copied)?.name).toBe("mine");
  });
});
