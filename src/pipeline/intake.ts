/**
 * Hands out the events to be framed, in order of receipt: from memory, or from the journal if memory was too small or the
 * process is new.
 */
import type { Journal, JournalEvent } from "../journal/journal.ts";

/** @bound events in memory that wait for their frame | they are read from the journal again */
const EVENTS_MAX = 4096;
/** @bound bodies and messages of events in memory that wait for their frame | they are read from the journal again */
const BYTES_MAX = 16 * 1024 * 1024;
/** What is handed out is in memory, too, until its frames are committed. @bound bodies and messages of events that become frames together (one event may be larger) | the rest goes into the next batch */
const BATCH_BYTES_MAX = 4 * 1024 * 1024;
const READ_EVENTS = 256;
/** Bodies alone: a message is part of its body. */
const READ_BYTES_MAX = BYTES_MAX / 2;

/** Body and message. */
function bytesOf({ body, message }: JournalEvent): number {
  return body.byteLength + (message?.length ?? 0);
}

export class Intake {
  readonly #journal: Pick<Journal, "headSeq" | "unframedAfter">;
  #events: JournalEvent[] = [];
  #bytes = 0;
  /** Every event up to this seq is in memory here, handed out or framed. */
  #taken = 0;

  constructor(journal: Pick<Journal, "headSeq" | "unframedAfter">) {
    this.#journal = journal;
  }

  /** The number of events that are committed and not handed out. */
  get waiting(): number {
    return Math.max(0, this.#journal.headSeq() - this.#taken) + this.#events.length;
  }

  /** Takes events that have just committed, as far as there is room. */
  take(events: readonly JournalEvent[]): void {
    // After a gap, earlier events are only in the journal. Those after it are read from there, too, in order.
    for (const event of events) {
      const full = this.#events.length >= EVENTS_MAX || this.#bytes >= BYTES_MAX;
      if (full || event.seq !== this.#taken + 1) return;
      this.#push(event);
    }
  }

  /** Passes over an event that has its frame already. It must be the next one. */
  passOver(seq: number): void {
    this.#taken = seq;
  }

  #push(event: JournalEvent): void {
    this.#events.push(event);
    this.#bytes += bytesOf(event);
    this.#taken = event.seq;
  }

  /** Hands out the next events, at most `limit`, and few if they are large; none if there are no more. */
  next(limit: number): JournalEvent[] {
    if (this.#events.length === 0) this.#read();
    let [count, bytes] = [0, 0];
    for (const event of this.#events) {
      const more = bytesOf(event);
      if (count === limit || (count > 0 && bytes + more > BATCH_BYTES_MAX)) break;
      count += 1;
      bytes += more;
    }
    this.#bytes -= bytes;
    return this.#events.splice(0, count);
  }

  /** Fills the memory from the journal. */
  #read(): void {
    const headSeq = this.#journal.headSeq();
    if (this.#taken >= headSeq) return;
    const events = this.#journal.unframedAfter(this.#taken, READ_EVENTS, READ_BYTES_MAX);
    for (const event of events) this.#push(event);
    if (events.length === 0) this.#taken = headSeq;
  }
}
