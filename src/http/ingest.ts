/**
 * POST /ingest behind its guards: bytes of a request → events → journal → what is answered. Knows no status and
 * no Response: a refusal is a value that `http` turns into one.
 *
 * A single event goes the straight way. Batches share the thread: only one of them works at a time, for
 * a few ms a turn of the event loop, and together they may have only so many rows on their way to a commit.
 */
import { type ErrorCode, GatewayError } from "../errors.ts";
import type * as EventRoom from "../event/event.ts";
import type { Outcome, ParsedEvent } from "../event/event.ts";
import { UNKNOWN_EVENT } from "../frame.ts";
import type { Log } from "../log.ts";
import type { Enrichment, Refusal } from "../pipeline/snapshot.ts";
import type { HttpMetrics } from "./metrics.ts";

/** Rows of one append of a batch; the bytes are a bound for large events, one event may be larger. */
const GROUP_EVENTS_MAX = 1024;
const GROUP_BYTES_MAX = 1024 * 1024;
/** Rows and bytes of all batches on their way to a commit: about 20 ms of one. */
const UNCOMMITTED_EVENTS_MAX = 2048;
const UNCOMMITTED_BYTES_MAX = 8 * 1024 * 1024;
/** How long batches may hold the thread before everybody else has a turn. */
const TURN_MS = 4;
/** A JSON body from here on counts against the bound of all of them that are in memory at once. */
const LARGE_BODY_BYTES = 1024 * 1024;
const LARGE_BODIES_BYTES_MAX = 96 * 1024 * 1024;
const WAIT_ENRICHED_MS = 30_000;
/** Requests that wait for the brain at once; those beyond are answered with what is known. */
const WAITING_MAX = 4096;
const READ_TIMEOUT_SECONDS = 300;
const HEADER_KEY_CHARS_MAX = 1024;

/** An expected refusal; `members` are added to the problem's body. */
export interface Refused {
  readonly code: ErrorCode;
  readonly detail: string;
  readonly hint?: string;
  readonly retryAfterSeconds?: number;
  readonly members?: Readonly<Record<string, unknown>>;
}

/** A JSON text of a 200, or a refusal. */
export type Answer = string | Refused;

export interface IngestOptions {
  readonly maxBodyBytes: number;
  readonly journal: {
    append(
      events: readonly ParsedEvent[],
      o: { source: string; receivedUs: number },
    ): Promise<readonly { seq: number; id: string; duplicate: boolean }[]>;
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
  readonly nowUs: () => number;
  readonly log: Log;
}

/** What a request says about its events outside of its body. */
interface Given {
  readonly type: string | null;
  readonly waits: boolean;
  /** Dedup keys with their kind, for events that bring none of their own. */
  readonly keys: readonly { readonly kind: string; readonly value: string }[];
}

const NOTHING_GIVEN: Given = { type: null, waits: false, keys: [] };
const KEY_HEADERS = ["webhook-id", "idempotency-key"] as const;

type Form = "json" | "ndjson";
const NDJSON_TYPES: ReadonlySet<string> = new Set([
  "application/x-ndjson",
  "application/ndjson",
  "application/jsonl",
]);

/** The form of a body by its Content-Type; absent counts as JSON, null is none that is taken. */
export function formOf(contentType: string | null): Form | null {
  if (contentType === null || contentType === "application/json") return "json";
  const [mime = "", ...parameters] = contentType.toLowerCase().split(";");
  for (const parameter of parameters) {
    const [name, value = ""] = parameter.split("=", 2);
    if (name?.trim() === "charset" && !/^\s*"?utf-?8"?\s*$/.test(value)) return null;
  }
  const type = mime.trim();
  if (type === "" || type === "application/json" || /^application\/[^\s/]+\+json$/.test(type)) return "json";
  return NDJSON_TYPES.has(type) ? "ndjson" : null;
}

/** Only one batch works at a time, and each for at most TURN_MS before the event loop goes round. */
class Turns {
  #startedMs = 0;
  readonly #queue: (() => void)[] = [];

  overdue(): boolean {
    return performance.now() - this.#startedMs > TURN_MS;
  }

