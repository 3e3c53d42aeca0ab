/** Sends requests to an OpenAI-compatible endpoint and tells why they fail. The only module that imports the SDK. */
import OpenAI, { APIConnectionError, APIConnectionTimeoutError, APIError, type APIPromise } from "openai";
import { type Clock, systemClock } from "../clock.ts";
import { messageOf } from "../errors.ts";
import { type Scrub, scrubber, shownUrl, urlSecrets } from "../secrets.ts";
import { boundedFetch, TooLargeError } from "./bounded-fetch.ts";
import type { Endpoint, EndpointFailure, EndpointReply, Limit, ListedModel } from "./endpoint-contract.ts";
import { Deadline, isPast } from "./limit.ts";
import { listedModels } from "./listed-models.ts";
import { bytesOf, replyOf, streamedValues, textOf } from "./reply-body.ts";
import { retryAfterMs } from "./retry-after.ts";
import { type ToldError, toldError, wordsOf } from "./told-error.ts";

const DETAIL_CHARS_MAX = 300;
/** Characters of an endpoint's text that are looked at for its words. */
const WORDS_CHARS_MAX = 8192;
/** Characters that are shown of a reply that cannot be read. */
const SHOWN_CHARS_MAX = 80;

export interface EndpointOptions {
  readonly baseUrl: string;
  readonly apiKey: string | null;
  readonly fetch?: typeof fetch;
  /** Bytes of one reply that are read; null: as many as a reply of a language model may have. */
  readonly replyBytesMax?: number | null;
  /** For deadlines and dates in Retry-After. The SDK also has timers of its own, as long as the deadlines, on the system clock. */
  readonly clock?: Clock;
}

export type ChatBody = Omit<OpenAI.ChatCompletionCreateParamsNonStreaming, "stream">;

/** Thrown by a stream that fails. */
export class EndpointError extends Error {
  readonly failure: EndpointFailure;

  constructor(failure: EndpointFailure) {
    super(failure.detail, { cause: failure.cause });
    this.failure = failure;
  }
}

/** A reply that says success by its status and failure by its text. */
class ToldFailure extends Error {
  readonly told: ToldError;

  constructor(told: ToldError) {
    super(told.words);
    this.told = told;
  }
}

/** A reply whose body cannot be read as JSON. */
class NotJsonError extends Error {}

export class OpenAiEndpoint implements Endpoint {
  readonly address: string;
  readonly scrub: Scrub;
  readonly #sdk: OpenAI;
  readonly #clock: Clock;

