/**
 * Runs every check on a fresh clone: set-up, build, tools, TypeScript suites (each in a process of its own), Python
 * suites in both environments, and end-to-end suites on the executable. Ends with the line `N passed, N failed`.
 *
 *   bun run test [--only TEXT]     only suites whose name contains TEXT; may be given more than once
 *   LONG=1 bun run test            the long form of the suites that have one
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { installNumpy2, installPackages, installPython, installPythonTools, installTmux } from "./setup.ts";
import { bunPath, CACHE, elapsed, fail, must, ROOT, run, StepError } from "./steps.ts";

type Kind = "tool" | "unit" | "python" | "e2e";

interface Suite {
  readonly name: string;
  readonly kind: Kind;
  readonly command: readonly string[];
  /** The path of its JUnit report; null for a tool, which counts as one check. */
  readonly report: string | null;
  readonly timeoutMs: number;
  /** Why a step that the suite needs failed: the suite then counts as failed and does not run. Null if it can run. */
  readonly missing: string | null;
}

interface Result {
  readonly suite: Suite;
  readonly passed: number;
  readonly failed: number;
  readonly skipped: readonly string[];
  /** Why the suite as a whole failed, beyond its single checks; null if it did not. */
  readonly fault: string | null;
  readonly took: string;
  readonly output: string;
}

const LONG = process.env.LONG === "1";
const minutes = (count: number): number => count * (LONG ? 60 : 1) * 60_000;
const REPORTS = join(CACHE, "reports");
/** Two at a time keep a small machine busy and rarely disturb suites that wait for something. */
const UNIT_SUITES_AT_ONCE = 2;

function testFiles(): string[] {
  return readdirSync(join(ROOT, "test"), { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".test.ts"))
    .sort()
    .map((file) => `test/${file}`);
}

const isEndToEnd = (file: string): boolean => file.startsWith("test/e2e/");

interface Missing {
  readonly python: string | null;
  readonly numpy2: string | null;
  readonly binary: string | null;
}

async function allSuites(missing: Missing): Promise<Suite[]> {
  // Imported late, because before the first step there may be no packages.
  const { TOOLS } = await import("./check.ts");
  const suites: Suite[] = TOOLS.map((tool) => ({
    name: tool.name,
    kind: "tool",
    command: tool.command,
    report: null,
    timeoutMs: minutes(5),
    missing: tool.command[0]?.startsWith(".venv") ? missing.python : null,
  }));
  const bunSuite = (file: string, kind: "unit" | "e2e"): Suite => {
    const report = join(REPORTS, `${file.replaceAll("/", "-")}.xml`);
    return {
      name: file,
      kind,
      command: [bunPath(), "test", `./${file}`, "--reporter=junit", `--reporter-outfile=${report}`],
      report,
      timeoutMs: minutes(kind === "unit" ? 10 : 20),
      missing: kind === "e2e" ? missing.binary : null,
    };
  };
  const pythonSuite = (name: string, venv: string, absent: string | null): Suite => {
    const report = join(REPORTS, `pytest${venv}.xml`);
    return {
      name,
      kind: "python",
      // No cache, because the two environments would overwrite each other's.
      command: [`${venv}/bin/python`, "-m", "pytest", "-q", "-p", "no:cacheprovider", `--junitxml=${report}`],
      report,
      timeoutMs: minutes(20),
      missing: absent,
    };
  };
  const files = testFiles();
  for (const file of files.filter((name) => !isEndToEnd(name))) suites.push(bunSuite(file, "unit"));
  suites.push(pythonSuite("pytest (.venv)", ".venv", missing.python));
  suites.push(pythonSuite("pytest (.venv-numpy2)", ".venv-numpy2", missing.numpy2));
  for (const file of files.filter(isEndToEnd)) suites.push(bunSuite(file, "e2e"));
  return suites;
}

const ENTITIES: Readonly<Record<string, string>> = { lt: "<", gt: ">", amp: "&", quot: '"', apos: "'" };

function unescapeXml(text: string): string {
  return text.replace(/&(?:#(\d+)|#x([0-9a-f]+)|(\w+));/gi, (whole, decimal, hex, name) => {
    if (decimal !== undefined) return String.fromCodePoint(Number(decimal));
    if (hex !== undefined) return String.fromCodePoint(Number.parseInt(hex, 16));
    return ENTITIES[name] ?? whole;
  });
}

/** Counts the checks of a JUnit report that bun or pytest wrote. */
function readReport(xml: string): { passed: number; failed: number; skipped: string[] } {
  let passed = 0;
  let failed = 0;
  const skipped: string[] = [];
  for (const match of xml.matchAll(/<testcase\b([^>]*?)(?:\/>|>([\s\S]*?)<\/testcase>)/g)) {
    const [, attributes = "", body = ""] = match;
    if (/<(failure|error)\b/.test(body)) failed++;
    else if (/<skipped\b/.test(body)) {
      const name = /\bname="([^"]*)"/.exec(attributes)?.[1] ?? "?";
      const reason = /<skipped\b[^>]*\bmessage="([^"]*)"/.exec(body)?.[1];
      skipped.push(unescapeXml(reason === undefined ? name : `${name}: ${reason}`));
    } else passed++;
  }
  return { passed, failed, skipped };
}

