/**
 * Embeds events, with patience. An embedder that is away, slow or wrong delays frames for a while. Then frames go out
 * without vectors. It never costs an event.
 */

import type { Clock } from "../clock.ts";
import type { EmbeddedTexts, Embedder } from "../embed/embedder.ts";
import { GatewayError, messageOf } from "../errors.ts";
import type { JournalEvent } from "../journal/journal.ts";
import type { Log } from "../log.ts";
import type { Nearest } from "../nearest/nearest.ts";
import { isolate, PROBE_PATIENCE_MS } from "./isolate.ts";
import type { PartState } from "./snapshot.ts";
import type { Embedded, EventVector } from "./work.ts";

/** @bound how long frames wait for an embedder that fails | they go out without a vector */
const PATIENCE_MS = 30_000;
/** Events in one batch. */
const BATCH_MAX = 256;
const RETRY_MS_MIN = 100;
/** @bound the pause between two attempts to embed (it begins at 100 ms and doubles) | the next attempt */
const RETRY_MS_MAX = 5_000;
/** @bound the part of a text that is embedded | the rest is cut off */
const TEXT_CHARS_MAX = 8192;
/** The body of an event whose vector is computed at once. */
const NOW_BYTES_MAX = 4096;
/** Between two log lines about texts that the embedder cannot take. */
const REFUSAL_LOG_MS = 60_000;
/** After so many batches without a failure, twice as large ones are tried again. */
const GROW_AFTER_BATCHES = 100;

/** The vector of event `index` of a batch, as a view of the batch; null if the event has none. */
export function vectorOf(embedded: Embedded | null, index: number): EventVector | null {
  if (embedded?.present[index] !== true) return null;
  const { embedder, dim, rows } = embedded;
  return { embedder, row: rows.subarray(index * dim, (index + 1) * dim) };
}

/** The vector of one text, and the label of the examples nearest to it. */
interface EmbeddedText {
  readonly row: Float32Array;
  readonly nearest: Nearest | null;
}

export interface PatientEmbedderOptions {
  /** Gives the text of an event that is embedded: its message, else the string leaves of its body. */
  readonly textOf: (message: string | null, body: Uint8Array) => string;
  readonly clock: Clock;
  readonly log: Log;
}

export class PatientEmbedder {
  readonly #o: PatientEmbedderOptions;
  readonly #embedder: Embedder;
  readonly counters = { embed_batches_total: 0, embed_failures_total: 0, embed_refused_texts_total: 0 };
  /** How long the newest batch took. */
  batchMs = 0;
  #state: PartState = { state: "ok", detail: "" };
  #failingSinceMs: number | null = null;
  #nextTryMs = 0;
  /** Waits until the embedder works. Batches at once share it. */
  #recovery: Promise<boolean> | null = null;
  /** The number of probes: each has a text of its own, because an embedder may remember vectors. */
  #probes = 0;
  /** Texts that the embedder takes in one batch, as far as known. */
  #batchMax = BATCH_MAX;
  #goodBatches = 0;
  /** Refusals since the last log line about them, and when that was. */
  #unsaidRefusals = 0;
  #refusalSaidMs: number | null = null;
  #hasty = false;
  #stopped = false;

  constructor(embedder: Embedder, options: PatientEmbedderOptions) {
    this.#embedder = embedder;
    this.#o = options;
    if (embedder.kind === "off") this.#state = { state: "off", detail: "--embedder off" };
  }

  get name(): string {
    return this.#embedder.name;
  }

