/** What a log line may contain. */
import { expect, test } from "bun:test";
import fc from "fast-check";
import { visible } from "../src/log.ts";

test("what a terminal would obey is shown as an escape", () => {
  const cases: [text: string, shown: string][] = [
    ["Olá, ação 😀 日本 ñ", "Olá, ação 😀 日本 ñ"],
    ["a\nb\r\nc\td", "a\\u000ab\\u000d\\u000ac\\u0009d"],
    ["\x1b]0;title\x07\x1b[2J", "\\u001b]0;title\\u0007\\u001b[2J"],
    ["\u009b31m\x7f\0", "\\u009b31m\\u007f\\u0000"],
    ["a\u2028b\u2029c\u0085d", "a\\u2028b\\u2029c\\u0085d"],
    ["\u202egpj.exe\u2066\u200f\u061c", "\\u202egpj.exe\\u2066\\u200f\\u061c"],
    ["zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"],
    ["half \ud83d and \udc00", "half \\ud83d and \\udc00"],
  ];
  for (const [text, shown] of cases) expect(visible(text)).toBe(shown);
});

test("a JSON line stays the same value, whatever is in it", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary" }), (message) => {
      const line = visible(JSON.stringify({ message }));
      expect(JSON.parse(line)).toEqual({ message });
      expect(line).not.toMatch(/[\p{Cc}\p{Zl}\p{Zp}\u202a-\u202e\u2066-\u2069]/u);
      expect(visible(line)).toBe(line);
    }),
  );
});
