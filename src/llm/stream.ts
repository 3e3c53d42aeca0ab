/** Asks the model for text that is shown while it arrives. */
import type { AskContext } from "./completion.ts";
import type { StreamRequest } from "./contract.ts";
import { EndpointError } from "./endpoint.ts";
import type { Limit } from "./endpoint-contract.ts";
import { type Failure, failure, NO_BUDGET } from "./failure.ts";
import { messagesOf, tokensOf } from "./forms.ts";
import { ThoughtFilter } from "./reply.ts";
import { pieceOf } from "./reply-body.ts";

export class StreamError extends Error {
  readonly failure: Failure;

  constructor(failed: Failure) {
    super(failed.detail);
    this.failure = failed;
  }
}

/**
 * Yields the text in pieces as they arrive, without the model's thoughts.
 * @throws StreamError before the first piece or after any of them.
 */
export async function* pieces(
  { endpoint, model, forms, budget, tally, judge }: AskContext,
  { messages, maxTokens }: StreamRequest,
  limit: Limit,
): AsyncIterable<string> {
  if (!budget.take()) throw new StreamError(NO_BUDGET);
  tally.calls++;
  const without = forms.refusedBy(model);
  const [first, ...rest] = messages;
  const system = first?.role === "system" ? first.content : null;
  const body = {
    model,
    messages: system === null ? [...messages] : messagesOf(system, rest, without),
    ...tokensOf(maxTokens, without),
  };
  const thoughts = new ThoughtFilter();
  let chunks = 0;
  try {
    for await (const chunk of endpoint.stream(body, limit)) {
      const piece = pieceOf(chunk);
      if (piece === null) continue;
      chunks++;
      const shown = thoughts.push(piece);
      if (shown !== "") yield shown;
    }
  } catch (error) {
    throw error instanceof EndpointError ? new StreamError(judge(error.failure)) : error;
  }
  if (chunks === 0) throw new StreamError(failure("no_completion", "the reply is not a chat stream"));
  const last = thoughts.end();
  if (last !== "") yield last;
}
