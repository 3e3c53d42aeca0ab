/** What a request to /ingest says about its events outside of its body. */
import type * as EventRoom from "../event/event.ts";
import type { ParsedEvent } from "../event/event.ts";
import type { Refused } from "./contract.ts";

/** @bound a dedup key in a header | 400 */
const HEADER_KEY_CHARS_MAX = 1024;

export interface Given {
  readonly type: string | null;
  readonly waits: boolean;
  /** Dedup keys with their kind, for events without a key of their own. The first one counts. */
  readonly keys: readonly { readonly kind: string; readonly value: string }[];
}

const NOTHING_GIVEN: Given = { type: null, waits: false, keys: [] };
const KEY_HEADERS = ["webhook-id", "idempotency-key"] as const;

export function givenOf(
  headers: Headers,
  query: string,
  typeFromQuery: typeof EventRoom.typeFromQuery,
): Given | Refused {
  const webhookId = headers.get("webhook-id");
  const idempotencyKey = headers.get("idempotency-key");
  if (query === "" && webhookId === null && idempotencyKey === null) return NOTHING_GIVEN;
  const keys: { kind: string; value: string }[] = [];
  for (const kind of KEY_HEADERS) {
    const value = kind === "webhook-id" ? webhookId : idempotencyKey;
    if (value === null || value === "") continue;
    // A key that was ignored would let a repeat in as a new event.
    if (value.length > HEADER_KEY_CHARS_MAX) {
      return {
        code: "bad_parameter",
        detail: `the header ${kind} has ${value.length} characters, at most ${HEADER_KEY_CHARS_MAX} are allowed`,
      };
    }
    keys.push({ kind, value });
  }
  // Unknown parameters are ignored, because providers add their own to the address that they post to.
  const parameters = new URLSearchParams(query);
  const type = typeFromQuery(parameters.get("type"));
  if (type.detail !== null) return { code: "bad_parameter", detail: type.detail };
  const wait = parameters.get("wait");
  if (wait !== null && wait !== "" && wait !== "enriched") {
    return {
      code: "bad_parameter",
      detail: `wait is ${JSON.stringify(wait)}`,
      hint: "the only value is wait=enriched",
    };
  }
  return { type: type.type, waits: wait === "enriched", keys };
}

/**
 * Fills in what the event does not say itself.
 * @param index of the event in its batch; null for a single event.
 */
export function complete(event: ParsedEvent, given: Given, index: number | null): void {
  event.type ??= given.type;
  const header = given.keys[0];
  if (event.key !== null || header === undefined) return;
  // The index belongs to the kind, so that no value of the header can be mistaken for another element's key.
  event.key = `${header.kind}${index === null ? "" : `[${index}]`}:${header.value}`;
}
