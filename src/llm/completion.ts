/** Asks the model one question: in the fullest form that it accepts, and a second time if the reply is useless. */
import type { Budget } from "./budget.ts";
import type { AskRequest } from "./contract.ts";
import type { ChatBody, OpenAiEndpoint } from "./endpoint.ts";
import type { EndpointFailure, Limit } from "./endpoint-contract.ts";
import { type Failure, failure, NO_BUDGET, type Outcome } from "./failure.ts";
import { blame, type Feature, type Forms, type Message, messagesOf, tokensOf } from "./forms.ts";
import { completionOf, firstValid } from "./reply.ts";
import type { Tally } from "./tally.ts";
import { correction, dataTurn, systemWithSchema } from "./wording.ts";

/** How often one question is sent again without a part that the endpoint refuses. */
const FORMS_MAX = 5;
/** Characters of a useless reply that are shown to the model again. */
const SHOWN_CHARS_MAX = 2000;

/** What a question needs to be asked. */
export interface AskContext {
  readonly endpoint: OpenAiEndpoint;
  readonly model: string;
  readonly forms: Forms;
  readonly budget: Budget;
  readonly tally: Tally;
  readonly judge: (failed: EndpointFailure) => Failure;
}

/** Asks, and if the reply is useless asks once more, telling the model what was wrong with it. */
export async function askModel<T>(
  context: AskContext,
  request: AskRequest<T>,
  limit: Limit,
): Promise<Outcome<T>> {
  let turns: Message[] = [{ role: "user", content: dataTurn(request.data) }];
  let useless = failure("invalid", "");
  let schema = true;
  for (let attempt = 0; attempt < 2; attempt++) {
    const reply = await complete(context, { request, turns, schema }, limit);
    if (!reply.ok) return reply;
    const completion = completionOf(reply.value.body);
    if (completion === null) {
      return { ok: false, failure: failure("no_completion", "the reply is not a chat completion") };
    }
    const found = firstValid(completion.texts, request.schema);
    if (found.ok) {
      if (attempt === 1) context.tally.corrections++;
      context.forms.noteAnswer(context.model, reply.value.schema, attempt);
      return found;
    }
    // A server's grammar can silence a thinking model: then the second attempt leaves the schema out. If the first reply
    // held an object, the schema stays, because a small model without it never stops writing.
    schema = found.json;
    const reason = completion.cut ? "cut" : "invalid";
    useless = failure(reason, `its reply cannot be used: ${found.why}`, { retryable: false, weight: 0.6 });
    const content = completion.content.trim().slice(0, SHOWN_CHARS_MAX);
    // Some chat templates refuse an empty turn, and some refuse two turns of one side in a row.
    if (content !== "") {
      turns = [
        turns[0] as Message,
        { role: "assistant", content },
        { role: "user", content: correction(found.why) },
      ];
    }
  }
  return { ok: false, failure: useless };
}

type Rules = Omit<AskRequest<unknown>, "schema">;

interface Call {
  readonly request: Rules;
  readonly turns: readonly Message[];
  /** Whether to send the schema beside the messages, unless the model refuses it there. */
  readonly schema: boolean;
}

/** Sends one request, in the fullest form that the model accepts. Refused parts are remembered once the rest is accepted. */
async function complete(
  { endpoint, model, forms, budget, tally, judge }: AskContext,
  { request, turns, schema }: Call,
  limit: Limit,
): Promise<Outcome<{ body: unknown; schema: boolean }>> {
  const without = new Set<Feature>(forms.refusedBy(model));
  if (!schema) without.add("json_schema");
  const learned = new Set<Feature>();
  for (let form = 0; ; form++) {
    if (!budget.take()) return { ok: false, failure: NO_BUDGET };
    tally.calls++;
    const reply = await endpoint.complete(bodyOf(model, request, turns, without), limit);
    if (reply.ok) {
      forms.learn(model, learned);
      return { ok: true, value: { body: reply.value, schema: !without.has("json_schema") } };
    }
    const failed = judge(reply.failure);
    const blamed = form < FORMS_MAX ? blame(failed, without) : null;
    if (blamed === null) return { ok: false, failure: failed };
    without.add(blamed);
    learned.add(blamed);
  }
}

function bodyOf(
  model: string,
  request: Rules,
  turns: readonly Message[],
  without: ReadonlySet<Feature>,
): ChatBody {
  const { kind, system, jsonSchema, maxTokens } = request;
  const bySchema = !without.has("json_schema");
  const rules = bySchema ? system : systemWithSchema(system, jsonSchema);
  return {
    model,
    messages: messagesOf(rules, turns, without),
    ...tokensOf(maxTokens, without),
    ...(without.has("temperature") ? {} : { temperature: 0 }),
    ...(bySchema
      ? {
          response_format: {
            type: "json_schema" as const,
            json_schema: { name: kind, strict: true, schema: jsonSchema as Record<string, unknown> },
          },
        }
      : {}),
  };
}
