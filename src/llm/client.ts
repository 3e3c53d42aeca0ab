/**
 * Asks the language model behind an OpenAI-compatible endpoint. The endpoint may be away, slow, broken or wrong, and may
 * come back at any time. Callers see a refusal instead of an exception, and each call has bounds on time, memory and
 * requests. The parts own the state; this class keeps their order.
 */
import { type Clock, systemClock } from "../clock.ts";
import { GatewayError } from "../errors.ts";
import { Breaker, type Pass } from "./breaker.ts";
import { Budget } from "./budget.ts";
import { type AskContext, askModel } from "./completion.ts";
import type { AskRequest, LlmClient, LlmOptions, LlmRefusal, LlmState, StreamRequest } from "./contract.ts";
import { OpenAiEndpoint } from "./endpoint.ts";
import type { Limit } from "./endpoint-contract.ts";
import { type Failure, failure, judged, type Outcome, STOPPED } from "./failure.ts";
import { Forms } from "./forms.ts";
import { aborted, Deadline } from "./limit.ts";
import { Lookout } from "./lookout.ts";
import { Places } from "./places.ts";
import { pieces, StreamError } from "./stream.ts";
import { Tally } from "./tally.ts";

export class EndpointClient implements LlmClient {
  onChange: () => void = () => {};
  readonly #o: LlmOptions;
  readonly #clock: Clock;
  /** Null: off. */
  readonly #lookout: Lookout | null;
  readonly #breaker: Breaker;
  readonly #budget: Budget;
  readonly #places = new Places();
  readonly #forms = new Forms();
  readonly #tally = new Tally();
  readonly #stop = new AbortController();

