/** An OpenAI-compatible endpoint as its users see it: the language model's client and the embedder. */

/** Combines a deadline and other signals into one signal, until it is disposed of. */
export interface Limit extends Disposable {
  /** Aborts with a `TimeoutError` at the deadline, or earlier with the reason of the first signal that aborts. */
  readonly signal: AbortSignal;
  /** From the start to the deadline. */
  readonly ms: number;
}

/** Why a request returned no readable reply. */
export interface EndpointFailure {
  /** status: the response has an error status. cancelled: another signal aborted before the deadline. */
  readonly kind: "timeout" | "cancelled" | "too_large" | "not_json" | "unreachable" | "status";
  /** One line, without secrets: some endpoints repeat the key in their errors. */
  readonly detail: string;
  /** Null if there was no response, or one that told an error without a code and a success by its status. */
  readonly status: number | null;
  /** From the Retry-After header; null if it is absent or unreadable. */
  readonly retryAfterMs: number | null;
  readonly cause: unknown;
}

export type EndpointReply<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly failure: EndpointFailure };

/** A model that the endpoint lists, and its kind as far as its name shows it. */
export interface ListedModel {
  readonly id: string;
  readonly chats: boolean;
  readonly embeds: boolean;
}

/** The endpoint may be away: a failed request is a value. Each call sends one request and never retries. */
export interface Endpoint {
  /** Masks the key and the secrets of the address in a text of the endpoint. */
  readonly scrub: (text: string) => string;
  /** Without user, password, query and fragment, for messages. */
  readonly address: string;
  /** Starts a deadline. */
  limit(ms: number, signals: readonly AbortSignal[]): Limit;
  /** The value is null if the reply is not a list of models. */
  listModels(limit: Limit): Promise<EndpointReply<readonly ListedModel[] | null>>;
  /** Returns the reply of /embeddings, unchecked. */
  embed(call: { model: string; input: string[] }, limit: Limit): Promise<EndpointReply<unknown>>;
}
