/** What a model is asked before it is installed: whether it tells a paraphrase from an unrelated sentence. */
import type { Embedder } from "./embedder.ts";
import { invalidModel } from "./models.ts";

export interface ParaphraseQuestion {
  readonly language: string;
  readonly text: string;
  readonly paraphrase: string;
  readonly unrelated: string;
}

/** What a model is asked before it is installed. */
export const PARAPHRASE_QUESTIONS: readonly ParaphraseQuestion[] = [
  {
    language: "pt",
    text: "Meu cartão ainda não chegou",
    paraphrase: "Ainda estou esperando o meu cartão chegar",
    unrelated: "Vai chover amanhã",
  },
  {
    language: "en",
    text: "My card has not arrived yet",
    paraphrase: "I am still waiting for my card to arrive",
    unrelated: "It is going to rain tomorrow",
  },
];

export interface ParaphraseCheck {
  /** The model's, for messages. */
  readonly folder: string;
  readonly questions?: readonly ParaphraseQuestion[] | undefined;
  readonly progress: (line: string) => void;
}

/** @throws GatewayError model_invalid if an unrelated sentence is nearer than a paraphrase. */
export async function checkParaphrases(
  embedder: Embedder,
  { folder, questions = PARAPHRASE_QUESTIONS, progress }: ParaphraseCheck,
): Promise<void> {
  let failed: string | null = null;
  for (const question of questions) {
    const near = await compare(embedder, question);
    const passed = near.paraphrase > near.unrelated;
    progress(
      `paraphrase check ${question.language}: "${question.text}" ~ "${question.paraphrase}" ${near.paraphrase.toFixed(3)}, ` +
        `~ "${question.unrelated}" ${near.unrelated.toFixed(3)}: ${passed ? "ok" : "FAILED"}`,
    );
    if (!passed) failed = question.language;
  }
  if (failed !== null) {
    throw invalidModel(
      folder,
      `an unrelated sentence is nearer than a paraphrase (${failed}); it was not installed`,
    );
  }
}

/** Cosines of the question's text with its paraphrase and, the larger of both, with the unrelated sentence. */
async function compare(
  embedder: Embedder,
  question: ParaphraseQuestion,
): Promise<{ paraphrase: number; unrelated: number }> {
  const rows = await embedder.embed([question.text, question.paraphrase, question.unrelated]);
  const cosine = (a: number, b: number): number => {
    let sum = 0;
    for (let at = 0; at < embedder.dim; at++) {
      sum += (rows[a * embedder.dim + at] as number) * (rows[b * embedder.dim + at] as number);
    }
    return sum;
  };
  return { paraphrase: cosine(0, 1), unrelated: Math.max(cosine(0, 2), cosine(1, 2)) };
}
