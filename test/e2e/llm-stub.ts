/**
 * An OpenAI-compatible endpoint that imitates recorded behaviour: a good model, a thinking model, and each fault seen in LM Studio,
 * llama.cpp, Ollama, vLLM and bad networks. It writes raw HTTP, so it can break off in the middle of a body.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** How the endpoint replies to a completion request. The list of models works in every mode. */
export type Mode =
  | "well"
  /** The model thinks aloud before its reply. */
  | "thinking"
  | "nested-thoughts"
  | "unclosed-thought"
  | "orphan-thought"
  | "reasoning"
  | "reasoning-content"
  | "fenced"
  /** LM Studio: refuses every response_format but text. */
  | "format-refused"
  /** Ollama: with a schema, a thinking model replies with empty content. */
  | "schema-silences"
  /** llama.cpp: cannot parse the grammar. */
  | "grammar-fails"
  /** The model has no system role, or limits tokens under another name. */
  | "system-refused"
  | "max-tokens-refused"
  | "empty"
  | "nan"
  | "out-of-range"
  | "no-name"
  /** The first reply is useless, and the reply to the correction is right. */
  | "right-when-corrected"
  /** A small model: with a schema it replies with wrong values, and without one it never stops. */
  | "runs-on-without-schema"
  | "html"
  | "half-json"
  | "hang"
  | "drip"
  | "reset"
  | "huge"
  | "rate-limit"
  | "storm"
  | "unauthorized"
  /** The model follows instructions in the message. */
  | "obedient";

export interface Asked {
  readonly body: {
    model: string;
    messages: { role: string; content: string }[];
    response_format?: { type: string };
    max_tokens?: number;
    max_completion_tokens?: number;
    stream?: boolean;
  };
  /** The data of the question. */
  readonly data: string;
}

const HUGE_BYTES = 1024 ** 3;

export class LlmStub implements AsyncDisposable {
  mode: Mode = "well";
  /** The delay before each completion. */
  delayMs = 0;
  /** A stream waits for this between its first piece and its second; null: no wait. */
  held: Promise<void> | null = null;
  models: string[] = ["text-embedding-bge-m3@f16", "stub-7b-instruct"];
  retryAfterSeconds = 1;
  /** Every completion request, while `keep` is set. */
  asked: Asked[] = [];
  keep = true;
  calls = 0;
  /** The header of the newest request. */
  authorization = "";
  looks = 0;
  /** Bytes of huge bodies that were sent. */
  hugeBytes = 0;
  atOnce = 0;
  atOnceMax = 0;
  readonly #server: Server;
  #port = 0;
  /** Completions that mode "hang" holds back. */
  #hanging: (() => void)[] = [];

  private constructor() {
    this.#server = createServer((req, res) => void this.#take(req, res).catch(() => res.destroy()));
  }

