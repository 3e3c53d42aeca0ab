/** What a refusal and a failure look like to a client: `application/problem+json` with the status of its code. */
import type { Clock } from "../clock.ts";
import { type ErrorCode, GatewayError, messageOf, type RequestErrorCode } from "../errors.ts";
import type { Log } from "../log.ts";
import type { Refused } from "./contract.ts";
import type { HttpMetrics } from "./metrics.ts";

type Status = readonly [status: number, title: string];

const STATUS: Readonly<Record<RequestErrorCode, Status>> = {
  malformed: [400, "The body is malformed"],
  not_an_event: [422, "The JSON is no event"],
  too_deep: [422, "The JSON is nested too deeply"],
  too_large: [413, "The body is too large"],
  unsupported_media_type: [415, "The media type is not supported"],
  bad_parameter: [400, "A parameter is wrong"],
  invalid_body: [422, "The body does not say what this route takes"],
  unauthorized: [401, "A valid token is needed"],
  forbidden_host: [403, "The host is not allowed"],
  forbidden_origin: [403, "The origin is not allowed"],
  not_found: [404, "Nothing is here"],
  method_not_allowed: [405, "The method is not allowed here"],
  overloaded: [503, "The gateway has too much to do"],
  draining: [503, "The gateway is shutting down"],
  disk_full: [503, "The disk is full"],
  store_unavailable: [503, "The store cannot answer now"],
  journal_failed: [503, "The journal cannot be written now"],
  store_failed: [503, "The store cannot answer now"],
  embedder_unavailable: [503, "The embedder cannot answer now"],
  llm_unavailable: [503, "The language model cannot answer now"],
  internal: [500, "The gateway made a mistake"],
};

/** Of the codes that stand for no request: one that arrives here is a failure of ours. */
const FAILED: Status = [500, "The gateway has failed"];

function statusOf(code: ErrorCode): Status {
  return Object.hasOwn(STATUS, code) ? STATUS[code as RequestErrorCode] : FAILED;
}

const WARN_EVERY_MS = 1000;
/** For 503s that do not say it themselves. */
export const RETRY_AFTER_SECONDS = 2;

/** What a gateway that drains says to new requests. */
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

/** Makes the responses of what is refused or has failed, counts them, and logs what the gateway's user should see. */
export class Problems {
  readonly #o: ProblemsOptions;
  /** When each code was logged last: a refusal of all there is must not fill the log, too. */
  readonly #warnedMs = new Map<ErrorCode, number>();

  constructor(options: ProblemsOptions) {
    this.#o = options;
  }

  /** @param route the metrics' index of the route. @param allow its Allow header. */
  refuse(route: number, refused: Refused, requestId: string, allow?: string): Response {
    const [status] = statusOf(refused.code);
    this.#o.metrics.request(route, status);
    this.#o.metrics.refusal(refused.code);
    if (status >= 500 && refused.code !== "internal") this.#warn(refused);
    const headers: Record<string, string> = {
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
      // Nobody reads it; the status only says whose fault it was.
      return new Response(null, { status: 400 });
    }
    const refused = thrown instanceof GatewayError ? refusedBy(thrown) : this.mistake(thrown, requestId);
    return this.refuse(route, refused, requestId);
  }

  /** Logs what nobody expected, and says of it only where to look. */
  mistake(thrown: unknown, requestId: string): Refused {
    const trace = thrown instanceof Error ? (thrown.stack ?? messageOf(thrown)) : messageOf(thrown);
    this.#o.log("error", `http: request ${requestId}: ${trace}`);
    return { code: "internal", detail: `the log says more under request ${requestId}` };
  }

  #warn({ code, detail }: Refused): void {
    const nowMs = this.#o.clock.monotonicMs();
    if (nowMs - (this.#warnedMs.get(code) ?? Number.NEGATIVE_INFINITY) < WARN_EVERY_MS) return;
    this.#warnedMs.set(code, nowMs);
    this.#o.log(
      "warn",
      `http: refused with ${code}: ${detail} (said once a second at most; /metrics counts them)`,
    );
  }
}

/** The body of a refusal, by RFC 9457. */
export function problemText({ code, detail, hint, members }: Refused): string {
  const [status, title] = statusOf(code);
  const type = `urn:one-file-gateway:problem:${code}`;
  return JSON.stringify({ type, title, status, code, detail, hint: hint ?? null, ...members });
}

/** What a failure says of itself to a sender. */
export function refusedBy({ code, detail, hint }: GatewayError): Refused {
  return { code, detail, ...(hint === undefined ? {} : { hint }) };
}
