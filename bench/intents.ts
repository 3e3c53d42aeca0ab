/**
 * Measures how often the nearest labelled examples give the right intent, and how long a search takes.
 *
 *     bun bench/intents.ts [--json] [--model FOLDER]... [--endpoint URL[=MODEL]]...
 *
 * Data: banking77 with 10 examples per label and 2,000 other rows as the test, chosen by SEED (1); and credsystem-pt, if
 * ../shared/data or DATA_DIR has it, each row against an index of all others. Embedders: hashing, each FOLDER with a
 * local model (as for `pull-model`), and each endpoint. A text without a label counts as wrong; "nearest" is the best
 * label whatever its score. The last figures are the time of a search over the maximum number of examples; their
 * baseline is the same search in plain JavaScript.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { INTENT_LIMITS } from "../src/brain/intents.ts";
import { chooseEmbedder, openHashing, openModel, pullModel } from "../src/embed/embed.ts";
import type { Embedder } from "../src/embed/embedder.ts";
import { openEndpoint } from "../src/llm/llm.ts";
import { workerUrl } from "../src/native/worker-url.ts";
import { ExampleIndex, type LabelledVectors } from "../src/nearest/nearest.ts";
import { randomOf } from "../test/random.ts";
import { median, print } from "./support/load.ts";

const SEED = Number(process.env.SEED ?? 1);
const EXAMPLES_PER_LABEL = 10;
const TEST_ROWS = 2000;
const DIM = 1024;
const ROOT = join(import.meta.dir, "..");
const DATA_DIR = process.env.DATA_DIR ?? join(ROOT, "..", "shared", "data");

interface Row {
  readonly text: string;
  readonly label: string;
}

interface Scores {
  /** The share of all texts that got the right label. */
  readonly accuracy: number;
  /** The share of all texts whose best label is right, whatever its score. */
  readonly nearest: number;
  /** The share of all texts that got a label. */
  readonly answered: number;
  /** The share of the given labels that are right. */
  readonly precision: number;
}

function shuffled<T>(items: readonly T[], random: () => number): T[] {
  const copy = [...items];
  for (let at = copy.length - 1; at > 0; at--) {
    const other = Math.floor(random() * (at + 1));
    [copy[at], copy[other]] = [copy[other] as T, copy[at] as T];
  }
  return copy;
}

/** The records of a CSV file with quoted fields, without its header. */
function readCsv(path: string, separator: string): string[][] {
  const records: string[][] = [];
  let record: string[] = [];
  const field = new RegExp(`("(?:[^"]|"")*"|[^${separator}\\r\\n]*)(${separator}|\\r?\\n|$)`, "gy");
  const text = readFileSync(path, "utf8");
  for (const match of text.matchAll(field)) {
    const [, value = "", end = ""] = match;
    record.push(value.startsWith('"') ? value.slice(1, -1).replaceAll('""', '"') : value);
    if (end === separator) continue;
    if (record.length > 1) records.push(record);
    record = [];
    if (end === "") break;
  }
  return records.slice(1);
}

function byLabel(rows: readonly Row[]): Map<string, Row[]> {
  const groups = new Map<string, Row[]>();
  for (const row of rows) {
    const group = groups.get(row.label);
    if (group === undefined) groups.set(row.label, [row]);
    else group.push(row);
  }
  return groups;
}

async function embedAll(embedder: Embedder, texts: readonly string[]): Promise<Map<string, Float32Array>> {
  const vectors = new Map<string, Float32Array>();
  for (let from = 0; from < texts.length; from += embedder.maxBatch) {
    const part = texts.slice(from, from + embedder.maxBatch);
    const rows = await embedder.embed(part);
    part.forEach((text, at) => {
      vectors.set(text, rows.slice(at * embedder.dim, (at + 1) * embedder.dim));
    });
  }
  return vectors;
}

function pack(rows: readonly Row[], vectors: ReadonlyMap<string, Float32Array>): Float32Array<ArrayBuffer> {
  const dim = vectors.get(rows[0]?.text ?? "")?.length ?? 0;
  const packed = new Float32Array(rows.length * dim);
  rows.forEach(({ text }, at) => {
    packed.set(vectors.get(text) as Float32Array, at * dim);
  });
  return packed;
}

