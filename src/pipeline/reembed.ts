/**
 * --reembed: gives older events vectors of the embedder in use, as updates, in the background. It goes through DuckDB from
 * the first event to the newest one of its start. A later start goes on where this one stopped.
 */
import type { Clock } from "../clock.ts";
import type { Embedder } from "../embed/embedder.ts";
import { GatewayError, messageOf } from "../errors.ts";
import { encodePhysics } from "../frame.ts";
import type { DecidedFrame, Journal } from "../journal/journal.ts";
import type { Log } from "../log.ts";
import type { Store } from "../store/store.ts";
import { textToEmbed } from "./embedding.ts";
import { withVector } from "./frames.ts";
import { isolate, PROBE_PATIENCE_MS } from "./isolate.ts";
import type { Latest, Updates } from "./updates.ts";

/** Texts in one call. They are few, so that a new event waits only briefly in the embedder's queue. */
const BATCH_EVENTS = 8;
const PAUSE_MS = 5;
const BUSY_MS = 50;
const RETRY_MS = 5000;
const KEEP_EVERY_EVENTS = 256;
/** @bound updates that DuckDB does not hold yet, for --reembed to write more | it waits */
const UPDATES_AHEAD_MAX = 1024;
const META_KEY = "reembed";

export interface ReembedOptions {
  readonly journal: Pick<
    Journal,
    "headSeq" | "nextFrameId" | "headAnswerId" | "meta" | "setMeta" | "updateOf"
  >;
  readonly store: () => Pick<Store, "cursors" | "decided"> | null;
  readonly embedder: Embedder;
  readonly updates: Pick<Updates, "alone" | "write">;
  readonly textOf: (message: string | null, body: Uint8Array) => string;
  readonly spin: (vector: Float32Array | null) => [number, number, number, number];
  readonly clock: Clock;
  /** Called before vectors are written; the embedder knows its dimension by then. */
  readonly onVectors: () => void;
  /** Whether new events need the embedder: they come first. */
  readonly busy: () => boolean;
  readonly log: Log;
}

export class Reembed {
  readonly #o: ReembedOptions;
  readonly #toSeq: number;
  /** The newest update at the start. It may have brought a vector of yet another embedder. */
  readonly #toAnswerId: number;
  /** The newest frame when all events up to `#toSeq` had theirs; null before. */
  #toFrameId: number | null = null;
  #doneSeq: number;
  /** Up to where the journal says that this embedder is done; null: it speaks of another embedder. */
  #keptSeq: number | null;
  #written = 0;
  /** Each probe has a text of its own, because an embedder may remember vectors. */
  #probes = 0;
  #finished = false;
  #stopped = false;
  detail = "";

  constructor(options: ReembedOptions) {
    this.#o = options;
    this.#toSeq = options.journal.headSeq();
    this.#toAnswerId = options.journal.headAnswerId();
    const kept = JSON.parse(options.journal.meta(META_KEY) ?? "{}") as { model?: number; doneSeq?: number };
    this.#keptSeq = kept.model === options.embedder.modelId ? (kept.doneSeq ?? 0) : null;
    this.#doneSeq = this.#keptSeq ?? 0;
  }

