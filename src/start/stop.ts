/** Ends the gateway's parts one after another, all before one deadline. */
import type { Clock } from "../clock.ts";
import { messageOf } from "../errors.ts";
import type { Log } from "../log.ts";

/**
 * Containers are killed 10 s after they were asked to stop.
 * @bound a stop, all its steps together | what is not done is left: the journal keeps every event, and the next start goes on from it
 */
export const STOP_MS_MAX = 8000;

export class Stop {
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #startedMs: number;

  /** The stop begins now. */
  constructor(o: { readonly clock: Clock; readonly log: Log }) {
    this.#clock = o.clock;
    this.#log = o.log;
    this.#startedMs = o.clock.monotonicMs();
  }

  /** How long a step may take that ends `untilMs` after the stop began at the latest. */
  leftMs(untilMs: number): number {
    return Math.max(0, this.#startedMs + untilMs - this.#clock.monotonicMs());
  }

  /**
   * Runs a step and waits for it until `untilMs` after the stop began. A step that fails or takes longer is named in the log, and the
   * next one follows: none of them may keep the others from ending.
   */
  async step(name: string, untilMs: number, work: () => unknown): Promise<void> {
    const late = Promise.withResolvers<"late">();
    using _timer = this.#clock.after(this.leftMs(untilMs), () => late.resolve("late"));
    try {
      if ((await Promise.race([work(), late.promise])) !== "late") return;
      this.#log(
        "warn",
        `stop: ${name} is not done after ${untilMs / 1000} s and is left; the journal keeps every event`,
      );
    } catch (error) {
      this.#log("error", `stop: ${name}: ${messageOf(error)}`);
    }
  }
}