  constructor(options: LlmOptions) {
    const { baseUrl, apiKey, model, log, kept, clock = systemClock } = options;
    this.#o = options;
    this.#clock = clock;
    this.#breaker = new Breaker(() => clock.monotonicMs());
    this.#budget = new Budget({
      callsMax: options.budgetCalls,
      kept: kept.read(),
      nowUs: () => clock.nowUs(),
      write: kept.write,
    });
    if (baseUrl === null) {
      this.#lookout = null;
      return;
    }
    const endpoint = new OpenAiEndpoint({
      ...{ baseUrl, apiKey, clock },
      ...(options.fetch === undefined ? {} : { fetch: options.fetch }),
    });
    this.#lookout = new Lookout({ endpoint, model, clock, log, onLooked: () => this.#afterLook() });
  }

  start(): void {
    void this.#lookout?.look();
  }

  get state(): LlmState {
    if (this.#lookout === null) return { name: "off", model: null, detail: "--llm-base-url off" };
    const { looked, away } = this.#lookout;
    const model = this.#lookout.model ?? "no model";
    if (!looked) return { name: "unknown", model: null, detail: "looking for the endpoint" };
    if (away !== null) return { name: "away", model: this.#lookout.model, detail: away };
    if (this.#budget.left === 0) {
      const detail = `today's ${this.#o.budgetCalls} calls (UTC) are used up; raise --llm-budget or wait for tomorrow`;
      return { name: "budget", model, detail };
    }
    const { state, reason, openForMs } = this.#breaker;
    if (state === "closed") return { name: "ok", model, detail: "" };
    const detail = `${model} failed: ${reason}`;
    if (state === "half-open")
      return { name: "half-open", model, detail: `${detail}; the next call tries it again` };
    return {
      name: "open",
      model,
      detail: `${detail}; next try in ${Math.ceil(openForMs / 1000)} s; see the endpoint's own log`,
    };
  }

  get usable(): boolean {
    if (this.#lookout === null || this.#stop.signal.aborted) return false;
    return !this.#lookout.looked || this.#refusal() === null;
  }

  get counters(): Readonly<Record<string, number>> {
    return { ...this.#tally.counters, llm_breaker_opened_total: this.#breaker.opened };
  }

  get gauges(): Readonly<Record<string, number>> {
    const { left } = this.#budget;
    return {
      ...this.#tally.gauges,
      llm_queue_calls: this.#places.waiting,
      llm_breaker_open: this.#breaker.state === "closed" ? 0 : 1,
      ...(left === null ? {} : { llm_budget_left_calls: left }),
    };
  }

  /** Why no question may be asked now; null: one may. */
  #refusal(): LlmRefusal | null {
    const { name } = this.state;
    if (name === "ok" || (name === "half-open" && this.#breaker.allows)) return null;
    return { ok: false, reason: name, retryable: name !== "off" };
  }

  #afterLook(): void {
    const isThere = this.#lookout?.away === null;
    // The breaker may have opened again while this look was planned or under way.
    if (isThere) this.#lookWhenBreakerMayClose();
    this.onChange();
    // Questions of events go first. If none is waiting, the gateway asks its own, to learn whether the model works again.
    if (isThere && this.#breaker.state === "half-open" && this.#breaker.allows) void this.#askTrial();
  }

  #lookWhenBreakerMayClose(): void {
    if (this.#breaker.state === "open") this.#lookout?.lookIn(this.#breaker.openForMs + 1);
  }

  /** The trial of a half-open breaker while no event has a question. */
  async #askTrial(): Promise<void> {
    await this.ask({ ...this.#o.trial, data: "Good morning!", maxTokens: 1024, deadlineMs: 30_000 });
  }

  async ask<T>(request: AskRequest<T>): Promise<{ ok: true; value: T } | LlmRefusal> {
    using limit = this.#limitOf(request);
    const entered = await this.#enter(limit);
    if (!entered.ok) return entered;
    const startedMs = this.#clock.monotonicMs();
    let outcome: Outcome<T>;
    try {
      outcome = await askModel(entered.context, request, limit);
    } finally {
      this.#places.leave();
    }
    if (outcome.ok) {
      this.#succeeded(startedMs);
      return outcome;
    }
    const { reason, retryable } = outcome.failure;
    this.#failed(entered.pass, outcome.failure);
    return { ok: false, reason, retryable };
  }

  async *stream(request: StreamRequest): AsyncIterable<string> {
    using limit = this.#limitOf(request);
    const entered = await this.#enter(limit);
    if (!entered.ok) throw this.#unavailable(entered.reason);
    const startedMs = this.#clock.monotonicMs();
    let failed: Failure | null = failure("cancelled", "the reader stopped reading", { weight: 0 });
    try {
      yield* pieces(entered.context, request, limit);
      failed = null;
    } catch (error) {
      if (!(error instanceof StreamError)) throw error;
      failed = error.failure;
      throw this.#unavailable(this.#scrub(failed.detail), error);
    } finally {
      this.#places.leave();
      if (failed === null) this.#succeeded(startedMs);
      else this.#failed(entered.pass, failed);
    }
  }

  #limitOf({ deadlineMs, signal }: { deadlineMs: number; signal?: AbortSignal }): Limit {
    const stop = this.#stop.signal;
    return new Deadline(this.#clock, deadlineMs, signal === undefined ? [stop] : [stop, signal]);
  }

  /** Waits for a place and for the breaker. A caller who is let in must give both back. */
  async #enter({ signal }: Limit): Promise<{ ok: true; context: AskContext; pass: Pass } | LlmRefusal> {
    const refused = (reason: string): LlmRefusal => ({ ok: false, reason, retryable: true });
    const lookout = this.#lookout;
    if (lookout === null) return { ok: false, reason: "off", retryable: false };
    if (lookout.looked) {
      const refusal = this.#refusal();
      if (refusal !== null) return refusal;
    }
    if (!(await this.#places.enter(signal))) return refused(signal.aborted ? "timeout" : "busy");
    let pass: Pass | null = null;
    try {
      if (!lookout.looked) await Promise.race([lookout.firstLook, aborted(signal)]);
      const refusal = signal.aborted ? refused("timeout") : this.#refusal();
      if (refusal !== null) return refusal;
      pass = this.#breaker.enter();
      return pass === null ? refused("open") : { ok: true, context: this.#contextOf(lookout), pass };
    } finally {
      if (pass === null) this.#places.leave();
    }
  }

  #contextOf({ endpoint, model }: Lookout): AskContext {
    return {
      endpoint,
      model: model ?? "",
      forms: this.#forms,
      budget: this.#budget,
      tally: this.#tally,
      judge: (failed) => (this.#stop.signal.aborted ? STOPPED : judged(failed)),
    };
  }

  #succeeded(startedMs: number): void {
    this.#tally.succeeded(this.#clock.monotonicMs() - startedMs);
    if (this.#breaker.state !== "closed") this.#o.log("info", `llm: ${this.#lookout?.model} works again`);
    this.#breaker.succeeded();
    this.onChange();
  }

  /** Some details quote the reply, which may repeat a secret. */
  #scrub(detail: string): string {
    return this.#lookout?.endpoint.scrub(detail) ?? detail;
  }

  #failed(pass: Pass, failed: Failure): void {
    const { reason, weight, retryAfterMs } = failed;
    const detail = this.#scrub(failed.detail);
    this.#tally.failed(reason);
    this.#o.log("debug", `llm: ${reason}: ${detail}`);
    const opened = this.#breaker.opened;
    if (weight === 0) this.#breaker.released(pass);
    else this.#breaker.failed(pass, detail, { weight, retryAfterMs });
    if (this.#breaker.opened > opened) {
      const model = this.#lookout?.model;
      this.#o.log("warn", `llm: ${model}: ${detail}; not asked for a while, events are processed without it`);
    }
    this.#lookWhenBreakerMayClose();
    this.onChange();
  }

  #unavailable(detail: string, cause?: unknown): GatewayError {
    return new GatewayError({
      code: "llm_unavailable",
      operation: "llm: ask",
      object: `${this.#lookout?.model ?? "(no model)"} at ${this.#lookout?.endpoint.address ?? "(no valid address)"}`,
      detail,
      hint: "see /ready for what to do, then try again",
      cause,
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    this.#lookout?.[Symbol.dispose]();
  }
}
