/** How the ring's writer fails. */
import { dirname } from "node:path";
import { GatewayError, messageOf } from "../errors.ts";

export function ringFailed(
  operation: string,
  object: string,
  detail: string,
  hint?: string,
  cause?: unknown,
): GatewayError {
  const options = { code: "ring_failed", operation: `ring: ${operation}`, object, detail, cause } as const;
  return new GatewayError(hint === undefined ? options : { ...options, hint });
}

/** A GatewayError as it is; anything else that was thrown as one. */
export function asFailure(operation: string, object: string, thrown: unknown): GatewayError {
  return thrown instanceof GatewayError
    ? thrown
    : ringFailed(operation, object, messageOf(thrown), undefined, thrown);
}

export function noSpace(path: string, detail: string): GatewayError {
  return new GatewayError({
    code: "ring_no_space",
    operation: "ring: create",
    object: path,
    detail,
    hint: `make ${dirname(path)} larger (docker: --shm-size), or pass a smaller --ring-capacity`,
  });
}

export function errorCode(thrown: unknown): string | undefined {
  return (thrown as { code?: string } | null)?.code;
}
