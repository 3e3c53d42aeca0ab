/** Runs `ring stat`, `ring tail` and `ring verify` on this process's terminal. */
import { type RingCommand, ringTool } from "../ring/ring.ts";
import { stderr } from "./stdio.ts";

/** Ends with the command's exit code. The first SIGINT or SIGTERM stops the command, a second one ends the process. */
export function runRingCommand(command: RingCommand): Promise<number> {
  const stop = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.on(signal, () => {
      if (stop.signal.aborted) process.exit(130);
      stop.abort();
    });
  }
  // `write` reports the error to its caller. Without this listener the same error would also end the process as uncaught.
  process.stdout.on("error", () => {});
  return ringTool(command, {
    write: (text) =>
      new Promise((written, failed) => {
        process.stdout.write(text, (error) => (error ? failed(error) : written()));
      }),
    say: (line) => stderr.write(line),
    stop: stop.signal,
  });
}
