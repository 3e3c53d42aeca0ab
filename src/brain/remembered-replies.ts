/**
 * What the LLM said of texts, for when nearly the same text comes again.
 *
 * Nearly the same means the same words in the same order: only capitals, accents, spacing and marks that carry no
 * meaning may differ. A cosine cannot stand for that: real models put "is" and "is not" as near as a comma more or
 * less (docs/decisions/0009-near-identical-texts.md has the figures), and what is remembered is not looked at again.
 * Texts are not kept, only their fingerprints. Part of the brain.
 */
import { type Clock, systemClock } from "../clock.ts";
import type { IntentRows, RememberedRow } from "../journal/journal.ts";

/** Beyond, the least recently used is forgotten. */
const REPLIES_MAX = 10_000;
/** Replies wait so long for their commit: a crash costs the LLM a call again, no more. */
const WRITE_DELAY_MS = 1000;
/** Keys are spread over the whole table, so that each row is a page: a second's replies at once would hold everything up. */
const SLICE_ROWS = 16;
const SLICE_MS = 50;
/** Of what is not written yet, the part that one slice takes at least, so that it never grows for long. */
const SLICE_SHARE = 1 / 20;
const KEY_BYTES = 16;

/** What a model said of a text. */
export interface RememberedReply {
  /** Null where it knew none. */
  readonly intent: string | null;
  /** −1 to 1. */
  readonly sentiment: number;
  /** Of the intent, 0 to 1. */
  readonly confidence: number;
  /** The model that said it. */
  readonly model: string;
}

export interface RememberedRepliesOptions {
  readonly rows: Pick<IntentRows, "answers" | "changeAnswers">;
  /** Told when what was remembered could not be written; it is tried again with the next. */
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
/** Between digits they are part of a number. */
const STOPS = /(?<!\p{N})[.,]|[.,](?!\p{N})/gu;

/** The form in which texts are compared. */
export function sameWords(text: string): string {
  const folded = text.normalize("NFKD").replace(DIACRITICS, "").toLowerCase().normalize("NFC");
  const words = folded.replace(MEANINGLESS, " ").replace(STOPS, " ").replace(/\s+/g, " ").trim();
  // Nothing but marks: these are what was said.
  return words === "" ? text.trim() : words;
}

export class RememberedReplies {
  readonly #o: RememberedRepliesOptions;
  readonly #clock: Clock;
  /** By key, the least recently used first; after a restart, in the order in which they were said. */
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

  /** What was said of the same words; null where nothing is remembered. */
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

  /** Forgets what other models said: the user has chosen another one. */
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

  /** Writes what is not written yet, all of it. */
  flush(): void {
    this.#timer?.[Symbol.dispose]();
    this.#timer = null;
    if (this.#unsaved.size > 0) this.#write(this.#unsaved.size);
  }

  /** @returns whether it was written. */
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
      // Not for ever: what is dropped below the bound is only not known after a restart.
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
