/** Limits the calls of one day. Pure but for its clock and for where the count is kept. */

const DAY_MS = 86_400_000;

/** Counts the calls of one UTC day, over restarts. */
export class Budget {
  readonly #callsMax: number | null;
  readonly #nowUs: () => number;
  readonly #write: (text: string) => void;
  #day: string;
  #used: number;

  /** @param kept the last text given to `write`, by this process or an earlier one. */
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

  /** Calls left today; null: unlimited. */
  get left(): number | null {
    if (this.#callsMax === null) return null;
    this.#turnDay();
    return Math.max(0, this.#callsMax - this.#used);
  }

  /** Counts one call, before it is made, so that a crash never leaves a call uncounted. @returns false if none is left. */
  take(): boolean {
    const { left } = this;
    if (left === null) return true;
    if (left === 0) return false;
    try {
      this.#write(`${this.#day} ${this.#used + 1}`);
    } catch {
      // A call that cannot be counted, for example because the disk is full, is not made.
      return false;
    }
    this.#used++;
    return true;
  }

  #turnDay(): void {
    const today = new Date(this.#nowUs() / 1000).toISOString().slice(0, 10);
    // A clock that is set back over midnight does not give the calls of the day before a second time.
    const aheadMs = Date.parse(this.#day) - Date.parse(today);
    if (aheadMs >= 0 && aheadMs <= DAY_MS) return;
    this.#day = today;
    this.#used = 0;
  }
}