function examplesOf(rows: readonly Row[], vectors: ReadonlyMap<string, Float32Array>): LabelledVectors {
  const groups = [...byLabel(rows)];
  const packed = pack(
    groups.flatMap(([, group]) => group),
    vectors,
  );
  return {
    dim: packed.length / rows.length,
    labels: groups.map(([label, group]) => ({ label, count: group.length })),
    rows: packed,
  };
}

function score(answers: readonly { label: string | null; best: string; row: Row }[]): Scores {
  const count = (of: (answer: (typeof answers)[number]) => boolean): number => answers.filter(of).length;
  const right = count(({ label, row }) => label === row.label);
  const answered = count(({ label }) => label !== null);
  return {
    accuracy: right / answers.length,
    nearest: count(({ best, row }) => best === row.label) / answers.length,
    answered: answered / answers.length,
    precision: right / answered,
  };
}

async function banking(embedder: Embedder): Promise<Scores> {
  const path = join(ROOT, "test", "fixtures", "banking77.csv");
  const all = readCsv(path, ",").map(([text = "", label = ""]) => ({ text, label }));
  const random = randomOf(SEED);
  const groups = [...byLabel(all).values()].map((rows) => shuffled(rows, random));
  const examples = groups.flatMap((rows) => rows.slice(0, EXAMPLES_PER_LABEL));
  const rest = groups.flatMap((rows) => rows.slice(EXAMPLES_PER_LABEL));
  const test = shuffled(rest, random).slice(0, TEST_ROWS);
  const vectors = await embedAll(
    embedder,
    [...examples, ...test].map(({ text }) => text),
  );
  const index = await ExampleIndex.build(examplesOf(examples, vectors));
  const found = index.nearest(
    pack(test, vectors),
    test.map(() => true),
  );
  return score(
    test.map((row, at) => ({ label: found[at]?.label ?? null, best: found[at]?.best ?? "", row })),
  );
}

/**
 * Whether a high cosine could mean that two messages say the same: the share of messages whose cosine with their own
 * negation is at least 0.99 (docs/decisions/0009-near-identical-texts.md).
 */
