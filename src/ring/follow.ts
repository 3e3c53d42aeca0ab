/**
 * Follows a ring for any length of time: over restarts of the gateway, a removed or replaced file, and losses to a faster
 * writer. It reports each of these. The rules are those of docs/FRAME.md, and of follow() in consumer.py.
 */
import type { Clock } from "../clock.ts";
import { FRAME_BYTES, OFFSET, RING_STATE } from "../frame.ts";
import { Pulse } from "./pulse.ts";
import { type CopiedFrames, RingReader, RingUnreadable } from "./reader.ts";

/** Frames copied at once: 270 KB. */
const BATCH_FRAMES = 64;
/** How often path, heartbeat and state are checked. */
const LOOK_EVERY_MS = 250;
/** A gateway puts its ring back within a second if something else replaces its file. */
const STRANGER_PATIENCE_MS = 5000;
/** A reader without write access cannot ask to be woken, so it polls. */
const POLL_MS_MIN = 1;
const POLL_MS_MAX = 16;

export type RingEventKind =
  | "restarted"
  | "replaced"
  | "journal_changed"
  | "closed"
  | "stalled"
  | "resumed"
  | "lost"
  | "damaged";

export interface FollowOptions {
  readonly clock: Clock;
  readonly tell: (kind: RingEventKind, message: string) => void;
  /** Ends the follower, also while it waits. */
  readonly stop: AbortSignal;
}

/** Reads on from one frame, in this file and in those that replace it. Owns the readers that it opens, and the given one. */
export class RingFollower implements Disposable {
  readonly #o: FollowOptions;
  /** The file that is read now. It is read to its end even if another has taken its place. */
  #reading: RingReader;
  /** The file at the path. */
  #current: RingReader;
  #next: number;
  #journal: number | null;
  /** Whether `next` is an id of the file that is read. */
  #placed = true;
  #epoch: number;
  #state: number;
  #pulse: Pulse;
  #stalled: boolean;
  #lookAtMs = 0;
  #strangerSinceMs: number | null = null;

  /** @param first the frame_id to begin with */
  constructor(reader: RingReader, first: number, options: FollowOptions) {
    this.#o = options;
    this.#reading = reader;
    this.#current = reader;
    this.#next = first;
    this.#journal = reader.journalId();
    this.#epoch = reader.epoch();
    this.#state = reader.state();
    this.#pulse = new Pulse(reader, options.clock);
    this.#stalled = false;
  }

  /**
   * The next frames, as soon as there are any; null after a stop.
   * @throws RingUnreadable if something other than a ring has been at the path for more than 5 s
   */
  async next(): Promise<CopiedFrames | null> {
    for (let pauseMs = POLL_MS_MIN; !this.#o.stop.aborted; pauseMs = Math.min(2 * pauseMs, POLL_MS_MAX)) {
      const head = this.#reading.head();
      const copied = this.take();
      this.#observe();
      if (copied !== null) return copied;
      if (this.#current === this.#reading) await this.#o.clock.sleep(pauseMs);
      // Nobody writes to the old file any more. It is left once it has been read to its end.
      else if (this.#reading.head() === head) this.#moveOn();
    }
    return null;
  }

  /** The frames from the wanted one on that are there now; null if there are none. Does not wait. */
  take(): CopiedFrames | null {
    if (!this.#placed && !this.#place()) return null;
    const copied = this.#reading.copyFrom(this.#next, BATCH_FRAMES);
    if (copied.count === 0) return null;
    if (copied.first > this.#next) this.#tellGap(copied.first);
    this.#next = copied.first + copied.count;
    const { buffer, byteOffset } = copied.bytes;
    const last = new DataView(buffer, byteOffset + (copied.count - 1) * FRAME_BYTES, FRAME_BYTES);
    this.#journal = last.getUint32(OFFSET.journal_id, true);
    return copied;
  }

  /** Reports why the frames before `first` are not returned. */
  #tellGap(first: number): void {
    const count = `${first - this.#next} frames before ${first}`;
    // A frame falls below tail before it is overwritten.
    if (this.#reading.tail() > this.#next)
      this.#o.tell("lost", `${count} were overwritten before they could be read`);
    else this.#o.tell("damaged", `${count} are not whole; see ring verify`);
  }

  #moveOn(): void {
    this.#reading[Symbol.dispose]();
    this.#reading = this.#current;
    this.#placed = false;
  }

  /** Finds the frame to go on with in a new file; false while no frame in it names its journal. */
  #place(): boolean {
    const found = this.#reading.journalId();
    if (found === null) return false;
    const { low, high } = this.#reading.range();
    if (this.#journal === null) {
      // No frame was seen yet, so all of this file is new, unless a later frame is wanted.
      if (this.#next < low || this.#next > high) this.#next = low;
    } else if (this.#journal !== found) {
      this.#o.tell(
        "journal_changed",
        `the ring now has the frames of journal ${found} (before: ${this.#journal}); reading them from its oldest, ${low}`,
      );
      this.#next = low;
    }
    this.#placed = true;
    return true;
  }

  /** Notices and reports restart, replacement, shutdown and stall. */
  #observe(): void {
    const epoch = this.#current.epoch();
    if (epoch !== this.#epoch) {
      this.#epoch = epoch;
      this.#o.tell("restarted", `the gateway has restarted (epoch ${epoch}); frame ids go on`);
    }
    const nowMs = this.#o.clock.monotonicMs();
    if (nowMs < this.#lookAtMs && this.#current.state() !== RING_STATE.superseded) return;
    this.#lookAtMs = nowMs + LOOK_EVERY_MS;
    this.#replaceWhereNeeded(nowMs);
    this.#reportState();
  }

  #replaceWhereNeeded(nowMs: number): void {
    const at = this.#current.atPath();
    if (at === "this") this.#strangerSinceMs = null;
    // If the file was removed, the gateway makes a new one within a second, and this one is still whole.
    if (at !== "another") return;
    let successor: RingReader;
    try {
      successor = RingReader.open(this.#current.path);
    } catch (error) {
      if (error instanceof RingUnreadable && error.missing) return;
      this.#strangerSinceMs ??= nowMs;
      if (nowMs - this.#strangerSinceMs < STRANGER_PATIENCE_MS) return;
      throw error;
    }
    this.#strangerSinceMs = null;
    if (this.#current !== this.#reading) this.#current[Symbol.dispose]();
    this.#current = successor;
    this.#epoch = successor.epoch();
    this.#state = successor.state();
    this.#pulse = new Pulse(successor, this.#o.clock);
    this.#stalled = false;
    const what = `capacity ${successor.capacity}, epoch ${this.#epoch}`;
    this.#o.tell("replaced", `another ring is at ${successor.path} (${what}); going on there`);
  }

  #reportState(): void {
    const state = this.#current.state();
    if (state !== this.#state) {
      this.#state = state;
      if (state === RING_STATE.closed)
        this.#o.tell("closed", "the gateway was shut down; waiting for it to come back");
    }
    const stalled = this.#pulse.stalled();
    if (stalled === this.#stalled) return;
    this.#stalled = stalled;
    const silentS = Math.round(this.#pulse.ageMs() / 1000);
    if (stalled)
      this.#o.tell("stalled", `no heartbeat for ${silentS} s: the gateway stands still or was killed`);
    else if (state === RING_STATE.running) this.#o.tell("resumed", "the gateway's heartbeat is back");
  }

  [Symbol.dispose](): void {
    this.#reading[Symbol.dispose]();
    if (this.#current !== this.#reading) this.#current[Symbol.dispose]();
  }
}
