/**
 * Measures embedders: the hashing function alone and through its Worker, and a local model (the small one of the tests, or
 * FOLDER) on real messages, with the longest stall of the main thread meanwhile. If PYTHON names an interpreter with
 * onnxruntime and tokenizers, the baseline is Python with the same model file, batch and threads.
 *
 *     bun bench/embed.ts [--json] [--model FOLDER] [--python PYTHON]
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { openHashing, openModel } from "../src/embed/embed.ts";
import type { Embedder } from "../src/embed/embedder.ts";
import { HASHING_DIM, hashingEmbed } from "../src/embed/hashing.ts";
import { workerUrl } from "../src/native/worker-url.ts";
import { type Line, median, print } from "./support/load.ts";

const MESSAGE = "Não consigo ver a fatura do meu cartão, pode me ajudar hoje?";
const LONG = MESSAGE.concat(" ").repeat(140).slice(0, 8192);
const ROOT = join(import.meta.dir, "..");
const ROUNDS = 5;
/** Messages per round. Each round has other messages, because recent texts are not embedded again. */
const MESSAGES = 1024;

/** The best of seven rounds, which other programs disturbed least. */
function bestUs(calls: number, call: (index: number) => void): number {
  let best = Number.POSITIVE_INFINITY;
  for (let round = 0; round < 7; round++) {
    const startedMs = performance.now();
    for (let index = 0; index < calls; index++) call(index);
    best = Math.min(best, (1000 * (performance.now() - startedMs)) / calls);
  }
  return best;
}

interface Speed {
  /** The median of the rounds. */
  readonly perSecond: number;
  /** The longest time in which this thread ran no timer. */
  readonly stallMs: number;
}

async function speedOf(embedder: Embedder, rounds: readonly (readonly string[])[]): Promise<Speed> {
  const speeds: number[] = [];
  let stallMs = 0;
  let lastMs = performance.now();
  let running = true;
  const beat = (): void => {
    const nowMs = performance.now();
    stallMs = Math.max(stallMs, nowMs - lastMs);
    lastMs = nowMs;
    if (running) setTimeout(beat, 1);
  };
  await embedder.embed([LONG]);
  lastMs = performance.now();
  beat();
  for (const texts of rounds) {
    const startedMs = performance.now();
    const calls: Promise<Float32Array>[] = [];
    for (let from = 0; from < texts.length; from += embedder.maxBatch) {
      // Keeps two batches under way, as the pipeline does.
      if (calls.length >= 2) await calls[calls.length - 2];
      calls.push(embedder.embed(texts.slice(from, from + embedder.maxBatch)));
    }
    await Promise.all(calls);
    speeds.push((1000 * texts.length) / (performance.now() - startedMs));
  }
  running = false;
  return { perSecond: median(speeds), stallMs };
}

/** Messages of banking77 without repetition. */
function realMessages(): string[][] {
  const lines = readFileSync(join(ROOT, "test", "fixtures", "banking77.csv"), "utf8")
    .split("\n")
    .slice(1);
  const texts = lines.map((line) => line.slice(0, line.lastIndexOf(","))).filter((text) => text !== "");
  // The file is sorted by label. A stride mixes lengths and topics.
  const mixed = Array.from({ length: ROUNDS * MESSAGES }, (_, at) => `${texts[(at * 7919) % texts.length]} `);
  const distinct = mixed.map((text, at) => (mixed.indexOf(text) === at ? text : `${text}${at}`));
  return Array.from({ length: ROUNDS }, (_, round) =>
    distinct.slice(round * MESSAGES, (round + 1) * MESSAGES),
  );
}

/** Texts per second in Python, the median of the same rounds; null if no interpreter is named. */
async function python(
  interpreter: string | undefined,
  folder: string,
  rounds: readonly (readonly string[])[],
  batch: number,
) {
  if (interpreter === undefined) return null;
  const temporary = mkdtempSync(join(tmpdir(), "gateway-bench-embed-"));
  try {
    const path = join(temporary, "rounds.json");
    writeFileSync(path, JSON.stringify(rounds));
    const script = join(import.meta.dir, "support", "embed_baseline.py");
    const threads = String(availableParallelism());
    const command = [interpreter, script, folder, path, String(batch), threads];
    const child = Bun.spawn(command, { stdout: "pipe", stderr: "inherit" });
    const output = await new Response(child.stdout).text();
    if ((await child.exited) !== 0) throw new Error(`embed: ${interpreter} could not embed`);
    return Number(output);
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
}

async function* measure(model: string, interpreter: string | undefined): AsyncGenerator<Line> {
  const target = new Float32Array(HASHING_DIM);
  const messages = Array.from({ length: 10 }, (_, at) => MESSAGE.replace("hoje", `dia ${at}`));
  const longs = Array.from({ length: 4 }, (_, at) => `${at}${LONG.slice(1)}`);
  yield {
    name: "embed/hashing",
    value: bestUs(5000, (at) => hashingEmbed(messages[at % 10] as string, target, 0)),
    unit: "µs/message",
    baseline: null,
  };
  yield {
    name: "embed/hashing-8192",
    value: bestUs(100, (at) => hashingEmbed(longs[at % 4] as string, target, 0)),
    unit: "µs/message",
    baseline: null,
  };
  const url = workerUrl("embed");
  await using hashing = openHashing(url);
  const rounds = realMessages();
  const hashed = await speedOf(hashing, rounds);
  yield { name: "embed/hashing-worker", value: hashed.perSecond, unit: "messages/s", baseline: null };
  await using local = await openModel(model, url);
  const baseline = await python(interpreter, model, rounds, local.maxBatch);
  const embedded = await speedOf(local, rounds);
  yield { name: `embed/${local.name}`, value: embedded.perSecond, unit: "messages/s", baseline };
  yield { name: `embed/${local.name}/stall`, value: embedded.stallMs, unit: "ms at most", baseline: null };
}

const { values } = parseArgs({
  options: {
    json: { type: "boolean", default: false },
    model: { type: "string", default: join(ROOT, "test", "fixtures", "tiny-xlmr") },
    python: { type: "string" },
  },
});
for await (const line of measure(resolve(values.model), values.python)) print(line);
process.exit(0);