  /** @param port where to listen; 0 takes a free one. */
  static async start(port = 0): Promise<LlmStub> {
    const stub = new LlmStub();
    await new Promise<void>((done) => stub.#server.listen(port, "127.0.0.1", done));
    stub.#port = (stub.#server.address() as AddressInfo).port;
    return stub;
  }

  /** Replies to the completion requests that mode "hang" has held back so far. */
  answerHanging(): void {
    for (const answer of this.#hanging.splice(0)) answer();
  }

  get port(): number {
    return this.#port;
  }

  get baseUrl(): string {
    return `http://127.0.0.1:${this.#port}/v1`;
  }

  async #take(req: IncomingMessage, res: ServerResponse): Promise<void> {
    this.authorization = req.headers.authorization ?? "";
    const chunks: Buffer[] = [];
    for await (const chunk of req) chunks.push(chunk as Buffer);
    if (req.url?.endsWith("/models")) {
      this.looks++;
      const data = this.models.map((id) => ({ id, object: "model" }));
      return json(res, 200, { object: "list", data });
    }
    if (!req.url?.endsWith("/chat/completions"))
      return json(res, 404, { error: { message: "no such route" } });
    const body = JSON.parse(Buffer.concat(chunks).toString("utf8")) as Asked["body"];
    const asked = { body, data: dataOf(body.messages) };
    this.calls++;
    if (this.keep) this.asked.push(asked);
    this.atOnce++;
    this.atOnceMax = Math.max(this.atOnceMax, this.atOnce);
    res.once("close", () => {
      this.atOnce--;
    });
    if (this.delayMs > 0) await Bun.sleep(this.delayMs);
    return body.stream === true ? this.#stream(res) : this.#complete(asked, res);
  }

  #complete({ body, data }: Asked, res: ServerResponse): Promise<void> | void {
    const answer = JSON.stringify(answerTo(data, systemOf(body.messages)));
    const say = (content: unknown, beside: object = {}, finish = "stop"): void =>
      completion(res, content, beside, finish);
    const refuse = (status: number, message: string): void =>
      json(res, status, { error: { message, type: "invalid_request_error" } });
    switch (this.mode) {
      case "well":
        return say(answer);
      case "thinking":
        return say(
          `<think>\nA customer writes. {"intent": "NotThis"} would be wrong.\n</think>\n\n${answer}`,
        );
      case "nested-thoughts":
        return say(`<THINK>one <Think>two {"a":1}</tHink> three</THINK>${answer}`);
      case "unclosed-thought":
        return say(`<think>\n${answer}`, {}, "length");
      case "orphan-thought":
        return say(`The user wants {"intent": 3}, so\n</think>\n${answer}`);
      case "reasoning":
        return say("", { reasoning: `Let me see. ${answer}` });
      case "reasoning-content":
        return say(null, { reasoning_content: answer });
      case "fenced":
        return say(`Sure! Here it is:\n\`\`\`json\n${answer}\n\`\`\`\nAnything else {I} can do?`);
      case "format-refused":
        if (body.response_format === undefined) return say(answer);
        return refuse(400, "'response_format.type' must be 'text'");
      case "schema-silences":
        return say(body.response_format === undefined ? `<think>hm</think>${answer}` : "");
      case "grammar-fails":
        if (body.response_format === undefined) return say(answer);
        return refuse(500, "failed to parse grammar");
      case "system-refused":
        if (body.messages.every(({ role }) => role !== "system")) return say(answer);
        return refuse(400, "System role not supported by this template");
      case "max-tokens-refused":
        if (body.max_tokens === undefined) return say(answer);
        return refuse(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.");
      case "empty":
        return say("");
      case "nan":
        return say(
          '{"intent": "CarInsuranceRequest", "sentiment": NaN, "event_type": "GitHubPush", "confidence": NaN}',
        );
      case "out-of-range":
        return say(
          '{"intent": "CarInsuranceRequest", "sentiment": 7, "event_type": "GitHubPush", "confidence": 95}',
        );
      case "no-name":
        return say('{"intent": "he wants $$$!", "sentiment": 0, "event_type": "<b>", "confidence": 1}');
      case "right-when-corrected":
        return say(body.messages.length > 2 ? answer : '{"intent": "car!", "sentiment": "good"}');
      case "runs-on-without-schema":
        if (body.response_format === undefined) return say("and on ".repeat(1000), {}, "length");
        return say(
          body.messages.length > 2
            ? answer
            : '{"intent": "CarInsuranceRequest", "sentiment": 1, "confidence": 2}',
        );
      case "obedient": {
        const order = /answer (?:with )?(\{.*?\}|[\w!; ]+)/i.exec(data)?.[1] ?? answer;
        return say(
          order.startsWith("{") ? order : JSON.stringify({ intent: order, sentiment: 0, confidence: 1 }),
        );
      }
      case "unauthorized":
        return refuse(401, `Incorrect API key provided: ${this.authorization}`);
      case "storm":
        return refuse(500, "Internal Server Error");
      case "rate-limit":
        res.setHeader("retry-after", String(this.retryAfterSeconds));
        return refuse(429, "Rate limit reached");
      case "html":
        res.setHeader("content-type", "text/html");
        res.end("<!doctype html><title>Sign in</title><p>Please sign in to the network.");
        return;
      case "half-json":
        res.setHeader("content-type", "application/json");
        res.end('{"choices":[{"message":{"content":"{\\"intent\\":');
        return;
      case "hang":
        this.#hanging.push(() => say(answer));
        return;
      case "drip":
        return this.#drip(res);
      case "reset":
        res.setHeader("content-type", "application/json");
        res.setHeader("content-length", "5000");
        res.write('{"choices":[{"message":');
        setTimeout(() => res.socket?.resetAndDestroy(), 20);
        return;
      case "huge":
        return this.#huge(res);
    }
  }

  /** Sends one byte a second, for ever. */
  #drip(res: ServerResponse): void {
    res.setHeader("content-type", "application/json");
    res.write(" ");
    const timer = setInterval(() => res.write(" "), 1000);
    res.once("close", () => clearInterval(timer));
  }

