/** Writes whole lines to a descriptor whose other end may be gone, full or asleep. That costs lines, never the process. */
import type { Clock } from "../clock.ts";
import { READY_BYTES } from "../native/libc.ts";

/** @bound bytes of log lines that wait for whoever reads standard error | further lines are dropped, and their number is logged later */
const WAITING_BYTES_MAX = 256 * 1024;
/** Between two looks at a descriptor that is not ready. */
const RETRY_MS = 100;

export interface Output {
  /** Whether a write of {@link READY_BYTES} returns at once. */
  isReady(): boolean;
  /** @returns the number of bytes that were taken @throws if none can be taken */
  write(bytes: Uint8Array): number;
}

export class LineWriter {
  readonly #output: Output;
  readonly #clock: Clock;
  readonly #waiting: Uint8Array[] = [];
  #waitingBytes = 0;
  /** A part of the first line that waits was written. */
  #begun = false;
  /** A failure cut a line, so that the next one needs a line break before it. */
  #cut = false;
  /** Lines that were dropped since the last one that was written. */
  #dropped = 0;
  #timer: Disposable | null = null;

  constructor(output: Output, clock: Clock) {
    this.#output = output;
    this.#clock = clock;
  }

  /** Writes the line now if the other end takes it, else later, else never. Never throws and never waits. */
  write(line: string): void {
    const bytes = new TextEncoder().encode(`${line}\n`);
    if (this.#waitingBytes + bytes.length > WAITING_BYTES_MAX && this.#waiting.length > 0) {
      this.#dropped++;
      return;
    }
    this.#waiting.push(bytes);
    this.#waitingBytes += bytes.length;
    if (this.#timer === null) this.#flush();
  }

  #flush(): void {
    this.#timer = null;
    try {
      for (let bytes = this.#waiting[0]; bytes !== undefined; bytes = this.#waiting[0]) {
        if (!this.#output.isReady()) {
          this.#later();
          return;
        }
        if (!this.#begun) this.#sayWhatIsMissing();
        this.#took(bytes, this.#output.write(bytes.subarray(0, READY_BYTES)));
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "EAGAIN") this.#later();
      else this.#dropAll();
    }
  }

  #sayWhatIsMissing(): void {
    if (this.#dropped === 0 && !this.#cut) return;
    const lines = this.#dropped === 1 ? "1 log line was" : `${this.#dropped} log lines were`;
    const text = `${this.#cut ? "\n" : ""}one_file_gateway: ${lines} lost, because standard error took no more\n`;
    this.#output.write(new TextEncoder().encode(text));
    this.#dropped = 0;
    this.#cut = false;
  }

  #took(bytes: Uint8Array, count: number): void {
    this.#waitingBytes -= count;
    this.#begun = count < bytes.length;
    if (this.#begun) this.#waiting[0] = bytes.subarray(count);
    else this.#waiting.shift();
  }

  #later(): void {
    this.#timer = this.#clock.after(RETRY_MS, () => this.#flush());
  }

  #dropAll(): void {
    this.#dropped += this.#waiting.length;
    this.#cut ||= this.#begun;
    this.#begun = false;
    this.#waiting.length = 0;
    this.#waitingBytes = 0;
  }
}
