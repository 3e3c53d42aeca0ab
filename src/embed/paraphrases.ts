/** Checks that a model puts a paraphrase nearer to a sentence than an unrelated sentence. */
import type { Embedder } from "./embedder.ts";
import { invalidModel } from "./models.ts";

export interface Paraphrase {
  readonly language: string;
  readonly text: string;
  readonly paraphrase: string;
  readonly unrelated: string;
}

/** The check before an installation. */
export const PARAPHRASES: readonly Paraphrase[] = [
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
  /** The model's folder, for messages. */
  readonly folder: string;
  readonly paraphrases?: readonly Paraphrase[] | undefined;
  readonly progress: (line: string) => void;
}

/** @throws GatewayError model_invalid if an unrelated sentence is nearer than a paraphrase. */
export async function checkParaphrases(
  embedder: Embedder,
  { folder, paraphrases = PARAPHRASES, progress }: ParaphraseCheck,
): Promise<void> {
  let failed: string | null = null;
  for (const tried of paraphrases) {
    const near = await compare(embedder, tried);
    const passed = near.paraphrase > near.unrelated;
    progress(
      `paraphrase check ${tried.language}: "${tried.text}" ~ "${tried.paraphrase}" ${near.paraphrase.toFixed(3)}, ` +
        `~ "${tried.unrelated}" ${near.unrelated.toFixed(3)}: ${passed ? "ok" : "FAILED"}`,
    );
    if (!passed) failed = tried.language;
  }
  if (failed !== null) {
    throw invalidModel(
      folder,
      `an unrelated sentence is nearer than a paraphrase (${failed}); the model was not installed`,
    );
  }
}

/** The cosine of text and paraphrase, and the larger cosine of the unrelated sentence with either of them. */
async function compare(
  embedder: Embedder,
  { text, paraphrase, unrelated }: Paraphrase,
): Promise<{ paraphrase: number; unrelated: number }> {
  const rows = await embedder.embed([text, paraphrase, unrelated]);
  const cosine = (a: number, b: number): number => {
    let sum = 0;
    for (let at = 0; at < embedder.dim; at++) {
      sum += (rows[a * embedder.dim + at] as number) * (rows[b * embedder.dim + at] as number);
    }
    return sum;
  };
  return { paraphrase: cosine(0, 1), unrelated: Math.max(cosine(0, 2), cosine(1, 2)) };
}
