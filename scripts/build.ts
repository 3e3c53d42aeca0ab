/**
 * Builds the executable and proves it: it is run once from an empty folder with an empty environment.
 *
 *   bun scripts/build.ts [--outfile PATH] [--mutation NAME] [--force]
 *
 * Does nothing if sources, packages and options are those of the last build of the same file. --mutation builds a
 * gateway that is wrong on purpose, from a changed copy of the sources (scripts/mutations.ts has the names), for the
 * tests that must catch it.
 */
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { PLATFORMS } from "../src/native/libraries.ts";
import { SELF_TESTS } from "../src/start/selftest.ts";
import { MUTATIONS, mutated } from "./mutations.ts";
import {
  bunPath,
  CACHE,
  fail,
  fingerprint,
  lastLines,
  must,
  pinnedBun,
  ROOT,
  run,
  StepError,
  stamp,
  stamped,
  step,
} from "./steps.ts";

interface BuildOptions {
  readonly outfile: string;
  readonly mutation: string;
  readonly force: boolean;
}

/** Each Worker is an entry point of its own. src/native/worker-url.ts says where it ends up in the executable. */
const ENTRY_POINTS = ["gateway.ts", "src/store/store.worker.ts", "src/embed/embed.worker.ts"];

function platform(): (typeof PLATFORMS)[number] {
  const here = `${process.platform}-${process.arch}`;
  const found = PLATFORMS.find((name) => name === here);
  if (found !== undefined) return found;
  throw new StepError("build", `there is no build for ${here}`, `use one of ${PLATFORMS.join(", ")}`);
}

/** The arguments of `bun build`. Each is needed: leaving it out broke the executable in the way that its comment says. */
function buildArguments(outfile: string): string[] {
  const here = platform();
  const others = [
    ...PLATFORMS.filter((name) => name !== here),
    "linux-x64-musl",
    "linux-arm64-musl",
    "darwin-x64",
    "win32-",
  ];
  const defines = {
    // Constants, so that the bundle keeps only this platform's branch of src/native/libraries.ts.
    "process.platform": process.platform,
    "process.arch": process.arch,
    // Otherwise OpenTUI imports its musl package, which is not installed.
    "process.env.OPENTUI_LIBC": "glibc",
  };
  return [
    "build",
    "--compile",
    // No --bytecode: with Bun 1.4.5 a Worker that is built that way starts and never replies.
    "--minify",
    "--outfile",
    outfile,
    // Otherwise Bun itself reads .env and bunfig.toml in the working folder, and bypasses src/config/config.ts.
    "--no-compile-autoload-dotenv",
    "--no-compile-autoload-bunfig",
    // The bindings import a package for every platform, and only one of these is installed.
    ...others.flatMap((name) => ["--external", `@duckdb/node-bindings-${name}*`]),
    ...Object.entries(defines).flatMap(([name, value]) => ["--define", `${name}=${JSON.stringify(value)}`]),
    ...ENTRY_POINTS,
  ];
}

/** Every file that the executable depends on: the sources, the files that they embed, and the lock file for the packages. */
function inputs(): string[] {
  const found = [
    "package.json",
    "bun.lock",
    "tsconfig.json",
    "scripts/build.ts",
    "scripts/mutations.ts",
    "gateway.ts",
    "collider.ts",
    "tui.ts",
  ];
  const walk = (folder: string): void => {
    for (const entry of readdirSync(join(ROOT, folder), { withFileTypes: true })) {
      const path = `${folder}/${entry.name}`;
      if (entry.isDirectory()) walk(path);
      else found.push(path);
    }
  };
  walk("src");
  walk("examples");
  return found.sort();
}

