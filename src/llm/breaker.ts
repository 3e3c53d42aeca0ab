/** Decides when the endpoint is left alone: after failures in a row, and while it asks for time. Pure but for its clock. */

const FAILURES_MAX = 3;
const OPEN_MS_MIN = 5000;
/** @bound the time for which the breaker stays open | then one trial */
const OPEN_MS_MAX = 60_000;
/** Bounds on a Retry-After. */
const RETRY_AFTER_MS_MIN = 100;
/** @bound a Retry-After of the model's endpoint | followed up to here */
const RETRY_AFTER_MS_MAX = 3_600_000;
/** The shortest wait after a trial that the endpoint answered with a Retry-After; it doubles with each further one. */
const TRIAL_WAIT_MS_MIN = 1000;

/** Leave for one call. */
export interface Pass {
  /** Whether the call decides about a breaker that is half-open. */
  readonly isTrial: boolean;
}

/**
 * Closed: all calls may go out. Open: none may, for a time that doubles with each failed trial. Half-open: one call may,
 * the trial, and its outcome closes or opens the breaker.
 */
export class Breaker {
  readonly #nowMs: () => number;
  #failures = 0;
  #openMs = OPEN_MS_MIN;
  #openUntilMs: number | null = null;
  /** The call that decides; null: none is out. */
  #trial: Pass | null = null;
  /** Trials in a row that were answered with a Retry-After. */
  #putOff = 0;
  /** How often it has opened. */
  opened = 0;
  /** The newest failure; empty while the breaker is closed and nothing failed. */
  reason = "";

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  get state(): "closed" | "open" | "half-open" {
    if (this.#openUntilMs === null) return "closed";
    return this.#nowMs() < this.#openUntilMs ? "open" : "half-open";
  }

  /** How long the breaker stays open, in ms; 0 unless it is open. */
  get openForMs(): number {
    return this.#openUntilMs === null ? 0 : Math.max(0, this.#openUntilMs - this.#nowMs());
  }

  /** Whether a call may go out now. */
  get allows(): boolean {
    const { state } = this;
    return state === "closed" || (state === "half-open" && this.#trial === null);
  }

  /** Gives leave for one call; null: none may go out. The caller must hand it to exactly one of `succeeded`, `failed` and `released`. */
  enter(): Pass | null {
    if (!this.allows) return null;
    const pass: Pass = { isTrial: this.state === "half-open" };
    if (pass.isTrial) this.#trial = pass;
    return pass;
  }

  succeeded(): void {
    this.#failures = 0;
    this.#openUntilMs = null;
    this.#openMs = OPEN_MS_MIN;
    this.#trial = null;
    this.#putOff = 0;
    this.reason = "";
  }

  /**
   * @param o.weight how many failures it counts for: 1 if the endpoint failed, less if it only replied badly.
   * @param o.retryAfterMs how long the endpoint asks to be left alone: the breaker opens at once, for that long.
   */
  failed(pass: Pass, reason: string, o: { weight?: number; retryAfterMs?: number | null } = {}): void {
    this.reason = reason;
    const { state } = this;
    const isTrial = pass === this.#trial;
    if (isTrial) this.#trial = null;
    const retryAfterMs = o.retryAfterMs ?? null;
    this.#failures += o.weight ?? 1;
    if (retryAfterMs !== null) {
      this.#leaveAlone(retryAfterMs, isTrial);
      return;
    }
    // A call that began before the breaker opened says nothing about the time after it.
    if (state !== "closed" && !isTrial) return;
    if (state === "closed" && this.#failures < FAILURES_MAX) return;
    if (state === "closed") this.opened++;
    this.#openUntilMs = this.#nowMs() + this.#openMs;
    this.#openMs = Math.min(2 * this.#openMs, OPEN_MS_MAX);
  }

  /** Opens for as long as the endpoint asks. An endpoint that asks for little again and again is asked less and less often. */
  #leaveAlone(retryAfterMs: number, isTrial: boolean): void {
    const leastMs = isTrial ? Math.min(TRIAL_WAIT_MS_MIN * 2 ** this.#putOff++, OPEN_MS_MAX) : 0;
    const askedMs = Math.min(Math.max(retryAfterMs, RETRY_AFTER_MS_MIN), RETRY_AFTER_MS_MAX);
    if (this.state === "closed") this.opened++;
    this.#openUntilMs = Math.max(this.#openUntilMs ?? 0, this.#nowMs() + Math.max(askedMs, leastMs));
  }

  /** The call ended without telling anything about the endpoint, for example because the caller cancelled it. */
  released(pass: Pass): void {
    if (pass === this.#trial) this.#trial = null;
  }
}
