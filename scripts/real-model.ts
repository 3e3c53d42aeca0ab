/**
 * Runs a real embedding model through the local embedder, as a user would: installs it with `pull-model --from` and tries
 * it on paraphrases in Portuguese and English. If the folder holds reference.f32, made by test/fixtures/minilm_onnx.py, it
 * also compares the vectors with Python's.
 *
 *     bun scripts/real-model.ts FOLDER [NAME]
 *
 * docs/MODELS.md has the results of earlier runs. The exit code is 1 if a check fails.
 */
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";
import { openHashing, openModel, pullModel } from "../src/embed/embed.ts";
import type { Embedder } from "../src/embed/embedder.ts";
import { workerUrl } from "../src/native/worker-url.ts";

const PARAPHRASES: readonly (readonly [text: string, paraphrase: string, unrelated: string])[] = [
  [
    "Where is my new card?",
    "The debit card you posted has not been delivered",
    "What is the exchange rate for euros?",
  ],
  ["Somebody stole my wallet", "I was robbed, my purse is gone", "Please raise my spending limit"],
  ["The app rejects my password", "I am unable to sign in", "When do you open on Saturday?"],
  ["Cadê o meu cartão?", "O cartão que vocês enviaram não foi entregue", "Qual é a cotação do euro?"],
  ["Roubaram a minha carteira", "Fui assaltado e levaram meus documentos", "Quero aumentar o limite"],
  ["O aplicativo recusa a minha senha", "Não consigo entrar na conta", "Vocês abrem no sábado?"],
];

function dot(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, value, at) => sum + value * (b[at] as number), 0);
}

/** @returns how many paraphrases are nearer than the unrelated sentence. */
async function tryParaphrases(embedder: Embedder): Promise<number> {
  let right = 0;
  for (const sentences of PARAPHRASES) {
    const rows = await embedder.embed(sentences);
    const [text, paraphrase, unrelated] = [0, 1, 2].map((at) =>
      rows.subarray(at * embedder.dim, (at + 1) * embedder.dim),
    ) as [Float32Array, Float32Array, Float32Array];
    const [near, far] = [dot(text, paraphrase), dot(text, unrelated)];
    if (near > far) right += 1;
    print(`  ${near.toFixed(3)} ${near > far ? ">" : "<"} ${far.toFixed(3)}  ${sentences.join(" | ")}`);
  }
  return right;
}

/**
 * Larger batches are not compared: they are split by length here and not in Python, and int8 rounds by the batch, for the
 * MiniLM by up to 0.01.
 */
const COMPARED_MAX = 4;

/** The smallest cosine with Python's vectors; null if there are none. */
async function leastCosine(model: string, url: URL, folder: string): Promise<number | null> {
  const path = join(folder, "reference.json");
  if (!existsSync(path)) return null;
  const { texts, batches }: { texts: string[]; batches: number[][] } = await Bun.file(path).json();
  const vectors = new Float32Array(await Bun.file(join(folder, "reference.f32")).arrayBuffer());
  const dim = vectors.length / batches.flat().length;
  let least = 1;
  let from = 0;
  for (const batch of batches) {
    if (batch.length > COMPARED_MAX) {
      from += batch.length * dim;
      continue;
    }
    // A new embedder per batch: int8 rounds by the batch, and a text of an earlier batch would not be embedded again.
    await using embedder = await openModel(model, url);
    const rows = await embedder.embed(batch.map((index) => texts[index] as string));
    for (let at = 0; at < batch.length; at++) {
      const row = rows.subarray(at * embedder.dim, (at + 1) * embedder.dim);
      least = Math.min(least, dot(row, vectors.subarray(from, from + embedder.dim)));
      from += embedder.dim;
    }
  }
  return least;
}

async function messagesPerSecond(embedder: Embedder): Promise<number> {
  const texts = Array.from(
    { length: 256 },
    (_, at) => `I am still waiting for my card number ${at}, where is it?`,
  );
  await embedder.embed(texts.slice(0, 32));
  const startedMs = performance.now();
  for (let at = 0; at < texts.length; at += embedder.maxBatch)
    await embedder.embed(texts.slice(at, at + embedder.maxBatch));
  return (1000 * texts.length) / (performance.now() - startedMs);
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

async function main(): Promise<number> {
  const [given, name] = process.argv.slice(2);
  if (given === undefined) {
    print("usage: bun scripts/real-model.ts FOLDER [NAME]");
    return 2;
  }
  const from = resolve(given);
  const url = workerUrl("embed");
  const modelsDir = mkdtempSync(join(tmpdir(), "gateway-real-model-"));
  try {
    const common = {
      name: name ?? basename(from),
      from,
      modelsDir,
      fetch,
      hfEndpoint: null,
      workerUrl: url,
      progress: print,
    };
    const startedMs = performance.now();
    const model = await pullModel(common);
    await using embedder = await openModel(model, url);
    print(
      `${embedder.name}: ${embedder.dim} dimensions, installed and open in ${Math.round(performance.now() - startedMs)} ms`,
    );
    const right = await tryParaphrases(embedder);
    print(`${right} of ${PARAPHRASES.length} paraphrases are nearer`);
    await using hashing = openHashing(url);
    print(`for comparison, ${hashing.name}: ${await tryParaphrases(hashing)} of ${PARAPHRASES.length}`);
    const least = await leastCosine(model, url, from);
    print(
      least === null
        ? "the folder holds no reference vectors"
        : `smallest cosine with Python's vectors: ${least.toFixed(6)}`,
    );
    print(`${Math.round(await messagesPerSecond(embedder))} messages/s`);
    return least === null || least >= 0.9999 ? 0 : 1;
  } finally {
    rmSync(modelsDir, { recursive: true, force: true });
  }
}

process.exit(await main());
