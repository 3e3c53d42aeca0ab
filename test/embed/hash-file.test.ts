import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { hashFile } from "../../src/embed/hash-file.ts";

test("a file's hashes are those of sha256sum and of git hash-object", async () => {
  const folder = mkdtempSync(join(tmpdir(), "gateway-hash-"));
  try {
    const path = join(folder, "hello");
    writeFileSync(path, "hello\n");
    expect(await hashFile(path, "sha256")).toBe(
      "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
    );
    expect(await hashFile(path, "git")).toBe("ce013625030ba8dba906f756967f9e9ca394464a");
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
