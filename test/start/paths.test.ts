/** What is said of a database's path before anything is opened. */
import { afterAll, beforeEach, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { GatewayError } from "../../src/errors.ts";
import { checkDatabasePath } from "../../src/start/paths.ts";

const ROOT = mkdtempSync(join(tmpdir(), "start-paths-test-"));
afterAll(() => rmSync(ROOT, { recursive: true, force: true }));

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(ROOT, "case-"));
});

function refusal(path: string): [code: string, message: string] {
  try {
    checkDatabasePath(path);
  } catch (thrown) {
    if (thrown instanceof GatewayError) return [thrown.code, thrown.message];
    throw thrown;
  }
  return ["", ""];
}

test("what DuckDB and SQLite can open is accepted, whatever characters it has", () => {
  for (const name of [
    "e.duckdb",
    "[2024] (é) {a,b} *",
    "100%",
    "a#b&c=d",
    'it\'s "x"',
    "a\nb",
    " b ",
    "file:x",
  ]) {
    mkdirSync(join(folder, name));
    expect([name, ...refusal(join(folder, name, `${name}.duckdb`))]).toEqual([name, "", ""]);
  }
  const path = join(folder, "used.duckdb");
  for (const suffix of ["", ".wal", ".journal"]) writeFileSync(path + suffix, "");
  mkdirSync(`${path}.tmp`);
  expect(refusal(path)).toEqual(["", ""]);
  symlinkSync(path, join(folder, "link.duckdb"));
  expect(refusal(join(folder, "link.duckdb"))).toEqual(["", ""]);
});

test("a question mark in file or folder, and a name too long for the files beside it, are usage errors", () => {
  mkdirSync(join(folder, "o que?"));
  expect(refusal(join(folder, "o que?", "e.duckdb"))).toEqual(["usage", expect.stringContaining('"?"')]);
  expect(refusal(join(folder, "e?.duckdb"))[0]).toBe("usage");
  expect(refusal(join(folder, "x".repeat(219)))).toEqual(["", ""]);
  expect(refusal(join(folder, "x".repeat(220)))).toEqual(["usage", expect.stringContaining("219 bytes")]);
  expect(readdirSync(folder)).toEqual(["o que?"]);
});

test("a missing folder, a folder that is a file, and files that are none are refused by name", () => {
  const path = join(folder, "e.duckdb");
  expect(refusal(join(folder, "no/e.duckdb"))).toEqual([
    "store_failed",
    expect.stringContaining("does not exist"),
  ]);
  writeFileSync(join(folder, "plain"), "");
  expect(refusal(join(folder, "plain/e.duckdb"))[0]).toBe("store_failed");
  for (const suffix of ["", ".wal", ".journal", ".journal-wal", ".journal-shm"]) {
    mkdirSync(path + suffix);
    expect(refusal(path)).toEqual([
      "store_failed",
      expect.stringContaining(`${path}${suffix}: it is not a regular file`),
    ]);
    rmSync(path + suffix, { recursive: true });
  }
  writeFileSync(`${path}.tmp`, "");
  expect(refusal(path)).toEqual(["store_failed", expect.stringContaining(`${path}.tmp`)]);
});