async function negation(embedder: Embedder): Promise<number> {
  const path = join(ROOT, "test", "fixtures", "banking77.csv");
  const verb = /\b(is|can|has|have|was|will|am|does|did|should|could)\b(?! not|n't)/;
  const texts = shuffled(readCsv(path, ","), randomOf(SEED))
    .map(([text = ""]) => text)
    .filter((text) => verb.test(text))
    .slice(0, 500);
  const negated = texts.map((text) => text.replace(verb, "$1 not"));
  const vectors = await embedAll(embedder, [...texts, ...negated]);
  const cosine = (a: string, b: string): number => {
    const [one, other] = [vectors.get(a) as Float32Array, vectors.get(b) as Float32Array];
    return one.reduce((sum, value, at) => sum + value * (other[at] as number), 0);
  };
  return texts.filter((text, at) => cosine(text, negated[at] as string) >= 0.99).length / texts.length;
}

/** @returns null: the data is missing. */
async function credsystem(embedder: Embedder): Promise<Scores | null> {
  const path = join(DATA_DIR, "credsystem-pt", "intents.csv");
  if (!existsSync(path)) return null;
  const rows = readCsv(path, ";").map(([, label = "", text = ""]) => ({ text, label }));
  const vectors = await embedAll(
    embedder,
    rows.map(({ text }) => text),
  );
  const answers: { label: string | null; best: string; row: Row }[] = [];
  for (const row of rows) {
    const others = rows.filter((other) => other !== row);
    const index = await ExampleIndex.build(examplesOf(others, vectors));
    const [found] = index.nearest(pack([row], vectors), [true]);
    answers.push({ label: found?.label ?? null, best: found?.best ?? "", row });
  }
  return score(answers);
}

async function measure(embedder: Embedder): Promise<void> {
  await embedder.embed(["ready"]);
  const sets = [
    ["banking77", banking],
    ["credsystem-pt", credsystem],
  ] as const;
  for (const [name, of] of sets) {
    const scores = await of(embedder);
    if (scores === null) {
      console.error(`intents: no ${name} in ${DATA_DIR}; DATA_DIR names another folder`);
      continue;
    }
    for (const [what, value] of Object.entries(scores))
      print({
        name: `intents/${name}/${embedder.name}/${what}`,
        value,
        unit: "of 1",
        baseline: null,
      });
  }
  const alike = await negation(embedder);
  print({
    name: `intents/negation/${embedder.name}/cosine-0.99`,
    value: alike,
    unit: "of 1",
    baseline: null,
  });
}

// --- time ---------------------------------------------------------------------------------------------

async function searchTime(): Promise<void> {
  const random = randomOf(SEED);
  const count = INTENT_LIMITS.examplesMax;
  const rows = Float32Array.from({ length: count * DIM }, () => (random() - 0.5) * Math.sqrt(12 / DIM));
  const labels = Array.from({ length: 100 }, (_, at) => ({ label: `label ${at}`, count: count / 100 }));
  const startedMs = performance.now();
  const index = await ExampleIndex.build({ dim: DIM, labels, rows: rows.slice() });
  print({
    name: "intents/learn-10000",
    value: performance.now() - startedMs,
    unit: "ms, in slices",
    baseline: null,
  });
  const queries = rows.slice(0, 32 * DIM);
  const plain = timeOf(() => plainSearch(rows, queries.subarray(0, DIM)), 1);
  const all = new Array<boolean>(32).fill(true);
  const name = "intents/search-10000x1024";
  const batch = timeOf(() => index.nearest(queries, all), 32);
  print({ name: `${name}/batch-32`, value: batch, unit: "ms/event", baseline: plain });
  const single = timeOf(() => index.nearest(queries.subarray(0, DIM), [true]), 1);
  print({ name: `${name}/alone`, value: single, unit: "ms/event", baseline: plain });
}

/** The median time of 50 calls, per event. */
function timeOf(call: () => unknown, events: number): number {
  const times: number[] = [];
  for (let round = 0; round < 60; round++) {
    const startedMs = performance.now();
    call();
    if (round >= 10) times.push((performance.now() - startedMs) / events);
  }
  return median(times);
}

/** The highest cosine of one query without a metric, computed in four sums. */
function plainSearch(rows: Float32Array, query: Float32Array): number {
  let highest = Number.NEGATIVE_INFINITY;
  for (let row = 0; row < rows.length; row += DIM) {
    let [a, b, c, d] = [0, 0, 0, 0];
    for (let at = 0; at < DIM; at += 4) {
      a += (rows[row + at] as number) * (query[at] as number);
      b += (rows[row + at + 1] as number) * (query[at + 1] as number);
      c += (rows[row + at + 2] as number) * (query[at + 2] as number);
      d += (rows[row + at + 3] as number) * (query[at + 3] as number);
    }
    highest = Math.max(highest, a + b + c + d);
  }
  return highest;
}

// --- which embedders ----------------------------------------------------------------------------------

const { values } = parseArgs({
  options: {
    json: { type: "boolean", default: false },
    model: { type: "string", multiple: true, default: [] },
    endpoint: { type: "string", multiple: true, default: [] },
  },
});
const url = workerUrl("embed");
const modelsDir = mkdtempSync(join(tmpdir(), "gateway-bench-intents-"));
try {
  console.error(`SEED=${SEED}`);
  {
    await using hashing = openHashing(url);
    await measure(hashing);
  }
  for (const given of values.model) {
    const from = resolve(given);
    const progress = (): void => {};
    const folder = await pullModel({
      name: basename(from),
      from,
      modelsDir,
      fetch,
      hfEndpoint: null,
      workerUrl: url,
      progress,
    });
    await using model = await openModel(folder, url);
    await measure(model);
  }
  for (const given of values.endpoint) {
    const [baseUrl = "", name] = given.split("=");
    const { embedder } = await chooseEmbedder({
      choice: "remote",
      recorded: null,
      modelsDir,
      embeddingModel: name ?? null,
      endpoint: openEndpoint({ baseUrl, apiKey: process.env.LLM_API_KEY ?? null }),
      workerUrl: url,
      log: (_, message) => console.error(message),
    });
    await using endpoint = embedder;
    await measure(endpoint);
  }
  await searchTime();
} finally {
  rmSync(modelsDir, { recursive: true, force: true });
}
process.exit(0);
