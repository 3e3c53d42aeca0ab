import { describe, expect, test } from "bun:test";
import { repairUnigram, suffixOf, withPrefixSpace } from "../../src/embed/tokenizer.ts";

describe("a recent tokenizer.json", () => {
  test("gets add_prefix_space in each Metaspace", () => {
    const metaspace = (scheme?: string) => ({ type: "Metaspace", ...(scheme && { prepend_scheme: scheme }) });
    const json = {
      pre_tokenizer: { pretokenizers: [metaspace("always"), metaspace("never")] },
      decoder: metaspace(),
    };
    expect(withPrefixSpace(json)).toEqual({
      pre_tokenizer: {
        pretokenizers: [
          { ...metaspace("always"), add_prefix_space: true },
          { ...metaspace("never"), add_prefix_space: false },
        ],
      },
      decoder: { ...metaspace(), add_prefix_space: true },
    });
  });

  test("keeps an add_prefix_space of its own, and its vocabulary", () => {
    const vocab = { type: "Metaspace" };
    const json = { a: { type: "Metaspace", add_prefix_space: false }, model: { vocab } };
    expect(withPrefixSpace(json)).toEqual(json);
    expect((withPrefixSpace(json) as typeof json).model.vocab).toBe(vocab);
  });
});

interface Node {
  isLeaf: boolean;
  readonly children: Map<string, Node>;
}

/** A Unigram model like the package's: its trie is by code points. */
function unigramOf(pieces: Record<string, number>) {
  const node = (): Node => ({ isLeaf: false, children: new Map() });
  const root = node();
  const names = Object.keys(pieces);
  for (const piece of names) {
    let at = root;
    for (const char of piece) {
      const next = at.children.get(char) ?? node();
      at.children.set(char, next);
      at = next;
    }
    at.isLeaf = true;
  }
  const model = {
    trie: { root },
    scores: names.map((name) => pieces[name] as number),
    tokens_to_ids: new Map(names.map((name, id) => [name, id])),
    unkScore: -10,
    tokenize: (text: string): string[] => [text],
  };
  repairUnigram(model);
  return model.tokenize;
}

describe("the search for pieces", () => {
  test("finds those with the highest total score, not the longest first", () => {
    const tokenize = unigramOf({ a: -1, b: -1, c: -1, ab: -1.5, abc: -9, bc: -5 });
    expect(tokenize("abc")).toEqual(["ab", "c"]);
  });

  test("takes the first found of two with the same score", () => {
    const tokenize = unigramOf({ a: -1, b: -1, c: -1, ab: -1, bc: -1 });
    expect(tokenize("abc")).toEqual(["a", "bc"]);
  });

  test("finds characters beyond the Basic Multilingual Plane", () => {
    const tokenize = unigramOf({ a: -1, "👍": -2, "👍👍": -3 });
    expect(tokenize("a👍👍a👍")).toEqual(["a", "👍👍", "a", "👍"]);
  });

  test("makes an unknown character a piece of its own", () => {
    const tokenize = unigramOf({ a: -1, ab: -3 });
    expect(tokenize("a?😡a")).toEqual(["a", "?", "😡", "a"]);
    expect(tokenize("")).toEqual([]);
  });

  test("does not change models of other kinds", () => {
    const wordPiece = { tokenize: (): string[] => ["own"] };
    repairUnigram(wordPiece);
    expect(wordPiece.tokenize()).toEqual(["own"]);
  });
});

test("the special tokens after a text are the common end of two texts", () => {
  const tokenize = (text: string): number[] => [0, ...text.split("").map((char) => char.charCodeAt(0)), 1, 2];
  expect(suffixOf(tokenize)).toEqual([1, 2]);
  expect(suffixOf((text) => [text.length])).toEqual([]);
});
