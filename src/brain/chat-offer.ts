/** The offer: the intents that the model may choose from, with their slots. Part of chat. */
import type { KnownType, ShownField } from "../schemas/schemas.ts";

/**
 * Characters of an offer: about 2,000 tokens, which fit a small context together with the rest of the prompt.
 * @bound characters of intents that chat offers the model | the less frequent types are left out
 */
const OFFER_CHARS_MAX = 6000;
const TYPES_OFFERED_MAX = 40;
/** @bound slots of one offered intent | the less frequent fields are left out */
export const SLOTS_MAX = 16;
const NAME_CHARS_MAX = 64;
/** A slot is required if at least this share of the type's events fills its field. */
const REQUIRED_SHARE = 0.5;

export interface Slot {
  readonly name: string;
  /** The JSON types of its field, the most frequent first. */
  readonly types: readonly string[];
  readonly required: boolean;
}

export interface OfferedIntent {
  readonly name: string;
  readonly slots: readonly Slot[];
}

export type Offer = ReadonlyMap<string, OfferedIntent>;

export interface OfferOptions {
  /** The `limit` most frequent event types and those named in `also`, with the fields that are usual in them. */
  readonly knownTypes: (limit: number, also: readonly string[]) => readonly KnownType[];
  /** The labels of intents that have examples. */
  readonly labels: () => readonly string[];
  /** Fields that say what kind of event it is, and not what it is about. They are not slots. */
  readonly envelope: readonly string[];
}

/**
 * The offer of a turn: the session's own intent, then labelled intents, then learned types that have slots, until
 * OFFER_CHARS_MAX.
 * @param own the session's intent; null: not known yet.
 */
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

/** An intent in the form in which the model sees it. */
export function shownIntent({ name, slots }: OfferedIntent): object {
  return { name, slots: slots.map(({ name, types }) => ({ name, type: types.find((t) => t !== "null") })) };
}

/** The slots of a type: those of its usual fields that hold a single value and are not part of the envelope. */
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

/** Names that are safe in a prompt and in a grammar that is built from it. */
const SANE_NAME = /^[\p{L}\p{N}][\p{L}\p{N}_.:/@ -]*$/u;

function isSaneName(name: string): boolean {
  return name.length <= NAME_CHARS_MAX && SANE_NAME.test(name);
}
