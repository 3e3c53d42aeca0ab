/**
 * The one error type of the gateway. Its codes are a closed list. Only `http` turns a code into a status, and only the
 * command line turns it into an exit code.
 */

/** Codes with which a request can be refused. `http` has a status for each. */
export type RequestErrorCode =
  // The request is at fault.
  | "malformed"
  | "not_an_event"
  | "too_deep"
  | "too_large"
  | "unsupported_media_type"
  | "bad_parameter"
  | "invalid_body"
  | "unauthorized"
  | "forbidden_host"
  | "forbidden_origin"
  | "not_found"
  | "method_not_allowed"
  // The gateway cannot serve the request now.
  | "overloaded"
  | "draining"
  | "disk_full"
  | "store_unavailable"
  | "llm_unavailable"
  | "journal_failed"
  | "store_failed"
  | "embedder_unavailable"
  | "internal";

/** Codes of starting and operating the gateway. A request that meets one of them nevertheless is answered with 500. */
type OperationErrorCode =
  | "usage"
  | "address_in_use"
  | "locked"
  | "foreign_journal"
  | "foreign_store"
  | "journal_missing"
  | "store_missing"
  | "store_behind"
  | "store_log_unreadable"
  | "ring_failed"
  | "ring_no_space"
  | "embedder_invalid"
  | "model_missing"
  | "model_invalid"
  | "temp_folder";

export type ErrorCode = RequestErrorCode | OperationErrorCode;

export interface GatewayErrorOptions {
  readonly code: ErrorCode;
  /** What was tried, as a room and a verb: "ring: create". */
  readonly operation: string;
  /** On what: a path, an address, a field. */
  readonly object: string;
  /** What went wrong, in words that a user can act on. */
  readonly detail: string;
  /** What to do next. */
  readonly hint?: string;
  /** How long the other side asked us to wait, for example by Retry-After. */
  readonly retryAfterMs?: number;
  readonly cause?: unknown;
}

/** Says what was tried, on what, what happened and what to do next, in one line. */
export class GatewayError extends Error {
  override readonly name = "GatewayError";
  readonly code: ErrorCode;
  readonly operation: string;
  readonly object: string;
  readonly detail: string;
  readonly hint: string | undefined;
  readonly retryAfterMs: number | null;

  constructor(options: GatewayErrorOptions) {
    const { operation, object, detail, hint } = options;
    super(`${operation} ${object}: ${detail}${hint === undefined ? "" : `; ${hint}`}`, {
      cause: options.cause,
    });
    this.code = options.code;
    this.operation = operation;
    this.object = object;
    this.detail = detail;
    this.hint = hint;
    this.retryAfterMs = options.retryAfterMs ?? null;
  }
}

/** The message of anything that was thrown. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}

/**
 * A GatewayError as it crosses threads: a structured clone of the error itself would lose its fields. The cause stays
 * behind, since not everything that was thrown can be cloned.
 */
export type SerialisedError = Omit<GatewayErrorOptions, "cause">;

export function serialiseError(error: GatewayError): SerialisedError {
  const { code, operation, object, detail, hint, retryAfterMs } = error;
  return {
    code,
    operation,
    object,
    detail,
    ...(hint === undefined ? {} : { hint }),
    ...(retryAfterMs === null ? {} : { retryAfterMs }),
  };
}

export function deserialiseError(error: SerialisedError): GatewayError {
  return new GatewayError(error);
}
