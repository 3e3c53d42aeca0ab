/** Temporary folders that are removed after the test that made them. */
import { afterEach } from "bun:test";
import { TempFolder } from "./gateway.ts";

/** Call it once at the top of a test file. @returns makes one folder more for the test that runs */
export function foldersOfTests(): () => TempFolder {
  const folders: TempFolder[] = [];
  afterEach(() => {
    for (const made of folders.splice(0)) made[Symbol.dispose]();
  });
  return () => {
    const made = new TempFolder();
    folders.push(made);
    return made;
  };
}
