/** The language model behind an OpenAI-compatible endpoint, and the endpoint itself for who asks it for other things. */
import { EndpointClient } from "./client.ts";
import type { LlmClient, LlmOptions } from "./contract.ts";
import { type EndpointOptions, OpenAiEndpoint } from "./endpoint.ts";
import type { Endpoint } from "./endpoint-contract.ts";

/** The endpoint behind `baseUrl`, which need not be there (yet). Asks nobody before `start`. */
export function openLlm(options: LlmOptions): LlmClient {
  return new EndpointClient(options);
}

/** Asks nobody before its first call. */
export function openEndpoint(options: EndpointOptions): Endpoint {
  return new OpenAiEndpoint(options);
}
