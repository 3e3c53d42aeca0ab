/** What a request to /ingest says about its events outside of its body. */
import type * as EventRoom from "../event/event.ts";
import type { ParsedEvent } from "../event/event.ts";
import type { Refused } from "./contract.ts";

/** @bound a dedup key in a header | 400 */
const HEADER_KEY_CHARS_MAX = 1024;

export interface Given {
  readonly type: string | null;
  readonly waits: boolean;
  /** Dedup keys with their kind, for events without an `idempotency_key`. The first one counts. */
  readonly keys: readonly { readonly kind: string; readonly value: string }[];
  /** `?dedup=none`: an event without a key is new, even if the same bytes came before. Keys count all the same. */
  readonly keysOnly: boolean;
}

const NOTHING_GIVEN: Given = { type: null, waits: false, keys: [], keysOnly: false };
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
        hint: "send a shorter key, such as a hash of this one",
      };
    }
    keys.push({ kind, value });
  }
  // Unknown parameters are ignored, because providers add their own to the address that they post to.
  const parameters = new URLSearchParams(query);
  const type = typeFromQuery(parameters.get("type"));
  if (type.detail !== null)
    return { code: "bad_parameter", detail: type.detail, hint: "send a shorter type" };
  const waits = switchOf(parameters, "wait", "enriched");
  if (typeof waits === "object") return waits;
  const keysOnly = switchOf(parameters, "dedup", "none");
  if (typeof keysOnly === "object") return keysOnly;
  return { type: type.type, waits, keys, keysOnly };
}

/** Whether a parameter that knows one value is given. Absent and empty count as not given. */
function switchOf(parameters: URLSearchParams, name: string, on: string): boolean | Refused {
  const value = parameters.get(name);
  if (value === null || value === "" || value === on) return value === on;
  return {
    code: "bad_parameter",
    detail: `${name} is ${JSON.stringify(value)}`,
    hint: `the only value is ${name}=${on}`,
  };
}

/**
 * Fills in what the event does not say itself.
 * @param index of the event in its batch; null for a single event.
 */
export function complete(event: ParsedEvent, given: Given, index: number | null): void {
  event.type ??= given.type;
  if (given.keysOnly) event.dedupByBody = false;
  const header = given.keys[0];
  if (event.key !== null || header === undefined) return;
  // The index belongs to the kind, so that no value of the header can be mistaken for another element's key.
  event.key = `${header.kind}${index === null ? "" : `[${index}]`}:${header.value}`;
}
