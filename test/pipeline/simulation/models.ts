/**
 * An embedder and a language model without a network. Their reply is a function of the text; the weather decides when it
 * comes, and whether it does.
 */
import type { Clock } from "../../../src/clock.ts";
import type { EmbeddedTexts, Embedder } from "../../../src/embed/embedder.ts";
import { GatewayError } from "../../../src/errors.ts";
import { modelId } from "../../../src/frame.ts";
import type { AskRequest, LlmClient, LlmRefusal, LlmState } from "../../../src/llm/contract.ts";
import type { Nearest } from "../../../src/nearest/nearest.ts";
import type { Dice } from "./dice.ts";

export const DIM = 4;
export const HASHING = "hashing-of-the-simulation";

/** Marks in a text. */
export const BLANK = "(blank)";
export const POISON = "(poison)";
export const EXAMPLE = "(example)";

/** The vector of a text; zeros for a blank one. */
export function vectorFor(model: string, text: string): Float32Array {
  const vector = new Float32Array(DIM);
  if (text.includes(BLANK)) return vector;
  const hash = Bun.hash.wyhash(`${model} ${text}`);
  for (let index = 0; index < DIM; index++)
    vector[index] = 1 + Number((hash >> BigInt(16 * index)) & 0xffffn) / 65_536;
  const length = Math.hypot(...vector);
  return vector.map((value) => value / length);
}

export function nearestFor(text: string): Nearest | null {
  const label = text.includes(EXAMPLE) ? "FromAnExample" : null;
  return label === null ? null : { label, best: label, score: 0.9, confidence: 0.75 };
}

/** What the language model says of a text. */
export function replyFor(kind: string, text: string): object {
  const number = Bun.hash.crc32(text) % 4;
  const label = number === 0 ? null : `Label${"ABC"[number - 1]}`;
  return kind === "message"
    ? { intent: label, sentiment: 0.25, confidence: label === null ? 0 : 0.5 }
    : { event_type: label, confidence: 0.5 };
}

export type EmbedderWeather = "ok" | "slow" | "failing";
export type LlmWeather = "ok" | "slow" | "failing" | "refusing" | "busy" | "away";

export interface Surroundings {
  readonly clock: Clock;
  readonly dice: Dice;
}

function embedderError(
  code: "embedder_unavailable" | "embedder_invalid",
  retryAfterMs?: number,
): GatewayError {
  const what = { code, operation: "embed: ask", object: "the simulation", detail: code };
  return new GatewayError(retryAfterMs === undefined ? what : { ...what, retryAfterMs });
}

/** The hashing embedder of this world. It replies at once, and the journal does not keep its vectors. */
export const hashing: Embedder = {
  kind: "hashing",
  name: HASHING,
  dim: DIM,
  modelId: modelId(HASHING),
  recomputed: true,
  maxBatch: 8,
  embed: async (texts) => packed(HASHING, texts),
  embedNearest: async (texts, wanted) => withNearest(HASHING, texts, wanted),
  // As if examples were set, which must be asked for.
  embedNow: (text, wanted) => (wanted && nearestFor(text) !== null ? null : vectorFor(HASHING, text)),
  setExamples: async () => null,
  [Symbol.asyncDispose]: async () => {},
};

function packed(model: string, texts: readonly string[]): Float32Array {
  const rows = new Float32Array(texts.length * DIM);
  texts.forEach((text, index) => {
    rows.set(vectorFor(model, text), index * DIM);
  });
  return rows;
}

function withNearest(model: string, texts: readonly string[], wanted: readonly boolean[]): EmbeddedTexts {
  const nearest = texts.map((text, index) => (wanted[index] === true ? nearestFor(text) : null));
  return { rows: packed(model, texts), nearest };
}

/** An embedder behind a network: its vectors are kept, it may be slow or away, and it refuses poisoned texts. */
export class RemoteEmbedder implements Embedder {
  readonly kind = "remote";
  readonly dim = DIM;
  readonly recomputed = false;
  readonly name: string;
  readonly modelId: number;
  readonly maxBatch: number;
  readonly #around: Surroundings;
  readonly #weather: () => EmbedderWeather;

  constructor(name: string, around: Surroundings, weather: () => EmbedderWeather) {
    this.name = name;
    this.modelId = modelId(name);
    this.maxBatch = 1 + around.dice.below(6);
    this.#around = around;
    this.#weather = weather;
  }

  async #answer(texts: readonly string[]): Promise<void> {
    const { clock, dice } = this.#around;
    const weather = this.#weather();
    await clock.sleep(weather === "slow" ? dice.between(100, 4000) : dice.between(0, 8));
    if (weather === "failing")
      throw embedderError("embedder_unavailable", dice.chance(0.3) ? dice.below(3000) : undefined);
    if (texts.some((text) => text.includes(POISON))) throw embedderError("embedder_invalid");
  }

  async embed(texts: readonly string[]): Promise<Float32Array> {
    await this.#answer(texts);
    return packed(this.name, texts);
  }

  async embedNearest(texts: readonly string[], wanted: readonly boolean[]): Promise<EmbeddedTexts> {
    await this.#answer(texts);
    return withNearest(this.name, texts, wanted);
  }

  async setExamples(): Promise<null> {
    return null;
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}

export const embedderOff: Embedder = {
  ...hashing,
  kind: "off",
  name: "off",
  dim: 0,
  modelId: 0,
  recomputed: false,
  embed: async () => new Float32Array(0),
  embedNearest: async (texts) => ({ rows: new Float32Array(0), nearest: texts.map(() => null) }),
};

export class LlmDouble implements LlmClient {
  readonly counters = {};
  readonly gauges = {};
  onChange: () => void = () => {};
  readonly #around: Surroundings;
  readonly #weather: () => LlmWeather | "off";
  readonly #places = 2;
  #taken = 0;

  constructor(around: Surroundings, weather: () => LlmWeather | "off") {
    this.#around = around;
    this.#weather = weather;
  }

  get state(): LlmState {
    const weather = this.#weather();
    if (weather === "off") return { name: "off", model: null, detail: "" };
    if (weather === "away") return { name: "away", model: null, detail: "nobody is there" };
    return { name: "ok", model: "simulated", detail: "" };
  }

  get usable(): boolean {
    return this.state.name === "ok";
  }

  start(): void {}

  async ask<T>(request: AskRequest<T>): Promise<{ ok: true; value: T } | LlmRefusal> {
    const { clock, dice } = this.#around;
    const weather = this.#weather();
    const refusal = (reason: string, retryable: boolean): LlmRefusal => ({ ok: false, reason, retryable });
    if (weather === "away" || weather === "off") return refusal("away", true);
    if (weather === "busy" || this.#taken >= this.#places) return refusal("busy", true);
    this.#taken += 1;
    await clock.sleep(weather === "slow" ? dice.between(500, 6000) : dice.between(1, 300));
    this.#taken -= 1;
    if (weather === "failing") return refusal("timeout", true);
    if (weather === "refusing") return refusal("invalid", false);
    return { ok: true, value: replyFor(request.kind, request.data) as T };
  }

  // biome-ignore lint/correctness/useYield: nobody streams in this world.
  async *stream(): AsyncGenerator<string> {
    throw new Error("the simulation does not stream");
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}
