/** How many calls are made in a day. Pure but for its clock and for where it is kept. */

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