/** Copies the sources into `folder` and applies the mutation to them. @throws StepError */
function mutateSources(folder: string, mutation: string): void {
  if (MUTATIONS[mutation] === undefined) {
    const names = Object.keys(MUTATIONS).join(", ");
    throw new StepError("build", `there is no mutation ${mutation}`, `use one of ${names}`);
  }
  for (const path of inputs()) {
    const copy = join(folder, path);
    mkdirSync(dirname(copy), { recursive: true });
    if (path.endsWith(".ts"))
      writeFileSync(copy, mutated(mutation, path, readFileSync(join(ROOT, path), "utf8")));
    else copyFileSync(join(ROOT, path), copy);
  }
  symlinkSync(join(ROOT, "node_modules"), join(folder, "node_modules"));
}

/** Runs the executable in an empty folder with an empty environment; every part must report that it works. */
async function selfTest(binary: string): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), "gateway-self-test-"));
  try {
    // Not even PATH is passed. The temporary folder is, because a user whose /tmp does not serve would name another.
    const onlyEnv: Record<string, string> = {};
    for (const name of ["TMPDIR", "BUN_TMPDIR"]) {
      const value = process.env[name];
      if (value !== undefined) onlyEnv[name] = value;
    }
    const result = await run([binary, "--self-test"], { cwd: folder, onlyEnv, timeoutMs: 60_000 });
    const missing = SELF_TESTS.filter((name) => !result.output.includes(`ok ${name}:`));
    if (result.code !== 0 || missing.length > 0 || result.output.includes("FAIL ")) {
      const why = result.timedOut ? "it did not end within a minute" : `exit code ${result.code}`;
      throw new StepError(
        "build: self-test",
        `${why}; without an ok: ${missing.join(", ") || "none"}\n${lastLines(result.output, 25)}`,
        "the executable was not installed; repair the part that is named, then build again",
      );
    }
    const left = readdirSync(folder);
    if (left.length > 0) {
      throw new StepError(
        "build: self-test",
        `it left ${left.join(", ")} in its working folder`,
        "remove the cause",
      );
    }
    return `ok: ${SELF_TESTS.join(", ")}`;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** @throws StepError */
export async function build(options: BuildOptions): Promise<void> {
  const outfile = resolve(options.outfile);
  const value = fingerprint(inputs(), [
    ...[pinnedBun(), options.mutation],
    ...buildArguments(basename(outfile)),
  ]);
  const stampPath = join(CACHE, `build-${Bun.hash(outfile).toString(16)}`);
  const label = options.mutation === "" ? "build" : `build (mutation ${options.mutation})`;
  // Size and time are part of the stamp, so a replaced executable is built again.
  const identity = (): string => {
    const stats = statSync(outfile);
    return `${value} ${stats.size} ${stats.mtimeMs}`;
  };
  if (!options.force && existsSync(outfile) && stamped(stampPath, identity())) {
    console.error(`[ok] ${label}: unchanged, ${outfile}`);
    return;
  }
  mkdirSync(CACHE, { recursive: true });
  mkdirSync(dirname(outfile), { recursive: true });
  // Built aside under its final name, which is part of the executable, then tested, then renamed into place.
  const folder = mkdtempSync(join(CACHE, "build-"));
  const built = join(folder, basename(outfile));
  const sources = options.mutation === "" ? ROOT : join(folder, "sources");
  try {
    if (options.mutation !== "") mutateSources(sources, options.mutation);
    await step(label, async () => {
      await must(label, [bunPath(), ...buildArguments(built)], "repair the source that is named", {
        cwd: sources,
        env: { NODE_ENV: undefined },
      });
      return `${Math.round(statSync(built).size / 1e6)} MB`;
    });
    await step(`${label}: self-test from an empty folder with an empty environment`, () => selfTest(built));
    // Renamed, so that a running gateway keeps its file and nobody sees half an executable.
    renameSync(built, outfile);
    stamp(stampPath, identity());
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

if (import.meta.main) {
  try {
    const { values } = parseArgs({
      options: {
        outfile: { type: "string", default: join(ROOT, "one_file_gateway") },
        mutation: { type: "string", default: "" },
        force: { type: "boolean", default: false },
      },
    });
    await build(values);
    process.exit(0);
  } catch (error) {
    fail(error);
  }
}