  /** The number of events that one batch should have at most. */
  get maxBatch(): number {
    return Math.max(1, Math.min(this.#embedder.maxBatch, this.#batchMax));
  }

  get state(): PartState {
    return this.#state;
  }

  /** Called when a drain begins: from then on frames do not wait for an embedder that fails. */
  hurry(): void {
    this.#hasty = true;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#embedder[Symbol.asyncDispose]();
  }

  /** Resolves to the vectors of these events; to null if their frames are to go out without. Never rejects. */
  async embed(events: readonly JournalEvent[]): Promise<Embedded | null> {
    if (this.#embedder.kind === "off") return null;
    const texts = events.map((event) => textToEmbed(this.#o.textOf(event.message, event.body)));
    // An event with an intent of its sender, or without a message, needs no label of an example.
    const wants = events.map(({ message, fields }) => message !== null && fields?.intent === undefined);
    const asked = texts.filter((text) => text !== "");
    const wanted = wants.filter((_, index) => texts[index] !== "");
    if (asked.length === 0) return null;
    if (this.#givenUp()) {
      if (this.#o.clock.monotonicMs() < this.#nextTryMs || !(await this.#recovers(null))) return null;
    }
    const seqs = events.filter((_, index) => texts[index] !== "").map(({ seq }) => seq);
    const { results, refused, givenUp, largestTaken } = await isolate(
      asked.map((text) => text.length),
      {
        ask: (indices, patienceMs) =>
          this.#ask(
            indices.map((index) => asked[index] as string),
            indices.map((index) => wanted[index] === true),
            patienceMs,
          ),
        works: (error) => this.#recovers(error),
        probe: () => this.#probe(),
        clock: this.#o.clock,
      },
    );
    for (const { index, error } of refused) this.#refuses(seqs[index] ?? 0, asked[index] ?? "", error);
    if (!givenUp && refused.length === 0) this.#fitBatches(largestTaken);
    return results.every((result) => result === null) ? null : this.#spread(results, texts);
  }

  /** The vector of one event, at once; null: it has none; undefined: this takes longer, so ask {@link embed}. */
  embedNow({ message, body, fields }: JournalEvent): EventVector | null | undefined {
    const embedder = this.#embedder;
    if (embedder.kind === "off") return null;
    if (embedder.embedNow === undefined || body.byteLength > NOW_BYTES_MAX) return undefined;
    const text = this.#o.textOf(message, body);
    if (text === "") return null;
    const row = embedder.embedNow(text, message !== null && fields?.intent === undefined);
    if (row === null) return undefined;
    this.counters.embed_batches_total += 1;
    return row.every((value) => value === 0) ? null : { embedder, row };
  }

  #givenUp(): boolean {
    if (this.#failingSinceMs === null) return false;
    return this.#hasty || this.#o.clock.monotonicMs() - this.#failingSinceMs >= PATIENCE_MS;
  }

  /** @throws what the embedder threw. */
  async #ask(
    texts: readonly string[],
    wanted: readonly boolean[],
    patienceMs: number,
  ): Promise<EmbeddedText[]> {
    const startedMs = this.#o.clock.monotonicMs();
    let embedded: EmbeddedTexts;
    try {
      embedded = await this.#embedder.embedNearest(texts, wanted, patienceMs);
    } catch (error) {
      this.counters.embed_failures_total += 1;
      throw error;
    }
    this.batchMs = this.#o.clock.monotonicMs() - startedMs;
    this.counters.embed_batches_total += 1;
    this.#works();
    const { rows, nearest } = embedded;
    const { dim } = this.#embedder;
    return texts.map((_, index) => {
      return { row: rows.subarray(index * dim, (index + 1) * dim), nearest: nearest[index] ?? null };
    });
  }

  /**
   * Waits until the embedder works, as long as frames wait for it.
   * @param error why it is asked; null: frames do not wait for it any more, and one probe decides.
   */
  #recovers(error: unknown): Promise<boolean> {
    this.#recovery ??= this.#probeUntilItWorks(error).finally(() => {
      this.#recovery = null;
    });
    return this.#recovery;
  }

  /** Embeds a text that every embedder can take, again and again. One request at a time goes to an embedder that is down. */
  async #probeUntilItWorks(error: unknown): Promise<boolean> {
    const { clock } = this.#o;
    const failedMs = clock.monotonicMs();
    let waitMs = retryAfterMs(error);
    for (let pauseMs = RETRY_MS_MIN; !this.#stopped; pauseMs = Math.min(2 * pauseMs, RETRY_MS_MAX)) {
      if (waitMs > 0) await clock.sleep(waitMs);
      try {
        await this.#probe();
        this.#works();
        return true;
      } catch (failure) {
        this.#fails(failure, failedMs);
        if (this.#givenUp()) return false;
        waitMs = Math.max(pauseMs, retryAfterMs(failure));
      }
    }
    return false;
  }

  #probe(): Promise<EmbeddedTexts> {
    return this.#embedder.embedNearest([`ready ${++this.#probes}`], [true], PROBE_PATIENCE_MS);
  }

