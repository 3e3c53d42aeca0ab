/**
 * Runs the benchmarks, each in a process of its own.
 *
 *   bun run bench [NAME] [--json]
 *   bun run bench gate            the figures that have a limit, and which of them fall short
 */
import { readdirSync } from "node:fs";
import { basename, join } from "node:path";
import { bunPath, fail, ROOT, StepError } from "./steps.ts";

async function bench(args: readonly string[]): Promise<number> {
  const all = readdirSync(join(ROOT, "bench"))
    .filter((file) => file.endsWith(".ts"))
    .map((file) => basename(file, ".ts"))
    .sort();
  const names = args.filter((argument) => !argument.startsWith("-"));
  const unknown = names.filter((name) => !all.includes(name));
  if (unknown.length > 0) {
    throw new StepError("bench", `there is no ${unknown.join(", ")}`, `choose from ${all.join(", ")}`);
  }
  const json = args.includes("--json");
  let failed = 0;
  // The gate runs others in their short form.
  for (const name of names.length > 0 ? names : all.filter((one) => one !== "gate")) {
    if (!json) console.log(`\n${name}`);
    const command = [bunPath(), join("bench", `${name}.ts`), ...(json ? ["--json"] : [])];
    const child = Bun.spawn(command, { cwd: ROOT, stdio: ["ignore", "inherit", "inherit"] });
    if ((await child.exited) !== 0) failed++;
  }
  return failed;
}

try {
  process.exit((await bench(process.argv.slice(2))) === 0 ? 0 : 1);
} catch (error) {
  fail(error);
}
