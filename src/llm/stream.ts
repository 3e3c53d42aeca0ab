/** Asks the model for text that is shown while it arrives. */
import type { AskContext } from "./completion.ts";
import type { StreamRequest } from "./contract.ts";
import { EndpointError } from "./endpoint.ts";
import type { Limit } from "./endpoint-contract.ts";
import { type Failure, failure, NO_BUDGET } from "./failure.ts";
import { Form } from "./form.ts";
import { type Feature, type Message, messagesOf } from "./forms.ts";
import { isCut, pieceOf } from "./reply-body.ts";
import { Thoughts } from "./thoughts.ts";

export class StreamError extends Error {
  readonly failure: Failure;

  constructor(failed: Failure) {
    super(failed.detail);
    this.failure = failed;
  }
}

/**
 * Yields the text without the model's thoughts, in pieces as they arrive. If `whole`, or as long as the model is not known
 * to open its thoughts, everything comes at the end, because a late closing mark can make a thought of it. Sends the request
 * again in another form if the endpoint refuses it.
 * @throws StreamError before the first piece or after any of them.
 */
export async function* pieces(
  context: AskContext,
  { messages, maxTokens, whole = false }: StreamRequest,
  limit: Limit,
): AsyncIterable<string> {
  const { endpoint, model, forms, budget, tally, judge } = context;
  const form = new Form(context, maxTokens);
  const thoughts = new Thoughts({ mode: whole || !forms.opensThoughts(model) ? "hold" : "pass" });
  let cut = false;
  for (let chunks = 0; chunks === 0; ) {
    const body = form.withTokens({ model, messages: turnsOf(messages, form.without) });
    if (body === null) throw new StreamError(form.noRoom);
    if (!budget.take()) throw new StreamError(NO_BUDGET);
    tally.calls++;
    try {
      for await (const chunk of endpoint.stream(body, limit)) {
        const piece = pieceOf(chunk);
        if (piece === null) continue;
        if (chunks++ === 0) form.accepted();
        cut ||= isCut(chunk);
        const shown = thoughts.push(piece);
        if (shown !== "") yield shown;
      }
      if (chunks === 0) throw new StreamError(failure("no_completion", "the reply is not a chat stream"));
    } catch (error) {
      if (!(error instanceof EndpointError)) throw error;
      const failed = judge(error.failure);
      if (chunks > 0 || !form.adapts(failed)) throw new StreamError(failed);
    }
  }
  const last = thoughts.end({ cut });
  forms.noteThoughts(model, { orphan: thoughts.orphan });
  if (last !== "") yield last;
}

function turnsOf(messages: StreamRequest["messages"], without: ReadonlySet<Feature>): Message[] {
  const [first, ...rest] = messages;
  return first?.role === "system" ? messagesOf(first.content, rest, without) : [...messages];
}
