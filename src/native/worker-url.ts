/**
 * Where the program's own files are, run from sources and in the executable.
 *
 * A Worker's file is `src/NAME/NAME.worker.ts`. From sources, that is `../NAME/NAME.worker.ts` from here. In the executable the bundler
 * has joined this module with gateway.ts into one file at the embedded root `/$bunfs/root/`, while each Worker, an entry point of its
 * own, keeps its path from the top of the repository: `/$bunfs/root/src/NAME/NAME.worker.js`, which Bun also finds as `.ts`. So one
 * relative address does not serve both.
 *
 * For the main thread only: inside a Worker of the executable, `import.meta.url` is the Worker's.
 */
import { dirname, resolve } from "node:path";

/** Whether this process runs the executable, not `bun gateway.ts`. */
export function isCompiled(): boolean {
  return import.meta.dir.startsWith("/$bunfs/");
}

/** The address of a Worker's file, for `new Worker(url)`. */
export function workerUrl(name: "store" | "embed"): URL {
  const path = `${name}/${name}.worker.ts`;
  return new URL(isCompiled() ? `./src/${path}` : `../${path}`, import.meta.url);
}

/** The folder of the executable; from sources, the top of the repository, where the executable would be. */
export function executableDir(): string {
  return isCompiled() ? dirname(process.execPath) : resolve(import.meta.dir, "../..");
}
