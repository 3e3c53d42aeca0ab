import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openModel } from "../../src/embed/embed.ts";
import { modelId } from "../../src/frame.ts";
import { described, dot, FIXTURE, LOCAL_NAME, PATIENCE_MS, refusal, row, WORKER } from "./embedders.ts";

setDefaultTimeout(PATIENCE_MS);

const folder = mkdtempSync(join(tmpdir(), "gateway-embed-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("a local model", () => {
  test("returns the vectors of Python's onnxruntime and tokenizers, alone and in padded batches", async () => {
    const reference: { texts: string[]; batches: number[][] } = await Bun.file(
      join(FIXTURE, "reference.json"),
    ).json();
    const vectors = new Float32Array(await Bun.file(join(FIXTURE, "reference.f32")).arrayBuffer());
    let at = 0;
    for (const batch of reference.batches) {
      // A new embedder per batch: int8 rounds by the batch, and a text of an earlier batch would not be embedded again.
      await using embedder = await openModel(FIXTURE, WORKER);
      const rows = await embedder.embed(batch.map((index) => reference.texts[index] as string));
      batch.forEach((index, position) => {
        const cosine = dot(row(embedder, rows, position), vectors.subarray(1024 * at, 1024 * (at + 1)));
        const text = (reference.texts[index] as string).slice(0, 40);
        // More than four texts of very different lengths are not padded to one length as in Python, so int8 rounds differently.
        const least = batch.length > 4 ? 0.999 : 0.9999;
        expect({ batch, text, near: cosine >= least ? `≥ ${least}` : cosine }).toEqual({
          batch,
          text,
          near: `≥ ${least}`,
        });
        at += 1;
      });
    }
    expect(at * 1024).toBe(vectors.length);
  });

  test("has its precision and pooling in its name", async () => {
    await using embedder = await openModel(FIXTURE, WORKER);
    const expected = { kind: "local", name: LOCAL_NAME, dim: 1024, modelId: modelId(LOCAL_NAME) } as const;
    expect(described(embedder)).toEqual(expected);
    expect(embedder.recomputed).toBe(false);
  });

  test("returns rows of length 1, zeros for white space, in the order of the texts", async () => {
    await using embedder = await openModel(FIXTURE, WORKER);
    const texts = ["a rather long text that stands before shorter ones", "", "x", " \n ", "meu cartão"];
    const rows = await embedder.embed(texts);
    expect(
      texts.map((_, at) => Math.round(1e5 * dot(row(embedder, rows, at), row(embedder, rows, at))) / 1e5),
    ).toEqual([1, 0, 1, 0, 1]);
    for (const at of [0, 2, 4]) {
      const alone = await embedder.embed([texts[at] as string]);
      expect(dot(alone, row(embedder, rows, at))).toBeGreaterThan(0.99);
    }
  });

  test("cuts a text at the limit of its manifest, keeps the closing token, and has the limit in its name", async () => {
    const short = join(folder, "short");
    cpSync(FIXTURE, short, { recursive: true });
    const manifest = {
      name: "short",
      pooling: "cls",
      precision: "int8",
      dim: 1024,
      max_tokens: 8,
      prefix: "",
      source: "",
      files: [],
    };
    writeFileSync(join(short, "gateway-model.json"), JSON.stringify(manifest));
    await using embedder = await openModel(short, WORKER);
    expect(embedder.name).toBe("short@int8+cls+8t");
    // Six pieces, and the two special ones: ▁M y ▁card ▁ ha s.
    const whole = await embedder.embed(["My card has"]);
    expect(await embedder.embed(["My card has not arrived yet"])).toEqual(whole);
    expect(await embedder.embed(["My card"])).not.toEqual(whole);
  });

  test("puts the manifest's prefix before every text, and has it in its name", async () => {
    const prefixed = join(folder, "prefixed");
    cpSync(FIXTURE, prefixed, { recursive: true });
    const manifest = {
      name: "e5",
      pooling: "mean",
      precision: "int8",
      dim: 1024,
      max_tokens: 128,
      prefix: "query: ",
      source: "",
      files: [],
    };
    writeFileSync(join(prefixed, "gateway-model.json"), JSON.stringify(manifest));
    await using embedder = await openModel(prefixed, WORKER);
    writeFileSync(join(prefixed, "gateway-model.json"), JSON.stringify({ ...manifest, prefix: "" }));
    await using plain = await openModel(prefixed, WORKER);
    expect([embedder.name, plain.name]).toEqual(["e5@int8+mean+query:", "e5@int8+mean"]);
    expect(await embedder.embed(["My card"])).toEqual(await plain.embed(["query: My card"]));
  });

  test("lets the process end while its runtime is loaded", async () => {
    const code = `
      const { openModel } = await import(${JSON.stringify(join(import.meta.dir, "../../src/embed/embed.ts"))});
      const embedder = await openModel(${JSON.stringify(FIXTURE)}, ${JSON.stringify(WORKER.href)});
      console.log((await embedder.embed(["a"])).length);`;
    const child = Bun.spawn([process.execPath, "-e", code], { stdout: "pipe", stderr: "pipe" });
    const [output, errors] = await Promise.all([child.stdout.text(), child.stderr.text()]);
    expect([output, errors, await child.exited]).toEqual(["1024\n", "", 0]);
  });

  test("accepts a batch that needs several runs, and texts that are too long", async () => {
    await using embedder = await openModel(FIXTURE, WORKER);
    const long = "Quero aumentar o limite do cartão. ".repeat(240);
    const texts = Array.from({ length: 40 }, (_, at) => (at % 2 === 0 ? long : `texto ${at}`));
    const rows = await embedder.embed(texts);
    expect(rows.length).toBe(40 * 1024);
    expect(dot(row(embedder, rows, 0), row(embedder, rows, 38))).toBeGreaterThan(0.99);
  });

  test("can be open twice, and closing one leaves the other open", async () => {
    await using first = await openModel(FIXTURE, WORKER);
    const second = await openModel(FIXTURE, WORKER);
    await second[Symbol.asyncDispose]();
    expect((await first.embed(["a"])).length).toBe(1024);
  });

  test("returns the same vector for a text of a moment ago", async () => {
    await using embedder = await openModel(FIXTURE, WORKER);
    const first = await embedder.embed(["Quero cancelar meu plano"]);
    const again = await embedder.embed(["oi", "Quero cancelar meu plano", "bom dia a todos"]);
    // To the last bit: embedded again, int8 would round by the new batch.
    expect(row(embedder, again, 1)).toEqual(first);
  });

  test("is refused by name if it is broken", async () => {
    const broken = join(folder, "broken");
    cpSync(FIXTURE, broken, { recursive: true });
    writeFileSync(join(broken, "onnx", "model_quantized.onnx"), "this is no graph");
    const error = await refusal(openModel(broken, WORKER));
    expect(error.code).toBe("model_invalid");
    expect(error.message).toContain(broken);
    rmSync(join(broken, "tokenizer.json"));
    expect((await refusal(openModel(broken, WORKER))).code).toBe("model_missing");
  });
});
