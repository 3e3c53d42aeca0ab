/**
 * Whether a ring's writer lives, by its heartbeat. The heartbeat is the writer's wall clock, and a wall clock may step: after
 * a sleep, or when the machine hears of the right time. So an old heartbeat alone proves nothing. It must also stand still, by
 * the reader's monotonic clock.
 */
import type { Clock } from "../clock.ts";
import { RING_STATE } from "../frame.ts";
import type { RingReader } from "./reader.ts";

const STALLED_AFTER_MS = 5000;
/** A heartbeat that is this much ahead of the wall clock was written before the clock stepped back. */
const AHEAD_MS_MAX = 1000;
/** Writers refresh the heartbeat at least once a second. */
const STILL_MS = 1500;
const LOOK_EVERY_MS = 50;

type PulseClock = Pick<Clock, "nowUs" | "monotonicMs" | "sleep">;

export class Pulse {
  readonly #reader: RingReader;
  readonly #clock: PulseClock;
  #beatUs: number;
  /** When the heartbeat was last seen to change, or was first seen. */
  #changedMs: number;

  constructor(reader: RingReader, clock: PulseClock) {
    this.#reader = reader;
    this.#clock = clock;
    this.#beatUs = reader.heartbeatUs();
    this.#changedMs = clock.monotonicMs();
  }

  /** How old the heartbeat is. The wall clock counts unless it has stepped. */
  ageMs(): number {
    const stillMs = this.#stillMs();
    const wallMs = this.#wallMs();
    const credible = wallMs >= -AHEAD_MS_MAX && wallMs <= STALLED_AFTER_MS;
    if (credible || this.#reader.state() !== RING_STATE.running) return Math.max(0, wallMs);
    return stillMs > STILL_MS ? Math.max(stillMs, wallMs) : stillMs;
  }

  /** Whether the writer says that it runs, and its heartbeat is older than 5 s and stands still. */
  stalled(): boolean {
    return this.#stillMs() > STILL_MS && this.#doubtful();
  }

  /** Waits until it is clear whether the writer is stalled: up to 1.5 s, and only if the heartbeat does not fit the wall clock. */
  async settle(): Promise<void> {
    while (this.#stillMs() <= STILL_MS && this.#doubtful()) await this.#clock.sleep(LOOK_EVERY_MS);
  }

  #doubtful(): boolean {
    const wallMs = this.#wallMs();
    const old = Math.max(this.#stillMs(), wallMs) > STALLED_AFTER_MS;
    return this.#reader.state() === RING_STATE.running && (old || wallMs < -AHEAD_MS_MAX);
  }

  #wallMs(): number {
    return (this.#clock.nowUs() - this.#reader.heartbeatUs()) / 1000;
  }

  #stillMs(): number {
    const beatUs = this.#reader.heartbeatUs();
    const nowMs = this.#clock.monotonicMs();
    if (beatUs !== this.#beatUs) {
      this.#beatUs = beatUs;
      this.#changedMs = nowMs;
    }
    return nowMs - this.#changedMs;
  }
}
