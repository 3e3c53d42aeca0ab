/** The models that an endpoint lists, and which of them chat or embed. */
import * as v from "valibot";
import type { ListedModel } from "./endpoint-contract.ts";

const ListSchema = v.object({ data: v.array(v.object({ id: v.string() })) });

/** What embedding models are called, where an endpoint lists models of all kinds. */
const EMBEDS = /embed|bge|\be5\b|gte|minilm/i;
/** What models are called that neither chat nor embed. */
const NEITHER = /rerank|whisper|\btts\b|dall-e|moderation/i;

/** @param reply of GET /models. @returns null if it is no list of models. */
export function listedModels(reply: unknown): readonly ListedModel[] | null {
  const parsed = v.safeParse(ListSchema, reply);
  if (!parsed.success) return null;
  return parsed.output.data.map(({ id }) => {
    const embeds = EMBEDS.test(id);
    return { id, embeds, chats: !embeds && !NEITHER.test(id) };
  });
}