  /** Settles in a later turn of the event loop, which then belongs to the caller. */
  next(): Promise<void> {
    return new Promise((resolve) => {
      this.#queue.push(resolve);
      if (this.#queue.length === 1) setImmediate(this.#turn);
    });
  }

  readonly #turn = (): void => {
    const resolve = this.#queue.shift();
    if (this.#queue.length > 0) setImmediate(this.#turn);
    this.#startedMs = performance.now();
    resolve?.();
  };
}

/** Lets batches wait, first come first served, until there is room before the next commit. */
class Gate {
  #events = 0;
  #bytes = 0;
  readonly #queue: { readonly events: number; readonly bytes: number; readonly enter: () => void }[] = [];

  /** null: entered at once. Whatever its size, a group enters an empty room. */
  enter(events: number, bytes: number): Promise<void> | null {
    if (this.#queue.length === 0 && this.#fits(events, bytes)) {
      this.#add(events, bytes);
      return null;
    }
    return new Promise((enter) => this.#queue.push({ events, bytes, enter }));
  }

  leave(events: number, bytes: number): void {
    this.#add(-events, -bytes);
    for (let next = this.#queue[0]; next !== undefined; next = this.#queue[0]) {
      if (!this.#fits(next.events, next.bytes)) return;
      this.#queue.shift();
      this.#add(next.events, next.bytes);
      next.enter();
    }
  }

  #fits(events: number, bytes: number): boolean {
    if (this.#events === 0) return true;
    return this.#events + events <= UNCOMMITTED_EVENTS_MAX && this.#bytes + bytes <= UNCOMMITTED_BYTES_MAX;
  }

  #add(events: number, bytes: number): void {
    this.#events += events;
    this.#bytes += bytes;
  }
}

export class Ingest {
  readonly #o: IngestOptions;
  readonly #metrics: HttpMetrics;
  readonly #turns = new Turns();
  readonly #gate = new Gate();
  /** Called when the drain begins, to end what could wait for long. */
  readonly #onDrain = new Set<() => void>();
  #draining = false;
  #largeBodiesBytes = 0;

  constructor(options: IngestOptions, metrics: HttpMetrics) {
    this.#o = options;
    this.#metrics = metrics;
  }

  /** Bytes of large JSON bodies in memory. */
  get bodiesInFlightBytes(): number {
    return this.#largeBodiesBytes;
  }

