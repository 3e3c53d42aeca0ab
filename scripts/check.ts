/**
 * Runs the tools that read the sources without running them: types, style, dead files, sizes, drift of generated files.
 *
 *   bun run check
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { bunPath, elapsed, fail, ROOT, run } from "./steps.ts";

export interface Tool {
  readonly name: string;
  readonly command: readonly string[];
  /** Prints the tool's output even if it passed. */
  readonly show?: boolean;
}

const bin = (name: string): string => join("node_modules", ".bin", name);
const python = (name: string): string => join(".venv", "bin", name);

/** Each counts as one check. */
export const TOOLS: readonly Tool[] = [
  { name: "tsc", command: [bin("tsc"), "--noEmit"] },
  { name: "biome", command: [bin("biome"), "check", "--error-on-warnings", "."] },
  { name: "knip", command: [bin("knip"), "--no-progress"] },
  { name: "ruff", command: [python("ruff"), "check", "."] },
  { name: "ruff format", command: [python("ruff"), "format", "--check", "."] },
  { name: "mypy", command: [python("mypy")] },
  { name: "sizes", command: [bunPath(), "scripts/sizes.ts"], show: true },
  { name: "generate --check", command: [bunPath(), "scripts/generate.ts", "--check"] },
];

async function check(): Promise<number> {
  let failed = 0;
  for (const tool of TOOLS) {
    const started = performance.now();
    const result = await run(tool.command);
    if (result.code !== 0) failed++;
    console.log(`${result.code === 0 ? "ok    " : "FAILED"} ${tool.name} (${elapsed(started)})`);
    if (result.code !== 0 || tool.show === true) console.log(result.output.trimEnd());
  }
  console.log(`${TOOLS.length - failed} passed, ${failed} failed`);
  return failed;
}

if (import.meta.main) {
  try {
    if (!existsSync(join(ROOT, ".venv"))) console.log("There is no .venv yet: bun run setup");
    process.exit((await check()) === 0 ? 0 : 1);
  } catch (error) {
    fail(error);
  }
}
