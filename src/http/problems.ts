/** Turns refusals and failures into responses: `application/problem+json` with the status of the error code. */
import type { Clock } from "../clock.ts";
import { type ErrorCode, GatewayError, messageOf, type RequestErrorCode } from "../errors.ts";
import type { Log } from "../log.ts";
import type { Refused } from "./contract.ts";
import type { HttpMetrics } from "./metrics.ts";

type Status = readonly [status: number, title: string];

const STATUS: Readonly<Record<RequestErrorCode, Status>> = {
  malformed: [400, "The body is malformed"],
  not_an_event: [422, "The JSON is not an event"],
  too_deep: [422, "The JSON is nested too deeply"],
  too_large: [413, "The body is too large"],
  unsupported_media_type: [415, "The media type is not supported"],
  bad_parameter: [400, "A parameter is invalid"],
  invalid_body: [422, "The body is not what this route expects"],
  unauthorized: [401, "A valid token is required"],
  forbidden_host: [403, "The host is not allowed"],
  forbidden_origin: [403, "The origin is not allowed"],
  not_found: [404, "There is nothing here"],
  method_not_allowed: [405, "The method is not allowed here"],
  overloaded: [503, "The gateway is overloaded"],
  draining: [503, "The gateway is shutting down"],
  disk_full: [503, "The disk is full"],
  store_unavailable: [503, "The store is not available now"],
  journal_failed: [503, "The journal cannot be written now"],
  store_failed: [503, "The store is not available now"],
  embedder_unavailable: [503, "The embedder is not available now"],
  llm_unavailable: [503, "The language model is not available now"],
  internal: [500, "The gateway failed unexpectedly"],
};

/** What to do next about refusals that do not say so themselves. */
const HINTS: Readonly<Record<RequestErrorCode, string>> = {
  malformed:
    "send one JSON object or an array of them in UTF-8; one object a line needs the content type application/x-ndjson",
  not_an_event: 'send a JSON object, such as {"type":"UserMessage","message":"…"}',
  too_deep: "send what is nested that deep as text",
  too_large: "send less at once, and large content as a link to it",
  bad_parameter: "correct the parameter, or leave it out",
  not_found: 'the README lists the routes under "HTTP"',
  method_not_allowed: "the header Allow lists the methods of this route",
  overloaded: "try again after Retry-After",
  draining: "try again after Retry-After",
  unsupported_media_type: "send application/json or application/x-ndjson",
  invalid_body: "correct the body; the README describes it",
  unauthorized: "send the header Authorization: Bearer TOKEN",
  forbidden_host: "use localhost, or start the gateway with a token (GATEWAY_TOKEN or --token-file)",
  forbidden_origin: "start the gateway with a token (GATEWAY_TOKEN or --token-file)",
  disk_full: "make room on the disk of the database, then send again",
  store_unavailable: "try again after Retry-After; /ready says what DuckDB is doing",
  journal_failed: "send again after Retry-After; /ready says what is wrong with the journal",
  store_failed: "try again after Retry-After; /ready says what is wrong with DuckDB",
  embedder_unavailable: "/ready says what is wrong with the embedder",
  llm_unavailable: "/ready says what is wrong with the language model",
  internal: "this is a fault of the gateway: its log has the details",
};

/** Of codes that no request should meet. If one does, the gateway has failed. */
const FAILED: Status = [500, "The gateway has failed"];

function statusOf(code: ErrorCode): Status {
  return Object.hasOwn(STATUS, code) ? STATUS[code as RequestErrorCode] : FAILED;
}

function hintOf(code: ErrorCode): string {
  return Object.hasOwn(HINTS, code) ? HINTS[code as RequestErrorCode] : HINTS.internal;
}

const WARN_EVERY_MS = 1000;
/** On every response: a browser neither guesses its type nor keeps it. */
export const SAFE_HEADERS = { "x-content-type-options": "nosniff", "cache-control": "no-store" } as const;
/** Retry-After of refusals that do not have their own. */
export const RETRY_AFTER_SECONDS = 2;

