/** The language model as the rest of the gateway sees it: questions, replies, refusals, and the state of the client. */
import type * as v from "valibot";
import type { Clock } from "../clock.ts";
import type { Log } from "../log.ts";

export interface LlmState {
  /**
   * off: by configuration; unknown: the first look for the endpoint has not ended; away: no endpoint or no model;
   * open, half-open: the breaker after failures; budget: today's calls are used up.
   */
  readonly name: "off" | "unknown" | "away" | "ok" | "open" | "half-open" | "budget";
  readonly model: string | null;
  /** What is wrong and what to do; empty if nothing is wrong. */
  readonly detail: string;
}

export interface AskRequest<T> {
  /** The schema's name in the request: letters, digits, dashes and underscores. */
  readonly kind: string;
  /** The instructions for the model. */
  readonly system: string;
  /** The text that the question is about. It is data, never instructions. */
  readonly data: string;
  readonly schema: v.GenericSchema<unknown, T>;
  readonly jsonSchema: object;
  readonly maxTokens: number;
  /** For the whole question: waiting for a place, retries in another form, and the second attempt. */
  readonly deadlineMs: number;
  readonly signal?: AbortSignal;
}

export interface StreamRequest {
  readonly messages: readonly { readonly role: "system" | "user" | "assistant"; readonly content: string }[];
  readonly maxTokens: number;
  readonly deadlineMs: number;
  readonly signal?: AbortSignal;
  /** The reader waits for the end anyway: then no thought can slip through. */
  readonly whole?: boolean;
}

export interface LlmRefusal {
  readonly ok: false;
  /** One word, as in the metrics: timeout, server_error, invalid, budget, away … */
  readonly reason: string;
  /** Whether the same question may succeed later. */
  readonly retryable: boolean;
}

/** The language model; one per process. A fault of the endpoint is never thrown by `ask`: a refusal is a value. */
export interface LlmClient extends AsyncDisposable {
  readonly state: LlmState;
  /** Whether `ask` would send a question now. */
  readonly usable: boolean;
  /** By metric name without prefix, as in the Snapshot. */
  readonly counters: Readonly<Record<string, number>>;
  readonly gauges: Readonly<Record<string, number>>;
  /** Called when `usable` may have changed. */
  onChange: () => void;
  /** Starts to look for the endpoint. */
  start(): void;
  /** Asks one question and returns the answer, checked against the schema. */
  ask<T>(request: AskRequest<T>): Promise<{ ok: true; value: T } | LlmRefusal>;
  /**
   * Yields plain text as it arrives, without the model's thoughts. The first text of a model comes as one piece.
   * @throws GatewayError llm_unavailable, before the first piece or after any of them.
   */
  stream(request: StreamRequest): AsyncIterable<string>;
}

export interface LlmOptions {
  /** Null: off. */
  readonly baseUrl: string | null;
  readonly apiKey: string | null;
  /** Null: the endpoint's first chat model. */
  readonly model: string | null;
  /** Calls per day (UTC); null: unlimited. */
  readonly budgetCalls: number | null;
  /** Keeps a short text over restarts: how much of the budget is used. */
  readonly kept: { readonly read: () => string | null; readonly write: (text: string) => void };
  readonly log: Log;
  /** The question for a trial after failures, if no event needs one asked. */
  readonly trial: Question<unknown>;
  readonly fetch?: typeof fetch;
  readonly clock?: Clock;
}

/** One kind of question: its instructions, and the shape of its answer. */
export interface Question<T> {
  readonly kind: string;
  readonly system: string;
  readonly schema: v.GenericSchema<unknown, T>;
  readonly jsonSchema: object;
}
