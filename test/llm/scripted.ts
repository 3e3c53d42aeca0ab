/** An endpoint without a network: a function of the test returns the responses. */
import type { Clock } from "../../src/clock.ts";
import { Budget } from "../../src/llm/budget.ts";
import type { AskContext } from "../../src/llm/completion.ts";
import { OpenAiEndpoint } from "../../src/llm/endpoint.ts";
import { judged } from "../../src/llm/failure.ts";
import { Forms } from "../../src/llm/forms.ts";
import { Tally } from "../../src/llm/tally.ts";
import { FakeClock } from "../fake-clock.ts";

export interface SentRequest {
  readonly method: string;
  readonly path: string;
  readonly headers: Headers;
  readonly body: unknown;
}

export interface Scripted {
  readonly endpoint: OpenAiEndpoint;
  readonly sent: SentRequest[];
}

/** @param answer called once per request. If its promise stays open, the request's signal ends it. */
export function scripted(
  answer: (request: SentRequest) => Response | Promise<Response>,
  {
    apiKey = null,
    clock = new FakeClock(),
    baseUrl = BASE_URL,
  }: { apiKey?: string | null; clock?: Clock; baseUrl?: string } = {},
): Scripted {
  const sent: SentRequest[] = [];
  const fetching = (async (input: string | URL | Request, init?: RequestInit) => {
    const request = {
      method: init?.method ?? "GET",
      path: new URL(String(input)).pathname,
      headers: new Headers(init?.headers),
      body: typeof init?.body === "string" ? JSON.parse(init.body) : null,
    };
    sent.push(request);
    const { promise, reject } = Promise.withResolvers<never>();
    init?.signal?.addEventListener("abort", () => reject(init.signal?.reason), { once: true });
    return Promise.race([answer(request), promise]);
  }) as typeof fetch;
  return { endpoint: new OpenAiEndpoint({ baseUrl, apiKey, fetch: fetching, clock }), sent };
}

export const BASE_URL = "http://user:hidden@endpoint:1234/v1?key=hidden";

interface Body {
  readonly messages: { role: string; content: string }[];
  readonly [key: string]: unknown;
}

/** @param answers one per request: a response, the content of a completion, or an error status without a telling text. */
export function askingOf(answers: (Response | string | number)[], callsMax: number | null = null) {
  const reply = (answer: Response | string | number): Response => {
    if (answer instanceof Response) return answer;
    if (typeof answer === "number") return Response.json({ error: { message: "no" } }, { status: answer });
    return Response.json({ choices: [{ message: { content: answer } }] });
  };
  const { endpoint, sent } = scripted(() => reply(answers.shift() ?? 500));
  const context: AskContext = {
    ...{ endpoint, model: "m", forms: new Forms(), tally: new Tally(), judge: judged },
    budget: new Budget({ callsMax, kept: null, nowUs: () => 0, write: () => {} }),
  };
  const limit = endpoint.limit(1000, []);
  const bodies = (): Body[] => sent.map(({ body }) => body as Body);
  return { context, limit, bodies };
}
