/**
 * Runs the short forms of the benchmarks that have a limit, and says which figures fall short. A machine that is not at rest gives
 * wrong answers. `bun run bench gate` exits with 1 if a figure falls short, or was not printed.
 */
import { join } from "node:path";
import { ROOT } from "../scripts/steps.ts";

interface Figure {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  readonly ratio: number | null;
}

/** What each figure must be: its value, or its ratio to the baseline of the same run, at least or at most this. */
const LIMITS: Readonly<Record<string, { of: "value" | "ratio"; least?: number; most?: number }>> = {
  "ingest/single-1": { of: "ratio", least: 0.7 },
  "ingest/cpu-1": { of: "value", most: 350 },
  "ingest/cpu-64": { of: "value", most: 55 },
  "ingest/single-64": { of: "ratio", least: 0.6 },
  "ingest/single-64-p99": { of: "value", most: 12 },
  "latency/post-to-vector-p50": { of: "value", most: 0.5 },
  "latency/post-to-vector-p99": { of: "value", most: 5 },
  "latency/ready-new-ring": { of: "value", most: 200 },
  idle: { of: "value", most: 0.3 },
  "store/queryable": { of: "value", least: 120_000 },
  "store/cpu-of-100000": { of: "value", most: 5 },
  "memory/idle": { of: "value", most: 180 },
  "memory/peak": { of: "value", most: 550 },
  "memory/after": { of: "value", most: 320 },
  "ring/write/100k": { of: "ratio", most: 1.2 },
  "ring/write/1k": { of: "ratio", most: 1.4 },
  "ring/read-batch-copy": { of: "ratio", most: 1.15 },
  "ring/read-batch-1": { of: "value", most: 2000 },
};
const BENCHES: Readonly<Record<string, Record<string, string>>> = {
  ingest: { BENCH_SECONDS: "3", BENCH_RUNS: "3" },
  latency: { BENCH_SECONDS: "5" },
  rest: { BENCH_SECONDS: "10" },
  ring: {},
};

async function figuresOf(name: string, env: Readonly<Record<string, string>>): Promise<Figure[]> {
  const command = [process.execPath, join("bench", `${name}.ts`), "--json"];
  const child = Bun.spawn(command, {
    cwd: ROOT,
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const text = await new Response(child.stdout).text();
  if ((await child.exited) !== 0) throw new Error(`gate: bench/${name}.ts ended with ${child.exitCode}`);
  return text
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line) as Figure);
}

const figures = new Map<string, Figure>();
for (const [name, env] of Object.entries(BENCHES)) {
  for (const figure of await figuresOf(name, env)) figures.set(figure.name, figure);
}
let short = 0;
for (const [name, { of, least, most }] of Object.entries(LIMITS)) {
  const figure = figures.get(name);
  const found = (of === "ratio" ? figure?.ratio : figure?.value) ?? null;
  const isGood =
    found !== null &&
    found >= (least ?? Number.NEGATIVE_INFINITY) &&
    found <= (most ?? Number.POSITIVE_INFINITY);
  if (!isGood) short += 1;
  if (process.argv.includes("--json")) {
    console.log(
      JSON.stringify({
        name,
        value: found,
        unit: of === "ratio" ? "" : figure?.unit,
        least,
        most,
        ok: isGood,
      }),
    );
  } else {
    const shown =
      found === null
        ? "not printed"
        : `${Number(found.toPrecision(3))} ${of === "ratio" ? "× the baseline" : figure?.unit}`;
    const limit = least === undefined ? `at most ${most}` : `at least ${least}`;
    console.log(`${isGood ? "ok   " : "SHORT"} ${name.padEnd(28)} ${shown} (${limit})`);
  }
}
process.exit(short === 0 ? 0 : 1);