  #works(): void {
    if (this.#failingSinceMs !== null) this.#o.log("info", `embedder ${this.#embedder.name}: works again`);
    this.#failingSinceMs = null;
    this.#state = { state: "ok", detail: "" };
  }

  /** @param failedMs when the first request failed that this failure belongs to. */
  #fails(error: unknown, failedMs: number): void {
    const nowMs = this.#o.clock.monotonicMs();
    this.counters.embed_failures_total += 1;
    if (this.#failingSinceMs === null) {
      this.#failingSinceMs = failedMs;
      this.#o.log("warn", `${messageOf(error)}; frames wait up to 30 s for it, then go out without a vector`);
    }
    this.#nextTryMs = nowMs + RETRY_MS_MAX;
    const forS = Math.round((nowMs - this.#failingSinceMs) / 1000);
    this.#state = { state: "degraded", detail: `failing for ${forS} s: ${messageOf(error)}` };
  }

  /** Notes that the embedder works and cannot take the text of event `seq`. */
  #refuses(seq: number, text: string, error: unknown): void {
    const nowMs = this.#o.clock.monotonicMs();
    this.counters.embed_refused_texts_total += 1;
    this.#unsaidRefusals += 1;
    if (this.#refusalSaidMs !== null && nowMs - this.#refusalSaidMs < REFUSAL_LOG_MS) return;
    const more = this.#unsaidRefusals > 1 ? ` (and ${this.#unsaidRefusals - 1} before it)` : "";
    this.#o.log(
      "warn",
      `event ${seq}${more} gets no vector, because the embedder cannot take its text of ${text.length} characters: ${messageOf(error)}`,
    );
    this.#unsaidRefusals = 0;
    this.#refusalSaidMs = nowMs;
  }

  /**
   * Makes batches as large as the embedder takes them. Some endpoints refuse more than 10 or 32 texts at once.
   * @param largestTaken null: it took the whole batch; else the most texts that it took at once.
   */
  #fitBatches(largestTaken: number | null): void {
    if (largestTaken !== null) {
      this.#batchMax = Math.max(1, largestTaken);
      this.#goodBatches = 0;
    } else if (this.#batchMax < BATCH_MAX && ++this.#goodBatches >= GROW_AFTER_BATCHES) {
      this.#batchMax *= 2;
      this.#goodBatches = 0;
    }
  }

  /** Puts each row at the place of its event. A row of zeros has no direction, so it counts as no vector. */
  #spread(results: readonly (EmbeddedText | null)[], texts: readonly string[]): Embedded {
    const { dim } = this.#embedder;
    const rows = new Float32Array(texts.length * dim);
    const nearest = new Array<Nearest | null>(texts.length).fill(null);
    let next = 0;
    const present = texts.map((text, index) => {
      const result = text === "" ? null : (results[next++] ?? null);
      if (result === null || result.row.every((value) => value === 0)) return false;
      rows.set(result.row, index * dim);
      nearest[index] = result.nearest;
      return true;
    });
    return { embedder: this.#embedder, dim, rows, present, nearest };
  }
}

/** Returns the part of a text that is embedded: its first 8,192 UTF-16 units, without half a character at the end. */
export function textToEmbed(text: string): string {
  return text.length <= TEXT_CHARS_MAX ? text : text.slice(0, TEXT_CHARS_MAX).toWellFormed();
}

function retryAfterMs(error: unknown): number {
  const wished = error instanceof GatewayError ? (error.retryAfterMs ?? 0) : 0;
  return Math.min(wished, RETRY_MS_MAX);
}
