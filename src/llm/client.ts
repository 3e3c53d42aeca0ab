/**
 * The talk with an OpenAI-compatible endpoint. It may be away, slow, broken or lying, and may come back at any time:
 * nothing of that is thrown at the asker, and nothing of it costs more than a bounded time, memory and number of calls.
 * Part of the brain.
 */
import OpenAI, { APIConnectionError, APIError } from "openai";
import * as v from "valibot";
import { GatewayError, messageOf } from "../errors.ts";
import { Breaker, Budget } from "./breaker.ts";
import type { AskRequest, LlmClient, LlmOptions, LlmRefusal, LlmState, StreamRequest } from "./contract.ts";
import { firstValid, saidOf, ThoughtFilter } from "./reply.ts";
import { correction, dataTurn, systemWithSchema } from "./wording.ts";

/** Calls at once; local servers have 1 to 4 places, and a thread has better things to do than to fill them. */
const CALLS_AT_ONCE = 2;
/** Askers that wait for their turn; those beyond are refused. */
const QUEUE_MAX = 64;
/** Bytes of an answer that are read; the longest thought is far shorter. */
const ANSWER_BYTES_MAX = 1024 * 1024;
const STREAM_BYTES_MAX = 8 * 1024 * 1024;
/** How often an endpoint that is away is looked for. */
const LOOK_MS = 5000;
const LOOK_TIMEOUT_MS = 3000;
/** Forms of one call that are tried when an endpoint refuses parts of it. */
const FORMS_MAX = 5;
/** After so many answers in a row that were useless with a schema and right without, it is left out. */
const SCHEMA_VAIN_MAX = 2;
const RATE_LIMIT_MS = 1000;
const LATENCIES_MAX = 64;
const SHOWN_CHARS_MAX = 2000;
/** What models of other kinds are called, where an endpoint lists models of all kinds. */
const NO_CHAT_MODEL = /embed|bge|\be5\b|gte|minilm|rerank|whisper|\btts\b|dall-e|moderation/i;

const ModelsSchema = v.object({ data: v.array(v.object({ id: v.string() })) });

type Role = "system" | "user" | "assistant";
interface Message {
  readonly role: Role;
  readonly content: string;
}

/** Parts of a call that some endpoint or model refuses. */
type Feature = "json_schema" | "temperature" | "max_tokens" | "system";

interface Failure {
  readonly reason: string;
  readonly detail: string;
  readonly retryable: boolean;
  /** How much it says against the endpoint; 0: nothing. */
  readonly weight: number;
  readonly retryAfterMs: number | null;
  readonly status: number | null;
}

type Outcome<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly failure: Failure };

function failure(reason: string, detail: string, more: Partial<Failure> = {}): Failure {
  return { reason, detail, retryable: true, weight: 1, retryAfterMs: null, status: null, ...more };
}

class TooLargeError extends Error {}

/** fetch with a bound on the body: the SDK would read all of it. */
function boundedFetch(base: typeof fetch): typeof fetch {
  const bounded = async (input: string | URL | Request, init?: RequestInit): Promise<Response> => {
    const response = await base(input, init);
    if (response.body === null) return response;
    const streams = response.headers.get("content-type")?.includes("event-stream") === true;
    const bytesMax = streams ? STREAM_BYTES_MAX : ANSWER_BYTES_MAX;
    if (isKnownToFit(response.headers, bytesMax)) return response;
    const tooLarge = new TooLargeError(`an answer of more than ${bytesMax} bytes`);
    const reader = response.body.getReader() as Pick<
      ReadableStreamDefaultReader<Uint8Array>,
      "read" | "cancel"
    >;
    let bytes = 0;
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        const { done, value } = await reader.read();
        if (done) return controller.close();
        bytes += value.byteLength;
        if (bytes <= bytesMax) return controller.enqueue(value);
        // Not awaited: a peer that goes on sending must not hold us.
        void reader.cancel(tooLarge).catch(() => undefined);
        throw tooLarge;
      },
      cancel: (reason) => reader.cancel(reason),
    });
    const { status, statusText, headers } = response;
    return new Response(body, { status, statusText, headers });
  };
  return bounded as typeof fetch;
}

