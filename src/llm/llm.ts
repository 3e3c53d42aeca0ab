/** Opens the language model behind an OpenAI-compatible endpoint, or the endpoint itself for other uses, and the fetch for both. */
import { EndpointClient } from "./client.ts";
import type { LlmClient, LlmOptions } from "./contract.ts";
import { type EndpointOptions, OpenAiEndpoint } from "./endpoint.ts";
import type { Endpoint } from "./endpoint-contract.ts";
import { type GuardedFetchOptions, guardedFetch } from "./guarded-fetch.ts";

/** The endpoint need not be reachable yet. Sends nothing before `start`. */
export function openLlm(options: LlmOptions): LlmClient {
  return new EndpointClient(options);
}

/** The endpoint need not be reachable yet. Sends nothing before the first call. */
export function openEndpoint(options: EndpointOptions): Endpoint {
  return new OpenAiEndpoint(options);
}

/** The fetch of every request that leaves the gateway: see guarded-fetch.ts. */
export function openFetch(options: GuardedFetchOptions): typeof fetch {
  return guardedFetch(options);
}
