/** What a request says about its events outside of its body. */
import { expect, test } from "bun:test";
import { parseEvent, typeFromQuery } from "../../src/event/event.ts";
import { complete, givenOf } from "../../src/http/given.ts";

const given = (headers: Record<string, string>, query = "") =>
  givenOf(new Headers(headers), query, typeFromQuery);

function eventOf(json: string) {
  const { event } = parseEvent(new TextEncoder().encode(json));
  if (event === null) throw new Error(`no event: ${json}`);
  return event;
}

test("a request without key headers and query gives nothing and allocates nothing", () => {
  expect(given({})).toBe(given({ "content-type": "application/json" }));
});

test("type, wait and keys are read; other parameters are ignored", () => {
  expect(given({ "idempotency-key": "i", "webhook-id": "w" }, "type=T&wait=enriched&hub.mode=x")).toEqual({
    type: "T",
    waits: true,
    keys: [
      { kind: "webhook-id", value: "w" },
      { kind: "idempotency-key", value: "i" },
    ],
    keysOnly: false,
  });
  expect(given({ "webhook-id": "" }, "wait=&dedup=")).toEqual({
    ...{ type: null, waits: false, keys: [], keysOnly: false },
  });
  expect(given({}, "dedup=none")).toMatchObject({ keysOnly: true });
});

test("a key or type that is too long and an unknown wait or dedup are refused", () => {
  expect(given({ "webhook-id": "k".repeat(1024) })).not.toHaveProperty("code");
  for (const refused of [
    given({ "webhook-id": "k".repeat(1025) }),
    given({}, `type=${"x".repeat(2000)}`),
    given({}, "wait=forever"),
    given({}, "dedup=off"),
  ])
    expect(refused).toMatchObject({ code: "bad_parameter" });
});

test("an event keeps its own type and key, and otherwise gets those of its request", () => {
  const request = { type: "T", waits: false, keys: [{ kind: "webhook-id", value: "w" }], keysOnly: false };
  const bare = eventOf("{}");
  complete(bare, request, null);
  expect([bare.type, bare.key]).toEqual(["T", "webhook-id:w"]);
  const own = eventOf('{"type":"Own","idempotency_key":7}');
  complete(own, request, null);
  expect([own.type, own.key]).toEqual(["Own", "idempotency_key:7"]);
});

test("a header's key decides before a plain id, which dedup=none ignores", () => {
  const withId = eventOf('{"id":7}');
  complete(
    withId,
    { type: null, waits: false, keys: [{ kind: "webhook-id", value: "w" }], keysOnly: false },
    null,
  );
  expect(withId.key).toBe("webhook-id:w");
  for (const json of ['{"id":7}', '{"id":7,"idempotency_key":"k"}']) {
    const event = eventOf(json);
    const { key } = event;
    complete(event, { type: null, waits: false, keys: [], keysOnly: true }, null);
    expect([event.key, event.dedupByBody]).toEqual([key, false]);
  }
});

test("each element of a batch gets a key of its own from the one header", () => {
  const request = {
    type: null,
    waits: false,
    keys: [{ kind: "idempotency-key", value: "k" }],
    keysOnly: false,
  };
  const keys = [0, 1].map((index) => {
    const event = eventOf("{}");
    complete(event, request, index);
    return event.key;
  });
  expect(keys).toEqual(["idempotency-key[0]:k", "idempotency-key[1]:k"]);
});
