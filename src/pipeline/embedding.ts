/**
 * Embeds events, with patience. An embedder that is away, slow or wrong delays frames for a while. Then frames go out
 * without vectors. It never costs an event.
 */

import type { Clock } from "../clock.ts";
import type { Embedder } from "../embed/embedder.ts";
import { GatewayError, messageOf } from "../errors.ts";
import type { JournalEvent } from "../journal/journal.ts";
import type { Log } from "../log.ts";
import type { Nearest } from "../nearest/nearest.ts";
import type { PartState } from "./snapshot.ts";
import type { Embedded, EventVector } from "./work.ts";

/** @bound how long frames wait for an embedder that fails | they go out without a vector */
const PATIENCE_MS = 30_000;
const RETRY_MS_MIN = 100;
/** @bound the pause between two attempts to embed (it begins at 100 ms and doubles) | the next attempt */
const RETRY_MS_MAX = 5_000;
/** @bound the part of a text that is embedded | the rest is cut off */
const TEXT_CHARS_MAX = 8192;

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
    return Math.max(1, Math.min(this.#embedder.maxBatch, 256));
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
    for (let waitMs = RETRY_MS_MIN; !this.#stopped; waitMs = Math.min(2 * waitMs, RETRY_MS_MAX)) {
      const givenUp = this.#givenUp();
      if (givenUp && this.#o.clock.monotonicMs() < this.#nextTryMs) return null;
      try {
        const results = await this.#ask(asked, wanted);
        this.#works();
        return this.#spread(results, texts);
      } catch (error) {
        this.#fails(error);
        if (givenUp) return null;
        await this.#o.clock.sleep(Math.max(waitMs, retryAfterMs(error)));
      }
    }
    return null;
  }

  #givenUp(): boolean {
    if (this.#failingSinceMs === null) return false;
    return this.#hasty || this.#o.clock.monotonicMs() - this.#failingSinceMs >= PATIENCE_MS;
  }

  /**
   * Returns one result for each text; null for a text that the embedder refuses while it takes others of the same batch.
   * @throws what the embedder threw, if it took none of them.
   */
  async #ask(texts: readonly string[], wanted: readonly boolean[]): Promise<(EmbeddedText | null)[]> {
    const startedMs = this.#o.clock.monotonicMs();
    try {
      const { rows, nearest } = await this.#embedder.embedNearest(texts, wanted);
      this.batchMs = this.#o.clock.monotonicMs() - startedMs;
      this.counters.embed_batches_total += 1;
      const { dim } = this.#embedder;
      return texts.map((_, index) => {
        return { row: rows.subarray(index * dim, (index + 1) * dim), nearest: nearest[index] ?? null };
      });
    } catch (error) {
      const splittable =
        error instanceof GatewayError && error.code === "embedder_invalid" && texts.length > 1;
      if (!splittable) throw error;
      return this.#askHalves(texts, wanted, error);
    }
  }

  async #askHalves(
    texts: readonly string[],
    wanted: readonly boolean[],
    refusal: unknown,
  ): Promise<(EmbeddedText | null)[]> {
    const middle = texts.length >> 1;
    const halves = [texts.slice(0, middle), texts.slice(middle)];
    const wantedHalves = [wanted.slice(0, middle), wanted.slice(middle)];
    const results = [];
    for (const [index, half] of halves.entries())
      results.push(await this.#ask(half, wantedHalves[index] ?? []).catch(() => null));
    if (results.every((result) => result === null)) throw refusal;
    return results.flatMap((result, index) => {
      if (result !== null) return result;
      const refused = halves[index] ?? [];
      this.counters.embed_refused_texts_total += refused.length;
      return refused.map(() => null);
    });
  }

  #works(): void {
    if (this.#failingSinceMs !== null) this.#o.log("info", `embedder ${this.#embedder.name}: works again`);
    this.#failingSinceMs = null;
    this.#state = { state: "ok", detail: "" };
  }

  #fails(error: unknown): void {
    this.counters.embed_failures_total += 1;
    if (this.#failingSinceMs === null) {
      this.#failingSinceMs = this.#o.clock.monotonicMs();
      this.#o.log("warn", `${messageOf(error)}; frames wait up to 30 s for it, then go out without a vector`);
    }
    this.#nextTryMs = this.#o.clock.monotonicMs() + RETRY_MS_MAX;
    const forS = Math.round((this.#o.clock.monotonicMs() - this.#failingSinceMs) / 1000);
    this.#state = { state: "degraded", detail: `failing for ${forS} s: ${messageOf(error)}` };
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
