/** An OpenAI-compatible endpoint as its users see it: the client of the language model, and the embedder. */

/** A deadline and signals of others as one signal, until it is disposed of. */
export interface Limit extends Disposable {
  /** Aborted with a `TimeoutError` at the deadline, else with the reason of the signal that came first. */
  readonly signal: AbortSignal;
  /** From its beginning to the deadline. */
  readonly ms: number;
}

/** Why a request brought no reply that can be read. */
export interface EndpointFailure {
  /** status: a response with an error status. cancelled: a signal other than the deadline's came first. */
  readonly kind: "timeout" | "cancelled" | "too_large" | "not_json" | "unreachable" | "status";
  /** One line without the API key, which some endpoints repeat. */
  readonly detail: string;
  /** Null if there was no response. */
  readonly status: number | null;
  /** What the response's Retry-After says; null if it has none that can be read. */
  readonly retryAfterMs: number | null;
  readonly cause: unknown;
}

export type EndpointReply<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly failure: EndpointFailure };

/** A model that the endpoint lists, and what its name says of its kind. */
export interface ListedModel {
  readonly id: string;
  readonly chats: boolean;
  readonly embeds: boolean;
}

/** It need not be there: a request that fails is a value. One call is one request; nothing is tried again. */
export interface Endpoint {
  /** Without user, password, query and fragment, for messages. */
  readonly address: string;
  /** Begins a deadline. */
  limit(ms: number, signals: readonly AbortSignal[]): Limit;
  /** Null if the reply is no list of models. */
  listModels(limit: Limit): Promise<EndpointReply<readonly ListedModel[] | null>>;
  /** The reply to a call of /embeddings, unchecked. */
  embed(call: { model: string; input: string[] }, limit: Limit): Promise<EndpointReply<unknown>>;
}
