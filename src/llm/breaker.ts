/** Decides when the endpoint is left alone: after failures in a row, and while it asks for time. Pure but for its clock. */

const FAILURES_MAX = 3;
const OPEN_MS_MIN = 5000;
/** @bound the time for which the breaker stays open | then one trial */
const OPEN_MS_MAX = 60_000;
/** Bounds on a Retry-After. */
const RETRY_AFTER_MS_MIN = 100;
/** @bound a Retry-After of the model's endpoint | followed up to here */
const RETRY_AFTER_MS_MAX = 3_600_000;

/**
 * Closed: all calls may go out. Open: none may, for a time that doubles with each failed trial. Half-open: one call may,
 * the trial, and its outcome closes or opens the breaker.
 */
export class Breaker {
  readonly #nowMs: () => number;
  #failures = 0;
  #openMs = OPEN_MS_MIN;
  #openUntilMs: number | null = null;
  #trialRuns = false;
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
    return state === "closed" || (state === "half-open" && !this.#trialRuns);
  }

  /** Claims leave for one call. After true, the caller must call exactly one of `succeeded`, `failed` and `released`. */
  enter(): boolean {
    if (!this.allows) return false;
    if (this.state === "half-open") this.#trialRuns = true;
    return true;
  }

  succeeded(): void {
    this.#failures = 0;
    this.#openUntilMs = null;
    this.#openMs = OPEN_MS_MIN;
    this.#trialRuns = false;
    this.reason = "";
  }

  /**
   * @param o.weight how many failures it counts for: 1 if the endpoint failed, less if it only replied badly.
   * @param o.retryAfterMs how long the endpoint asks to be left alone: the breaker opens at once, for that long.
   */
  failed(reason: string, o: { weight?: number; retryAfterMs?: number | null } = {}): void {
    this.reason = reason;
    this.#failures += o.weight ?? 1;
    const { state } = this;
    this.#trialRuns = false;
    const retryAfterMs = o.retryAfterMs ?? null;
    // A call that began before the breaker opened may fail after: that must not keep it open for longer.
    if (state === "open" && retryAfterMs === null) return;
    if (state === "closed" && retryAfterMs === null && this.#failures < FAILURES_MAX) return;
    if (state === "closed") this.opened++;
    const openMs =
      retryAfterMs === null
        ? this.#openMs
        : Math.min(Math.max(retryAfterMs, RETRY_AFTER_MS_MIN), RETRY_AFTER_MS_MAX);
    this.#openUntilMs = this.#nowMs() + openMs;
    if (retryAfterMs === null) this.#openMs = Math.min(2 * this.#openMs, OPEN_MS_MAX);
  }

  /** The call ended without telling anything about the endpoint, for example because the caller cancelled it. */
  released(): void {
    this.#trialRuns = false;
  }
}
