/** What the parts of `http` pass to each other. */
import type { ErrorCode } from "../errors.ts";

/** An expected refusal of a request. `members` are added to the body of the problem. */
export interface Refused {
  readonly code: ErrorCode;
  readonly detail: string;
  readonly hint?: string;
  readonly retryAfterSeconds?: number;
  readonly members?: Readonly<Record<string, unknown>>;
}

/** A request on its way to the handler of its route. */
export interface RouteRequest {
  readonly req: Request;
  /** The path's parameter as it stands in the URL, still percent-encoded; empty if the route has none. */
  readonly parameter: string;
  /** Without the question mark. */
  readonly query: string;
  /** The Accept header; empty if there is none. */
  readonly accept: string;
  /** Sets the request's idle timeout. */
  readonly keepOpen: (seconds: number) => void;
  /** Takes room for bytes of the body, until the response begins. @returns false if there is none. */
  readonly hold: (bytes: number) => boolean;
}

/** The pieces of a body, in order. The next one is made when it is asked for. */
export type Pieces = AsyncGenerator<Uint8Array, void>;

/** What a handler returns if it does not refuse. The defaults are status 200 and `application/json`. */
export interface RouteResponse {
  readonly status?: number;
  readonly type?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body: string | Uint8Array | ReadableStream<Uint8Array> | Pieces;
  /** Of pieces: the size of the first one, and of later ones as far as that is known. */
  readonly pieceBytes?: number;
}

export type Handled = RouteResponse | Refused;