  /** Takes nothing new from here on, ends streams after their last whole line, and ends waits. */
  drain(): void {
    this.#draining = true;
    for (const end of this.#onDrain) end();
    this.#onDrain.clear();
  }

  /** Why nothing can be taken now; null: it can. */
  admission(): Refused | null {
    if (this.#draining) {
      return { code: "draining", detail: "the gateway is shutting down", retryAfterSeconds: 5 };
    }
    return this.#o.pipeline.admission();
  }

  /**
   * Takes one request, whose sender is known to be allowed.
   * @param keepOpen sets the request's idle timeout in seconds.
   * @throws (rejects) what the journal failed with, and AbortError where the client went away.
   */
  take(req: Request, query: string, keepOpen: (seconds: number) => void): Answer | Promise<Answer> {
    const startedMs = performance.now();
    const refusal = this.admission();
    if (refusal !== null) return refusal;
    const { headers } = req;
    const form = formOf(headers.get("content-type"));
    if (form === null) {
      return {
        code: "unsupported_media_type",
        detail: `Content-Type ${JSON.stringify(headers.get("content-type"))} is not taken`,
        hint: "send application/json (one event or an array) or application/x-ndjson, in UTF-8",
      };
    }
    const encoding = headers.get("content-encoding");
    if (encoding !== null && encoding !== "" && encoding.toLowerCase() !== "identity") {
      const detail = `Content-Encoding ${JSON.stringify(encoding)} is not taken`;
      return { code: "unsupported_media_type", detail, hint: "send the body uncompressed" };
    }
    const given = this.#given(headers, query);
    if ("code" in given) return given;
    const declared = headers.get("content-length");
    const sizeBytes = declared === null ? null : Number(declared);
    if (given.waits) keepOpen((2 * WAIT_ENRICHED_MS) / 1000);
    if (form === "ndjson") {
      if (sizeBytes !== null && sizeBytes > this.#o.maxBodyBytes) return this.#tooLargeStream();
      keepOpen(READ_TIMEOUT_SECONDS);
      return this.#takeLines(req, given);
    }
    if (sizeBytes === null || sizeBytes > LARGE_BODY_BYTES) return this.#takeLarge(req, given, sizeBytes);
    return req.bytes().then((body) => this.#takeBody(body, given, startedMs));
  }

  #given(headers: Headers, query: string): Given | Refused {
    const webhookId = headers.get("webhook-id");
    const idempotencyKey = headers.get("idempotency-key");
    if (query === "" && webhookId === null && idempotencyKey === null) return NOTHING_GIVEN;
    const keys: { kind: string; value: string }[] = [];
    for (const kind of KEY_HEADERS) {
      const value = kind === "webhook-id" ? webhookId : idempotencyKey;
      if (value === null || value === "") continue;
      // Ignoring it would let a repeat in as a new event.
      if (value.length > HEADER_KEY_CHARS_MAX) {
        return {
          code: "bad_parameter",
          detail: `the header ${kind} has ${value.length} characters, at most ${HEADER_KEY_CHARS_MAX} are taken`,
        };
      }
      keys.push({ kind, value });
    }
    // Unknown parameters pass: providers add their own to the address they were given.
    const parameters = new URLSearchParams(query);
    const type = this.#o.events.typeFromQuery(parameters.get("type"));
    if (type.detail !== null) return { code: "bad_parameter", detail: type.detail };
    const wait = parameters.get("wait");
    if (wait !== null && wait !== "" && wait !== "enriched") {
      return {
        code: "bad_parameter",
        detail: `wait is ${JSON.stringify(wait)}`,
        hint: "the one value is wait=enriched",
      };
    }
    return { type: type.type, waits: wait === "enriched", keys };
  }

  // -------------------------------------------------------------------------------------- one JSON body

  #takeBody(body: Uint8Array, given: Given, startedMs: number): Answer | Promise<Answer> {
    this.#metrics.bodyBytes += body.byteLength;
    // An object that begins at once and is small is what nearly all requests bring.
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

  #takeEvent(event: ParsedEvent, given: Given, startedMs: number): Promise<Answer> {
    complete(event, given, null);
    const metrics = this.#metrics;
    metrics.ignoredFields += event.ignoredFields;
    return this.#o.journal.append([event], { source: "", receivedUs: this.#o.nowUs() }).then((results) => {
      const result = results[0];
      if (result === undefined)
        throw new Error("http: the journal answered an append of one event with nothing");
      if (result.duplicate) metrics.duplicateEvents++;
      else metrics.acceptedEvents++;
      metrics.ackLatency.observe(performance.now() - startedMs);
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
    if (this.#draining || this.#onDrain.size >= WAITING_MAX) return this.#o.pipeline.enrichedWithin(seq, 0);
    return new Promise((resolve, reject) => {
      const giveUp = (): void => resolve(null);
      this.#onDrain.add(giveUp);
      this.#o.pipeline
        .enrichedWithin(seq, WAIT_ENRICHED_MS)
        .then(resolve, reject)
        .finally(() => this.#onDrain.delete(giveUp));
    });
  }

  // --------------------------------------------------------------------- large bodies and JSON batches

  /** A body that is large or of unknown size: counted against the bound of all bodies in memory. */
  async #takeLarge(req: Request, given: Given, sizeBytes: number | null): Promise<Answer> {
    const startedMs = performance.now();
    const { jsonBodyBytesMax } = this.#o.events.LIMITS;
    if (sizeBytes !== null && sizeBytes > jsonBodyBytesMax)
      return tooLargeBody(`${sizeBytes}`, jsonBodyBytesMax);
    let heldBytes = 0;
    /** False where all bodies together would hold more than may be. */
    const hold = (bytes: number): boolean => {
      if (this.#largeBodiesBytes + bytes > LARGE_BODIES_BYTES_MAX) return false;
      this.#largeBodiesBytes += bytes;
      heldBytes += bytes;
      return true;
    };
    const busy: Refused = {
      code: "overloaded",
      detail: `other large bodies fill the ${LARGE_BODIES_BYTES_MAX >> 20} MiB that there are for them`,
      hint: "send large batches one after the other, or as application/x-ndjson",
      retryAfterSeconds: 1,
    };
    try {
      if (sizeBytes !== null) {
        if (!hold(sizeBytes)) return busy;
        return await this.#takeBody(await req.bytes(), given, startedMs);
      }
      const chunks: Uint8Array[] = [];
      for await (const chunk of req.body ?? []) {
        if (!hold(chunk.byteLength)) return busy;
        if (heldBytes > jsonBodyBytesMax)
          return tooLargeBody(`more than ${jsonBodyBytesMax}`, jsonBodyBytesMax);
        chunks.push(chunk);
      }
      return await this.#takeBody(
        chunks.length === 1 ? (chunks[0] as Uint8Array) : Buffer.concat(chunks),
        given,
        startedMs,
      );
    } finally {
      this.#largeBodiesBytes -= heldBytes;
    }
  }

  /** A batch, or an event too large to be parsed in one go. */
  async #takeInTurns(body: Uint8Array, given: Given, startedMs: number): Promise<Answer> {
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
        // Nothing after a group that was not taken can be taken, or the order would not be the sender's.
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
      append: (events) => this.#o.journal.append(events, { source: "", receivedUs: this.#o.nowUs() }),
      // What was received before a drain is still taken.
      admission: () => {
        const refusal = this.#o.pipeline.admission();
        return refusal?.code === "draining" ? null : refusal;
      },
      failed: (thrown) => {
        if (thrown instanceof GatewayError) return refusedBy(thrown);
        this.#o.log("error", `http: append: ${thrown instanceof Error ? thrown.stack : String(thrown)}`);
        return { code: "internal", detail: "the gateway made a mistake; its log says more" };
      },
    });
  }

