/** When the endpoint is not asked: after failures in a row, and while it asks for time. Pure but for its clock. */
const FAILURES_MAX = 3;
const OPEN_MS_MIN = 5000;
const OPEN_MS_MAX = 60_000;
/** Retry-After is followed up to here. */
const RETRY_AFTER_MS_MAX = 3_600_000;

/**
 * Closed: everything is let through. Open: nothing is, for a time that doubles with each failed trial. Half-open:
 * one call, the trial, whose outcome decides.
 */
export class Breaker {
  readonly #nowMs: () => number;
  #failures = 0;
  #openMs = OPEN_MS_MIN;
  #openUntilMs: number | null = null;
  #trialRuns = false;
  /** How often it has opened. */
  opened = 0;
  /** What the newest failure was; empty while closed and well. */
  reason = "";

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  get state(): "closed" | "open" | "half-open" {
    if (this.#openUntilMs === null) return "closed";
    return this.#nowMs() < this.#openUntilMs ? "open" : "half-open";
  }

  /** ms until it is half-open; 0 where it is or is closed. */
  get opensInMs(): number {
    return this.#openUntilMs === null ? 0 : Math.max(0, this.#openUntilMs - this.#nowMs());
  }

  /** Whether a call would be let through now. */
  get lets(): boolean {
    const { state } = this;
    return state === "closed" || (state === "half-open" && !this.#trialRuns);
  }

  /** Claims the way for one call; each claim is followed by exactly one of succeeded, failed and released. */
  enter(): boolean {
    if (!this.lets) return false;
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
   * @param weight 1 where the endpoint failed; less where it only answered badly.
   * @param retryAfterMs the endpoint asks for so much time: it opens at once, for that long.
   */
  failed(reason: string, o: { weight?: number; retryAfterMs?: number | null } = {}): void {
    this.reason = reason;
    this.#failures += o.weight ?? 1;
    const { state } = this;
    this.#trialRuns = false;
    const asked = o.retryAfterMs ?? null;
    // What was begun before it opened may still fail after.
    if (state === "open" && asked === null) return;
    if (state === "closed" && asked === null && this.#failures < FAILURES_MAX) return;
    if (state === "closed") this.opened++;
    const openMs = asked === null ? this.#openMs : Math.min(Math.max(asked, 100), RETRY_AFTER_MS_MAX);
    this.#openUntilMs = this.#nowMs() + openMs;
    if (asked === null) this.#openMs = Math.min(2 * this.#openMs, OPEN_MS_MAX);
  }

  /** The call ended without a word on the endpoint, as when its asker went away. */
  released(): void {
    this.#trialRuns = false;
  }
}
