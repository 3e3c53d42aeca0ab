/** Requests to an OpenAI-compatible endpoint, and why they fail. The only module that imports the SDK. */
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
  /** For deadlines and for Retry-After. The SDK's own timers, of the same length as the deadlines, stay the system's. */
  readonly clock?: Clock;
}

export type ChatBody = Omit<OpenAI.ChatCompletionCreateParamsNonStreaming, "stream">;

/** Thrown by a stream that breaks off. */
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
      // Nothing of the environment's OPENAI_* settings is meant for this endpoint.
      adminAPIKey: null,
      organization: null,
      project: null,
      webhookSecret: null,
      // Retries, and when to stop them, are the caller's affair.
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
    // Without encoding_format the SDK asks for base64, which some servers ignore or get wrong.
    const body = { ...call, encoding_format: "float" } as const;
    return this.#reply(limit, (options) => this.#sdk.embeddings.create(body, options));
  }

  /** The reply to a call of /chat/completions, unchecked. */
  complete(body: ChatBody, limit: Limit): Promise<EndpointReply<unknown>> {
    const whole = { ...body, stream: false } as const;
    return this.#reply(limit, (options) => this.#sdk.chat.completions.create(whole, options));
  }

  /**
   * The chunks of a streamed completion, unchecked.
   * @throws EndpointError at the first chunk or at any later one.
   */
  async *stream(body: ChatBody, limit: Limit): AsyncIterable<OpenAI.ChatCompletionChunk> {
    try {
      const streamed = { ...body, stream: true } as const;
      yield* await this.#sdk.chat.completions.create(streamed, optionsOf(limit));
      // The SDK ends a stream that was cut off by its signal as if it were whole.
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
  // The SDK's own timeout ends when the headers of a stream are there; the signal holds for the body, too.
  return { signal, timeout: ms };
}

function reasonOf(error: unknown, limit: Limit): Pick<EndpointFailure, "kind" | "detail"> {
  const tooLarge = causeOf(error, TooLargeError);
  if (tooLarge !== null) return { kind: "too_large", detail: tooLarge.message };
  if (isPast(limit) || isSdkTimeout(error)) {
    return { kind: "timeout", detail: `no answer within ${limit.ms / 1000} s` };
  }
  if (limit.signal.aborted) return { kind: "cancelled", detail: "the call was cancelled" };
  if (error instanceof SyntaxError) return { kind: "not_json", detail: "the answer is no JSON" };
  if (error instanceof APIError && error.status !== undefined) {
    return { kind: "status", detail: oneLine(`the endpoint answered ${error.message}`) };
  }
  const reason = error instanceof APIConnectionError && error.cause !== undefined ? error.cause : error;
  return { kind: "unreachable", detail: oneLine(messageOf(reason)) };
}

/** The SDK's timer began after the limit's but counts whole milliseconds, so that it may end a moment before. */
function isSdkTimeout(error: unknown): boolean {
  if (!(error instanceof APIConnectionTimeoutError)) return false;
  return error.cause === undefined || (error.cause as { name?: unknown }).name === "AbortError";
}

/** An address without what is secret in it. */
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
