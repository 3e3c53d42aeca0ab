/**
 * Decides which slots are filled and which are missing: checks what the model found against the offer and against what
 * the person wrote. Part of chat.
 */
import type { Offer } from "./chat-offer.ts";

const SLOT_CHARS_MAX = 256;

export type SlotValue = string | number | boolean;

/** What the model says that it found in a message; not checked yet. */
export interface Findings {
  readonly intent: string | null;
  readonly slots: readonly { readonly name: string; readonly value: SlotValue | null }[];
}

/** What is known of what the person wants. */
export interface Known {
  readonly intent: string | null;
  readonly slots: ReadonlyMap<string, SlotValue>;
}

/** The state of a session as the person's program sees it. */
export interface ChatState {
  readonly session_id: string;
  /** Null: not known yet. */
  readonly intent: string | null;
  readonly slots: Readonly<Record<string, SlotValue>>;
  /** Required slots that are empty. */
  readonly missing: readonly string[];
  /** An intent is known, and nothing is missing for it. */
  readonly complete: boolean;
}

/**
 * What is known after a message, from what was known before it and what the model found in it.
 * @param found null: the model gave no reply that can be used.
 * @param written what the person wrote, as far as the model was shown it.
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

/** The value as one of the JSON types of the slot's field; null: it fits none of them. */
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

/** The numbers in a text, each read twice: as English (1,999.90) and as Portuguese (1.999,90). */
function numbersIn(text: string): number[] {
  return [...text.matchAll(/-?\d[\d.,]*/g)].flatMap(([match]) => {
    const digits = match.replace(/[.,]+$/, "");
    const english = Number(digits.replaceAll(",", ""));
    const portuguese = Number(digits.replaceAll(".", "").replace(",", "."));
    return [english, portuguese].filter((number) => Number.isFinite(number));
  });
}

/** Words in lower case without accents, with one space before, between and after them. */
function comparedForm(text: string): string {
  const words = text
    .normalize("NFKD")
    .replace(/\p{M}/gu, "")
    .toLowerCase()
    .match(/[\p{L}\p{N}]+/gu);
  return words === null ? "" : ` ${words.join(" ")} `;
}

/** What the person wrote. Models invent missing values, and an invented value is worse than none. */
class WrittenText {
  readonly #texts: readonly string[];
  readonly #numbers: ReadonlySet<number>;

  constructor(written: readonly string[]) {
    this.#texts = written.map(comparedForm);
    this.#numbers = new Set(written.flatMap(numbersIn));
  }

  has(value: SlotValue): boolean {
    // People say yes and no in countless ways, so the model is believed.
    if (typeof value === "boolean") return true;
    if (typeof value === "number") return this.#numbers.has(value);
    const form = comparedForm(value);
    return form !== "" && this.#texts.some((text) => text.includes(form));
  }
}
