/**
 * Remembers the language model's replies to messages, and gives them again for messages of the same words.
 *
 * The words and their order must be the same; capitals, accents, spacing and marks without meaning may differ. A high
 * cosine would not do: real models put "is" and "is not" as near to each other as texts that differ by a comma
 * (docs/decisions/0009-near-identical-texts.md has the figures), and nobody checks a remembered reply again.
 * Fingerprints are kept, never texts. Part of the brain.
 */
import { type Clock, systemClock } from "../clock.ts";
import type { IntentRows, RememberedRow } from "../journal/journal.ts";

/**
 * Beyond this number, the reply that was used least recently is forgotten.
 * @bound remembered replies of the language model | the least recently used is forgotten
 */
const REPLIES_MAX = 10_000;
/** A reply waits this long for its commit. A crash loses it, which costs one more call of the model. */
const WRITE_DELAY_MS = 1000;
/**
 * Rows of one commit, and the time between two. Keys are random, so each row changes another page of the table: the
 * replies of a whole second in one commit would hold up everything else.
 */
const SLICE_ROWS = 16;
const SLICE_MS = 50;
/** A commit takes at least this share of what is not written yet, so that the rest cannot grow for long. */
const SLICE_SHARE = 1 / 20;
const KEY_BYTES = 16;

/** A model's reply to one message. */
export interface RememberedReply {
  /** Null: the model knew none. */
  readonly intent: string | null;
  /** −1 to 1. */
  readonly sentiment: number;
  /** How sure the intent is, 0 to 1. */
  readonly confidence: number;
  /** The model that replied. */
  readonly model: string;
}

export interface RememberedRepliesOptions {
  readonly rows: Pick<IntentRows, "answers" | "changeAnswers">;
  /** Called when replies could not be written; they are written with the next one. */
  readonly failed: (error: unknown) => void;
  readonly clock?: Clock;
}

interface Entry {
  readonly key: Uint8Array;
  readonly reply: RememberedReply;
  /** Grows from one reply to the next. */
  readonly order: number;
}

const DIACRITICS = /[̀-ͯ]/g;
const MEANINGLESS = /[!¡"“”„«»…]/g;
/** Full stops and commas, except between digits, where they are part of a number. */
const STOPS = /(?<!\p{N})[.,]|[.,](?!\p{N})/gu;

/** The form in which texts are compared. Texts with the same form have the same words. */
export function sameWords(text: string): string {
  const folded = text.normalize("NFKD").replace(DIACRITICS, "").toLowerCase().normalize("NFC");
  const words = folded.replace(MEANINGLESS, " ").replace(STOPS, " ").replace(/\s+/g, " ").trim();
  // A text of nothing but marks means these marks.
  return words === "" ? text.trim() : words;
}

export class RememberedReplies {
  readonly #o: RememberedRepliesOptions;
  readonly #clock: Clock;
  /** By key, the least recently used first; after a restart, in the order in which the model replied. */
  readonly #entries = new Map<string, Entry>();
  /** What the table lacks: entries to put, and keys to drop. */
  readonly #unsaved = new Map<string, Entry | Uint8Array>();
  #order = 0;
  #timer: Disposable | null = null;
  readonly counters = { remembered_answers_hits_total: 0 };

  constructor(options: RememberedRepliesOptions) {
    this.#o = options;
    this.#clock = options.clock ?? systemClock;
    for (const { key, said, answer } of options.rows.answers()) {
      this.#entries.set(hexOf(key), { key, order: said, reply: JSON.parse(answer) as RememberedReply });
      this.#order = Math.max(this.#order, said);
    }
  }

  get size(): number {
    return this.#entries.size;
  }

  /** The reply to a message of the same words; null: none is remembered. */
  recall(text: string): RememberedReply | null {
    const hex = hexOf(keyOf(text));
    const entry = this.#entries.get(hex);
    if (entry === undefined) return null;
    this.counters.remembered_answers_hits_total += 1;
    this.#entries.delete(hex);
    this.#entries.set(hex, entry);
    return entry.reply;
  }

  remember(text: string, reply: RememberedReply): void {
    const key = keyOf(text);
    const hex = hexOf(key);
    const entry = { key, reply, order: ++this.#order };
    this.#entries.delete(hex);
    this.#entries.set(hex, entry);
    this.#unsaved.set(hex, entry);
    while (this.#entries.size > REPLIES_MAX) {
      const [oldest] = this.#entries.keys();
      this.#forget(oldest as string);
    }
    this.#writeIn(WRITE_DELAY_MS);
  }

  /** Forgets the replies of all other models: the user has chosen this one. */
  keepOnly(model: string): void {
    for (const [hex, { reply }] of this.#entries) if (reply.model !== model) this.#forget(hex);
    if (this.#unsaved.size > 0) this.#writeIn(WRITE_DELAY_MS);
  }

  #forget(hex: string): void {
    const entry = this.#entries.get(hex);
    if (entry === undefined) return;
    this.#entries.delete(hex);
    this.#unsaved.set(hex, entry.key);
  }

  #writeIn(ms: number): void {
    this.#timer ??= this.#clock.after(ms, () => {
      this.#timer = null;
      const written = this.#write(Math.max(SLICE_ROWS, Math.ceil(SLICE_SHARE * this.#unsaved.size)));
      if (written && this.#unsaved.size > 0) this.#writeIn(SLICE_MS);
    });
  }

  /** Writes at once all that is not written yet. */
  flush(): void {
    this.#timer?.[Symbol.dispose]();
    this.#timer = null;
    if (this.#unsaved.size > 0) this.#write(this.#unsaved.size);
  }

  /** Writes what has waited longest. @returns false if that failed. */
  #write(rowsMax: number): boolean {
    const put: RememberedRow[] = [];
    const dropped: Uint8Array[] = [];
    const changes = this.#unsaved.entries().take(rowsMax).toArray();
    for (const [, change] of changes) {
      if (change instanceof Uint8Array) dropped.push(change);
      else put.push({ key: change.key, said: change.order, answer: JSON.stringify(change.reply) });
    }
    try {
      this.#o.rows.changeAnswers(put, dropped);
      for (const [hex] of changes) this.#unsaved.delete(hex);
      return true;
    } catch (error) {
      this.#o.failed(error);
      // Bounded: beyond this, replies stay in memory but will be missing after a restart.
      if (this.#unsaved.size > REPLIES_MAX) this.#unsaved.clear();
      return false;
    }
  }
}

function keyOf(text: string): Uint8Array {
  const digest = Bun.SHA256.hash(Buffer.from(sameWords(text))) as Uint8Array;
  return digest.slice(0, KEY_BYTES);
}

function hexOf(key: Uint8Array): string {
  return Buffer.from(key).toString("hex");
}
