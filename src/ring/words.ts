/** Unsigned 64-bit numbers of the ring as two 32-bit words, the low one first: exact up to 2⁵³. */

const TWO_32 = 2 ** 32;

export function highWord(value: number): number {
  return Math.floor(value / TWO_32);
}

/** The first number above `value` with another high word. */
export function nextHighWord(value: number): number {
  return (highWord(value) + 1) * TWO_32;
}

export function readU64(words: Int32Array, word: number): number {
  return ((words[word + 1] as number) >>> 0) * TWO_32 + ((words[word] as number) >>> 0);
}

/** Whether the number at `word` is `value`. */
export function u64Is(words: Int32Array, word: number, value: number): boolean {
  return words[word] === (value | 0) && words[word + 1] === (highWord(value) | 0);
}

/** Stores both words at once. `word` is even, counted in the whole file. */
export function storeU64(words: Int32Array, word: number, value: number): void {
  const longs = new BigInt64Array(words.buffer, words.byteOffset + word * 4, 1);
  Atomics.store(longs, 0, BigInt(value));
}
