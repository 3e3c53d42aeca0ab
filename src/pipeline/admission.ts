/** Decides whether an event can be taken now: not while draining, with too little disk, or with too long a backlog. */
import type { Journal } from "../journal/journal.ts";
import type { Refusal } from "./snapshot.ts";

const DRAINING: Refusal = { code: "draining", detail: "the gateway is shutting down", retryAfterSeconds: 5 };

export interface AdmissionOptions {
  readonly journal: Pick<Journal, "backlog" | "filesLost">;
  readonly maxBacklogEvents: number;
  /** Gives the free bytes on the journal's disk, and how many ingest needs. */
  readonly freeDiskBytes: () => { freeBytes: number; neededBytes: number };
}

export class Admission {
  readonly #o: AdmissionOptions;
  #draining = false;
  #disk: Refusal | null = null;

  constructor(options: AdmissionOptions) {
    this.#o = options;
  }

  /** Refuses everything from now on. */
  drain(): void {
    this.#draining = true;
  }

  get draining(): boolean {
    return this.#draining;
  }

  /** Whether a checkpoint is due. Only a checkpoint lets rows leave the journal, so it is due before events are refused. */
  get checkpointDue(): boolean {
    return this.#o.journal.backlog().events > this.#o.maxBacklogEvents / 2;
  }

  /** Notes whether the disk has enough room. */
  lookAtDisk(): void {
    // Its folder may be gone, too.
    if (this.#o.journal.filesLost() !== null) return;
    const { freeBytes, neededBytes } = this.#o.freeDiskBytes();
    const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(1);
    const detail = `${megabytes(freeBytes)} MB free where the journal lives, ${megabytes(neededBytes)} MB needed`;
    this.#disk = freeBytes < neededBytes ? { code: "disk_full", detail, retryAfterSeconds: 5 } : null;
  }

  /** Returns why an event cannot be taken now; null if it can. Costs next to nothing. */
  refusal(): Refusal | null {
    if (this.#draining) return DRAINING;
    const lost = this.#o.journal.filesLost();
    if (lost !== null) return { code: "journal_failed", detail: lost.message, retryAfterSeconds: 5 };
    if (this.#disk !== null) return this.#disk;
    const backlog = this.#o.journal.backlog().events;
    const { maxBacklogEvents } = this.#o;
    if (backlog < maxBacklogEvents) return null;
    const detail = `${backlog} events wait in the journal, ${maxBacklogEvents} are allowed (--max-backlog)`;
    return { code: "overloaded", detail, retryAfterSeconds: 2 };
  }
}
