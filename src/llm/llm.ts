/** The language model behind an OpenAI-compatible endpoint. */
import { EndpointClient } from "./client.ts";
import type { LlmClient, LlmOptions } from "./contract.ts";

/** The endpoint behind `baseUrl`, which need not be there (yet). Asks nobody before `start`. */
export function openLlm(options: LlmOptions): LlmClient {
  return new EndpointClient(options);
}
