import { expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { createTestRenderer, type OptimizedBuffer, Renderable, RGBA } from "../../src/native/opentui.ts";
import { Area } from "../../src/tui/screen.ts";
import { cut, fit, runsOf, safe, safeLines, widthOf, wrap } from "../../src/tui/text.ts";
import { HOSTILE } from "./fixtures.ts";

const seed = Number(process.env.FC_SEED ?? Date.now() % 1e9);
console.log(`tui-text: FC_SEED=${seed}`);
fc.configureGlobal({ seed, numRuns: 2000 });
setDefaultTimeout(60_000);

/** What must never reach a terminal: control, format and invisible characters, and those of unknown width. */
const FORBIDDEN = /[\p{C}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]|[^\P{Zs} ]/u;

const anyText = fc.oneof(
  fc.string({ unit: "binary", maxLength: 60 }),
  fc.string({ unit: "grapheme", maxLength: 60 }),
  fc
    .array(fc.integer({ min: 0, max: 0xffff }), { maxLength: 60 })
    .map((codes) => String.fromCharCode(...codes)),
  fc
    .array(fc.oneof(fc.constantFrom(...HOSTILE), fc.string()), { maxLength: 6 })
    .map((parts) => parts.join("")),
);

test("safe text has nothing that a terminal would obey or hide", () => {
  fc.assert(
    fc.property(anyText, (text) => {
      expect(FORBIDDEN.test(safe(text))).toBe(false);
    }),
  );
});

test("safe text is not changed again, and plain text not at all", () => {
  fc.assert(
    fc.property(anyText, (text) => {
      const once = safe(text);
      expect(safe(once)).toBe(once);
    }),
  );
  for (const text of ["plain", "ação às 10h — “sim”", "日本語", "…▌█⣿│╭"]) expect(safe(text)).toBe(text);
});

test("a removed character is shown by its picture or code point", () => {
  expect(safe("\x1b[31m")).toBe("␛[31m");
  expect(safe("a\u202eb")).toBe("a‹202E›b");
  expect(safe("a\u200bb\x9bc")).toBe("a‹200B›b‹9B›c");
  expect(safe("a\tb\r\nc")).toBe("a b c");
  expect(safe("🇧🇷 👍🏽 ❤️")).toBe("BR 👍 ❤");
  expect(safe("\ue000")).toBe("\ufffd");
});

test("a letter keeps two marks at most, and a mark never stands alone", () => {
  expect(safe(`Z${"\u0335".repeat(50)}x`)).toBe("Z\u0335\u0335x");
  expect(safe("\u0301x")).toBe("◌\u0301x");
});

test("cut text takes at most the given columns, filled text exactly those", () => {
  fc.assert(
    fc.property(anyText, fc.integer({ min: 1, max: 40 }), (text, columns) => {
      expect(widthOf(cut(text, columns))).toBeLessThanOrEqual(columns);
      expect(widthOf(fit(text, columns))).toBe(columns);
      expect(FORBIDDEN.test(cut(text, columns))).toBe(false);
    }),
  );
});

test("wrapped lines fit, and together they have every character but spaces", () => {
  fc.assert(
    fc.property(anyText, fc.integer({ min: 4, max: 40 }), (text, columns) => {
      const lines = wrap(text, columns);
      for (const line of lines) expect(widthOf(line)).toBeLessThanOrEqual(columns);
      const words = (parts: readonly string[]): string => parts.join("").replaceAll(" ", "");
      expect(words(lines)).toBe(words(safeLines(text)));
    }),
    { examples: [["\t\u0591", 4]] },
  );
});

test("runs together are the text, and their widths add up to its width", () => {
  fc.assert(
    fc.property(anyText, (text) => {
      const clean = safe(text);
      const runs = runsOf(clean);
      expect(runs.map((run) => run.text).join("")).toBe(clean);
      expect(runs.reduce((sum, run) => sum + run.columns, 0)).toBe(widthOf(clean));
    }),
  );
});

test("OpenTUI gives every letter of Unicode the width that the dashboard computes", async () => {
  const width = 200;
  const height = 100;
  await using setup = await createTestRenderer({ width, height });
  let area = Area.ofSize({ width, height });
  const surface = new (class extends Renderable {
    protected override renderSelf(buffer: OptimizedBuffer): void {
      const [fg, bg] = [RGBA.defaultForeground(), RGBA.defaultBackground()];
      for (const { x, y, text } of area.finish().ops) buffer.drawText(text, x, y, fg, bg);
    }
  })(setup.renderer, { width: "100%", height: "100%" });
  setup.renderer.root.add(surface);
  const letters: string[] = [];
  for (let code = 0x21; code < 0x20000; code++) {
    const letter = safe(String.fromCodePoint(code));
    // Characters that are shown by their code point are ASCII by now.
    if ([...letter].length === 1 && letter !== "\ufffd") letters.push(letter);
  }
  expect(letters.length).toBeGreaterThan(60_000);
  const wrong: string[] = [];
  const columns = width / 4;
  for (let from = 0; from < letters.length; from += columns * height) {
    const part = letters.slice(from, from + columns * height);
    area = Area.ofSize({ width, height });
    part.forEach((letter, index) => {
      const x = (index % columns) * 4;
      area.put(area.put(x, Math.floor(index / columns), letter), Math.floor(index / columns), "|");
    });
    surface.requestRender();
    await setup.renderOnce();
    const rows = setup.captureCharFrame().split("\n");
    for (let row = 0; row * columns < part.length; row++) {
      const line = part.slice(row * columns, (row + 1) * columns);
      const cell = (letter: string): string => `${letter}|${" ".repeat(3 - widthOf(letter))}`;
      const expected = line.map(cell).join("");
      if (rows[row]?.trimEnd() !== expected.trimEnd()) {
        wrong.push(...line.filter((letter) => !rows[row]?.includes(`${letter}|`)));
      }
    }
  }
  expect(wrong.map((letter) => letter.codePointAt(0)?.toString(16))).toEqual([]);
});
