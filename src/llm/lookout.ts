/** Looks for the endpoint, and for a model to ask there. */
import type { Clock } from "../clock.ts";
import type { Log } from "../log.ts";
import type { OpenAiEndpoint } from "./endpoint.ts";
import { judged } from "./failure.ts";

/** How often an endpoint that is away is looked for. */
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

/** Looks are cheap: one list of models each. They go on until there is an endpoint. */
export class Lookout implements Disposable {
  readonly endpoint: OpenAiEndpoint;
  readonly #o: LookoutOptions;
  readonly #stop = new AbortController();
  readonly #first = Promise.withResolvers<void>();
  #timer: Disposable | null = null;
  /** The first look has ended. */
  looked = false;
  /** Why there is nobody to ask; null: there is. */
  away: string | null = null;
  model: string | null;

  constructor(options: LookoutOptions) {
    this.#o = options;
    this.endpoint = options.endpoint;
    this.model = options.model;
  }

  /** Resolves when the first look has ended, or this is disposed of. */
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

  /** A look that is planned already stays as it is. */
  lookIn(ms: number): void {
    if (this.#timer !== null || this.#stop.signal.aborted) return;
    this.#timer = this.#o.clock.after(ms, () => void this.look());
  }

  /** Why there is nobody to ask; null: there is, and `model` says whom. */
  async #whyAway(): Promise<string | null> {
    const { endpoint } = this;
    const { model } = this.#o;
    const hint = "start it and load a model, or pass --llm-base-url URL or off; events go on without it";
    using limit = endpoint.limit(LOOK_TIMEOUT_MS, [this.#stop.signal]);
    const reply = await endpoint.listModels(limit);
    if (!reply.ok) {
      const { status, detail, reason } = judged(reply.failure);
      const isUnauthorized = reason === "unauthorized";
      // Not every endpoint lists its models; a model that was named may be there all the same.
      if (status !== null && status < 500 && !isUnauthorized && model !== null) return null;
      return `no answer from ${endpoint.address}: ${detail}${isUnauthorized ? "" : `; ${hint}`}`;
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
