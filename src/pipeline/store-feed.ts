/**
 * Opens the store, tells it what the journal has, and offers it the decided frames in order. Offers frames again that a failed
 * store had not committed.
 */
import type { Clock } from "../clock.ts";
import { GatewayError, messageOf } from "../errors.ts";
import type { Journal, JournalCursors } from "../journal/journal.ts";
import type { Log } from "../log.ts";
import type { Store } from "../store/store.ts";
import type { DecidedFrames } from "./frame-reader.ts";
import { vectorsToOffer } from "./frames.ts";
import type { RecentFrames } from "./recent.ts";
import type { PartState } from "./snapshot.ts";

/** @bound frames offered to the store that it has not committed | further frames wait */
const OFFERED_FRAMES_MAX = 8192;
const OFFER_FRAMES_MAX = 1024;
const RETRY_MS = 500;
/** @bound a read waits for DuckDB to open | 503 */
const OPEN_WAIT_MS = 2000;
const OPEN_LOOK_MS = 10;
/** @bound the end waits for DuckDB to finish opening | it is not waited for; the next start replays its log again */
const OPENING_MS_MAX = 2000;
/** @bound the end waits for DuckDB to store and checkpoint (less if the gateway stops) | the journal keeps the rest */
const CLOSE_MS_MAX = 10_000;

/** Fewer messages cost less: what is new goes to the store together, after this, or at once if so many frames wait or somebody reads. */
const TELL_DELAY_MS = 100;
const TELL_FRAMES = 512;

export interface StoreFeedOptions {
  readonly journal: Pick<Journal, "headSeq" | "headAnswerId" | "framesFrom">;
  readonly openStore: () => Promise<Store>;
  readonly frames: Pick<DecidedFrames, "entriesFrom">;
  readonly recent: Pick<RecentFrames, "next" | "entries" | "forget">;
  /** The model whose vectors the journal does not keep: they travel with the frames. */
  readonly recomputedModelId: number;
  readonly onOpen: () => void;
  /** Called when a CHECKPOINT has completed. It holds everything up to these cursors. */
  readonly onCheckpoint: (cursors: JournalCursors) => void;
  /** Called when the store meets a damaged row of the journal. */
  readonly onDamage: Store["onDamage"];
  /** Whether ingest is in a burst: then the store is not told of events until somebody reads, or the next beat. */
  readonly bursting: () => boolean;
  /** Called if the store cannot be opened. */
  readonly onFatal: (error: unknown) => void;
  readonly clock: Clock;
  readonly log: Log;
}

function stateOf({ memory }: Store): PartState {
  if (memory.raisedBecause === null) return { state: "ok", detail: "" };
  return { state: "degraded", detail: memory.raisedBecause };
}

export class StoreFeed {
  readonly #o: StoreFeedOptions;
  state: PartState = { state: "starting", detail: "DuckDB is being opened" };
  readonly counters = { store_failures_total: 0 };
  #store: Store | null = null;
  #opening: Promise<void> = Promise.resolve();
  /** See {@link offered}. */
  #offered = 0;
  #feeding = false;
  /** The head that the store was told last. */
  #toldSeq = -1;
  /** Tells the store what is new. */
  #telling: Disposable | null = null;
  #checkpointAsked = false;
  #stopped = false;
  #closed = false;

  constructor(options: StoreFeedOptions) {
    this.#o = options;
  }

  /** The store once DuckDB is open; null before. */
  get store(): Store | null {
    return this.#store;
  }

  /** The newest frame_id that was offered; 0 before the store is open. */
  get offered(): number {
    return this.#offered;
  }

  /** Whether every decided frame was offered, or the store is not open at all. */
  get idle(): boolean {
    return this.#store === null || this.#offered + 1 >= this.#o.recent.next;
  }

  open(): void {
    this.#opening = this.#open();
  }

  async #open(): Promise<void> {
    try {
      const store = await this.#o.openStore();
      if (this.#closed) {
        await store.close(CLOSE_MS_MAX);
        return;
      }
      this.#offered = store.cursors.frameId;
      this.#listen(store);
      this.#store = store;
      this.state = stateOf(store);
      this.tellHead();
      store.updates(this.#o.journal.headAnswerId());
      void this.feed();
      this.#o.onOpen();
    } catch (error) {
      if (!this.#closed) this.#o.onFatal(error);
    }
  }

  #listen(store: Store): void {
    store.onCursors = () => {
      this.state = stateOf(store);
      void this.feed();
    };
    store.onReopened = (cursors) => {
      this.#offered = cursors.frameId;
      void this.feed();
    };
    store.onCheckpoint = (cursors) => {
      this.#checkpointAsked = false;
      this.#o.onCheckpoint(cursors);
    };
    store.onMemory = () => {
      if (store.memory.raisedBecause !== null) this.state = stateOf(store);
    };
    store.onDamage = this.#o.onDamage;
    store.onFailure = (error) => {
      this.counters.store_failures_total += 1;
      this.state = { state: "degraded", detail: messageOf(error) };
      this.#o.log("warn", messageOf(error));
    };
  }