  get gauges(): Readonly<Record<string, number>> {
    return {
      reembed_done_seq: Math.min(this.#doneSeq, this.#toSeq),
      reembed_to_seq: this.#toSeq,
      reembed_written_events: this.#written,
      reembed_running: this.#finished ? 0 : 1,
    };
  }

  /** Stops after the batch under way, or when that fails. The rest follows at the next start. */
  stop(): void {
    this.#stopped = true;
  }

  async run(): Promise<void> {
    const { log, embedder, clock } = this.#o;
    if (embedder.kind === "off") {
      this.#finished = true;
      return log("warn", "reembed: there is no embedder (--embedder off)");
    }
    log("info", `reembed: events ${this.#doneSeq + 1} to ${this.#toSeq} with ${embedder.name}`);
    while (!this.#stopped && this.#doneSeq < this.#toSeq) {
      try {
        await (this.#mayGoOn() ? this.#step() : clock.sleep(BUSY_MS));
      } catch (error) {
        this.detail = messageOf(error);
        if (this.#stopped) return;
        log("warn", `reembed: ${messageOf(error)}; trying again`);
        await this.#wait(RETRY_MS);
      }
    }
    if (this.#stopped) return;
    this.#finished = true;
    log("info", `reembed: done, ${this.#written} events have vectors of ${embedder.name} now`);
  }

  /** Waits for so long. A stop ends the wait within {@link BUSY_MS}. */
  async #wait(ms: number): Promise<void> {
    for (let leftMs = ms; leftMs > 0 && !this.#stopped; leftMs -= BUSY_MS)
      await this.#o.clock.sleep(Math.min(leftMs, BUSY_MS));
  }

  /**
   * Whether DuckDB is open and holds the events of the start with their frames and updates, and no new event needs the embedder.
   * An event that it lacked would be passed over for good.
   */
  #mayGoOn(): boolean {
    const cursors = this.#o.store()?.cursors;
    if (cursors === undefined || this.#o.busy()) return false;
    const { journal } = this.#o;
    this.#toFrameId ??= journal.nextFrameId() - 1;
    if (journal.headAnswerId() - cursors.answerId > UPDATES_AHEAD_MAX) return false;
    const { seq, frameId, answerId } = cursors;
    return seq >= this.#toSeq && frameId >= this.#toFrameId && answerId >= this.#toAnswerId;
  }

  async #step(): Promise<void> {
    const { journal, updates, embedder, clock, spin } = this.#o;
    const store = this.#o.store();
    if (store === null) return;
    // What another embedder noted is void before the first vector replaces one of its own.
    if (this.#keptSeq === null) this.#keep();
    const query = {
      ...{ afterSeq: this.#doneSeq, toSeq: this.#toSeq },
      ...{ limit: BATCH_EVENTS, notModel: embedder.modelId },
    };
    this.#doneSeq = await updates.alone(async () => {
      const reply = await store.decided(query);
      const old: { latest: Latest; text: string }[] = [];
      for (const { message, payload, physics, ...rest } of reply.rows) {
        const body = new TextEncoder().encode(payload);
        const text = textToEmbed(this.#o.textOf(message, body));
        // An update that DuckDB does not hold yet is newer. A run before this one may have written it.
        const newer = journal.updateOf(rest.seq);
        const row: DecidedFrame = newer ?? { ...rest, decidedUs: 0, physics: encodePhysics(physics) };
        if (text !== "" && !this.#isDone(newer)) old.push({ latest: { row, message, body }, text });
      }
      const rows = await this.#embed(old.map(({ text }) => text));
      const written = old.flatMap(({ latest }, index) => {
        const row = rows[index];
        if (row == null || row.every((value) => value === 0)) return [];
        return [{ latest, row: withVector(latest.row, { embedder, row }, { spin, clock }) }];
      });
      if (written.length > 0) this.#o.onVectors();
      if (written.length > 0 && !(await updates.write(written))) return this.#doneSeq;
      this.#written += written.length;
      return reply.reachedSeq;
    });
    this.detail = "";
    // After a kill, events since the last note are looked at again and found to be done.
    if (this.#doneSeq < this.#toSeq && this.#doneSeq - (this.#keptSeq ?? 0) < KEEP_EVERY_EVENTS)
      return clock.sleep(PAUSE_MS);
    this.#keep();
  }

  /** @throws GatewayError disk_full, journal_failed */
  #keep(): void {
    const { journal, embedder } = this.#o;
    journal.setMeta(META_KEY, JSON.stringify({ model: embedder.modelId, doneSeq: this.#doneSeq }));
    this.#keptSeq = this.#doneSeq;
  }

  /**
   * Returns one row for each text; null for a text that the embedder refuses while it takes others.
   * @throws what the embedder threw, if it does not work.
   */
  async #embed(texts: readonly string[]): Promise<(Float32Array | null)[]> {
    const { embedder, clock, log } = this.#o;
    if (texts.length === 0) return [];
    const probe = () => embedder.embed([`ready ${++this.#probes}`], PROBE_PATIENCE_MS);
    const { results, refused } = await isolate(
      texts.map((text) => text.length),
      {
        ask: async (indices, patienceMs) => {
          const part = indices.map((index) => texts[index] as string);
          const rows = await embedder.embed(part, patienceMs);
          return indices.map((_, at) => rows.slice(at * embedder.dim, (at + 1) * embedder.dim));
        },
        works: async (error) => {
          const wait = error instanceof GatewayError ? Math.min(error.retryAfterMs ?? 0, RETRY_MS) : 0;
          await this.#wait(wait);
          if (this.#stopped) throw error;
          await probe();
          return true;
        },
        probe,
        clock,
      },
    );
    const [first] = refused;
    if (first !== undefined) {
      log("warn", `reembed: ${refused.length} texts keep their old vector: ${messageOf(first.error)}`);
    }
    return results;
  }

  #isDone(newer: DecidedFrame | null): boolean {
    if (newer === null) return false;
    return JSON.parse(newer.provenance).embedder === this.#o.embedder.name;
  }
}
