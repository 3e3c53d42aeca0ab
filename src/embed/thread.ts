/** The embed Worker as the main thread sees it: requests and replies, matched by id. */

import { deserialiseError, GatewayError } from "../errors.ts";
import type { Calibration, LabelledVectors, Nearest } from "../nearest/nearest.ts";
import type { EmbeddedTexts } from "./embedder.ts";
import type { Comparison, WorkerReply, WorkerRequest } from "./protocol.ts";

type Request = WorkerRequest extends infer R ? (R extends WorkerRequest ? Omit<R, "id"> : never) : never;

interface Waiting {
  readonly resolve: (reply: WorkerReply) => void;
  readonly reject: (error: Error) => void;
}

/**
 * The Workers of this process by their file. Each starts at its first use and never ends. All embedders share one,
 * because the ONNX runtime crashes if two threads load it.
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
    // The Worker keeps the process alive only while a reply is awaited.
    this.#worker.unref();
    this.#worker.onmessage = (event: MessageEvent<WorkerReply>) => this.#settle(event.data);
    this.#worker.onerror = (event: ErrorEvent) => this.#die(event.message);
    this.#worker.addEventListener("close", () => this.#die("it ended"));
  }

  /** A number for a model or an index that is unique in this Worker. */
  nextNumber(): number {
    return this.#nextNumber++;
  }

  ask(request: Request, transfer: ArrayBuffer[] = []): Promise<WorkerReply> {
    if (this.#dead !== null) return Promise.reject(this.#deadError(this.#dead));
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      if (this.#waiting.size === 0) this.#worker.ref();
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ ...request, id } as WorkerRequest, transfer);
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
      hint: "restart the gateway; waiting events are safe in the journal",
    });
  }
}

/** The labelled examples of one embedder. Their index lives in the Worker. */
export class Examples {
  readonly #worker: () => EmbedWorker;
  #index: number | null = null;

  /** @param worker called at the first use, so that an embedder without examples starts no Worker. */
  constructor(worker: () => EmbedWorker) {
    this.#worker = worker;
  }

  /** Takes over the memory of `examples.rows`. The earlier examples stay in force until these are learned. */
  async set(examples: LabelledVectors): Promise<Calibration | null> {
    if (examples.labels.length === 0 && this.#index === null) return null;
    this.#index ??= this.#worker().nextNumber();
    const request = { kind: "index", index: this.#index, examples } as const;
    const reply = await this.#worker().ask(request, [examples.rows.buffer]);
    if (reply.kind !== "indexed") throw unexpected(reply, "index");
    return reply.calibration;
  }

  /** The part of a request that asks for nearest labels; null if no text wants one, or no examples are set. */
  comparison(wanted: readonly boolean[]): Comparison | null {
    return this.#index === null || !wanted.includes(true) ? null : { index: this.#index, wanted };
  }

  /** The nearest labels of vectors that were made outside the Worker. */
  async nearest(rows: Float32Array, wanted: readonly boolean[]): Promise<readonly (Nearest | null)[]> {
    const comparison = this.comparison(wanted);
    if (comparison === null) return wanted.map(() => null);
    const copy = rows.slice();
    const reply = await this.#worker().ask({ kind: "nearest", rows: copy, comparison }, [copy.buffer]);
    if (reply.kind !== "nearest") throw unexpected(reply, "nearest");
    return reply.nearest;
  }
}

/** The result of a call without texts, which needs no Worker. */
export const NO_TEXTS: EmbeddedTexts = { rows: new Float32Array(0), nearest: [] };

export function embeddedOf(reply: WorkerReply, texts: readonly string[]): EmbeddedTexts {
  if (reply.kind !== "rows") throw unexpected(reply, "texts");
  return { rows: reply.rows, nearest: reply.nearest ?? texts.map(() => null) };
}

function unexpected(reply: WorkerReply, request: string): Error {
  return new Error(`embed: the worker replied ${reply.kind} to ${request}`);
}