  /** Waits a moment for the store to open. @throws GatewayError store_unavailable if it does not open in time */
  async opened(): Promise<Store> {
    const { clock } = this.#o;
    const untilMs = clock.monotonicMs() + OPEN_WAIT_MS;
    while (this.#store === null && !this.#stopped && clock.monotonicMs() < untilMs)
      await clock.sleep(OPEN_LOOK_MS);
    if (this.#store !== null) return this.#store;
    throw new GatewayError({
      code: "store_unavailable",
      operation: "store: read",
      object: "frames",
      detail: "DuckDB is not open yet",
      hint: "try again in a moment",
    });
  }

  /** Tells the store up to where the journal has events. */
  tellHead(): void {
    const headSeq = this.#o.journal.headSeq();
    if (this.#store === null || headSeq === this.#toldSeq) return;
    this.#toldSeq = headSeq;
    this.#store.head(headSeq);
  }

  /** Tells the store soon of the events and frames that are new. */
  tellSoon(): void {
    if (this.#o.recent.next - 1 - this.#offered >= TELL_FRAMES) void this.feed();
    else this.#telling ??= this.#o.clock.after(TELL_DELAY_MS, () => this.#tell(!this.#o.bursting()));
  }

  /** Tells the store now, because somebody is about to read. */
  tellNow(): void {
    this.#tell(true);
  }

  #tell(ofEvents: boolean): void {
    this.#telling?.[Symbol.dispose]();
    this.#telling = null;
    if (this.#store === null || this.#stopped) return;
    if (ofEvents) this.tellHead();
    void this.feed();
  }

  /** Asks for a checkpoint, unless an earlier one is still under way. */
  checkpoint(): void {
    if (this.#store === null || this.#checkpointAsked) return;
    this.tellNow();
    this.#checkpointAsked = true;
    this.#store.checkpoint().catch((error) => {
      this.#checkpointAsked = false;
      this.#o.log("warn", messageOf(error));
    });
  }

  /** Offers all decided frames to the store, in order, as far as the bound allows. */
  async feed(): Promise<void> {
    if (this.#feeding) return;
    this.#feeding = true;
    const { frames, recent, clock, log } = this.#o;
    try {
      for (let store = this.#store; store !== null && !this.#stopped; store = this.#store) {
        const start = this.#offered + 1;
        const room = OFFERED_FRAMES_MAX - (this.#offered - store.cursors.frameId);
        if (room < 1 || start >= recent.next) return;
        const entries = await frames.entriesFrom(start, Math.min(room, OFFER_FRAMES_MAX));
        if (this.#offered + 1 !== start) continue;
        if (entries.length === 0) {
          this.#passOver(start);
          continue;
        }
        if (entries[0]?.damaged) {
          store.skip({ firstFrameId: start, count: 1 });
          this.#offered = start;
          continue;
        }
        const vectors = vectorsToOffer(entries, this.#o.recomputedModelId);
        store.offer({ firstFrameId: start, count: entries.length, vectors });
        this.#offered = start + entries.length - 1;
        recent.forget();
      }
    } catch (error) {
      log("error", `store: offer: ${messageOf(error)}; trying again`);
      clock.after(RETRY_MS, () => void this.feed());
    } finally {
      this.#feeding = false;
    }
  }

  /** Passes over frames from `start` on that no place has: skipped numbers, or dropped by a temporary journal at its bound. */
  #passOver(start: number): void {
    const { journal, recent } = this.#o;
    const kept = journal.framesFrom(start, 1)[0]?.frameId ?? recent.next;
    this.#offered = Math.min(kept, recent.entries[0]?.frameId ?? recent.next) - 1;
    const count = this.#offered + 1 - start;
    if (count > 0) this.#store?.skip({ firstFrameId: start, count });
  }

  /** Offers nothing more. */
  stop(): void {
    this.#stopped = true;
    this.#telling?.[Symbol.dispose]();
    this.#telling = null;
  }

  /**
   * Closes the store, which first commits what it was offered, as far as `withinMs` (10 s if left out) suffices. What it has not
   * committed stays in the journal.
   */
  async close(withinMs = CLOSE_MS_MAX): Promise<void> {
    this.stop();
    this.tellHead();
    // DuckDB may still be opening. It would make files in a folder that is removed after this.
    await Promise.race([this.#opening, this.#o.clock.sleep(Math.min(OPENING_MS_MAX, withinMs))]);
    this.#closed = true;
    if ((await this.#store?.close(withinMs)) === false)
      this.#o.log(
        "warn",
        "store: DuckDB did not close in time; the next start stores what is missing from the journal",
      );
  }
}
