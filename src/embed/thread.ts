/** The embed Worker as the main thread sees it: questions and answers, matched by number. */

import { deserialiseError, GatewayError } from "../errors.ts";
import type { Calibration, LabelledVectors, Nearest } from "../nearest/nearest.ts";
import type { EmbeddedTexts } from "./embedder.ts";
import type { Asked, WorkerReply, WorkerRequest } from "./protocol.ts";

type Question = WorkerRequest extends infer R ? (R extends WorkerRequest ? Omit<R, "id"> : never) : never;

interface Waiting {
  readonly resolve: (reply: WorkerReply) => void;
  readonly reject: (error: Error) => void;
}

/**
 * The Workers of this process by their file: started at the first use and never ended. The runtime
 * does not survive being loaded by two, so every embedder shares one.
 */
const workers = new Map<string, EmbedWorker>();

export function workerOf(url: string | URL): EmbedWorker {
  const key = String(url);
  const known = workers.get(key);
  if (known !== undefined) return known;
  const started = new EmbedWorker(url);
  workers.set(key, started);
  return started;
}

export class EmbedWorker {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 1;
  #nextNumber = 1;
  #dead: string | null = null;

  constructor(url: string | URL) {
    this.#worker = new Worker(url);
    // It keeps the process alive only while an answer is awaited.
    this.#worker.unref();
    this.#worker.onmessage = (event: MessageEvent<WorkerReply>) => this.#settle(event.data);
    this.#worker.onerror = (event: ErrorEvent) => this.#die(event.message);
    this.#worker.addEventListener("close", () => this.#die("it ended"));
  }

  /** A number for a model or an index of this Worker that nobody else has. */
  nextNumber(): number {
    return this.#nextNumber++;
  }

  ask(question: Question, transfer: ArrayBuffer[] = []): Promise<WorkerReply> {
    if (this.#dead !== null) return Promise.reject(this.#deadError(this.#dead));
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      if (this.#waiting.size === 0) this.#worker.ref();
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ ...question, id } as WorkerRequest, transfer);
    });
  }

  #settle(reply: WorkerReply): void {
    const waiting = this.#waiting.get(reply.id);
    if (waiting === undefined) return;
    this.#waiting.delete(reply.id);
    if (this.#waiting.size === 0) this.#worker.unref();
    if (reply.kind === "failed") waiting.reject(deserialiseError(reply.failure));
    else waiting.resolve(reply);
  }

  #die(detail: string): void {
    this.#dead ??= detail;
    for (const { reject } of this.#waiting.values()) reject(this.#deadError(detail));
    this.#waiting.clear();
  }

  #deadError(detail: string): GatewayError {
    return new GatewayError({
      code: "embedder_unavailable",
      operation: "embed",
      object: "in its worker",
      detail,
      hint: "restart the gateway; what waits is in the journal",
    });
  }
}

/** The labelled examples that one embedder's texts are compared with. Their index lives in the Worker. */
export class Examples {
  readonly #worker: () => EmbedWorker;
  #index: number | null = null;

  /** @param worker asked for at the first use, so that an embedder without examples starts none. */
  constructor(worker: () => EmbedWorker) {
    this.#worker = worker;
  }

  /** Takes the memory of `examples.rows` with it. The examples before answer until these are learned. */
  async set(examples: LabelledVectors): Promise<Calibration | null> {
    if (examples.labels.length === 0 && this.#index === null) return null;
    this.#index ??= this.#worker().nextNumber();
    const question = { kind: "index", index: this.#index, examples } as const;
    const reply = await this.#worker().ask(question, [examples.rows.buffer]);
    if (reply.kind !== "indexed") throw unexpected(reply, "index");
    return reply.calibration;
  }

  /** What goes with texts to the Worker; null where there is nothing to ask. */
  asked(wanted: readonly boolean[]): Asked | null {
    return this.#index === null || !wanted.includes(true) ? null : { index: this.#index, wanted };
  }

  /** Of vectors that were not made in the Worker. */
  async nearest(rows: Float32Array, wanted: readonly boolean[]): Promise<readonly (Nearest | null)[]> {
    const asked = this.asked(wanted);
    if (asked === null) return wanted.map(() => null);
    const copy = rows.slice();
    const reply = await this.#worker().ask({ kind: "nearest", rows: copy, asked }, [copy.buffer]);
    if (reply.kind !== "nearest") throw unexpected(reply, "nearest");
    return reply.nearest;
  }
}

/** For a call without texts, which goes to no Worker. */
export const NO_TEXTS: EmbeddedTexts = { rows: new Float32Array(0), nearest: [] };

export function embeddedOf(reply: WorkerReply, texts: readonly string[]): EmbeddedTexts {
  if (reply.kind !== "rows") throw unexpected(reply, "texts");
  return { rows: reply.rows, nearest: reply.nearest ?? texts.map(() => null) };
}

function unexpected(reply: WorkerReply, question: string): Error {
  return new Error(`embed: the worker answered ${reply.kind} to ${question}`);
}
