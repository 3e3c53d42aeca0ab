/** The byte scanner, compared with JSON.parse. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { isUtf8 } from "node:buffer";
import fc from "fast-check";
import { JsonScanner } from "../../src/event/scan.ts";
import { bytesOf, jsonText, jsonValue, parses, seeded, textIn } from "./fixtures.ts";

// Generous, because the machine may be busy.
setDefaultTimeout(60_000);
seeded("scan.test.ts");

describe("the scanner", () => {
  test("tells objects from arrays at any depth", () => {
    const levels = 10_000;
    const open = Array.from({ length: levels }, (_, level) => (level % 3 === 1 ? "[" : '{"a":'));
    const close = open.map((bracket) => (bracket === "[" ? "]" : "}")).reverse();
    const scan = (text: string): string => {
      const scanner = new JsonScanner(bytesOf(text));
      let step = scanner.run(text.length);
      while (step === "child") step = scanner.run(text.length);
      expect(scanner.deepest).toBe(levels);
      return step;
    };
    expect(scan(`${open.join("")}0${close.join("")}`)).toBe("done");
    for (const wrong of [0, 5, 5000, levels - 1]) {
      const closed = close.with(wrong, close[wrong] === "]" ? "}" : "]").join("");
      expect(scan(`${open.join("")}0${closed}`)).toBe("bad");
    }
  });

  test("finds the same members and elements wherever it stops", () => {
    const scan = (bytes: Uint8Array, limits: () => number) => {
      const scanner = new JsonScanner(bytes);
      const found: unknown[] = [];
      for (;;) {
        const step = scanner.run(scanner.at + limits());
        if (step === "done" || step === "bad") return [...found, step, scanner.problem];
        if (step !== "child") continue;
        found.push([scanner.childStart, scanner.childEnd, scanner.keyStart, scanner.keyEnd, scanner.deepest]);
        scanner.deepest = 0;
      }
    };
    fc.assert(
      fc.property(
        jsonText(jsonValue),
        fc.nat(),
        fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1 }),
        (text, cut, steps) => {
          const whole = bytesOf(text);
          const bytes = cut % 4 === 0 ? whole.subarray(0, cut % (whole.length + 1)) : whole;
          let turn = 0;
          const sliced = scan(bytes, () => steps[turn++ % steps.length] as number);
          expect(sliced).toEqual(scan(bytes, () => bytes.length + 1));
          if (isUtf8(bytes)) expect(sliced.includes("done")).toBe(parses(textIn(bytes)));
        },
      ),
      { numRuns: 1000 },
    );
  });
});
