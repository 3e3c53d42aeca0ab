/** POST /api/chat: one turn of a conversation. The response is one JSON object or a stream of server-sent events. */
import * as v from "valibot";
import type { Chat, ChatState } from "../brain/brain.ts";
import { GatewayError } from "../errors.ts";
import type { Handled, Refused, RouteRequest, RouteResponse } from "./contract.ts";
import { jsonOf } from "./json.ts";
import { DRAINING, problemText, refusedBy } from "./problems.ts";

/** @bound a body of /api/chat | 413 */
const BODY_BYTES_MAX = 64 * 1024;
/** UTF-16 units of a message. @bound a chat message | 400 */
const MESSAGE_CHARS_MAX = 4096;
/**
 * A turn calls the model twice, within 90 s. The connection stays open a little longer than that.
 * @bound a turn of chat that sends nothing | the connection is closed
 */
const TURN_SECONDS_MAX = 120;
const EVENT_STREAM = "text/event-stream";
const HINT = 'send {"msg":"…","session_id":"…"}; without session_id a new conversation begins';

const RequestSchema = v.object(
  {
    msg: v.pipe(
      v.string("msg must be a string"),
      v.check((text) => text.trim() !== "", "msg is empty"),
      v.maxLength(MESSAGE_CHARS_MAX, `msg has more than ${MESSAGE_CHARS_MAX} characters`),
    ),
    session_id: v.nullish(
      v.pipe(
        v.string("session_id must be a string"),
        v.regex(/^[\x21-\x7e]{1,128}$/, "session_id must be 1 to 128 visible ASCII characters"),
      ),
      null,
    ),
  },
  ({ expected }) => (expected === "Object" ? "the body must be a JSON object" : `${expected} is missing`),
);

export interface ChatRoutesOptions {
  readonly chat: Pick<Chat, "turn" | "counters" | "gauges">;
  /** Logs an unexpected failure and returns a refusal without its details. */
  readonly failed: (thrown: unknown) => Refused;
}

export class ChatRoutes {
  readonly #o: ChatRoutesOptions;
  readonly #stop = new AbortController();

  constructor(options: ChatRoutesOptions) {
    this.#o = options;
  }

  /** Ends the turns under way. Their conversations stay as they were before these turns. */
  drain(): void {
    this.#stop.abort();
  }

  /** @throws (rejects) GatewayError llm_unavailable, overloaded; AbortError if the client closed the connection. */
  async take({ req, accept, keepOpen, hold }: RouteRequest): Promise<Handled> {
    if (this.#stop.signal.aborted) return DRAINING;
    const body = await jsonOf(req, hold, { bytesMax: BODY_BYTES_MAX, hint: HINT });
    if ("code" in body) return body;
    const request = requestOf(body.json);
    if ("code" in request) return request;
    keepOpen(TURN_SECONDS_MAX);
    const streams = accept.toLowerCase().includes(EVENT_STREAM);
    const abort = new AbortController();
    const signal = AbortSignal.any([abort.signal, this.#stop.signal, req.signal]);
    const parts = this.#o.chat.turn(request.msg.toWellFormed(), request.session_id, signal, {
      whole: !streams,
    });
    if (streams) return this.#stream(parts, abort);
    let state: ChatState | null = null;
    let content = "";
    try {
      for await (const part of parts) {
        if (part.kind === "state") state = part.state;
        else content += part.text;
      }
    } catch (thrown) {
      if (this.#stop.signal.aborted) return DRAINING;
      throw thrown;
    }
    return { headers: { vary: "Accept" }, body: JSON.stringify(contentOf(state, content)) };
  }

  /** Waits for the first part before the response begins, so that a turn that fails at once has the status of its error. */
  async #stream(parts: ReturnType<Chat["turn"]>, abort: AbortController): Promise<RouteResponse> {
    const first = await parts.next();
    const encoder = new TextEncoder();
    let state: ChatState | null = null;
    let content = "";
    let next: Awaited<ReturnType<typeof parts.next>> | null = first;
    const stream = new ReadableStream<Uint8Array>({
      pull: async (controller) => {
        const send = (event: string, data: string): void =>
          controller.enqueue(encoder.encode(`event: ${event}\ndata: ${data}\n\n`));
        try {
          const step = next ?? (await parts.next());
          next = null;
          if (step.done === true) {
            send("done", JSON.stringify(contentOf(state, content)));
            controller.close();
          } else if (step.value.kind === "state") {
            state = step.value.state;
            send("state", JSON.stringify(state));
          } else {
            content += step.value.text;
            send("text", JSON.stringify({ content: step.value.text }));
          }
        } catch (thrown) {
          if (abort.signal.aborted) return;
          send("error", problemText(this.#refusedBy(thrown)));
          controller.close();
        }
      },
      cancel: () => {
        abort.abort();
        void parts.return();
      },
    });
    return {
      type: `${EVENT_STREAM}; charset=utf-8`,
      headers: { vary: "Accept" },
      body: stream,
    };
  }

  #refusedBy(thrown: unknown): Refused {
    if (this.#stop.signal.aborted) return DRAINING;
    return thrown instanceof GatewayError ? refusedBy(thrown) : this.#o.failed(thrown);
  }
}

function contentOf(state: ChatState | null, content: string): object {
  return { role: "assistant", content: content.trim(), ...state };
}

function requestOf(json: unknown): v.InferOutput<typeof RequestSchema> | Refused {
  const parsed = v.safeParse(RequestSchema, json);
  if (parsed.success) return parsed.output;
  return { code: "bad_parameter", detail: parsed.issues[0].message, hint: HINT };
}
