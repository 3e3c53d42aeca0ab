/** How the events of a batch reach the journal in groups, and what the batch's response says. */
import type { ErrorCode } from "../errors.ts";
import type { Outcome, ParsedEvent } from "../event/event.ts";
import type { Refusal } from "../pipeline/snapshot.ts";
import type { Refused } from "./contract.ts";
import { complete, type Given } from "./given.ts";
import type { HttpMetrics } from "./metrics.ts";
import type { Gate } from "./turns.ts";

/**
 * Both bounds hold for one append of a batch. The bound in bytes is for large events, and counts bodies and messages.
 * @bound one append of a batch | the rest goes into the next
 */
const GROUP_EVENTS_MAX = 1024;
/** @bound one append of a batch | the rest goes into the next (one event may be larger) */
const GROUP_BYTES_MAX = 1024 * 1024;
/** A batch waits for its appends when it has this many. That keeps its list short; the gate bounds the work. */
const APPENDS_LISTED_MAX = 64;

export interface Appended {
  readonly seq: number;
  readonly id: string;
  readonly duplicate: boolean;
}

export interface BatchOptions {
  readonly given: Given;
  readonly gate: Gate;
  readonly metrics: HttpMetrics;
  readonly errorsMax: number;
  readonly append: (events: readonly ParsedEvent[]) => Promise<readonly Appended[]>;
  readonly admission: () => Refusal | null;
  readonly failed: (thrown: unknown) => Refused;
}

/** Appends events in groups, in their order, and counts the accepted, repeated and refused ones. */
export class Batch {
  /** Why the batch takes nothing more. What was accepted before stays accepted. */
  stopped: Refused | null = null;
  readonly #o: BatchOptions;
  #group: ParsedEvent[] = [];
  #groupBytes = 0;
  #underWay: Promise<void>[] = [];
  #accepted = 0;
  #duplicates = 0;
  #rejected = 0;
  #firstSeq: number | null = null;
  #lastSeq: number | null = null;
  readonly #errors: { index: number; code: ErrorCode; detail: string }[] = [];

  constructor(options: BatchOptions) {
    this.#o = options;
  }

  /**
   * @param index of the element or line, from 0.
   * @returns null if the event was added at once; otherwise the caller waits before it adds the next one.
   */
  add(outcome: Outcome, index: number): Promise<void> | null {
    if (this.stopped !== null) return null;
    if (outcome.event === null) {
      this.#rejected++;
      this.#o.metrics.rejectedEvents++;
      if (this.#errors.length < this.#o.errorsMax) this.#errors.push({ index, ...outcome.refusal });
      return null;
    }
    complete(outcome.event, this.#o.given, index);
    this.#group.push(outcome.event);
    this.#groupBytes += outcome.event.body.byteLength + (outcome.event.message?.length ?? 0);
    return this.#group.length >= GROUP_EVENTS_MAX || this.#groupBytes >= GROUP_BYTES_MAX
      ? this.flush()
      : null;
  }

  /** Settles when the append of the group has begun, not when it is committed. */
  async flush(): Promise<void> {
    const group = this.#group;
    const bytes = this.#groupBytes;
    if (group.length === 0 || this.stopped !== null) return;
    this.#group = [];
    this.#groupBytes = 0;
    const room = this.#o.gate.enter(group.length, bytes);
    if (room !== null) await room;
    this.stopped ??= this.#o.admission();
    if (this.stopped !== null) {
      this.#o.gate.leave(group.length, bytes);
      return;
    }
    this.#underWay.push(this.#append(group).finally(() => this.#o.gate.leave(group.length, bytes)));
    if (this.#underWay.length >= APPENDS_LISTED_MAX) {
      await Promise.all(this.#underWay);
      this.#underWay = [];
    }
  }

  async #append(group: readonly ParsedEvent[]): Promise<void> {
    try {
      for (const event of group) this.#o.metrics.ignoredFields += event.ignoredFields;
      for (const { seq, duplicate } of await this.#o.append(group)) {
        if (duplicate) {
          this.#duplicates++;
          this.#o.metrics.duplicateEvents++;
          continue;
        }
        this.#accepted++;
        this.#o.metrics.acceptedEvents++;
        if (this.#firstSeq === null || seq < this.#firstSeq) this.#firstSeq = seq;
        if (this.#lastSeq === null || seq > this.#lastSeq) this.#lastSeq = seq;
      }
    } catch (thrown) {
      this.stopped ??= this.#o.failed(thrown);
    }
  }

  /**
   * Waits for all appends.
   * @param refusal why the rest of the request is refused, if it is.
   * @returns the JSON of the response.
   */
  async end(refusal: Refused | null = null): Promise<string | Refused> {
    await this.flush();
    await Promise.all(this.#underWay);
    const counts = {
      accepted: this.#accepted,
      duplicates: this.#duplicates,
      rejected: this.#rejected,
      first_seq: this.#firstSeq,
      last_seq: this.#lastSeq,
      errors: this.#errors,
    };
    const kept = this.#accepted + this.#duplicates;
    const stopped = this.stopped ?? refusal;
    if (stopped !== null) {
      const detail =
        kept === 0 ? stopped.detail : `${stopped.detail}; ${this.#accepted} events were accepted before`;
      return { ...stopped, detail, members: counts };
    }
    if (kept > 0) return JSON.stringify({ status: "received", ...counts });
    const [first] = this.#errors;
    const detail =
      first === undefined
        ? "the batch contains no event"
        : `none of ${this.#rejected} elements was accepted; index ${first.index}: ${first.detail}`;
    return { code: "not_an_event", detail, members: counts };
  }
}