/** The refusal of new requests during a drain. */
export const DRAINING: Refused = {
  code: "draining",
  detail: "the gateway is shutting down",
  retryAfterSeconds: 5,
};

export interface ProblemsOptions {
  readonly metrics: HttpMetrics;
  readonly log: Log;
  readonly clock: Clock;
}

/** Makes the responses to refusals and failures, counts them, and logs those that the gateway's operator should know. */
export class Problems {
  readonly #o: ProblemsOptions;
  /** When each code was logged last. While everything is refused, the log must not fill up. */
  readonly #warnedMs = new Map<ErrorCode, number>();

  constructor(options: ProblemsOptions) {
    this.#o = options;
  }

  /** @param route its index in the metrics. @param allow its Allow header. */
  refuse(route: number, refused: Refused, requestId: string, allow?: string): Response {
    const [status] = statusOf(refused.code);
    this.#o.metrics.request(route, status);
    this.#o.metrics.refusal(refused.code);
    if (status >= 500 && refused.code !== "internal") this.#warn(refused);
    const headers: Record<string, string> = {
      ...SAFE_HEADERS,
      "content-type": "application/problem+json",
      "x-request-id": requestId,
    };
    if (status === 401) headers["www-authenticate"] = 'Bearer realm="one_file_gateway"';
    if (status === 405 && allow !== undefined) headers.allow = allow;
    if (status === 503) headers["retry-after"] = String(refused.retryAfterSeconds ?? RETRY_AFTER_SECONDS);
    return new Response(problemText(refused), { status, headers });
  }

  /** The response to whatever a handler threw. */
  failed(route: number, thrown: unknown, requestId: string): Response {
    if (thrown instanceof Error && thrown.name === "AbortError") {
      this.#o.metrics.aborted++;
      // Nobody reads this response. The status says that it was not the gateway's fault.
      return new Response(null, { status: 400, headers: SAFE_HEADERS });
    }
    const refused = thrown instanceof GatewayError ? refusedBy(thrown) : this.mistake(thrown, requestId);
    return this.refuse(route, refused, requestId);
  }

  /** Logs an unexpected failure. The refusal only says where to find it in the log. */
  mistake(thrown: unknown, requestId: string): Refused {
    const trace = thrown instanceof Error ? (thrown.stack ?? messageOf(thrown)) : messageOf(thrown);
    this.#o.log("error", `http: request ${requestId}: ${trace}`);
    return { code: "internal", detail: `the log has the details under request ${requestId}` };
  }

  /** Logs why a response ends before its end. */
  cut(thrown: unknown): void {
    if (thrown instanceof GatewayError) {
      this.#warn({ code: thrown.code, detail: `a response ended too early: ${thrown.message}` });
      return;
    }
    const trace = thrown instanceof Error ? (thrown.stack ?? messageOf(thrown)) : messageOf(thrown);
    this.#o.log("error", `http: a response ended too early: ${trace}`);
  }

  #warn({ code, detail }: Refused): void {
    const nowMs = this.#o.clock.monotonicMs();
    if (nowMs - (this.#warnedMs.get(code) ?? Number.NEGATIVE_INFINITY) < WARN_EVERY_MS) return;
    this.#warnedMs.set(code, nowMs);
    this.#o.log(
      "warn",
      `http: refused with ${code}: ${detail} (logged at most once a second; /metrics counts all)`,
    );
  }
}

/** The body of a refusal, by RFC 9457. */
export function problemText({ code, detail, hint, members }: Refused): string {
  const [status, title] = statusOf(code);
  const type = `urn:one-file-gateway:problem:${code}`;
  return JSON.stringify({ type, title, status, code, detail, hint: hint ?? hintOf(code), ...members });
}

/** What a client may know about a failure: neither the operation nor the object. */
export function refusedBy({ code, detail, hint }: GatewayError): Refused {
  return { code, detail, ...(hint === undefined ? {} : { hint }) };
}
