/**
 * Where the program's own files are, both from sources and in the executable.
 *
 * A Worker's file is `src/NAME/NAME.worker.ts`, from sources a folder above this module. In the executable the
 * bundler has joined this module with gateway.ts into one file at the embedded root `/$bunfs/root/`, and the
 * workers, extra entry points of the build, keep their path relative to the repository:
 * `/$bunfs/root/src/NAME/NAME.worker.js`, which Bun also finds as `.ts`. So the address must not be written as
 * `new URL("../NAME/NAME.worker.ts", import.meta.url)` alone.
 *
 * For the main thread only: inside a worker of the executable `import.meta.url` is that worker's own.
 */
import { dirname, resolve } from "node:path";

/** Whether this is the executable, not `bun gateway.ts`. */
export function isCompiled(): boolean {
  return import.meta.dir.startsWith("/$bunfs/");
}

/** Address of a worker's file, for `new Worker(url)`. */
export function workerUrl(name: "store" | "embed"): URL {
  const path = `${name}/${name}.worker.ts`;
  return new URL(isCompiled() ? `./src/${path}` : `../${path}`, import.meta.url);
}

/** Folder of the executable; from sources the top of the repository, where the executable would be. */
export function executableDir(): string {
  return isCompiled() ? dirname(process.execPath) : resolve(import.meta.dir, "../..");
}
