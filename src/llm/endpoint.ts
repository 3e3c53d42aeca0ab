/** Sends requests to an OpenAI-compatible endpoint and tells why they fail. The only module that imports the SDK. */
import OpenAI, { APIConnectionError, APIConnectionTimeoutError, APIError } from "openai";
import { type Clock, systemClock } from "../clock.ts";
import { messageOf } from "../errors.ts";
import { TooLargeError } from "./bounded-fetch.ts";
import type { Endpoint, EndpointFailure, EndpointReply, Limit, ListedModel } from "./endpoint-contract.ts";
import { Deadline, isPast } from "./limit.ts";
import { listedModels } from "./listed-models.ts";
import { retryAfterMs } from "./retry-after.ts";

const DETAIL_CHARS_MAX = 300;

export interface EndpointOptions {
  readonly baseUrl: string;
  readonly apiKey: string | null;
  readonly fetch?: typeof fetch;
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

export class OpenAiEndpoint implements Endpoint {
  readonly address: string;
  readonly #sdk: OpenAI;
  readonly #apiKey: string | null;
  readonly #clock: Clock;

  constructor({ baseUrl, apiKey, fetch, clock = systemClock }: EndpointOptions) {
    this.address = addressOf(baseUrl);
    this.#apiKey = apiKey;
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
      ...(apiKey === null ? { defaultHeaders: { authorization: null } } : {}),
      ...(fetch === undefined ? {} : { fetch }),
    });
  }

  limit(ms: number, signals: readonly AbortSignal[]): Limit {
    return new Deadline(this.#clock, ms, signals);
  }

  async listModels(limit: Limit): Promise<EndpointReply<readonly ListedModel[] | null>> {
    const reply = await this.#reply(limit, (options) => this.#sdk.get("/models", options));
    return reply.ok ? { ok: true, value: listedModels(reply.value) } : reply;
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
   * Yields the chunks of a streamed completion, unchecked.
   * @throws EndpointError before the first chunk or after any of them.
   */
  async *stream(body: ChatBody, limit: Limit): AsyncIterable<OpenAI.ChatCompletionChunk> {
    try {
      const streamed = { ...body, stream: true } as const;
      yield* await this.#sdk.chat.completions.create(streamed, optionsOf(limit));
      // The SDK ends a stream that its signal has cut off as if it were complete.
      limit.signal.throwIfAborted();
    } catch (error) {
      throw new EndpointError(this.#failureOf(error, limit));
    }
  }

  async #reply<T>(
    limit: Limit,
    call: (options: { signal: AbortSignal; timeout: number }) => Promise<T>,
  ): Promise<EndpointReply<T>> {
    try {
      return { ok: true, value: await call(optionsOf(limit)) };
    } catch (error) {
      return { ok: false, failure: this.#failureOf(error, limit) };
    }
  }

  #failureOf(cause: unknown, limit: Limit): EndpointFailure {
    const response =
      cause instanceof APIError ? (cause as APIError<number | undefined, Headers | undefined>) : null;
    const header = response?.headers?.get("retry-after") ?? null;
    const { kind, detail } = reasonOf(cause, limit);
    return {
      kind,
      detail: this.#apiKey === null ? detail : detail.replaceAll(this.#apiKey, "***"),
      status: response?.status ?? null,
      retryAfterMs: retryAfterMs(header, this.#clock.nowUs() / 1000),
      cause,
    };
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
  if (error instanceof SyntaxError) return { kind: "not_json", detail: "the reply is not JSON" };
  if (error instanceof APIError && error.status !== undefined) {
    return { kind: "status", detail: oneLine(`the endpoint responded ${error.message}`) };
  }
  const reason = error instanceof APIConnectionError && error.cause !== undefined ? error.cause : error;
  return { kind: "unreachable", detail: oneLine(messageOf(reason)) };
}

/** The SDK's timer starts after the limit's, but counts whole milliseconds and so may end a moment earlier. */
function isSdkTimeout(error: unknown): boolean {
  if (!(error instanceof APIConnectionTimeoutError)) return false;
  return error.cause === undefined || (error.cause as { name?: unknown }).name === "AbortError";
}

/** The address without the parts that may hold secrets. */
function addressOf(baseUrl: string): string {
  if (!URL.canParse(baseUrl)) return "(no valid address)";
  const { origin, pathname } = new URL(baseUrl);
  return `${origin}${pathname}`;
}

function causeOf<E extends Error>(error: unknown, kind: new (message: string) => E): E | null {
  let cause = error;
  for (let depth = 0; depth < 5 && cause instanceof Error; depth++, cause = cause.cause) {
    if (cause instanceof kind) return cause;
  }
  return null;
}

function oneLine(text: string): string {
  return text.replace(/\s+/g, " ").slice(0, DETAIL_CHARS_MAX);
}
