/** Notices that the process has no file descriptor left, and keeps a few for files while no connection may take them. */
import { closeSync, openSync } from "node:fs";

/** @bound descriptors kept for files, for when connections have taken all others | connections are closed */
const RESERVED = 16;

export interface DescriptorCalls {
  /** Opens a descriptor. @throws an error with the code EMFILE or ENFILE if there is none. */
  readonly open: () => number;
  readonly close: (descriptor: number) => void;
}

const SYSTEM: DescriptorCalls = { open: () => openSync("/dev/null", "r"), close: closeSync };

export class Descriptors {
  readonly #calls: DescriptorCalls;
  readonly #reserved: number[] = [];

  constructor(calls: DescriptorCalls = SYSTEM) {
    this.#calls = calls;
  }

  /** Whether the process has a descriptor besides the reserved ones. */
  get areLeft(): boolean {
    const descriptor = this.#open();
    if (descriptor !== null) this.#calls.close(descriptor);
    return descriptor !== null;
  }

  /** Reserves descriptors. @returns false if there are too few; then none is reserved. */
  reserve(): boolean {
    while (this.#reserved.length < RESERVED) {
      const descriptor = this.#open();
      if (descriptor === null) {
        this.release();
        return false;
      }
      this.#reserved.push(descriptor);
    }
    return true;
  }

  /** Leaves the reserved descriptors to whoever opens a file. */
  release(): void {
    for (const descriptor of this.#reserved.splice(0)) this.#calls.close(descriptor);
  }

  #open(): number | null {
    try {
      return this.#calls.open();
    } catch (thrown) {
      const { code } = thrown as { code?: unknown };
      if (code === "EMFILE" || code === "ENFILE") return null;
      throw thrown;
    }
  }
}
