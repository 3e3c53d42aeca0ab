/**
 * POST /ingest behind its guard: bytes of a request → events → journal → text of the response. It knows neither statuses
 * nor Response: a refusal is a value that {@link Problems} turns into a response.
 *
 * A single event takes the shortest way. Batches share the thread: one of them works at a time, for a few ms per turn of the
 * event loop, and the number of their rows that wait for a commit is bounded for all of them together.
 */
import type { Clock } from "../clock.ts";
import { GatewayError } from "../errors.ts";
import type * as EventRoom from "../event/event.ts";
import type { ParsedEvent } from "../event/event.ts";
import { UNKNOWN_EVENT } from "../frame.ts";
import type { Log } from "../log.ts";
import type { Enrichment, Refusal } from "../pipeline/snapshot.ts";
import { type Appended, Batch } from "./batch.ts";
import { BUSY, formOf, isTooSlow, refusedEncoding, refusedType, TOO_SLOW, wholeBody } from "./body.ts";
import type { Refused } from "./contract.ts";
import { complete, type Given, givenOf } from "./given.ts";
import { type HeldBytes, Hold } from "./held.ts";
import { type KeepOpen, LineRoom, READ_TIMEOUT_SECONDS } from "./line-room.ts";
import type { HttpMetrics } from "./metrics.ts";
import { DRAINING, refusedBy } from "./problems.ts";
import { Gate, Turns } from "./turns.ts";

/** Bodies of more than this count against the bytes that are held for clients. */
const LARGE_BODY_BYTES = 16 * 1024;
/** @bound the wait of `?wait=enriched` | 200 with what is known */
const WAIT_ENRICHED_MS = 30_000;
/**
 * @bound requests with `?wait=enriched` that wait at once | 200 with what is known
 */
const WAITING_MAX = 4096;
/** The JSON of a 200, or a refusal. */
export type IngestResult = string | Refused;

export interface IngestOptions {
  readonly maxBodyBytes: number;
  readonly held: HeldBytes;
  readonly journal: {
    append(
      events: readonly ParsedEvent[],
      o: { source: string; receivedUs: number },
    ): Promise<readonly Appended[]>;
  };
  readonly events: Pick<
    typeof EventRoom,
    | "LIMITS"
    | "NdjsonSplitter"
    | "parseEvent"
    | "parseEventInSlices"
    | "parseJsonBody"
    | "parseLine"
    | "typeFromQuery"
  >;
  readonly pipeline: {
    admission(): Refusal | null;
    enrichedWithin(seq: number, timeoutMs: number): Promise<Enrichment | null>;
  };
  readonly clock: Clock;
  readonly log: Log;
}

export class Ingest {
  readonly #o: IngestOptions;
  readonly #metrics: HttpMetrics;
  readonly #turns: Turns;
  readonly #gate = new Gate();
  /** Called when a drain begins: ends NDJSON bodies and the waits for an enrichment. */
  readonly #onDrain = new Set<() => void>();
  #draining = false;
  /** Requests with `?wait=enriched` that wait. */
  #waiting = 0;

  constructor(options: IngestOptions, metrics: HttpMetrics) {
    this.#o = options;
    this.#metrics = metrics;
    this.#turns = new Turns(options.clock);
  }