  // --------------------------------------------------------------------------------------------- NDJSON

  async #takeLines(req: Request, given: Given): Promise<Answer> {
    const batch = this.#batch(given);
    if (req.body === null) return batch.end(EMPTY_BODY);
    const reader = req.body.getReader() as Pick<ReadableStreamDefaultReader<Uint8Array>, "read" | "cancel">;
    const cancel = (): void => void reader.cancel().catch(() => undefined);
    this.#onDrain.add(cancel);
    try {
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
        await this.#takeChunk(chunk, splitter, batch);
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
    // So that the whole lines of a client that goes away now are kept.
    await batch.flush();
  }

  /** null: taken at once. */
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
    return { code: "too_large", detail, hint: "send the rest in further requests", members: { accepted: 0 } };
  }
}

const EMPTY_BODY: Refused = {
  code: "malformed",
  detail: "the body is empty",
  hint: "send one JSON object a line",
};

function tooLargeBody(size: string, maxBytes: number): Refused {
  return {
    code: "too_large",
    detail: `${size} bytes; a JSON body has at most ${maxBytes} (64 MiB)`,
    hint: "send it as application/x-ndjson, one event a line",
    members: { accepted: 0 },
  };
}

/** Gives an event what its request says and it does not say itself. `index` is null for a single event. */
function complete(event: ParsedEvent, given: Given, index: number | null): void {
  event.type ??= given.type;
  const header = given.keys[0];
  if (event.key !== null || header === undefined) return;
  // The index is part of the kind, so that no value of the header can look like another's.
  event.key = `${header.kind}${index === null ? "" : `[${index}]`}:${header.value}`;
}

interface BatchOptions {
  readonly given: Given;
  readonly gate: Gate;
  readonly metrics: HttpMetrics;
  readonly errorsMax: number;
  readonly append: (events: readonly ParsedEvent[]) => ReturnType<IngestOptions["journal"]["append"]>;
  readonly admission: () => Refusal | null;
  readonly failed: (thrown: unknown) => Refused;
}

/** Appends events in groups, in their order, and counts what became of them. */
class Batch {
  /** Why nothing more is taken; what was accepted before stays so. */
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

  /** @param index of the element or line, from 0. Null: added at once; else wait before the next one. */
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
    this.#groupBytes += outcome.event.body.byteLength;
    return this.#group.length >= GROUP_EVENTS_MAX || this.#groupBytes >= GROUP_BYTES_MAX
      ? this.flush()
      : null;
  }

  /** Settles when the group is on its way to a commit, not when it is committed. */
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
    // The bound is the gate's; this only keeps the list of a long stream short.
    if (this.#underWay.length >= 64) {
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

  /** Waits for what is on its way, and tells. `refusal`: why the request cannot be taken further, if so. */
  async end(refusal: Refused | null = null): Promise<Answer> {
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
        ? "the batch holds no event"
        : `none of ${this.#rejected} could be taken; index ${first.index}: ${first.detail}`;
    return { code: "not_an_event", detail, members: counts };
  }
}

/** What a failure says of itself to a sender. */
export function refusedBy({ code, detail, hint }: GatewayError): Refused {
  return { code, detail, ...(hint === undefined ? {} : { hint }) };
}
