/** Reads an endpoint's list of models, and judges by name which of them chat or embed. */
import * as v from "valibot";
import type { ListedModel } from "./endpoint-contract.ts";

const ListSchema = v.object({ data: v.array(v.object({ id: v.string() })) });

/** Names of embedding models. Endpoints list models of all kinds together. */
const EMBEDS = /embed|bge|\be5\b|gte|minilm/i;
/** Names of models that neither chat nor embed. */
const NEITHER = /rerank|whisper|\btts\b|dall-e|moderation/i;

/** @param reply of GET /models. @returns null if it is not a list of models. */
export function listedModels(reply: unknown): readonly ListedModel[] | null {
  const parsed = v.safeParse(ListSchema, reply);
  if (!parsed.success) return null;
  return parsed.output.data.map(({ id }) => {
    const embeds = EMBEDS.test(id);
    return { id, embeds, chats: !embeds && !NEITHER.test(id) };
  });
}
