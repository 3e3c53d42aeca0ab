/**
 * When the endpoint is not asked: after failures in a row, while it asks for time, and beyond the day's budget. Part of
 * the brain; pure but for its clock.
 */
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

/** Calls of one UTC day, kept over restarts. */
export class Budget {
  readonly #callsMax: number | null;
  readonly #nowUs: () => number;
  readonly #write: (text: string) => void;
  #day: string;
  #used: number;

  /** @param kept what `write` was last given, in this process or an earlier one. */
  constructor(o: {
    callsMax: number | null;
    kept: string | null;
    nowUs: () => number;
    write: (text: string) => void;
  }) {
    this.#callsMax = o.callsMax;
    this.#nowUs = o.nowUs;
    this.#write = o.write;
    const [day = "", used = "0"] = (o.kept ?? "").split(" ");
    this.#day = day;
    this.#used = /^\d+$/.test(used) ? Number(used) : 0;
  }

  /** Calls left today; null: as many as one likes. */
  get left(): number | null {
    if (this.#callsMax === null) return null;
    this.#turnDay();
    return Math.max(0, this.#callsMax - this.#used);
  }

  /** Takes one call out of it, before it is made, so that a crash never makes one for nothing. */
  take(): boolean {
    const { left } = this;
    if (left === null) return true;
    if (left === 0) return false;
    try {
      this.#write(`${this.#day} ${this.#used + 1}`);
    } catch {
      // What cannot be counted, as on a full disk, is not spent.
      return false;
    }
    this.#used++;
    return true;
  }

  #turnDay(): void {
    const today = new Date(this.#nowUs() / 1000).toISOString().slice(0, 10);
    if (today === this.#day) return;
    this.#day = today;
    this.#used = 0;
  }
}
