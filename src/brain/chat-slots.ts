/**
 * What is filled and what is missing: what the model found, checked against what was offered and what the person wrote.
 * Part of chat.
 */
import type { Offer } from "./chat-offer.ts";

const SLOT_CHARS_MAX = 256;

export type SlotValue = string | number | boolean;

/** What the model found in a message, as it said it. */
export interface Findings {
  readonly intent: string | null;
  readonly slots: readonly { readonly name: string; readonly value: SlotValue | null }[];
}

/** What is known of what the person wants. */
export interface Known {
  readonly intent: string | null;
  readonly slots: ReadonlyMap<string, SlotValue>;
}

/** The same for whoever chats. */
export interface ChatState {
  readonly session_id: string;
  /** Null: not known yet. */
  readonly intent: string | null;
  readonly slots: Readonly<Record<string, SlotValue>>;
  /** Slots that are usual for this intent and empty. */
  readonly missing: readonly string[];
  /** An intent is known, and nothing is missing for it. */
  readonly complete: boolean;
}

/**
 * What is known after what the model found.
 * @param before what was known before it.
 * @param written what the person wrote in this session.
 */
export function settled(
  before: Known,
  found: Findings | null,
  { offer, written }: { readonly offer: Offer; readonly written: readonly string[] },
): Known {
  const named = found?.intent ?? null;
  const exact = named === null ? undefined : offer.get(named);
  const loose = [...offer.values()].find(({ name }) => name.toLowerCase() === named?.trim().toLowerCase());
  const intent = (exact ?? loose)?.name ?? before.intent;
  const slots = new Map(intent === before.intent ? before.slots : []);
  const known = new Map(offer.get(intent ?? "")?.slots.map((slot) => [slot.name, slot]));
  const text = new WrittenText(written);
  for (const { name, value } of found?.slots ?? []) {
    const slot = known.get(name);
    if (slot === undefined || value === null) continue;
    const fitting = fittingValue(value, slot.types);
    if (fitting !== null && text.has(fitting)) slots.set(name, fitting);
  }
  return { intent, slots };
}

export function stateOf(sessionId: string, { intent, slots }: Known, offer: Offer): ChatState {
  const required = offer.get(intent ?? "")?.slots.filter((slot) => slot.required) ?? [];
  const missing = required.map(({ name }) => name).filter((name) => !slots.has(name));
  return {
    session_id: sessionId,
    intent,
    slots: Object.fromEntries(slots),
    missing,
    complete: intent !== null && missing.length === 0,
  };
}

/** The value as one of the types that the slot's field had; null where it is none. */
function fittingValue(value: SlotValue, types: readonly string[]): SlotValue | null {
  const takes = (type: string): boolean => types.includes(type);
  const takesNumbers = takes("integer") || takes("number");
  if (typeof value === "boolean") return takes("boolean") ? value : null;
  if (typeof value === "number") {
    if (takesNumbers && (takes("number") || Number.isInteger(value))) return value;
    return takes("string") ? String(value) : null;
  }
  const text = value.trim();
  if (text === "" || text.length > SLOT_CHARS_MAX) return null;
  if (takes("string")) return text;
  const number = numbersIn(text)[0];
  if (takesNumbers && number !== undefined && /^[^\p{L}]*$/u.test(text))
    return takes("number") || Number.isInteger(number) ? number : null;
  if (takes("boolean") && (text === "true" || text === "false")) return text === "true";
  return null;
}

/** The numbers of a text, read as in English and as in Portuguese. */
function numbersIn(text: string): number[] {
  return [...text.matchAll(/-?\d[\d.,]*/g)].flatMap(([match]) => {
    const digits = match.replace(/[.,]+$/, "");
    const english = Number(digits.replaceAll(",", ""));
    const portuguese = Number(digits.replaceAll(".", "").replace(",", "."));
    return [english, portuguese].filter((number) => Number.isFinite(number));
  });
}

/** Lower case without accents, words parted by one space, one around them. */
function comparedForm(text: string): string {
  const words = text
    .normalize("NFKD")
    .replace(/\p{M}/gu, "")
    .toLowerCase()
    .match(/[\p{L}\p{N}]+/gu);
  return words === null ? "" : ` ${words.join(" ")} `;
}

/** What the person wrote: models make up what is missing, and a made-up value is worse than none. */
class WrittenText {
  readonly #texts: readonly string[];
  readonly #numbers: ReadonlySet<number>;

  constructor(written: readonly string[]) {
    this.#texts = written.map(comparedForm);
    this.#numbers = new Set(written.flatMap(numbersIn));
  }

  has(value: SlotValue): boolean {
    // A yes has no wording of its own.
    if (typeof value === "boolean") return true;
    if (typeof value === "number") return this.#numbers.has(value);
    const form = comparedForm(value);
    return form !== "" && this.#texts.some((text) => text.includes(form));
  }
}