/** HTTP ends a body at the length that it was said to have; what is compressed, or has no length, may be of any size. */
function isKnownToFit(headers: Headers, bytesMax: number): boolean {
  const length = headers.get("content-length") ?? "";
  if (headers.has("content-encoding") || headers.has("transfer-encoding")) return false;
  return /^\d{1,9}$/.test(length) && Number(length) <= bytesMax;
}

/** CALLS_AT_ONCE have a place; others wait in order, or are refused. */
class Places {
  #taken = 0;
  readonly #queue: (() => void)[] = [];

  get waiting(): number {
    return this.#queue.length;
  }

  /** False where too many wait, or the signal came first. */
  async enter(signal: AbortSignal): Promise<boolean> {
    if (this.#taken < CALLS_AT_ONCE) {
      this.#taken++;
      return true;
    }
    if (this.#queue.length >= QUEUE_MAX) return false;
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const enter = (): void => resolve(true);
    const leave = (): void => {
      const at = this.#queue.indexOf(enter);
      if (at < 0) return;
      this.#queue.splice(at, 1);
      resolve(false);
    };
    this.#queue.push(enter);
    signal.addEventListener("abort", leave, { once: true });
    const entered = await promise;
    signal.removeEventListener("abort", leave);
    return entered;
  }

  leave(): void {
    const next = this.#queue.shift();
    if (next === undefined) this.#taken--;
    else next();
  }
}

export class EndpointClient implements LlmClient {
  onChange: () => void = () => {};
  readonly #o: LlmOptions;
  readonly #sdk: OpenAI | null;
  readonly #breaker: Breaker;
  readonly #budget: Budget;
  readonly #places = new Places();
  readonly #stop = new AbortController();
  /** The first look at the endpoint has ended. */
  readonly #looked = Promise.withResolvers<void>();
  #lookedOnce = false;
  #lookTimer: Timer | null = null;
  /** Why there is nobody to ask; null: there is. */
  #away: string | null = null;
  #model: string | null;
  /** By model: what it was seen to refuse. */
  readonly #refused = new Map<string, Set<Feature>>();
  #schemaVain = 0;
  readonly #latenciesMs: number[] = [];
  readonly #failures = new Map<string, number>();
  #calls = 0;
  #answers = 0;
  #retries = 0;

