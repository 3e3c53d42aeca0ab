import { describe, expect, test } from "bun:test";
import { RecentVectors } from "../../src/embed/recent.ts";

describe("texts that were embedded a moment ago", () => {
  const vectorOf = (text: string): number[] => [text.length, text.charCodeAt(0)];
  const counting = () => {
    const asked: string[] = [];
    const embed = async (texts: readonly string[]) => {
      asked.push(...texts);
      return new Float32Array(texts.flatMap(vectorOf));
    };
    return { asked, embed };
  };
  const dim = () => 2;

  test("are not embedded again, and each row stands at the place of its text", async () => {
    const recent = new RecentVectors();
    const { asked, embed } = counting();
    for (const texts of [["a", "bb"], ["bb", "ccc", "ccc", "a"], [], ["ccc"]]) {
      const rows = await recent.fill(texts, dim, embed);
      expect([...rows]).toEqual(texts.flatMap(vectorOf));
    }
    expect(asked).toEqual(["a", "bb", "ccc"]);
    expect(recent.hits).toBe(3);
  });

  test("are bounded in number and length, and the least recently used are dropped first", async () => {
    const recent = new RecentVectors();
    const { asked, embed } = counting();
    const texts = Array.from({ length: 4096 }, (_, at) => `text ${at}`);
    await recent.fill(texts, dim, embed);
    await recent.fill(["text 0", "one more", "x".repeat(513)], dim, embed);
    expect(recent.size).toBe(4096);
    asked.length = 0;
    await recent.fill(["text 0", "one more", "text 1", "x".repeat(513)], dim, embed);
    expect(asked).toEqual(["text 1", "x".repeat(513)]);
  });

  test("are not kept if embedding fails", async () => {
    const recent = new RecentVectors();
    const failing = recent.fill(["a"], dim, () => Promise.reject(new Error("away")));
    expect(await failing.catch((error: Error) => error.message)).toBe("away");
    expect(recent.size).toBe(0);
  });
});