  constructor({ baseUrl, apiKey, fetch: given, replyBytesMax = null, clock = systemClock }: EndpointOptions) {
    this.address = shownUrl(baseUrl);
    this.scrub = scrubber([apiKey, ...urlSecrets(baseUrl)]);
    this.#clock = clock;
    this.#sdk = new OpenAI({
      baseURL: baseUrl,
      apiKey: apiKey ?? "none",
      // The OPENAI_* variables of the environment are not meant for this endpoint.
      adminAPIKey: null,
      organization: null,
      project: null,
      webhookSecret: null,
      // The caller decides about retries.
      maxRetries: 0,
      logLevel: "off",
      fetch: boundedFetch(given ?? fetch, replyBytesMax),
      ...(apiKey === null ? { defaultHeaders: { authorization: null } } : {}),
    });
  }

  limit(ms: number, signals: readonly AbortSignal[]): Limit {
    return new Deadline(this.#clock, ms, signals);
  }

  async listModels(limit: Limit): Promise<EndpointReply<readonly ListedModel[] | null>> {
    const reply = await this.#reply(limit, (options) => this.#sdk.get("/models", options));
    if (reply.ok) return { ok: true, value: listedModels(reply.value) };
    return reply.failure.kind === "not_json" ? { ok: true, value: null } : reply;
  }

  embed(call: { model: string; input: string[] }, limit: Limit): Promise<EndpointReply<unknown>> {
    // Without encoding_format the SDK asks for base64, which some servers ignore or encode wrongly.
    const body = { ...call, encoding_format: "float" } as const;
    return this.#reply(limit, (options) => this.#sdk.embeddings.create(body, options));
  }

  /** Returns the reply of /chat/completions, unchecked. */
  complete(body: ChatBody, limit: Limit): Promise<EndpointReply<unknown>> {
    const whole = { ...body, stream: false } as const;
    return this.#reply(limit, (options) => this.#sdk.chat.completions.create(whole, options));
  }

  /**
   * Yields the chunks of a streamed completion, unchecked. A completion that comes as a whole is one chunk.
   * @throws EndpointError before the first chunk or after any of them.
   */
  async *stream(body: ChatBody, limit: Limit): AsyncIterable<unknown> {
    try {
      const streamed = { ...body, stream: true } as const;
      const response = await this.#sdk.chat.completions.create(streamed, optionsOf(limit)).asResponse();
      if (response.body === null) return;
      for await (const chunk of streamedValues(bytesOf(response.body, limit.signal))) {
        const told = toldError(chunk);
        if (told !== null) throw new ToldFailure(told);
        yield chunk;
      }
    } catch (error) {
      throw new EndpointError(this.#failureOf(error, limit));
    }
  }

  /** Reads the body itself, because the SDK believes the content type, which some servers get wrong. */
  async #reply(
    limit: Limit,
    call: (options: { signal: AbortSignal; timeout: number }) => APIPromise<unknown>,
  ): Promise<EndpointReply<unknown>> {
    try {
      const response = await call(optionsOf(limit)).asResponse();
      const value = jsonOf(await textOf(response, limit.signal));
      const told = toldError(value);
      if (told !== null) throw new ToldFailure(told);
      return { ok: true, value };
    } catch (error) {
      return { ok: false, failure: this.#failureOf(error, limit) };
    }
  }

  #failureOf(cause: unknown, limit: Limit): EndpointFailure {
    const response =
      cause instanceof APIError ? (cause as APIError<number | undefined, Headers | undefined>) : null;
    const header = response?.headers?.get("retry-after") ?? null;
    const { kind, detail } = reasonOf(cause, limit);
    const status = cause instanceof ToldFailure ? cause.told.status : (response?.status ?? null);
    const advice = status === 404 && !/\/v\d/.test(this.address) ? "; does the address lack /v1?" : "";
    return {
      kind,
      detail: `${oneLine(this.scrub(detail.slice(0, WORDS_CHARS_MAX)))}${advice}`,
      status,
      retryAfterMs: retryAfterMs(header, this.#clock.nowUs() / 1000),
      cause,
    };
  }
}

/** @throws NotJsonError */
function jsonOf(text: string): unknown {
  try {
    return replyOf(text);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    const shown = text.trim().slice(0, SHOWN_CHARS_MAX);
    const what = shown === "" ? "the reply is empty" : `the reply is not JSON: ${JSON.stringify(shown)}`;
    throw new NotJsonError(what, { cause: error });
  }
}

function optionsOf({ signal, ms }: Limit) {
  // The SDK's timeout covers a stream only up to its headers; the signal also covers its body.
  return { signal, timeout: Math.ceil(ms) };
}

function reasonOf(error: unknown, limit: Limit): Pick<EndpointFailure, "kind" | "detail"> {
  const tooLarge = causeOf(error, TooLargeError);
  if (tooLarge !== null) return { kind: "too_large", detail: tooLarge.message };
  if (isPast(limit) || isSdkTimeout(error)) {
    return { kind: "timeout", detail: `no reply within ${limit.ms / 1000} s` };
  }
  if (limit.signal.aborted) return { kind: "cancelled", detail: "the call was cancelled" };
  if (error instanceof NotJsonError) return { kind: "not_json", detail: error.message };
  if (error instanceof ToldFailure) {
    return { kind: "status", detail: `the endpoint responded with an error: ${error.message}` };
  }
  if (error instanceof APIError && error.status !== undefined) {
    return { kind: "status", detail: `the endpoint responded ${statusWords(error)}` };
  }
  const reason = error instanceof APIConnectionError && error.cause !== undefined ? error.cause : error;
  return { kind: "unreachable", detail: messageOf(reason) };
}

/** The status of a response and the endpoint's own words, of which the SDK finds only some. */
function statusWords({ status, error, message }: APIError): string {
  const text = message.replace(/^\d{3} /, "");
  const words = error === undefined ? wordsIn(text) : wordsOf(Object(error));
  return `${status} ${words ?? (typeof error === "string" ? error : text)}`;
}

function wordsIn(text: string): string | null {
  try {
    return toldError(JSON.parse(text))?.words ?? null;
  } catch {
    return null;
  }
}

/** The SDK's timer starts after the limit's, but counts whole milliseconds and so may end a moment earlier. */
function isSdkTimeout(error: unknown): boolean {
  if (!(error instanceof APIConnectionTimeoutError)) return false;
  return error.cause === undefined || (error.cause as { name?: unknown }).name === "AbortError";
}

function causeOf<E extends Error>(error: unknown, kind: new (message: string) => E): E | null {
  let cause = error;
  for (let depth = 0; depth < 5 && cause instanceof Error; depth++, cause = cause.cause) {
    if (cause instanceof kind) return cause;
  }
  return null;
}

function oneLine(text: string): string {
  return text.replace(/[\s\p{Cc}]+/gu, " ").slice(0, DETAIL_CHARS_MAX);
}
