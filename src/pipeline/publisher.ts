/**
 * Keeps the ring open and publishes every decided frame in it, in order. Replaces a ring whose file was removed, or that
 * cannot go on without a gap. Frames wait in the journal meanwhile.
 */
import type { Ring } from "../../collider.ts";
import type { Clock } from "../clock.ts";
import { messageOf } from "../errors.ts";
import type { Log } from "../log.ts";
import type { DecidedFrames } from "./frame-reader.ts";
import type { Labels } from "./labels.ts";
import type { RecentFrames } from "./recent.ts";
import type { PartState, RawFrames } from "./snapshot.ts";

const OK: PartState = { state: "ok", detail: "" };
const SLICE_FRAMES = 256;
const OPEN_RETRY_MS_MIN = 500;
const OPEN_RETRY_MS_MAX = 5000;
const RETRY_MS = 500;

export interface PublisherOptions {
  readonly openRing: (newest: (fromFrameId: number, limit: number) => Promise<RawFrames>) => Promise<Ring>;
  readonly frames: Pick<DecidedFrames, "entriesFrom" | "rawFrom">;
  readonly recent: Pick<RecentFrames, "next" | "forget">;
  readonly labels: Pick<Labels, "isShown" | "show">;
  readonly clock: Clock;
  readonly log: Log;
}

export class Publisher {
  readonly #o: PublisherOptions;
  state: PartState = { state: "starting", detail: "the ring is being prepared" };
  readonly counters = { published_frames_total: 0, refilled_frames_total: 0, rings_replaced_total: 0 };
  #ring: Ring | null = null;
  /** Why the file of labels beside the ring cannot be written; null if it can. */
  #labelsFailure: string | null = null;
  #publishing = false;
  #stopped = false;

  constructor(options: PublisherOptions) {
    this.#o = options;
  }

  /** The ring; null while it is being opened. */
  get ring(): Ring | null {
    return this.#ring;
  }

  /** Whether the ring shows every decided frame, or is not there at all. */
  get idle(): boolean {
    return this.#ring === null || this.#ring.head() >= this.#o.recent.next;
  }

  /** Opens the ring. Tries until it succeeds. */
  async open(): Promise<void> {
    const { openRing, frames, clock, log } = this.#o;
    for (let waitMs = OPEN_RETRY_MS_MIN; !this.#stopped; waitMs = Math.min(2 * waitMs, OPEN_RETRY_MS_MAX)) {
      try {
        const ring = await openRing((from, limit) => frames.rawFrom(from, limit));
        if (this.#stopped) return ring.close("closed");
        this.#ring = ring;
        this.state = OK;
        this.#showLabels(ring);
        this.counters.refilled_frames_total += ring.refilled;
        const how = ring.adopted ? "adopted" : `new, ${ring.refilled} frames refilled`;
        log("info", `ring ${ring.path}: ${ring.capacity} frames, ${how}, next frame ${ring.head()}`);
        void this.publish();
        return;
      } catch (error) {
        if (this.#stopped) return;
        this.state = { state: "down", detail: `${messageOf(error)}; frames wait in the journal` };
        log("error", `${messageOf(error)}; frames wait in the journal, trying again`);
        await clock.sleep(waitMs);
      }
    }
  }

  /** Publishes every decided frame that the ring does not show yet, in slices between other work. */
  async publish(): Promise<void> {
    if (this.#publishing) return;
    this.#publishing = true;
    const { frames, recent, labels, clock, log } = this.#o;
    try {
      for (let ring = this.#ring; ring !== null && !this.#stopped; ring = this.#ring) {
        if (ring.head() >= recent.next) return;
        const entries = await frames.entriesFrom(ring.head(), SLICE_FRAMES);
        if (ring !== this.#ring) continue;
        if (entries.length === 0) return this.#replace("the journal dropped the next frame at its bound");
        if (this.#labelsFailure === null && !labels.isShown(ring)) this.#showLabels(ring);
        ring.publishBatch(entries);
        if (this.state !== OK && this.#labelsFailure === null) this.state = OK;
        this.counters.published_frames_total += entries.length;
        recent.forget();
        if (entries.length === SLICE_FRAMES) await clock.nextTurn();
      }
    } catch (error) {
      this.state = { state: "degraded", detail: messageOf(error) };
      log("error", `ring: publish: ${messageOf(error)}; trying again`);
      clock.after(RETRY_MS, () => void this.publish());
    } finally {
      this.#publishing = false;
    }
  }

  /** Shows readers that the writer is alive. Call it at least once a second. */
  beat(): void {
    const ring = this.#ring;
    if (ring === null) return;
    if (ring.heartbeat() === "superseded") this.#replace("the file was removed or replaced");
    else if (this.#labelsFailure !== null || !ring.labelsInPlace()) this.#showLabels(ring);
  }

  /**
   * Writes the file of labels beside the ring. A failure holds no frame back: until a later heartbeat succeeds, readers
   * see the ids of new labels without their texts.
   */
  #showLabels(ring: Ring): void {
    const { labels, log } = this.#o;
    try {
      labels.show(ring);
    } catch (error) {
      const detail = `${messageOf(error)}; frames go on, but readers lack the texts of new labels`;
      if (detail !== this.#labelsFailure) log("error", `${detail}; trying again`);
      this.#labelsFailure = detail;
      this.state = { state: "degraded", detail };
      return;
    }
    if (this.#labelsFailure === null) return;
    this.#labelsFailure = null;
    this.state = OK;
    log("info", `ring ${ring.path}: the file of labels could be written again`);
  }

  #replace(why: string): void {
    const ring = this.#ring;
    if (ring === null) return;
    this.#o.log("warn", `ring ${ring.path}: ${why}; making a new one`);
    this.counters.rings_replaced_total += 1;
    this.state = { state: "starting", detail: `${why}; a new one is being made` };
    this.#ring = null;
    ring.close("superseded");
    void this.open();
  }

  /** Publishes nothing more. The ring stays readable until {@link close}. */
  stop(): void {
    this.#stopped = true;
  }

  close(): void {
    this.stop();
    this.#ring?.close("closed");
    this.#ring = null;
  }
}