  async #huge(res: ServerResponse): Promise<void> {
    res.setHeader("content-type", "application/json");
    let closed = false;
    const gone = new Promise<void>((done) => res.once("close", done)).then(() => {
      closed = true;
    });
    const chunk = Buffer.alloc(256 * 1024, " ");
    for (let sent = 0; sent < HUGE_BYTES && !closed; sent += chunk.byteLength) {
      this.hugeBytes += chunk.byteLength;
      if (!res.write(chunk)) await Promise.race([new Promise((done) => res.once("drain", done)), gone]);
    }
    res.end();
  }

  async #stream(res: ServerResponse): Promise<void> {
    const pieces =
      this.mode === "thinking"
        ? ["<th", "ink>Let me", " see</", "think>", "Good", " day <3"]
        : ["Good", " day", " to you"];
    if (this.mode === "storm") return json(res, 500, { error: { message: "Internal Server Error" } });
    res.setHeader("content-type", "text/event-stream");
    for (const content of pieces) {
      const chunk = { object: "chat.completion.chunk", choices: [{ index: 0, delta: { content } }] };
      res.write(`data: ${JSON.stringify(chunk)}\n\n`);
      if (this.mode === "reset") return void setTimeout(() => res.socket?.resetAndDestroy(), 20);
      if (this.mode === "hang") return;
      await (this.held ?? Bun.sleep(1));
    }
    res.end("data: [DONE]\n\n");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise<void>((done) => this.#server.close(() => done()));
  }
}

function json(res: ServerResponse, status: number, body: unknown): void {
  res.statusCode = status;
  res.setHeader("content-type", "application/json");
  res.end(JSON.stringify(body));
}

function completion(res: ServerResponse, content: unknown, beside: object, finish: string): void {
  const message = { role: "assistant", content, ...beside };
  json(res, 200, {
    id: "chatcmpl-1",
    object: "chat.completion",
    choices: [{ index: 0, message, finish_reason: finish }],
    usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 },
  });
}

function systemOf(messages: Asked["body"]["messages"]): string {
  return messages[0]?.content ?? "";
}

/** The JSON string in the first user turn. */
function dataOf(messages: Asked["body"]["messages"]): string {
  const turn = messages.find(({ role }) => role === "user")?.content ?? "";
  const quoted = /The data:\n("(?:[^"\\]|\\.)*")/.exec(turn)?.[1];
  return quoted === undefined ? turn : (JSON.parse(quoted) as string);
}

/** The reply of a good model, with unknown keys that must be ignored. */
function answerTo(data: string, system: string): object {
  if (system.includes("what a person wants")) return understood(data);
  if (system.includes("event_type")) {
    const event_type = data.includes('"pusher"')
      ? "GitHubPush"
      : data.includes('"paid"')
        ? "InvoicePaid"
        : "Unknown";
    return { event_type, confidence: 0.9, remark: "ignored" };
  }
  if (/seguro/i.test(data))
    return { intent: "CarInsuranceRequest", sentiment: 0.25, confidence: 0.9, remark: "ignored" };
  if (/cancelar/i.test(data)) return { intent: "PlanCancellation", sentiment: -0.5, confidence: 0.8 };
  return { intent: "GeneralQuestion", sentiment: 0, confidence: 0.5 };
}

/** The reply to a chat question: the matching intent, and the slots that the message fills. */
function understood(data: string): object {
  const { intents, known, message } = JSON.parse(data) as {
    intents: { name: string; slots: { name: string; type: string }[] }[];
    known: { intent: string | null };
    message: string;
  };
  const wanted = /seguro/i.test(message) ? "CarInsuranceRequest" : known.intent;
  const intent = intents.find(({ name }) => name === wanted);
  const slots = (intent?.slots ?? []).flatMap(({ name, type }) => {
    const number = type === "integer" || type === "number";
    const value = (number ? /\b(?:19|20)\d\d\b/ : /\b(?:Uno|Onix|Gol)\b/).exec(message)?.[0];
    return value === undefined || !/(?:model|year)$/.test(name)
      ? []
      : [{ name, value: number ? Number(value) : value }];
  });
  return { intent: intent?.name ?? null, slots };
}
