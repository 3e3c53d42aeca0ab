/** Looks for the endpoint and for a model that it offers. */
import type { Clock } from "../clock.ts";
import type { Log } from "../log.ts";
import type { OpenAiEndpoint } from "./endpoint.ts";
import type { Limit, ListedModel } from "./endpoint-contract.ts";

/** Between two looks for an endpoint that is away. */
const LOOK_MS = 5000;
const LOOK_TIMEOUT_MS = 3000;
/** Models with the name of an embedding model that are asked whether they are one. */
const ASKED_MAX = 3;
/** Statuses that say that a model makes no embeddings. */
const CANNOT: readonly number[] = [404, 405, 501];

export interface LookoutOptions {
  readonly endpoint: OpenAiEndpoint;
  /** Null: the first chat model that the endpoint lists. */
  readonly model: string | null;
  readonly clock: Clock;
  readonly log: Log;
  /** Called after each look. */
  readonly onLooked: () => void;
}

/** Each look is one cheap request for the list of models, and more only if no name in it is that of a chat model. Looks go on until the endpoint is there. */
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
      const { status, detail, kind } = reply.failure;
      const isUnauthorized = status === 401 || status === 403;
      // Not every endpoint lists its models, so a model named by the user may still be there.
      if (status !== null && status < 500 && !isUnauthorized && model !== null) return null;
      const what = kind === "status" ? "" : "no reply from ";
      return `${what}${endpoint.address}: ${detail}; ${isUnauthorized ? "see --llm-api-key" : hint}`;
    }
    if (reply.value === null) return model !== null ? null : `${endpoint.address} lists no models; ${hint}`;
    this.model = model ?? (await this.#chatModel(reply.value, limit));
    if (this.model !== null) return null;
    return `${endpoint.address} lists no chat model; load one there, or pass --llm-model NAME`;
  }

  /** The first model with the name of a chat model, else the first one that cannot embed, whatever its name says. */
  async #chatModel(models: readonly ListedModel[], limit: Limit): Promise<string | null> {
    const named = models.find(({ chats }) => chats);
    if (named !== undefined) return named.id;
    for (const { id } of models.filter(({ embeds }) => embeds).slice(0, ASKED_MAX)) {
      const reply = await this.endpoint.embed({ model: id, input: ["ready"] }, limit);
      if (!reply.ok && CANNOT.includes(reply.failure.status ?? 0)) return id;
    }
    return null;
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