  constructor(options: LlmOptions) {
    this.#o = options;
    this.#model = options.model;
    this.#breaker = new Breaker(() => performance.now(), options.times);
    this.#budget = new Budget({
      callsMax: options.budgetCalls,
      kept: options.kept.read(),
      nowUs: options.nowUs,
      write: options.kept.write,
    });
    this.#sdk = options.baseUrl === null ? null : this.#connect(options.baseUrl);
  }

  #connect(baseURL: string): OpenAI {
    const { apiKey } = this.#o;
    return new OpenAI({
      baseURL,
      apiKey: apiKey ?? "none",
      // Nothing of the environment's OPENAI_* settings is meant for this endpoint.
      adminAPIKey: null,
      organization: null,
      project: null,
      webhookSecret: null,
      // Retries, and when to stop them, are the breaker's and the asker's affair.
      maxRetries: 0,
      logLevel: "off",
      fetch: boundedFetch(this.#o.fetch ?? fetch),
      ...(apiKey === null ? { defaultHeaders: { authorization: null } } : {}),
    });
  }

  start(): void {
    if (this.#sdk === null) this.#lookedOnce = true;
    else void this.#look();
  }

  // --------------------------------------------------------------------------------------- state

  get state(): LlmState {
    const model = this.#model ?? "no model";
    if (this.#sdk === null) return { name: "off", model: null, detail: "--llm-base-url off" };
    if (!this.#lookedOnce)
      return { name: "unknown", model: null, detail: "the endpoint is being looked for" };
    if (this.#away !== null) return { name: "away", model: this.#model, detail: this.#away };
    if (this.#budget.left === 0) {
      const detail = `the ${this.#o.budgetCalls} calls of this day (UTC) are used up; raise --llm-budget, or wait for the next`;
      return { name: "budget", model, detail };
    }
    const { state, reason, opensInMs } = this.#breaker;
    if (state === "closed") return { name: "ok", model, detail: "" };
    const detail = `${model} failed: ${reason}`;
    if (state === "half-open")
      return { name: "half-open", model, detail: `${detail}; one call tries it again` };
    return {
      name: "open",
      model,
      detail: `${detail}; asked again in ${Math.ceil(opensInMs / 1000)} s, see what the endpoint's own log says`,
    };
  }

  get usable(): boolean {
    if (this.#sdk === null || this.#stop.signal.aborted) return false;
    return !this.#lookedOnce || this.#refusal() === null;
  }

  get counters(): Readonly<Record<string, number>> {
    const counters: Record<string, number> = {
      llm_calls_total: this.#calls,
      llm_answers_total: this.#answers,
      llm_corrections_total: this.#retries,
      llm_breaker_opened_total: this.#breaker.opened,
    };
    let failures = 0;
    for (const [reason, count] of this.#failures) {
      counters[`llm_failed_${reason}_total`] = count;
      failures += count;
    }
    counters.llm_failures_total = failures;
    return counters;
  }

  get gauges(): Readonly<Record<string, number>> {
    const sorted = this.#latenciesMs.toSorted((a, b) => a - b);
    const { left } = this.#budget;
    return {
      llm_latency_p50_ms: sorted[Math.floor(sorted.length / 2)] ?? 0,
      llm_latency_max_ms: sorted.at(-1) ?? 0,
      llm_queue_calls: this.#places.waiting,
      llm_breaker_open: this.#breaker.state === "closed" ? 0 : 1,
      ...(left === null ? {} : { llm_budget_left_calls: left }),
    };
  }

  /** Why nothing is asked now; null: it may be tried. */
  #refusal(): LlmRefusal | null {
    const { name } = this.state;
    if (name === "ok" || (name === "half-open" && this.#breaker.lets)) return null;
    return { ok: false, reason: name, retryable: name !== "off" };
  }

  // --------------------------------------------------------------------------- is there an endpoint

  /** Cheap: one list of models. Goes on until there is an endpoint, and again whenever the breaker may close. */
  async #look(): Promise<void> {
    if (this.#lookTimer !== null) clearTimeout(this.#lookTimer);
    this.#lookTimer = null;
    const before = this.#away;
    this.#away = await this.#whyAway();
    if (this.#stop.signal.aborted) return;
    const first = !this.#lookedOnce;
    this.#lookedOnce = true;
    this.#looked.resolve();
    if (first || before !== this.#away) {
      if (this.#away === null) this.#o.log("info", `llm: ${this.#model} at ${this.#shown()}`);
      else this.#o.log(first ? "info" : "warn", `llm: ${this.#away}`);
    }
    if (this.#away !== null) this.#lookIn(this.#o.times?.lookMs ?? LOOK_MS);
    // It was put off while this look was under way, or since it was planned.
    else if (this.#breaker.state === "open") this.#lookIn(this.#breaker.opensInMs + 1);
    this.onChange();
    // Whoever has a question goes first; without one, the gateway asks its own, so that it knows.
    if (this.#away === null && this.#breaker.state === "half-open" && this.#breaker.lets) void this.#try();
  }

  #lookIn(ms: number): void {
    if (this.#lookTimer !== null || this.#stop.signal.aborted) return;
    this.#lookTimer = setTimeout(() => void this.#look(), ms);
    this.#lookTimer.unref();
  }

  /** Why there is nobody to ask; null: there is, and #model says whom. */
  async #whyAway(): Promise<string | null> {
    const { model, baseUrl } = this.#o;
    const timeoutMs = this.#o.times?.lookTimeoutMs ?? LOOK_TIMEOUT_MS;
    const signal = AbortSignal.any([AbortSignal.timeout(timeoutMs), this.#stop.signal]);
    const hint = "start it and load a model, or pass --llm-base-url URL or off; events go on without it";
    let answer: unknown;
    try {
      answer = await this.#sdk?.get("/models", { timeout: timeoutMs, signal });
    } catch (error) {
      const { status, detail } = this.#failureOf(error, signal, timeoutMs);
      // Not every endpoint lists its models; a model that was named may be there all the same.
      if (status !== null && status < 500 && status !== 401 && status !== 403 && model !== null) return null;
      const key = status === 401 || status === 403 ? "see --llm-api-key" : hint;
      return `no answer from ${this.#shown()}: ${detail}; ${key}`;
    }
    const models = v.safeParse(ModelsSchema, answer);
    if (!models.success)
      return model !== null ? null : `${baseUrl === null ? "" : this.#shown()} lists no models; ${hint}`;
    this.#model = model ?? models.output.data.find(({ id }) => !NO_CHAT_MODEL.test(id))?.id ?? null;
    if (this.#model !== null) return null;
    return `${this.#shown()} lists no chat model; load one there, or pass --llm-model NAME`;
  }

  /** The address without what is secret in it. */
  #shown(): string {
    const { baseUrl } = this.#o;
    if (baseUrl === null || !URL.canParse(baseUrl)) return "(no valid address)";
    const url = new URL(baseUrl);
    return `${url.origin}${url.pathname}`;
  }

  /** The trial of a half-open breaker where nobody has a question. */
  async #try(): Promise<void> {
    await this.ask({ ...this.#o.trial, data: "Good morning!", maxTokens: 1024, deadlineMs: 30_000 });
  }

  // -------------------------------------------------------------------------------------- asking

  async ask<T>(request: AskRequest<T>): Promise<{ ok: true; value: T } | LlmRefusal> {
    using limit = this.#limitOf(request);
    const { signal } = limit;
    const refusal = await this.#enter(signal);
    if (refusal !== null) return refusal;
    const startedMs = performance.now();
    let outcome: Outcome<T>;
    try {
      outcome = await this.#converse(request, signal);
    } finally {
      this.#places.leave();
    }
    if (outcome.ok) {
      this.#succeeded(performance.now() - startedMs);
      return outcome;
    }
    this.#failed(outcome.failure);
    return { ok: false, reason: outcome.failure.reason, retryable: outcome.failure.retryable };
  }

  #limitOf({ deadlineMs, signal }: { deadlineMs: number; signal?: AbortSignal }): Limit {
    return new Limit(deadlineMs, signal === undefined ? [this.#stop.signal] : [this.#stop.signal, signal]);
  }

  /** Waits for a place; null: the caller has it and the breaker's leave, and gives both back. */
  async #enter(signal: AbortSignal): Promise<LlmRefusal | null> {
    const refused = (reason: string): LlmRefusal => ({ ok: false, reason, retryable: true });
    if (this.#lookedOnce) {
      const refusal = this.#refusal();
      if (refusal !== null) return refusal;
    }
    if (!(await this.#places.enter(signal))) return refused(signal.aborted ? "timeout" : "busy");
    let entered = false;
    try {
      if (!this.#lookedOnce) await Promise.race([this.#looked.promise, aborted(signal)]);
      const refusal = signal.aborted ? refused("timeout") : this.#refusal();
      if (refusal !== null) return refusal;
      entered = this.#breaker.enter();
      return entered ? null : refused("open");
    } finally {
      if (!entered) this.#places.leave();
    }
  }

  #succeeded(elapsedMs: number): void {
    this.#answers++;
    this.#latenciesMs.push(elapsedMs);
    if (this.#latenciesMs.length > LATENCIES_MAX) this.#latenciesMs.shift();
    if (this.#breaker.state !== "closed") this.#o.log("info", `llm: ${this.#model} answers again`);
    this.#breaker.succeeded();
    this.onChange();
  }

  #failed({ reason, detail, weight, retryAfterMs }: Failure): void {
    this.#failures.set(reason, (this.#failures.get(reason) ?? 0) + 1);
    this.#o.log("debug", `llm: ${reason}: ${detail}`);
    const opened = this.#breaker.opened;
    if (weight === 0) this.#breaker.released();
    else this.#breaker.failed(detail, { weight, retryAfterMs });
    if (this.#breaker.opened > opened)
      this.#o.log("warn", `llm: ${this.#model}: ${detail}; not asked for a while, events go on without it`);
    if (this.#breaker.state === "open") this.#lookIn(this.#breaker.opensInMs + 1);
    this.onChange();
  }

  /** The question, and once more with what was wrong with the answer. */
  async #converse<T>(request: AskRequest<T>, signal: AbortSignal): Promise<Outcome<T>> {
    let turns: Message[] = [{ role: "user", content: dataTurn(request.data) }];
    let useless = failure("invalid", "");
    let schema = true;
    for (let attempt = 0; attempt < 2; attempt++) {
      const reply = await this.#complete(request, turns, schema, signal);
      if (!reply.ok) return reply;
      const said = saidOf(reply.value.body);
      if (said === null) {
        return { ok: false, failure: failure("no_completion", "the answer is no chat completion") };
      }
      const found = firstValid(said.texts, request.schema);
      if (found.ok) {
        if (attempt === 1) this.#retries++;
        this.#noteSchema(reply.value.schema, attempt);
        return found;
      }
      // A server's grammar and a thinking model can clash: then the second attempt goes without. Where the grammar gave an
      // object it stays, since a small model runs on and on without.
      schema = found.json;
      const reason = said.cut ? "cut" : "invalid";
      useless = failure(reason, `its answer cannot be used: ${found.why}`, { retryable: false, weight: 0.6 });
      const content = said.content.trim().slice(0, SHOWN_CHARS_MAX);
      // Some templates refuse an empty turn, and two turns of one side in a row.
      if (content !== "") {
        turns = [
          turns[0] as Message,
          { role: "assistant", content },
          { role: "user", content: correction(found.why) },
        ];
      }
    }
    return { ok: false, failure: useless };
  }

  /** Where answers come right only without a schema, it is left out from then on. */
  #noteSchema(usedNow: boolean, attempt: number): void {
    if (usedNow) this.#schemaVain = 0;
    else if (attempt === 1) {
      this.#schemaVain++;
      if (this.#schemaVain >= SCHEMA_VAIN_MAX) this.#features().add("json_schema");
    }
  }

  #features(): Set<Feature> {
    const model = this.#model ?? "";
    const known = this.#refused.get(model) ?? new Set();
    this.#refused.set(model, known);
    return known;
  }

  /** One completion, in the fullest form that the model takes; what it refuses is remembered once it takes the rest. */
  async #complete(
    request: Omit<AskRequest<unknown>, "schema">,
    turns: readonly Message[],
    schema: boolean,
    signal: AbortSignal,
  ): Promise<Outcome<{ body: unknown; schema: boolean }>> {
    const known = this.#features();
    const without = new Set<Feature>(known);
    if (!schema) without.add("json_schema");
    const learned = new Set<Feature>();
    for (let form = 0; ; form++) {
      if (!this.#budget.take()) {
        return { ok: false, failure: failure("budget", "the day's calls are used up", { weight: 0 }) };
      }
      this.#calls++;
      try {
        const body = await this.#sdk?.chat.completions.create(this.#bodyOf(request, turns, without), {
          signal,
          timeout: request.deadlineMs,
        });
        for (const feature of learned) known.add(feature);
        return { ok: true, value: { body, schema: !without.has("json_schema") } };
      } catch (error) {
        const failed = this.#failureOf(error, signal, request.deadlineMs);
        const blamed = form < FORMS_MAX ? blame(failed, without) : null;
        if (blamed === null) return { ok: false, failure: failed };
        without.add(blamed);
        learned.add(blamed);
      }
    }
  }

  #bodyOf(
    request: Omit<AskRequest<unknown>, "schema">,
    turns: readonly Message[],
    without: ReadonlySet<Feature>,
  ) {
    const { kind, system, jsonSchema, maxTokens } = request;
    const bySchema = !without.has("json_schema");
    const rules = bySchema ? system : systemWithSchema(system, jsonSchema);
    return {
      model: this.#model ?? "",
      messages: messagesOf(rules, turns, without),
      ...tokensOf(maxTokens, without),
      ...(without.has("temperature") ? {} : { temperature: 0 }),
      ...(bySchema
        ? {
            response_format: {
              type: "json_schema" as const,
              json_schema: { name: kind, strict: true, schema: jsonSchema as Record<string, unknown> },
            },
          }
        : {}),
      stream: false as const,
    };
  }

  /** What failed, in words without the key, which some endpoints repeat. */
  #failureOf(error: unknown, signal: AbortSignal, deadlineMs: number): Failure {
    const failed = this.#reasonOf(error, signal, deadlineMs);
    const { apiKey } = this.#o;
    return apiKey === null ? failed : { ...failed, detail: failed.detail.replaceAll(apiKey, "***") };
  }

  #reasonOf(error: unknown, signal: AbortSignal, deadlineMs: number): Failure {
    if (this.#stop.signal.aborted) return failure("stopped", "the gateway stops", { weight: 0 });
    const tooLarge = causeOf(error, TooLargeError);
    if (tooLarge !== null) return failure("too_large", tooLarge.message);
    if (signal.aborted) {
      const late = (signal.reason as { name?: unknown } | undefined)?.name === "TimeoutError";
      return late
        ? failure("timeout", `no answer within ${deadlineMs / 1000} s`)
        : failure("cancelled", "its asker went away", { weight: 0 });
    }
    if (error instanceof SyntaxError) return failure("no_completion", "the answer is no JSON");
    if (!(error instanceof APIError) || error.status === undefined) {
      const reason = error instanceof APIConnectionError && error.cause !== undefined ? error.cause : error;
      return failure("unreachable", oneLine(messageOf(reason)));
    }
    return statusFailure(error as APIError<number, Headers>);
  }

  // -------------------------------------------------------------------------------------- stream

  async *stream(request: StreamRequest): AsyncIterable<string> {
    using limit = this.#limitOf(request);
    const { signal } = limit;
    const refusal = await this.#enter(signal);
    if (refusal !== null) throw this.#unavailable(refusal.reason);
    const startedMs = performance.now();
    let failed: Failure | null = failure("cancelled", "its reader went away", { weight: 0 });
    try {
      yield* this.#pieces(request, signal);
      failed = null;
    } catch (error) {
      failed =
        error instanceof StreamFailure ? error.failure : this.#failureOf(error, signal, request.deadlineMs);
      throw this.#unavailable(failed.detail, error);
    } finally {
      this.#places.leave();
      if (failed === null) this.#succeeded(performance.now() - startedMs);
      else this.#failed(failed);
    }
  }

  async *#pieces(request: StreamRequest, signal: AbortSignal): AsyncIterable<string> {
    const { messages, maxTokens, deadlineMs } = request;
    if (!this.#budget.take())
      throw new StreamFailure(failure("budget", "the day's calls are used up", { weight: 0 }));
    this.#calls++;
    const without = this.#features();
    const [first, ...rest] = messages;
    const system = first?.role === "system" ? first.content : null;
    const stream = await this.#sdk?.chat.completions.create(
      {
        model: this.#model ?? "",
        messages: system === null ? [...messages] : messagesOf(system, rest, without),
        ...tokensOf(maxTokens, without),
        stream: true,
      },
      { signal, timeout: deadlineMs },
    );
    const thoughts = new ThoughtFilter();
    let chunks = 0;
    for await (const chunk of stream ?? []) {
      chunks++;
      const piece: unknown = chunk.choices?.[0]?.delta?.content;
      const shown = typeof piece === "string" ? thoughts.push(piece) : "";
      if (shown !== "") yield shown;
    }
    // The SDK ends a stream that was cut off by its signal as if it were whole.
    signal.throwIfAborted();
    if (chunks === 0) throw new StreamFailure(failure("no_completion", "the answer is no stream of a chat"));
    const last = thoughts.end();
    if (last !== "") yield last;
  }

  #unavailable(detail: string, cause?: unknown): GatewayError {
    return new GatewayError({
      code: "llm_unavailable",
      operation: "llm: ask",
      object: `${this.#model ?? "(no model)"} at ${this.#shown()}`,
      detail,
      hint: "see /ready for what to do, and try again",
      cause,
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    if (this.#lookTimer !== null) clearTimeout(this.#lookTimer);
    this.#looked.resolve();
  }
}

/**
 * A deadline and others' signals as one signal, until it is disposed of. AbortSignal.any and AbortSignal.timeout would
 * hold on to every call until its deadline: thousands, where answers come at once.
 */
class Limit implements Disposable {
  readonly signal: AbortSignal;
  readonly #others: readonly AbortSignal[];
  readonly #timer: Timer;
  readonly #abort: () => void;

  constructor(deadlineMs: number, others: readonly AbortSignal[]) {
    const controller = new AbortController();
    this.signal = controller.signal;
    this.#others = others;
    this.#abort = () => controller.abort(others.find(({ aborted }) => aborted)?.reason);
    this.#timer = setTimeout(() => {
      controller.abort(new DOMException("the deadline has passed", "TimeoutError"));
    }, deadlineMs);
    for (const other of others) other.addEventListener("abort", this.#abort, { once: true });
    if (others.some(({ aborted }) => aborted)) this.#abort();
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    for (const other of this.#others) other.removeEventListener("abort", this.#abort);
  }
}

class StreamFailure extends Error {
  readonly failure: Failure;

  constructor(failed: Failure) {
    super(failed.detail);
    this.failure = failed;
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((done) => signal.addEventListener("abort", () => done(), { once: true }));
}

/** The rules as a turn of their own, or, for templates that know no such role, before the user's first. */
function messagesOf(system: string, turns: readonly Message[], without: ReadonlySet<Feature>): Message[] {
  const [first, ...rest] = turns;
  if (first === undefined || !without.has("system")) return [{ role: "system", content: system }, ...turns];
  return [{ role: first.role, content: `${system}\n\n${first.content}` }, ...rest];
}

function tokensOf(maxTokens: number, without: ReadonlySet<Feature>) {
  return without.has("max_tokens") ? { max_completion_tokens: maxTokens } : { max_tokens: maxTokens };
}

const BLAMES: readonly (readonly [Feature, RegExp])[] = [
  ["max_tokens", /max_(completion_)?tokens/i],
  ["temperature", /temperature/i],
  ["json_schema", /response_format|json_schema|json_object|grammar|schema|structured/i],
  ["system", /system (role|message|prompt)|role.{0,20}system|roles must alternate/i],
];

/** What to leave out after a refusal: what its words name, else the schema; null: it is not about the form. */
function blame({ status, detail }: Failure, without: ReadonlySet<Feature>): Feature | null {
  if (status === null || ![400, 415, 422, 500, 501].includes(status)) return null;
  const named = BLAMES.find(([feature, words]) => !without.has(feature) && words.test(detail))?.[0];
  if (named !== undefined) return named;
  return status < 500 && !without.has("json_schema") ? "json_schema" : null;
}

function statusFailure(error: APIError<number, Headers>): Failure {
  const { status } = error;
  const detail = oneLine(`the endpoint answered ${error.message}`);
  const retryAfterMs = retryAfterOf(error.headers?.get("retry-after") ?? null);
  if (status === 429) {
    return failure("rate_limited", detail, { status, retryAfterMs: retryAfterMs ?? RATE_LIMIT_MS });
  }
  if (status >= 500) return failure("server_error", detail, { status, retryAfterMs });
  // Neither a key nor a model mends itself within a few calls.
  if (status === 401 || status === 403) {
    return failure("unauthorized", `${detail}; see --llm-api-key`, { status, weight: 3 });
  }
  if (status === 404) return failure("not_found", `${detail}; see --llm-model`, { status, weight: 1.5 });
  return failure("refused", detail, { status, retryable: false, weight: 0.6 });
}

/** Seconds or a date (RFC 9110). */
function retryAfterOf(header: string | null): number | null {
  if (header === null || header.trim() === "") return null;
  const ms = /^\s*\d+(\.\d+)?\s*$/.test(header) ? 1000 * Number(header) : Date.parse(header) - Date.now();
  return Number.isFinite(ms) ? Math.max(0, ms) : null;
}

function causeOf<E extends Error>(error: unknown, kind: new (message: string) => E): E | null {
  let cause = error;
  for (let depth = 0; depth < 5 && cause instanceof Error; depth++, cause = cause.cause) {
    if (cause instanceof kind) return cause;
  }
  return null;
}

function oneLine(text: string): string {
  return text.replace(/\s+/g, " ").slice(0, 300);
}
