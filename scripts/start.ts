/**
 * From a fresh clone to a running gateway: packages, executable, Python environment, then the executable
 * itself in this process's place, with the arguments that are left.
 *
 *   npx --yes bun@1.4.5 run start [-- OPTIONS]
 */
import { spawn } from "node:child_process";
import { join } from "node:path";
import { installPackages, installPython, installPythonTools } from "./setup.ts";
import { bunPath, fail, must, ROOT, StepError } from "./steps.ts";

/** The gateway runs without Python; only the reader needs it. So a failure here is told, and does not stop it. */
async function tryPython(): Promise<void> {
  try {
    await installPython();
    await installPythonTools();
  } catch (error) {
    if (!(error instanceof StepError)) throw error;
    console.error(`\nwarning: ${error.message}`);
    console.error(`What to do: ${error.fix}`);
    console.error("The gateway starts without it; consumer.py needs a python3 with numpy.\n");
  }
}

/** Runs the executable until it ends, passing signals on, and ends as it did. */
function become(binary: string, args: readonly string[]): void {
  const child = spawn(binary, args, { stdio: "inherit" });
  // Ctrl-C in a terminal reaches the child by itself. What is sent to this process alone is passed on.
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
  // In a process of its own: the build imports what the step before has only now installed.
  await must("build", [bunPath(), "scripts/build.ts"], "read the message above", { show: true });
  await tryPython();
  become(join(ROOT, "one_file_gateway"), args);
} catch (error) {
  fail(error);
}
