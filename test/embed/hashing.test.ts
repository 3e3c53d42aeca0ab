import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { HASHING_DIM, HASHING_NAME, hashingEmbed } from "../../src/embed/hashing.ts";

function embed(text: string): Float32Array {
  const vector = new Float32Array(HASHING_DIM);
  hashingEmbed(text, vector, 0);
  return vector;
}

function cosine(a: string, b: string): number {
  const [x, y] = [embed(a), embed(b)];
  return x.reduce((sum, value, at) => sum + value * (y[at] as number), 0);
}

const GOLDEN_TEXTS = [
  "What can I do if my card still hasn't arrived after 2 weeks?",
  "Olá, não consigo ver a fatura do meu cartão. Vocês podem me ajudar?",
  "👍🏽 valeu 🇧🇷 日本語 텍스트 ＦＵＬＬ ﬁne ½ й",
  "card.status: lost\ncard.amount: 1.234,56",
  "a",
];

describe("the hashing embedder", () => {
  test("returns for its golden texts the same bytes as ever", () => {
    const hasher = new Bun.CryptoHasher("sha256");
    for (const text of GOLDEN_TEXTS) hasher.update(embed(text));
    expect([HASHING_NAME, hasher.digest("hex")]).toEqual([
      "hashing-1024-v1",
      "84642b487d184c2d5d6a5d74753ae6b22fa8286b70fdef1a1d889eb5aa22c0d4",
    ]);
  });

  test("writes a vector of length 1 for any text with a letter, and no float beside it", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 200 }), fc.nat(9), (text, before) => {
        const target = new Float32Array(HASHING_DIM + 10).fill(7);
        expect(hashingEmbed(`${text} word`, target, before)).toBe(true);
        const row = target.subarray(before, before + HASHING_DIM);
        expect(row.reduce((sum, value) => sum + value * value, 0)).toBeCloseTo(1, 5);
        expect(
          target.filter((_, at) => at < before || at >= before + HASHING_DIM).every((value) => value === 7),
        ).toBe(true);
      }),
    );
  });

  test("is a pure function: earlier texts do not change a vector", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), fc.string({ unit: "binary" }), (text, other) => {
        const first = embed(text);
        embed(other);
        expect(embed(text)).toEqual(first);
      }),
    );
  });

  test("returns no vector for a text without letters, digits and emoji", () => {
    for (const text of ["", "   \n\t", "?!… —", "\u200b", "()[]{}", "\ud800"]) {
      const target = new Float32Array(HASHING_DIM).fill(7);
      expect(hashingEmbed(text, target, 0)).toBe(false);
      expect(target.every((value) => value === 0)).toBe(true);
    }
  });

  test("refuses a target without room", () => {
    expect(() => hashingEmbed("a", new Float32Array(HASHING_DIM), 1)).toThrow(RangeError);
  });

  test("ignores case, width, composition, punctuation and white space", () => {
    const same = [
      "São João, 2 vezes!",
      "  SÃO   JOÃO: 2 VEZES",
      "Sa\u0303o Joa\u0303o 2 vezes",
      "Ｓão João ２ vezes",
    ];
    for (const text of same) expect(cosine(same[0] as string, text)).toBeCloseTo(1, 6);
  });

  test("puts a word without its accents very near, but not at the same place", () => {
    const near = cosine("Não consigo ver a fatura do cartão", "Nao consigo ver a fatura do cartao");
    expect(near).toBeGreaterThan(0.9);
    expect(near).toBeLessThan(0.9999);
  });

  test("puts a paraphrase that shares words nearer than an unrelated sentence", () => {
    const questions = [
      [
        "I am still waiting on my card?",
        "My card still has not arrived, I am waiting",
        "How do I change my PIN at an ATM?",
      ],
      ["Quero aumentar o limite do meu cartão", "Como aumentar meu limite?", "Esqueci a senha do aplicativo"],
      ["quanto tem na minha conta", "Saldo da conta", "cartão roubado"],
    ] as const;
    for (const [text, paraphrase, unrelated] of questions) {
      expect(cosine(text, paraphrase)).toBeGreaterThan(cosine(text, unrelated) + 0.05);
    }
  });

  test("is lexical: a paraphrase in other words is no nearer than chance", () => {
    expect(Math.abs(cosine("Cadê o boleto?", "Quero pagar minha fatura"))).toBeLessThan(0.25);
  });

  test("works on emoji and other scripts", () => {
    expect(cosine("👍", "👍👍")).toBeGreaterThan(0.99);
    expect(cosine("👍", "😡")).toBeLessThan(0.5);
    expect(cosine("привет мир", "Привет, мир!")).toBeCloseTo(1, 6);
    expect(cosine("東京の天気", "東京の天気は")).toBeGreaterThan(0.5);
  });
});
