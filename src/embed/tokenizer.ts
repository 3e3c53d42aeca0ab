/** Works around two faults of the tokenizers of `@xenova/transformers` 2.17. */

/**
 * Rewrites a tokenizer.json for transformers 2.17. Since tokenizers 0.19, Metaspace has `prepend_scheme` instead of
 * `add_prefix_space`. Without the latter the package silently leaves out the mark before the first word of every text.
 */
export function withPrefixSpace(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withPrefixSpace);
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).map(([key, inner]) => [
    key,
    key === "vocab" ? inner : withPrefixSpace(inner),
  ]);
  const copy = Object.fromEntries(entries);
  if (copy.type === "Metaspace") copy.add_prefix_space ??= copy.prepend_scheme !== "never";
  return copy;
}

interface TrieNode {
  readonly isLeaf: boolean;
  readonly children: ReadonlyMap<string, TrieNode>;
}

/** The fields of the package's Unigram model that are used here. The package does not declare them. */
interface UnigramModel {
  readonly trie: { readonly root: TrieNode };
  readonly scores: readonly number[];
  readonly tokens_to_ids: ReadonlyMap<string, number>;
  readonly unkScore: number;
  tokenize: (text: string) => string[];
}

/**
 * Replaces the search of the package's Unigram model. The package builds the trie by code points but walks it by UTF-16
 * units, so it never finds an emoji; and it copies the rest of the text at every position. Leaves other models alone.
 */
export function repairUnigram(model: unknown): void {
  const unigram = model as Partial<UnigramModel>;
  if (unigram.trie === undefined || unigram.scores === undefined) return;
  const known = unigram as UnigramModel;
  known.tokenize = (text) => bestPieces(known, text);
}

/** Finds the pieces with the highest total score by Viterbi (Kudo 2018, arXiv 1804.10959). The first found wins a tie. */
function bestPieces(model: UnigramModel, text: string): string[] {
  const scores = new Float64Array(text.length + 1).fill(Number.NEGATIVE_INFINITY);
  const starts = new Int32Array(text.length + 1).fill(-1);
  scores[0] = 0;
  const reach = (start: number, end: number, score: number): void => {
    const total = (scores[start] as number) + score;
    if (starts[end] !== -1 && total <= (scores[end] as number)) return;
    scores[end] = total;
    starts[end] = start;
  };
  for (let start = 0; start < text.length; ) {
    const first = String.fromCodePoint(text.codePointAt(start) as number);
    let single = false;
    let node = model.trie.root.children.get(first);
    for (let end = start + first.length; node !== undefined; ) {
      if (node.isLeaf) {
        const piece = text.slice(start, end);
        reach(start, end, model.scores[model.tokens_to_ids.get(piece) as number] as number);
        single ||= piece.length === first.length;
      }
      if (end >= text.length) break;
      const next = String.fromCodePoint(text.codePointAt(end) as number);
      end += next.length;
      node = node.children.get(next);
    }
    if (!single) reach(start, start + first.length, model.unkScore);
    start += first.length;
  }
  const pieces: string[] = [];
  for (let end = text.length; end > 0; end = starts[end] as number) {
    pieces.push(text.slice(starts[end] as number, end));
  }
  return pieces.reverse();
}

/** The special tokens after a text: the common end of the ids of two different texts. */
export function suffixOf(tokenize: (text: string) => number[]): number[] {
  const one = tokenize("a");
  const other = tokenize("1 2");
  let length = 0;
  while (length < one.length && one[one.length - 1 - length] === other[other.length - 1 - length])
    length += 1;
  return one.slice(one.length - length);
}
