/** One question to the model: in the fullest form that it takes, and once more if the answer cannot be used. */
import type { Budget } from "./budget.ts";
import type { AskRequest } from "./contract.ts";
import type { ChatBody, OpenAiEndpoint } from "./endpoint.ts";
import type { EndpointFailure, Limit } from "./endpoint-contract.ts";
import { type Failure, failure, NO_BUDGET, type Outcome } from "./failure.ts";
import { blame, type Feature, type Forms, type Message, messagesOf, tokensOf } from "./forms.ts";
import { firstValid, saidOf } from "./reply.ts";
import type { Tally } from "./tally.ts";
import { correction, dataTurn, systemWithSchema } from "./wording.ts";

/** Forms of one call that are tried when an endpoint refuses parts of it. */
const FORMS_MAX = 5;
const SHOWN_CHARS_MAX = 2000;

export interface Asking {
  readonly endpoint: OpenAiEndpoint;
  readonly model: string;
  readonly forms: Forms;
  readonly budget: Budget;
  readonly tally: Tally;
  readonly judge: (failed: EndpointFailure) => Failure;
}

/** The question, and once more with what was wrong with the answer. */
export async function converse<T>(asking: Asking, request: AskRequest<T>, limit: Limit): Promise<Outcome<T>> {
  let turns: Message[] = [{ role: "user", content: dataTurn(request.data) }];
  let useless = failure("invalid", "");
  let schema = true;
  for (let attempt = 0; attempt < 2; attempt++) {
    const reply = await complete(asking, { request, turns, schema }, limit);
    if (!reply.ok) return reply;
    const said = saidOf(reply.value.body);
    if (said === null) {
      return { ok: false, failure: failure("no_completion", "the answer is no chat completion") };
    }
    const found = firstValid(said.texts, request.schema);
    if (found.ok) {
      if (attempt === 1) asking.tally.corrections++;
      asking.forms.noteSchema(asking.model, reply.value.schema, attempt);
      return found;
    }
    // A server's grammar and a thinking model can clash: then the second attempt goes without. Where the grammar gave an
    // object it stays, since a small model runs on and on without.
    schema = found.json;
    const reason = said.cut ? "cut" : "invalid";
    useless = failure(reason, `its answer cannot be used: ${found.why}`, { retryable: false, weight: 0.6 });
    const content = said.content.trim().slice(0, SHOWN_CHARS_MAX);
    // Some templates refuse an empty turn, and two turns of one side in a row.
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
  /** Whether to send the schema beside the messages, if the model takes it there. */
  readonly schema: boolean;
}

/** One completion, in the fullest form that the model takes; what it refuses is remembered once it takes the rest. */
async function complete(
  { endpoint, model, forms, budget, tally, judge }: Asking,
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