  /** From now on nothing new is accepted. NDJSON bodies end after their last whole line, waits at once. */
  drain(): void {
    this.#draining = true;
    for (const end of this.#onDrain) end();
    this.#onDrain.clear();
  }

  /** Why no event can be accepted now; null if it can. */
  admission(): Refused | null {
    return this.#draining ? DRAINING : this.#o.pipeline.admission();
  }

  /**
   * Takes one request that the guard has allowed.
   * @param keepOpen sets the request's idle timeout in seconds.
   * @throws (rejects) what the journal failed with, and AbortError if the client closed the connection.
   */
  take(req: Request, query: string, keepOpen: KeepOpen): IngestResult | Promise<IngestResult> {
    const startedMs = this.#o.clock.monotonicMs();
    const refusal = this.admission();
    if (refusal !== null) return refusal;
    const { headers } = req;
    const form = formOf(headers.get("content-type"));
    if (form === null) return refusedType(headers.get("content-type"), TYPES_HINT);
    const encoded = refusedEncoding(headers.get("content-encoding"));
    if (encoded !== null) return encoded;
    const given = givenOf(headers, query, this.#o.events.typeFromQuery);
    if ("code" in given) return given;
    const declared = headers.get("content-length");
    const sizeBytes = declared === null ? null : Number(declared);
    if (given.waits) keepOpen((2 * WAIT_ENRICHED_MS) / 1000);
    if (form === "ndjson") {
      if (sizeBytes !== null && sizeBytes > this.#o.maxBodyBytes) return this.#tooLargeStream();
      keepOpen(READ_TIMEOUT_SECONDS);
      return this.#takeLines(req, given, keepOpen);
    }
    if (sizeBytes === null || sizeBytes > LARGE_BODY_BYTES) return this.#takeLarge(req, given, sizeBytes);
    return req.bytes().then((body) => this.#takeBody(body, given, startedMs));
  }

  // -------------------------------------------------------------------------------------- one JSON body

  #takeBody(body: Uint8Array, given: Given, startedMs: number): IngestResult | Promise<IngestResult> {
    this.#metrics.bodyBytes += body.byteLength;
    // Nearly all requests bring a small object whose brace is the first byte.
    if (body[0] !== 0x7b || body.byteLength > this.#o.events.LIMITS.largeEventBytes) {
      return this.#takeInTurns(body, given, startedMs);
    }
    const outcome = this.#o.events.parseEvent(body);
    if (outcome.event === null) {
      this.#metrics.rejectedEvents++;
      return outcome.refusal;
    }
    return this.#takeEvent(outcome.event, given, startedMs);
  }

  #takeEvent(event: ParsedEvent, given: Given, startedMs: number): Promise<IngestResult> {
    complete(event, given, null);
    const metrics = this.#metrics;
    metrics.ignoredFields += event.ignoredFields;
    return this.#o.journal
      .append([event], { source: "", receivedUs: this.#o.clock.nowUs() })
      .then((results) => {
        const result = results[0];
        if (result === undefined)
          throw new Error("http: the journal returned no result for one appended event");
        if (result.duplicate) metrics.duplicateEvents++;
        else metrics.acceptedEvents++;
        metrics.ackLatency.observe(this.#o.clock.monotonicMs() - startedMs);
        const type = event.type === null ? `"${UNKNOWN_EVENT}"` : JSON.stringify(event.type);
        const rest = `"seq":${result.seq},"id":${JSON.stringify(result.id)},"duplicate":${result.duplicate}`;
        if (given.waits) return this.#enriched(result.seq, type, rest);
        return `{"status":"received","event_type":${type},${rest}}`;
      });
  }

  async #enriched(seq: number, typeJson: string, rest: string): Promise<string> {
    const known = await this.#waitEnriched(seq);
    if (known === null) return `{"status":"received","event_type":${typeJson},${rest},"enrichment":null}`;
    const { event_type, ...enrichment } = known;
    const type = JSON.stringify(event_type);
    return `{"status":"received","event_type":${type},${rest},"enrichment":${JSON.stringify(enrichment)}}`;
  }

  #waitEnriched(seq: number): Promise<Enrichment | null> {
    if (this.#draining || this.#waiting >= WAITING_MAX) return this.#o.pipeline.enrichedWithin(seq, 0);
    return new Promise((resolve, reject) => {
      const giveUp = (): void => resolve(null);
      this.#waiting++;
      this.#onDrain.add(giveUp);
      this.#o.pipeline
        .enrichedWithin(seq, WAIT_ENRICHED_MS)
        .then(resolve, reject)
        .finally(() => {
          this.#waiting--;
          this.#onDrain.delete(giveUp);
        });
    });
  }

  // --------------------------------------------------------------------- large bodies and JSON batches

  /** A body that is large or of unknown size. It is read when there is room for it. */
  async #takeLarge(req: Request, given: Given, sizeBytes: number | null): Promise<IngestResult> {
    const { clock, events, held } = this.#o;
    const startedMs = clock.monotonicMs();
    const { jsonBodyBytesMax } = events.LIMITS;
    if (sizeBytes !== null && sizeBytes > jsonBodyBytesMax)
      return tooLargeBody(`${sizeBytes}`, jsonBodyBytesMax);
    using hold = new Hold(held);
    if (sizeBytes !== null && !(await hold.grow(sizeBytes))) return this.#busy();
    const readMs = clock.monotonicMs();
    let bytes = 0;
    const body = await wholeBody(req.body, sizeBytes, (chunkBytes) => {
      bytes += chunkBytes;
      if (isTooSlow(bytes, clock.monotonicMs() - readMs)) return TOO_SLOW;
      if (sizeBytes !== null) return null;
      if (bytes > jsonBodyBytesMax) return tooLargeBody(`more than ${jsonBodyBytesMax}`, jsonBodyBytesMax);
      return hold.add(chunkBytes) ? null : BUSY;
    });
    return "code" in body ? body : await this.#takeBody(body, given, startedMs);
  }

  #busy(): Refused {
    return this.#draining ? DRAINING : BUSY;
  }

  /** A batch, or an event that is too large to be parsed in one turn. */
  async #takeInTurns(body: Uint8Array, given: Given, startedMs: number): Promise<IngestResult> {
    const batch = this.#batch(given);
    const steps = this.#o.events.parseJsonBody(body);
    let index = 0;
    for (;;) {
      if (this.#turns.overdue()) await this.#turns.next();
      const step = steps.next();
      if (step.done !== true) {
        for (const outcome of step.value) {
          const room = batch.add(outcome, index++);
          if (room !== null) await room;
        }
        // If a group was refused, everything after it is refused as well: that keeps the sender's order.
        if (batch.stopped !== null) return batch.end();
        continue;
      }
      const result = step.value;
      if (result.kind === "batch") return batch.end();
      if (result.kind === "event") return this.#takeEvent(result.event, given, startedMs);
      this.#metrics.rejectedEvents++;
      return result.refusal;
    }
  }

  #batch(given: Given): Batch {
    return new Batch({
      given,
      gate: this.#gate,
      metrics: this.#metrics,
      errorsMax: this.#o.events.LIMITS.errorsMax,
      append: (events) => this.#o.journal.append(events, { source: "", receivedUs: this.#o.clock.nowUs() }),
      // Events that were received before a drain are still accepted.
      admission: () => {
        const refusal = this.#o.pipeline.admission();
        return refusal?.code === "draining" ? null : refusal;
      },
      failed: (thrown) => {
        if (thrown instanceof GatewayError) return refusedBy(thrown);
        this.#o.log("error", `http: append: ${thrown instanceof Error ? thrown.stack : String(thrown)}`);
        return { code: "internal", detail: "the gateway failed unexpectedly; its log has the details" };
      },
    });
  }

  // --------------------------------------------------------------------------------------------- NDJSON

  async #takeLines(req: Request, given: Given, keepOpen: KeepOpen): Promise<IngestResult> {
    const batch = this.#batch(given);
    if (req.body === null) return batch.end(EMPTY_BODY);
    const reader = req.body.getReader() as Pick<ReadableStreamDefaultReader<Uint8Array>, "read" | "cancel">;
    const cancel = (): void => void reader.cancel().catch(() => undefined);
    this.#onDrain.add(cancel);
    using hold = new Hold(this.#o.held);
    try {
      const lines = new LineRoom({
        hold,
        keepOpen,
        clock: this.#o.clock,
        lineBytesMax: this.#o.events.LIMITS.eventBytesMax,
      });
      const splitter = new this.#o.events.NdjsonSplitter();
      let leftBytes = this.#o.maxBodyBytes;
      let readBytes = 0;
      for (;;) {
        const { done, value } = await reader.read();
        if (this.#draining) return batch.end(this.admission());
        if (done) break;
        readBytes += value.byteLength;
        this.#metrics.bodyBytes += value.byteLength;
        const chunk = value.byteLength > leftBytes ? value.subarray(0, leftBytes) : value;
        const refused = await lines.before(splitter.heldBytes, chunk.byteLength);
        if (refused !== null) {
          cancel();
          return batch.end(this.#draining ? this.admission() : refused);
        }
        await this.#takeChunk(chunk, splitter, batch);
        lines.after(splitter.heldBytes);
        if (batch.stopped !== null || chunk !== value) {
          cancel();
          return batch.end(chunk === value ? null : this.#tooLargeStream());
        }
        leftBytes -= chunk.byteLength;
      }
      const last = splitter.end();
      if (last !== null) await this.#takeLine(last, batch);
      return batch.end(readBytes === 0 ? EMPTY_BODY : null);
    } finally {
      this.#onDrain.delete(cancel);
    }
  }

  async #takeChunk(chunk: Uint8Array, splitter: EventRoom.NdjsonSplitter, batch: Batch): Promise<void> {
    const { sliceBytes } = this.#o.events.LIMITS;
    for (let start = 0; start < chunk.byteLength; start += sliceBytes) {
      if (this.#turns.overdue()) await this.#turns.next();
      for (const line of splitter.push(chunk.subarray(start, start + sliceBytes))) {
        const room = this.#takeLine(line, batch);
        if (room !== null) await room;
      }
      if (batch.stopped !== null) return;
    }
    // If the client closes the connection now, its whole lines are kept.
    await batch.flush();
  }

  /** @returns null if the line was taken at once. */
  #takeLine(line: EventRoom.NdjsonLine, batch: Batch): Promise<void> | null {
    const { events } = this.#o;
    if (line.bytes === null || line.bytes.byteLength <= events.LIMITS.largeEventBytes) {
      return batch.add(events.parseLine(line), line.lineNumber - 1);
    }
    return this.#takeLargeLine(line.bytes, line.lineNumber, batch);
  }

  async #takeLargeLine(bytes: Uint8Array, lineNumber: number, batch: Batch): Promise<void> {
    const steps = this.#o.events.parseEventInSlices(bytes);
    for (;;) {
      const step = steps.next();
      if (step.done === true) {
        const { event, refusal } = step.value;
        const detail = `line ${lineNumber}: ${refusal?.detail}`;
        await batch.add(
          event === null ? { event, refusal: { ...refusal, detail } } : step.value,
          lineNumber - 1,
        );
        return;
      }
      if (this.#turns.overdue()) await this.#turns.next();
    }
  }

  #tooLargeStream(): Refused {
    const detail = `an NDJSON body has at most ${this.#o.maxBodyBytes} bytes (--max-body)`;
    return { code: "too_large", detail, hint: "send the rest in another request", members: { accepted: 0 } };
  }
}

const TYPES_HINT = "send application/json (one event or an array) or application/x-ndjson, in UTF-8";

const EMPTY_BODY: Refused = {
  code: "malformed",
  detail: "the body is empty",
  hint: "send one JSON object per line",
};

function tooLargeBody(size: string, maxBytes: number): Refused {
  return {
    code: "too_large",
    detail: `the body has ${size} bytes; a JSON body has at most ${maxBytes} (64 MiB)`,
    hint: "send it as application/x-ndjson, one event per line",
    members: { accepted: 0 },
  };
}
