/**
 * Takes a fresh clone to a running gateway: it installs the packages, builds the executable, makes the Python
 * environment, and then runs the executable with the remaining arguments.
 *
 *   npx --yes bun@1.4.5 run start [-- OPTIONS]
 */
import { spawn } from "node:child_process";
import { join } from "node:path";
import { installPackages, installPython, installPythonTools } from "./setup.ts";
import { bunPath, fail, must, ROOT, StepError } from "./steps.ts";

/** Prints a warning if Python cannot be set up: only the reader needs it, so the gateway starts anyway. */
async function tryPython(): Promise<void> {
  try {
    await installPython();
    await installPythonTools();
  } catch (error) {
    if (!(error instanceof StepError)) throw error;
    console.error(`\nwarning: ${error.message}`);
    console.error(`What to do: ${error.fix}`);
    console.error("The gateway starts anyway; consumer.py needs a python3 with numpy.\n");
  }
}

/** Runs the executable, passes signals on to it, and exits with its exit code. */
function become(binary: string, args: readonly string[]): void {
  const child = spawn(binary, args, { stdio: "inherit" });
  // A terminal sends Ctrl-C to the child as well. A signal that is sent to this process alone must be passed on.
  process.removeAllListeners("SIGINT");
  process.removeAllListeners("SIGTERM");
  process.on("SIGINT", () => process.stdin.isTTY || child.kill("SIGINT"));
  process.on("SIGTERM", () => child.kill("SIGTERM"));
  child.on("error", (error) => fail(new StepError("start", error.message, `look at ${binary}`)));
  child.on("exit", (code, signal) => process.exit(signal === null ? (code ?? 1) : 128 + 9));
}

try {
  const args = process.argv.slice(2);
  if (args[0] === "--") args.shift();
  await installPackages();
  // A separate process, because the build imports packages that the step before has just installed.
  await must("build", [bunPath(), "scripts/build.ts"], "read the message above", { show: true });
  await tryPython();
  become(join(ROOT, "one_file_gateway"), args);
} catch (error) {
  fail(error);
}
