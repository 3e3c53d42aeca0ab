/** Looks for the endpoint and for a model that it offers. */
import type { Clock } from "../clock.ts";
import type { Log } from "../log.ts";
import type { OpenAiEndpoint } from "./endpoint.ts";
import { judged } from "./failure.ts";

/** Between two looks for an endpoint that is away. */
const LOOK_MS = 5000;
const LOOK_TIMEOUT_MS = 3000;

export interface LookoutOptions {
  readonly endpoint: OpenAiEndpoint;
  /** Null: the first chat model that the endpoint lists. */
  readonly model: string | null;
  readonly clock: Clock;
  readonly log: Log;
  /** Called after each look. */
  readonly onLooked: () => void;
}

/** Each look is one cheap request for the list of models. Looks go on until the endpoint is there. */
export class Lookout implements Disposable {
  readonly endpoint: OpenAiEndpoint;
  readonly #o: LookoutOptions;
  readonly #stop = new AbortController();
  readonly #first = Promise.withResolvers<void>();
  #timer: Disposable | null = null;
  /** Whether the first look has ended. */
  looked = false;
  /** Why no model can be asked; null: one can, as far as the last look knows. */
  away: string | null = null;
  model: string | null;

  constructor(options: LookoutOptions) {
    this.#o = options;
    this.endpoint = options.endpoint;
    this.model = options.model;
  }

  /** Resolves when the first look has ended, or when the lookout is disposed of. */
  get firstLook(): Promise<void> {
    return this.#first.promise;
  }

  async look(): Promise<void> {
    const { endpoint } = this;
    const { log, onLooked } = this.#o;
    this.#forgetTimer();
    const before = this.away;
    this.away = await this.#whyAway();
    if (this.#stop.signal.aborted) return;
    const first = !this.looked;
    this.looked = true;
    this.#first.resolve();
    if (first || before !== this.away) {
      if (this.away === null) log("info", `llm: ${this.model} at ${endpoint.address}`);
      else log(first ? "info" : "warn", `llm: ${this.away}`);
    }
    if (this.away !== null) this.lookIn(LOOK_MS);
    onLooked();
  }

  /** Plans a look, unless one is planned already. */
  lookIn(ms: number): void {
    if (this.#timer !== null || this.#stop.signal.aborted) return;
    this.#timer = this.#o.clock.after(ms, () => void this.look());
  }

  /** Why no model can be asked; null: one can, and `model` names it. */
  async #whyAway(): Promise<string | null> {
    const { endpoint } = this;
    const { model } = this.#o;
    const hint =
      "start it and load a model, or pass --llm-base-url URL or off; events are processed without it";
    using limit = endpoint.limit(LOOK_TIMEOUT_MS, [this.#stop.signal]);
    const reply = await endpoint.listModels(limit);
    if (!reply.ok) {
      const { status, detail, reason } = judged(reply.failure);
      const isUnauthorized = reason === "unauthorized";
      // Not every endpoint lists its models, so a model named by the user may still be there.
      if (status !== null && status < 500 && !isUnauthorized && model !== null) return null;
      return `no reply from ${endpoint.address}: ${detail}${isUnauthorized ? "" : `; ${hint}`}`;
    }
    if (reply.value === null) return model !== null ? null : `${endpoint.address} lists no models; ${hint}`;
    this.model = model ?? reply.value.find(({ chats }) => chats)?.id ?? null;
    if (this.model !== null) return null;
    return `${endpoint.address} lists no chat model; load one there, or pass --llm-model NAME`;
  }

  #forgetTimer(): void {
    this.#timer?.[Symbol.dispose]();
    this.#timer = null;
  }

  [Symbol.dispose](): void {
    this.#stop.abort();
    this.#forgetTimer();
    this.#first.resolve();
  }
}
