import { describe, expect, test } from "bun:test";
import { bar, Dots, graph, signedBar, spark } from "../../src/tui/pictures.ts";
import { Area, STYLE } from "../../src/tui/screen.ts";

/** The lines that something draws on an area of this size. */
function drawn(width: number, height: number, draw: (area: Area) => void): string[] {
  const area = Area.ofSize({ width, height });
  draw(area);
  const cells = Array.from({ length: height }, () => new Array<string>(width).fill(" "));
  for (const { x, y, text } of area.finish().ops)
    [...text].forEach((character, at) => {
      (cells[y] as string[])[x + at] = character;
    });
  return cells.map((row) => row.join(""));
}

describe("pictures", () => {
  test("a bar shows a share in eighths of a column", () => {
    expect([bar(0, 4), bar(0.5, 4), bar(0.53125, 4), bar(1, 4)]).toEqual(["····", "██··", "██▏·", "████"]);
    expect([bar(-1, 2), bar(7, 2)]).toEqual(["··", "██"]);
  });

  test("a signed bar grows from the middle, in halves of a column", () => {
    expect([-1, -0.5, -0.1, 0, 0.5, 1, 9].map(signedBar)).toEqual([
      ...["███│···", "·▐█│···", "··▐│···", "···│···", "···│█▌·", "···│███", "···│███"],
    ]);
  });

  test("a sparkline shows nothing for an unknown value, and something for any that is not zero", () => {
    expect(spark([Number.NaN, 0, 0.01, 50, 100, 200], 100)).toBe(" ▁▁▄██");
    expect(spark([1, 2], 0)).toBe("▁▁");
  });

  test("a graph ends at the right edge, and a value above zero shows at least an eighth", () => {
    const values = [0, 0.001, 50, 100, Number.NaN];
    expect(drawn(6, 2, (area) => graph(area, values, 100, STYLE.plain))).toEqual(["    █ ", " ▁▁██ "]);
    // More values than columns: the newest stay.
    expect(drawn(2, 1, (area) => graph(area, [100, 100, 0, 50], 100, STYLE.plain))).toEqual(["▁▄"]);
  });

  test("dots are places of a braille cell; the highest rank gives a cell its style", () => {
    const dots = new Dots(2, 2);
    for (const [x, y] of [
      [0, 0],
      [1, 3],
      [2, 1],
    ] as const)
      dots.set(x, y, STYLE.good, 1);
    dots.set(0, 1, STYLE.bad, 0);
    // Outside on each side.
    for (const [x, y] of [
      [-1, 4],
      [4, 0],
      [0, -1],
      [0, 8],
    ] as const)
      dots.set(x, y, STYLE.bad, 9);
    expect(drawn(2, 2, (area) => dots.draw(area))).toEqual([
      String.fromCharCode(0x2800 + 0x01 + 0x02 + 0x80, 0x2800 + 0x02),
      "  ",
    ]);
    const area = Area.ofSize({ width: 2, height: 2 });
    dots.draw(area);
    expect(area.finish().ops.map(({ style }) => style)).toEqual([STYLE.good, STYLE.good]);
  });

  test("a trail leaves room at both of its ends", () => {
    const dots = new Dots(8, 1);
    dots.trail({ x: 0, y: 0 }, { x: 15, y: 0 }, STYLE.plain, 0);
    const [row = ""] = drawn(8, 1, (area) => dots.draw(area));
    expect([row[0], row[7]]).toEqual([" ", " "]);
    expect([...row].filter((cell) => cell !== " ").length).toBe(4);
  });
});
