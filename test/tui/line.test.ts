import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { edit, insert, type Line } from "../../src/tui/line.ts";

const seed = Number(process.env.FC_SEED ?? Date.now() % 1e9);
console.log(`tui/line: FC_SEED=${seed}`);

/** A line whose cursor is at the bar. */
function line(text: string): Line {
  return { text: text.replace("|", ""), cursor: text.indexOf("|") };
}

const shown = ({ text, cursor }: Line): string => `${text.slice(0, cursor)}|${text.slice(cursor)}`;
const after = (text: string, id: string, lines = true): string =>
  shown(edit(line(text), { id, text: null }, lines));

describe("line", () => {
  test.each([
    ["backspace", "ab|c", "a|c"],
    ["ctrl+h", "ab|c", "a|c"],
    ["backspace", "|abc", "|abc"],
    ["backspace", "x👩‍👩‍👧|c", "x|c"],
    ["delete", "a|bc", "a|c"],
    ["delete", "a|👍🏽c", "a|c"],
    ["delete", "abc|", "abc|"],
    ["ctrl+w", "one two  |three", "one |three"],
    ["ctrl+u", "one\ntwo th|ree", "one\n|ree"],
    ["left", "e\u0301|x", "|e\u0301x"],
    ["right", "|e\u0301x", "e\u0301|x"],
    ["right", "abc|", "abc|"],
    ["home", "one\ntw|o", "one\n|two"],
    ["ctrl+a", "on|e\ntwo", "|one\ntwo"],
    ["end", "o|ne\ntwo", "one|\ntwo"],
    ["ctrl+e", "one\nt|wo", "one\ntwo|"],
    ["up", "long line\nsho|rt", "lon|g line\nshort"],
    ["up", "ab|c", "|abc"],
    ["down", "long l|ine\nab", "long line\nab|"],
    ["down", "a|bc", "abc|"],
    ["alt+enter", "a|b", "a\n|b"],
    ["ctrl+j", "a|b", "a\n|b"],
    ["shift+enter", "a|b", "a\n|b"],
    ["f5", "a|b", "a|b"],
  ])("%s turns %p into %p", (id, before, expected) => {
    expect(after(before, id)).toBe(expected);
  });

  test("text of one line has no breaks and no way up or down", () => {
    for (const id of ["alt+enter", "ctrl+j", "shift+enter", "up", "down"])
      expect(after("a|b", id, false)).toBe("a|b");
  });

  test("a key that writes is inserted at the cursor", () => {
    expect(shown(edit(line("a|b"), { id: "ç", text: "ç" }, false))).toBe("aç|b");
  });

  test("a line holds 8,000 characters, and never half of one", () => {
    const full = insert(line("|"), "😀".repeat(5000));
    expect(full.text.length).toBe(8000);
    expect(insert({ ...full, cursor: 2 }, "x")).toEqual({ ...full, cursor: 2 });
    const odd = insert(line("x|"), "😀".repeat(5000));
    expect([odd.text.length, odd.text.isWellFormed()]).toEqual([8000, true]);
  });

  test("whatever is pressed, the cursor stays within the text", () => {
    const ids = [
      ...["backspace", "delete", "ctrl+w", "left", "right", "home", "end", "up", "down"],
      ...["alt+enter", "a", "👍"],
    ];
    const keys = fc.array(fc.constantFrom(...ids), { maxLength: 40 });
    fc.assert(
      fc.property(fc.string({ unit: "grapheme", maxLength: 30 }), keys, (text, pressed) => {
        let now = insert({ text: "", cursor: 0 }, text);
        for (const id of pressed) {
          now = edit(now, { id, text: [...id].length === 1 ? id : null }, true);
          expect(now.cursor >= 0 && now.cursor <= now.text.length).toBe(true);
        }
      }),
      { seed, numRuns: 500 },
    );
  });
});
