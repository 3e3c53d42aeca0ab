/** Which texts the graph of a model takes together, and where they are cut. */
import type { ModelDescription } from "./models.ts";

/** Padded tokens of one run: bounds its memory and, on int8, how much one long text disturbs others. */
const RUN_TOKENS_MAX = 2048;
/**
 * A text that is longer than the shortest of a run by this begins the next one, once the run has RUN_TEXTS_MIN: on
 * messages of banking77 two thirds of a batch of 32 would be padding, and this doubles the speed.
 */
const RUN_STRETCH_MAX = 1.5;
const RUN_TEXTS_MIN = 4;

/** What is known of a model's tokens. */
export interface Tokenized {
  readonly description: Pick<ModelDescription, "maxTokens">;
  /** Ids of a text with its special tokens, not cut. */
  readonly tokenize: (text: string) => number[];
  /** Special tokens after a text, which a cut has to keep. */
  readonly suffix: readonly number[];
}

export interface Run {
  /** Positions of the texts in the request. */
  readonly at: number[];
  readonly ids: number[][];
}

/** Texts of like length together, so that little is padding. White space has no run. */
export function planRuns(model: Tokenized, texts: readonly string[]): Run[] {
  const entries = texts.flatMap((text, at) =>
    text.trim() === "" ? [] : [{ at, ids: cut(model, model.tokenize(text)) }],
  );
  entries.sort((a, b) => a.ids.length - b.ids.length || a.at - b.at);
  const runs: Run[] = [];
  let run: Run = { at: [], ids: [] };
  for (const { at, ids } of entries) {
    const shortest = run.ids[0]?.length ?? ids.length;
    const isFull = run.at.length > 0 && (run.at.length + 1) * ids.length > RUN_TOKENS_MAX;
    const isStretched = run.at.length >= RUN_TEXTS_MIN && ids.length > RUN_STRETCH_MAX * shortest;
    if (isFull || isStretched) {
      runs.push(run);
      run = { at: [], ids: [] };
    }
    run.at.push(at);
    run.ids.push(ids);
  }
  if (run.at.length > 0) runs.push(run);
  return runs;
}

/** Cut so that the special tokens at the end stay: the model was trained with them. */
function cut(model: Tokenized, ids: number[]): number[] {
  const { maxTokens } = model.description;
  if (ids.length <= maxTokens) return ids;
  return [...ids.slice(0, maxTokens - model.suffix.length), ...model.suffix];
}
