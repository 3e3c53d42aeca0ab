/** Reads an endpoint's list of models, and judges by name which of them chat or embed. */
import * as v from "valibot";
import type { ListedModel } from "./endpoint-contract.ts";

const ListSchema = v.object({ data: v.array(v.object({ id: v.string() })) });

/** A longer id, or one with control characters, is no name. */
const ID_CHARS_MAX = 512;

/** Words in the names of embedding models. Endpoints list models of all kinds together. */
const EMBEDS = /^(embed\d*|embedder|embeddings?|embedding[a-z]+|bge|bgem3|gte|e5|minilm|labse|simcse)$/;
/** Words in the names of models that neither chat nor embed. */
const NEITHER =
  /^(rerank|reranker|reranking|whisper|tts|asr|stt|transcribe|dall|dalle|image|imagen|moderation|diffusion|sdxl|flux|sora)$/;
/** Words that say nothing of a model: then the folder that it lies in may. */
const GENERIC =
  /^(models?|ggml|gguf|onnx|safetensors|bin|pytorch|quantized|main|latest|default|snapshots?|blobs?|sha256|[a-f0-9]{32,}|i?q\d.*|k|[a-z]?f\d+|bf16|fp16|int8|\d+)$/;

/** @param reply of GET /models. @returns null if it is not a list of models. */
export function listedModels(reply: unknown): readonly ListedModel[] | null {
  const parsed = v.safeParse(ListSchema, reply);
  if (!parsed.success) return null;
  return parsed.output.data.filter(({ id }) => isName(id)).map(({ id }) => ({ id, ...kindOf(id) }));
}

function isName(id: string): boolean {
  return id.trim() !== "" && id.length <= ID_CHARS_MAX && !/\p{Cc}/u.test(id);
}

function kindOf(id: string): Pick<ListedModel, "chats" | "embeds"> {
  const words = nameWords(id);
  const isNeither = words.some((word) => NEITHER.test(word));
  const embeds = !isNeither && words.some((word) => EMBEDS.test(word));
  return { embeds, chats: !embeds && !isNeither };
}

/**
 * The words of the model's own name. An id may be the path of a file or begin with an organisation, whose names say nothing
 * of the model: `/mnt/bgelato/gemma.gguf`, `EmbeddedLLM/Mistral-7B`.
 */
function nameWords(id: string): string[] {
  // A cache of the hub has folders such as models--BAAI--bge-m3.
  const parts = id.toLowerCase().split(/[/\\]|--/);
  for (const part of parts.reverse()) {
    const words = part.split(/[^a-z0-9]+/).filter((word) => word !== "");
    if (words.some((word) => !GENERIC.test(word))) return words;
  }
  return [];
}
