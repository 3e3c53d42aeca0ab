/**
 * The embedder that needs no model: signed feature hashing of words and character n-grams.
 *
 * It is lexical, not semantic: two texts are near each other if they share words or pieces of words, in any language; a
 * paraphrase in other words is far away. It serves to work offline from the first second, and to find near-duplicates and
 * messages about the same things.
 *
 * The vector is a pure function of the text, the same on every machine: features are counted in integers, and each value
 * takes one division, one square root and one rounding to float32, which IEEE 754 defines exactly. Any change of a vector
 * needs a new name ({@link HASHING_NAME}); the golden test guards this. (Letters and their decomposition come from the
 * runtime's Unicode tables, which are stable for every assigned character.)
 *
 * How a text becomes features:
 * - The text is lower-cased. If it is not pure ASCII, it is also brought to NFKD, freed of the combining diacritics
 *   U+0300 to U+036F, lower-cased again and recomposed (NFC), so that "Cartão" and "cartao" are one word. (Vowel signs of
 *   other scripts are not diacritics and stay.)
 * - A word is a run of letters, digits and marks, or one emoji, or a run of regional indicators.
 * - Each word counts as a whole. If it lost accents, it also counts with them, so that "cartao" is very near "cartão" but
 *   not the same.
 * - Each word, between two boundary marks, counts by its n-grams of 3, 4 and 5 UTF-16 units.
 *
 * How a feature becomes a bucket: FNV-1a over UTF-16 units, then the finaliser of MurmurHash3 (fmix32). The low ten bits
 * are the bucket, the top bit is the sign (Weinberger et al. 2009, arXiv 0902.2206). The square root of a count enters the
 * vector, so that a word used ten times does not drown the rest.
 */

/** The full name of the embedder. The vector of a text never changes under this name. */
export const HASHING_NAME = "hashing-1024-v1";
/** Floats in a vector. */
export const HASHING_DIM = 1024;

const BUCKET_MASK = HASHING_DIM - 1;
/** A whole word tells more than one of its pieces. Weights are integers, so that counts stay exact. */
const WORD_WEIGHT = 2;
const NGRAM_WEIGHT = 1;
const NGRAM_MIN = 3;
const NGRAM_MAX = 5;
/** Start values of FNV-1a, one per kind of feature, so that the word "abc" differs from the n-gram "abc". */
const NGRAM_BASIS = 0x811c9dc5 | 0;
const WORD_BASIS = 0x9747b28c | 0;
const EXACT_BASIS = 0x3c6ef372 | 0;
const FNV_PRIME = 0x01000193;
/** Boundary marks: control characters, which no word contains. */
const WORD_START = 2;
const WORD_END = 3;

const WORDS = /[\p{L}\p{N}\p{M}]+|\p{Extended_Pictographic}|\p{Regional_Indicator}+/gu;
const ASCII_WORDS = /[a-z0-9]+/g;
// biome-ignore lint/suspicious/noControlCharactersInRegex: the range is what ASCII is.
const ASCII_ONLY = /^[\x00-\x7f]*$/;
const DIACRITICS = /[\u0300-\u036f]/g;

/** Counts of one text. Every call finds and leaves them all zero. Each thread has its own. */
const counts = new Int32Array(HASHING_DIM);
/** UTF-16 units of the current word between its marks. Grows to the longest word so far, which is at most a text. */
let units = new Uint16Array(256);

function count(hash: number, weight: number): void {
  let h = hash ^ (hash >>> 16);
  h = Math.imul(h, 0x85ebca6b);
  h ^= h >>> 13;
  h = Math.imul(h, 0xc2b2ae35);
  h ^= h >>> 16;
  const bucket = h & BUCKET_MASK;
  counts[bucket] = (counts[bucket] as number) + (h < 0 ? -weight : weight);
}

function countWord(basis: number, word: string): void {
  let hash = basis;
  for (let at = 0; at < word.length; at++) hash = Math.imul(hash ^ word.charCodeAt(at), FNV_PRIME);
  count(hash, WORD_WEIGHT);
}

function countNgrams(word: string): void {
  const length = word.length + 2;
  if (units.length < length) units = new Uint16Array(2 * length);
  units[0] = WORD_START;
  for (let at = 0; at < word.length; at++) units[at + 1] = word.charCodeAt(at);
  units[length - 1] = WORD_END;
  for (let start = 0; start + NGRAM_MIN <= length; start++) {
    const end = Math.min(start + NGRAM_MAX, length);
    let hash = NGRAM_BASIS;
    for (let at = start; at < end; at++) {
      hash = Math.imul(hash ^ (units[at] as number), FNV_PRIME);
      if (at - start >= NGRAM_MIN - 1) count(hash, NGRAM_WEIGHT);
    }
  }
}

function countWords(basis: number, text: string, pattern: RegExp): void {
  const words = text.match(pattern);
  if (words === null) return;
  for (const word of words) {
    countWord(basis, word);
    if (basis === WORD_BASIS) countNgrams(word);
  }
}

function countText(text: string): void {
  if (ASCII_ONLY.test(text)) {
    countWords(WORD_BASIS, text.toLowerCase(), ASCII_WORDS);
    return;
  }
  const exact = text.toLowerCase().normalize("NFKC");
  const folded = text.normalize("NFKD").replace(DIACRITICS, "").toLowerCase().normalize("NFC");
  countWords(WORD_BASIS, folded, WORDS);
  if (exact === folded) return;
  for (const word of exact.match(WORDS) ?? []) {
    if (word.normalize("NFKD").search(DIACRITICS) >= 0) countWord(EXACT_BASIS, word);
  }
}

/**
 * Embeds one text.
 * @param target receives HASHING_DIM floats from `offset`: a vector of length 1, or zeros.
 * @returns false if the text has no feature (empty, or only punctuation): the vector is all zeros.
 * @throws RangeError if `target` has no room.
 */
export function hashingEmbed(text: string, target: Float32Array, offset: number): boolean {
  if (offset < 0 || offset + HASHING_DIM > target.length) {
    throw new RangeError(`hashing: no room for ${HASHING_DIM} floats at ${offset} of ${target.length}`);
  }
  countText(text);
  // The square of a damped value is its count again: the sum below is an exact integer.
  let total = 0;
  for (let bucket = 0; bucket < HASHING_DIM; bucket++) total += Math.abs(counts[bucket] as number);
  if (total === 0) {
    target.fill(0, offset, offset + HASHING_DIM);
    return false;
  }
  for (let bucket = 0; bucket < HASHING_DIM; bucket++) {
    const value = counts[bucket] as number;
    target[offset + bucket] =
      value === 0 ? 0 : value < 0 ? -Math.sqrt(-value / total) : Math.sqrt(value / total);
  }
  counts.fill(0);
  return true;
}
