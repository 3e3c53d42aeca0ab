/** Asks the model one question: in the fullest form that it accepts, and a second time if the reply is useless. */
import type { Budget } from "./budget.ts";
import type { AskRequest } from "./contract.ts";
import type { OpenAiEndpoint } from "./endpoint.ts";
import type { EndpointFailure, Limit } from "./endpoint-contract.ts";
import { type Failure, failure, NO_BUDGET, type Outcome } from "./failure.ts";
import { Form, TOO_LONG } from "./form.ts";
import { type Feature, type Forms, type Message, messagesOf } from "./forms.ts";
import { completionOf, lastValid } from "./reply.ts";
import type { Tally } from "./tally.ts";
import { correction, dataTurn, systemWithSchema } from "./wording.ts";

/** How often the data of a question is cut in half because the model's context is too small for it. */
const CUTS_MAX = 4;
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

/** Asks; if the context is too small for the data, with ever less of it. */
export async function askModel<T>(
  context: AskContext,
  request: AskRequest<T>,
  limit: Limit,
): Promise<Outcome<T>> {
  let { data } = request;
  for (let cuts = 0; ; cuts++) {
    const outcome = await askOf(context, { ...request, data }, limit);
    if (outcome.ok || outcome.failure.reason !== TOO_LONG || cuts === CUTS_MAX) return outcome;
    data = halved(data);
  }
}

/** The beginning and the end of a text, half of it together. */
function halved(text: string): string {
  const quarter = text.length >> 2;
  return `${text.slice(0, quarter).toWellFormed()} … ${text.slice(text.length - quarter).toWellFormed()}`;
}

/** Asks, and if the reply is useless asks once more, telling the model what was wrong with it. */
async function askOf<T>(context: AskContext, request: AskRequest<T>, limit: Limit): Promise<Outcome<T>> {
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
    if (completion.orphan) context.forms.noteThoughts(context.model, { orphan: true });
    const found = lastValid(completion.texts, request.schema);
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

/** Sends one request, in the fullest form that the model accepts. */
async function complete(
  context: AskContext,
  { request, turns, schema }: Call,
  limit: Limit,
): Promise<Outcome<{ body: unknown; schema: boolean }>> {
  const { endpoint, model, budget, tally, judge } = context;
  const form = new Form(context, request.maxTokens);
  if (!schema) form.leaveOut("json_schema");
  for (;;) {
    const body = form.withTokens(bodyOf(model, request, turns, form.without));
    if (body === null) return { ok: false, failure: form.noRoom };
    if (!budget.take()) return { ok: false, failure: NO_BUDGET };
    tally.calls++;
    const reply = await endpoint.complete(body, limit);
    if (reply.ok) {
      form.accepted();
      return { ok: true, value: { body: reply.value, schema: !form.without.has("json_schema") } };
    }
    const failed = judge(reply.failure);
    if (!form.adapts(failed)) return { ok: false, failure: failed };
  }
}

function bodyOf(model: string, request: Rules, turns: readonly Message[], without: ReadonlySet<Feature>) {
  const { kind, system, jsonSchema } = request;
  const bySchema = !without.has("json_schema");
  const rules = bySchema ? system : systemWithSchema(system, jsonSchema);
  return {
    model,
    messages: messagesOf(rules, turns, without),
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
