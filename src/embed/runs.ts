/** Plans which texts go through the graph together, and cuts texts that are too long. */
import type { ModelDescription } from "./models.ts";

/**
 * Tokens of one run, padding included. Bounds its memory and, for int8, how much one long text changes the others.
 * @bound padded tokens in one run of a local model | another run
 */
const RUN_TOKENS_MAX = 2048;
/**
 * A text longer than the shortest of a run by this factor starts the next run, if the run has RUN_TEXTS_MIN texts.
 * Without it, two thirds of a batch of 32 messages of banking77 would be padding; it doubles the speed.
 * @bound how many times longer than its shortest text a text of one run may be | another run
 */
const RUN_STRETCH_MAX = 1.5;
const RUN_TEXTS_MIN = 4;

/** A model as far as tokens are concerned. */
export interface Tokenized {
  readonly description: Pick<ModelDescription, "maxTokens">;
  /** Returns the ids of a whole text, with its special tokens. */
  readonly tokenize: (text: string) => number[];
  /** The special tokens after a text, which a cut must keep. */
  readonly suffix: readonly number[];
}

export interface Run {
  /** Positions of the run's texts in the request. */
  readonly at: number[];
  readonly ids: number[][];
}

/** Puts texts of similar length into one run, so that there is little padding. Texts of white space are in no run. */
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

/** Cuts the ids but keeps the special tokens at the end, because the model was trained with them. */
function cut(model: Tokenized, ids: number[]): number[] {
  const { maxTokens } = model.description;
  if (ids.length <= maxTokens) return ids;
  return [...ids.slice(0, maxTokens - model.suffix.length), ...model.suffix];
}
