/** What the gateway asks of a language model, and how the client reports on it. */
import type * as v from "valibot";
import type { Clock } from "../clock.ts";
import type { Log } from "../log.ts";

export interface LlmState {
  /**
   * off: by configuration; unknown: not looked for yet; away: no endpoint or no model; open, half-open: the breaker
   * after failures; budget: the day's calls are used up.
   */
  readonly name: "off" | "unknown" | "away" | "ok" | "open" | "half-open" | "budget";
  readonly model: string | null;
  /** What is wrong and what to do; empty where all is well. */
  readonly detail: string;
}

export interface AskRequest<T> {
  /** Names the answer's schema: letters, digits, dashes and underscores. */
  readonly kind: string;
  /** The rules. */
  readonly system: string;
  /** What they are about; data, never instructions. */
  readonly data: string;
  readonly schema: v.GenericSchema<unknown, T>;
  readonly jsonSchema: object;
  readonly maxTokens: number;
  /** For all of it: waiting for a place, forms, and a second attempt. */
  readonly deadlineMs: number;
  readonly signal?: AbortSignal;
}

export interface StreamRequest {
  readonly messages: readonly { readonly role: "system" | "user" | "assistant"; readonly content: string }[];
  readonly maxTokens: number;
  readonly deadlineMs: number;
  readonly signal?: AbortSignal;
}

export interface LlmRefusal {
  readonly ok: false;
  /** One word, as in the metrics: timeout, server_error, invalid, budget, away … */
  readonly reason: string;
  /** Whether the same question may be answered later. */
  readonly retryable: boolean;
}

/** The language model; one in a process. It never throws for an endpoint's faults: a refusal is a value. */
export interface LlmClient extends AsyncDisposable {
  readonly state: LlmState;
  /** Whether a question would be asked now. */
  readonly usable: boolean;
  /** By name without prefix, as in the Snapshot. */
  readonly counters: Readonly<Record<string, number>>;
  readonly gauges: Readonly<Record<string, number>>;
  /** Called when `usable` may have changed. */
  onChange: () => void;
  /** Begins to look for the endpoint. */
  start(): void;
  /** One structured answer, checked. */
  ask<T>(request: AskRequest<T>): Promise<{ ok: true; value: T } | LlmRefusal>;
  /**
   * Plain text as it comes, without thoughts.
   * @throws GatewayError llm_unavailable, at the first piece or at any later one.
   */
  stream(request: StreamRequest): AsyncIterable<string>;
}

export interface LlmOptions {
  /** Null: off. */
  readonly baseUrl: string | null;
  readonly apiKey: string | null;
  /** Null: the endpoint's first chat model. */
  readonly model: string | null;
  /** Calls a day (UTC); null: as many as are needed. */
  readonly budgetCalls: number | null;
  /** A small text that is kept over restarts: what was used of the budget. */
  readonly kept: { readonly read: () => string | null; readonly write: (text: string) => void };
  readonly log: Log;
  /** Asked as the trial after failures, if no event brings a question of its own. */
  readonly trial: Question<unknown>;
  readonly fetch?: typeof fetch;
  readonly clock?: Clock;
}

/** One kind of question: its rules, and the answer that it takes. */
export interface Question<T> {
  readonly kind: string;
  readonly system: string;
  readonly schema: v.GenericSchema<unknown, T>;
  readonly jsonSchema: object;
}
