/**
 * Writes updates: reads the newest row on an event, writes the next one, and resolves those who wait for it. Only one
 * runs at a time, so that each builds on the newest row.
 */
import type { Clock } from "../clock.ts";
import type { Embedder } from "../embed/embedder.ts";
import { messageOf } from "../errors.ts";
import { encodePhysics, FLAG } from "../frame.ts";
import type { DecidedFrame, Journal } from "../journal/journal.ts";
import type { Log } from "../log.ts";
import type { Store } from "../store/store.ts";
import { textToEmbed } from "./embedding.ts";
import { enrichmentOf, physicsFlags } from "./frames.ts";
import type { Enrichment } from "./snapshot.ts";

const RETRY_MS_MIN = 50;
const RETRY_MS_MAX = 5000;

/** The newest row on an event (its newest update, else its frame) with the texts of the event. */
export interface Latest {
  readonly row: DecidedFrame;
  readonly message: string | null;
  readonly body: Uint8Array;
}

export interface UpdatesOptions {
  readonly journal: Pick<Journal, "eventsAt" | "updateOf" | "frameOf" | "update" | "headAnswerId">;
  readonly store: () => Pick<Store, "decided" | "updates" | "event"> | null;
  readonly hashing: Embedder;
  readonly textOf: (message: string | null, body: Uint8Array) => string;
  /** Called with each update when it has committed. */
  readonly onWritten: (row: DecidedFrame) => void;
  readonly clock: Clock;
  readonly log: Log;
}

export class Updates {
  readonly #o: UpdatesOptions;
  #turn: Promise<unknown> = Promise.resolve();
  readonly #waiters = new Map<number, Set<() => void>>();
  written = 0;
  #stopped = false;

  constructor(options: UpdatesOptions) {
    this.#o = options;
  }

  /** From now on, a write that fails is given up. */
  stop(): void {
    this.#stopped = true;
  }

  /** Runs `work` after everything that was passed before has ended. */
  alone<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(work);
    this.#turn = turn.catch(() => undefined);
    return turn;
  }

  /**
   * Returns the newest row on event `seq`: from the journal, else from DuckDB; null if neither has the event.
   * @throws GatewayError store_unavailable, overloaded
   */
  async latest(seq: number): Promise<Latest | null> {
    const { journal } = this.#o;
    const [event] = journal.eventsAt([seq]);
    const row = journal.updateOf(seq) ?? journal.frameOf(seq);
    if (event != null && row !== null) return { row, message: event.message, body: event.body };
    const store = this.#o.store();
    if (store === null) return null;
    const [stored] = (await store.decided({ seqs: [seq] })).rows;
    if (stored === undefined) return null;
    const { message, payload, physics, ...rest } = stored;
    const held = { ...rest, decidedUs: 0, physics: encodePhysics(physics) };
    // An update that DuckDB does not have yet is newer.
    return { row: journal.updateOf(seq) ?? held, message, body: new TextEncoder().encode(payload) };
  }

  /**
   * Commits updates, however often that has to be tried. Each carries its vector, because its event may have left the
   * journal when DuckDB reads the update.
   * @returns whether it did. It gives up after {@link stop}.
   */
  async write(updates: readonly { latest: Latest; row: DecidedFrame }[]): Promise<boolean> {
    const rows: DecidedFrame[] = [];
    for (const { latest, row } of updates) rows.push(await this.#withVector(row, latest));
    for (let waitMs = RETRY_MS_MIN; ; waitMs = Math.min(2 * waitMs, RETRY_MS_MAX)) {
      try {
        await this.#o.journal.update(rows);
        break;
      } catch (error) {
        if (this.#stopped) return false;
        this.#o.log("warn", `updates wait: ${messageOf(error)}`);
        await this.#o.clock.sleep(waitMs);
      }
    }
    this.written += rows.length;
    for (const row of rows) this.#o.onWritten(row);
    this.#o.store()?.updates(this.#o.journal.headAnswerId());
    return true;
  }

  async #withVector(row: DecidedFrame, { message, body }: Latest): Promise<DecidedFrame> {
    if (row.vector !== null || (physicsFlags(row.physics) & FLAG.semantic) === 0) return row;
    const { hashing, textOf } = this.#o;
    return { ...row, vector: await hashing.embed([textToEmbed(textOf(message, body))]) };
  }

  /** Returns what its newest update or its frame says of event `seq`; null if it has no frame, or has left the journal. */
  known(seq: number): Enrichment | null {
    const { journal } = this.#o;
    const frame = journal.frameOf(seq);
    if (frame === null) return null;
    return enrichmentOf(frame.frameId, journal.updateOf(seq) ?? frame);
  }

  /** Like {@link known}, for an event that has left the journal: a repeated delivery may ask for it. */
  async stored(seq: number): Promise<Enrichment | null> {
    const { json } = (await this.#o.store()?.event(seq, 0)) ?? { json: null };
    if (json === null) return null;
    const event = JSON.parse(json) as {
      event_type: string;
      enrichment: Omit<Enrichment, "event_type"> | null;
    };
    return event.enrichment === null ? null : { event_type: event.event_type, ...event.enrichment };
  }

  /**
   * Resolves at {@link tell}, at the latest after `timeoutMs`, to what is known by then; null if that is nothing.
   * @throws what reading the journal throws
   */
  wait(seq: number, timeoutMs: number): Promise<Enrichment | null> {
    return new Promise((resolve, reject) => {
      const waiters = this.#waiters.get(seq) ?? new Set();
      this.#waiters.set(seq, waiters);
      const settle = (): void => {
        timer[Symbol.dispose]();
        waiters.delete(settle);
        if (waiters.size === 0) this.#waiters.delete(seq);
        // A failure is the caller's to answer for. Whoever tells has work of its own to finish.
        try {
          resolve(this.known(seq));
        } catch (error) {
          reject(error);
        }
      };
      const timer = this.#o.clock.after(timeoutMs, settle);
      waiters.add(settle);
    });
  }

  /** Settles those who wait for event `seq`: no update will come soon. Never throws. */
  tell(seq: number): void {
    for (const settle of [...(this.#waiters.get(seq) ?? [])]) settle();
  }

  /** The events that somebody waits for. */
  waitedFor(): number[] {
    return [...this.#waiters.keys()];
  }
}
