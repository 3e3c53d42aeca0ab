import { expect, test } from "bun:test";
import fc from "fast-check";
import { highWord, nextHighWord, readU64, storeU64, u64Is } from "../../src/ring/words.ts";

const number = fc.oneof(
  fc.maxSafeNat(),
  fc.constantFrom(0, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 52 + 2 ** 31, Number.MAX_SAFE_INTEGER),
);

test("a number of two words is read back as stored, and equals only itself", () => {
  fc.assert(
    fc.property(number, number, (value, other) => {
      const words = new Int32Array(6);
      storeU64(words, 2, value);
      expect(readU64(words, 2)).toBe(value);
      expect([u64Is(words, 2, value), u64Is(words, 2, other)]).toEqual([true, other === value]);
      expect(new BigUint64Array(words.buffer)[1]).toBe(BigInt(value));
      expect([words[0], words[1], words[4], words[5]]).toEqual([0, 0, 0, 0]);
    }),
  );
});

test("numbers whose words differ in one bit are not equal", () => {
  const words = new Int32Array(2);
  for (let bit = 0; bit < 64; bit++) {
    storeU64(words, 0, 2 ** 40 + 7);
    words[bit >> 5] = (words[bit >> 5] as number) ^ (1 << (bit & 31));
    expect(u64Is(words, 0, 2 ** 40 + 7)).toBe(false);
  }
});

test("the high word changes at multiples of 2³² and nowhere else", () => {
  fc.assert(
    fc.property(fc.nat({ max: 2 ** 20 }), fc.nat({ max: 2 ** 32 - 1 }), (high, low) => {
      const value = high * 2 ** 32 + low;
      const next = nextHighWord(value);
      expect(highWord(value)).toBe(high);
      expect([highWord(next - 1), highWord(next)]).toEqual([high, high + 1]);
    }),
  );
});
