import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { MUTATIONS, mutated } from "../scripts/mutations.ts";

const ROOT = join(import.meta.dir, "..");

for (const [name, replacements] of Object.entries(MUTATIONS)) {
  test(`the mutation ${name} still finds each text that it replaces, once`, () => {
    expect(replacements.length).toBeGreaterThan(0);
    for (const { file } of replacements) {
      const text = readFileSync(join(ROOT, file), "utf8");
      expect(mutated(name, file, text)).not.toBe(text);
    }
  });
}

test("a mutation whose text is missing, or occurs twice, is refused by name", () => {
  const find = MUTATIONS["checksums"]?.[0]?.find ?? "";
  expect(() => mutated("checksums", "gateway.ts", "")).toThrow(
    "gateway.ts: the text that it replaces occurs 0 times",
  );
  expect(() => mutated("checksums", "gateway.ts", `${find}\n${find}`)).toThrow("occurs 2 times");
});

test("other files of a mutated build stay as they are", () => {
  expect(mutated("checksums", "tui.ts", "text")).toBe("text");
});