async function runSuite(suite: Suite): Promise<Result> {
  const started = performance.now();
  const end = (o: Omit<Result, "suite" | "took">): Result => ({ suite, took: elapsed(started), ...o });
  if (suite.missing !== null) {
    return end({ passed: 0, failed: 1, skipped: [], fault: `did not run: ${suite.missing}`, output: "" });
  }
  if (suite.report !== null) rmSync(suite.report, { force: true });
  const { code, output, timedOut } = await run(suite.command, { timeoutMs: suite.timeoutMs });
  const fault = timedOut
    ? `ended after ${suite.timeoutMs / 60_000} min`
    : code === 0
      ? null
      : `exit code ${code}`;
  if (suite.report === null) {
    return end({
      passed: fault === null ? 1 : 0,
      failed: fault === null ? 0 : 1,
      skipped: [],
      fault,
      output,
    });
  }
  // Without a report the process broke off, and the checks that ran before prove nothing.
  if (!existsSync(suite.report)) {
    return end({ passed: 0, failed: 1, skipped: [], fault: fault ?? "wrote no report", output });
  }
  const counts = readReport(readFileSync(suite.report, "utf8"));
  if (fault !== null) return end({ ...counts, failed: Math.max(1, counts.failed), fault, output });
  if (counts.passed + counts.failed === 0) return end({ ...counts, failed: 1, fault: "ran no test", output });
  return end({ ...counts, fault: null, output });
}

function red(result: Result): boolean {
  return result.failed > 0 || result.fault !== null;
}

function tell(result: Result, done: number, total: number): void {
  const state = red(result) ? "FAILED" : "ok    ";
  const skipped = result.skipped.length > 0 ? `, ${result.skipped.length} skipped` : "";
  const fault = result.fault === null ? "" : ` [${result.fault}]`;
  console.log(
    `${state} ${done}/${total} ${result.suite.name}: ${result.passed} passed, ${result.failed} failed${skipped}${fault} (${result.took})`,
  );
  if (red(result)) console.log(`${result.output.trimEnd()}\n${"-".repeat(100)}`);
}

/** Runs the suites in order, `atOnce` at a time, and prints the result of each when it ends. */
async function runAll(
  suites: readonly Suite[],
  atOnce: number,
  results: Result[],
  total: number,
): Promise<void> {
  const waiting = [...suites];
  const lane = async (): Promise<void> => {
    for (let suite = waiting.shift(); suite !== undefined; suite = waiting.shift()) {
      console.log(`       ${suite.name} …`);
      const result = await runSuite(suite);
      results.push(result);
      tell(result, results.length, total);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, lane));
}

function summarise(results: readonly Result[]): boolean {
  const width = Math.max(...results.map((result) => result.suite.name.length));
  console.log(`\n${"suite".padEnd(width)}  passed  failed  skipped  time`);
  for (const result of results) {
    const cells = [result.passed, result.failed, result.skipped.length].map((count, index) =>
      String(count).padStart(index === 2 ? 7 : 6),
    );
    console.log(
      `${result.suite.name.padEnd(width)}  ${cells.join("  ")}  ${result.took}${red(result) ? "  FAILED" : ""}`,
    );
  }
  const skipped = results.flatMap((result) => result.skipped.map((name) => `${result.suite.name}: ${name}`));
  if (skipped.length > 0) console.log(`\nskipped:\n${skipped.map((line) => `  ${line}`).join("\n")}`);
  const sum = (of: (result: Result) => number): number =>
    results.reduce((total, result) => total + of(result), 0);
  console.log(`\n${sum((result) => result.passed)} passed, ${sum((result) => result.failed)} failed`);
  return results.length > 0 && !results.some(red);
}

/** Runs a step. If it fails, prints and returns the reason, so that suites that do not need the step still run. */
async function attempt(action: () => Promise<unknown>): Promise<string | null> {
  try {
    await action();
    return null;
  } catch (error) {
    if (!(error instanceof StepError)) throw error;
    console.error(`\n${error.message}\nWhat to do: ${error.fix}\n`);
    return (error.message.split("\n")[0] ?? "a step before it failed").trim();
  }
}

async function test(only: readonly string[]): Promise<boolean> {
  const started = performance.now();
  await installPackages();
  const wants = (name: string): boolean => only.length === 0 || only.some((text) => name.includes(text));
  const wanted = (await allSuites({ python: null, numpy2: null, binary: null })).filter((suite) =>
    wants(suite.name),
  );
  if (wanted.length === 0)
    throw new StepError("test", `no suite is called like ${only.join(", ")}`, "look into test/");
  // Unit suites may use .venv for reference values, so only the second environment is optional.
  const python = await attempt(async () => {
    await installPython();
    await installPythonTools();
  });
  const numpy2 = wanted.some((suite) => suite.name.includes("numpy2")) ? await attempt(installNumpy2) : null;
  if (wanted.some((suite) => suite.name.includes("e2e/dashboard"))) await installTmux();
  const binary = wanted.some((suite) => suite.kind === "e2e")
    ? await attempt(() =>
        must("build", [bunPath(), "scripts/build.ts"], "read the message above", { show: true }),
      )
    : null;
  mkdirSync(REPORTS, { recursive: true });
  const suites = (await allSuites({ python, numpy2, binary })).filter((suite) => wants(suite.name));
  const results: Result[] = [];
  for (const kind of ["tool", "unit", "python", "e2e"] as const) {
    const ofKind = suites.filter((suite) => suite.kind === kind);
    await runAll(ofKind, kind === "unit" ? UNIT_SUITES_AT_ONCE : 1, results, suites.length);
  }
  console.log(`\nall suites: ${elapsed(started)}${LONG ? " (LONG)" : ""}`);
  return summarise(results);
}

try {
  const { values } = parseArgs({ options: { only: { type: "string", multiple: true, default: [] } } });
  process.exit((await test(values.only)) ? 0 : 1);
} catch (error) {
  fail(error);
}
