/** What can be wanted: the intents that the model may choose from, with their slots. Part of chat. */
import type { KnownType, ShownField } from "../schemas/schemas.ts";

/** What is offered to the model: about 2,000 tokens, which small contexts hold beside the rest. */
const OFFER_CHARS_MAX = 6000;
const TYPES_OFFERED_MAX = 40;
export const SLOTS_MAX = 16;
const NAME_CHARS_MAX = 64;
/** A slot has to be filled where at least this share of the type's events fills its field. */
const REQUIRED_SHARE = 0.5;

export interface Slot {
  readonly name: string;
  /** JSON types that its field had. */
  readonly types: readonly string[];
  readonly required: boolean;
}

export interface OfferedIntent {
  readonly name: string;
  readonly slots: readonly Slot[];
}

export type Offer = ReadonlyMap<string, OfferedIntent>;

export interface OfferOptions {
  /** The most frequent event types, and those of `also`, with their usual fields. */
  readonly knownTypes: (limit: number, also: readonly string[]) => readonly KnownType[];
  /** Labels of intents that have examples. */
  readonly labels: () => readonly string[];
  /** Names of fields that say what an event is, and not what it is about: they are no slots. */
  readonly envelope: readonly string[];
}

/** Labelled intents and learned types that have slots, the session's own first, as many as a prompt holds. */
export function offerOf(own: string | null, { labels, knownTypes, envelope }: OfferOptions): Offer {
  const first = [...(own === null ? [] : [own]), ...labels()];
  const types = knownTypes(TYPES_OFFERED_MAX, first);
  const slots = new Map(types.map(({ type, fields }) => [type, slotsOf(fields, envelope)]));
  const withSlots = types.map(({ type }) => type).filter((type) => (slots.get(type)?.length ?? 0) > 0);
  const offer = new Map<string, OfferedIntent>();
  let chars = 0;
  for (const name of [...first, ...withSlots]) {
    if (offer.has(name) || !isSaneName(name)) continue;
    const intent = { name, slots: slots.get(name) ?? [] };
    chars += JSON.stringify(shownIntent(intent)).length;
    if (chars > OFFER_CHARS_MAX) break;
    offer.set(name, intent);
  }
  return offer;
}

/** An intent as the model is shown it. */
export function shownIntent({ name, slots }: OfferedIntent): object {
  return { name, slots: slots.map(({ name, types }) => ({ name, type: types.find((t) => t !== "null") })) };
}

/** Of the usual fields those that hold one value each and say what the event is about. */
function slotsOf(fields: readonly ShownField[], envelope: readonly string[]): Slot[] {
  return fields
    .filter(({ path, types }) => {
      const scalar = types.some((type) => type !== "object" && type !== "array" && type !== "null");
      return scalar && isSaneName(path) && !envelope.includes(path);
    })
    .sort((a, b) => b.fill_rate - a.fill_rate)
    .slice(0, SLOTS_MAX)
    .map(({ path, types, fill_rate }) => ({ name: path, types, required: fill_rate >= REQUIRED_SHARE }));
}

/** Names that may stand in a prompt and in a grammar made of it. */
const SANE_NAME = /^[\p{L}\p{N}][\p{L}\p{N}_.:/@ -]*$/u;

function isSaneName(name: string): boolean {
  return name.length <= NAME_CHARS_MAX && SANE_NAME.test(name);
}
