/** The routes of what the gateway has understood: /api/schemas and /api/chat. */
import { describe, expect, test } from "bun:test";
import { GatewayError } from "../../src/errors.ts";
import { ChatRoutes } from "../../src/http/chat.ts";
import { type Harness, start, until } from "./stubs.ts";

async function problem(answer: Response, status: number, code: string): Promise<Record<string, unknown>> {
  const text = await answer.text();
  expect(`${answer.status} ${text}`).toStartWith(`${status} {`);
  expect(answer.headers.get("content-type")).toBe("application/problem+json");
  const body = JSON.parse(text);
  expect(body).toMatchObject({ status, code, type: `urn:one-file-gateway:problem:${code}` });
  return body;
}

function learn(http: Harness, type: string | null, ...bodies: unknown[]): void {
  for (const body of bodies)
    http.schemas.observe(type, new TextEncoder().encode(JSON.stringify(body)), 1_700_000_000_000_000);
}

describe("/api/schemas", () => {
  test("lists what was learned, and shows one type by its name in any spelling of the path", async () => {
    await using http = start();
    expect(await (await fetch(`${http.url}/api/schemas`)).json()).toEqual({ schemas: [] });
    learn(http, "Order", { id: 7, note: null });
    learn(http, "Pedido/novo é", { total: 1.5 });
    const all = await fetch(`${http.url}/api/schemas`);
    expect(all.headers.get("content-type")).toBe("application/json");
    const { schemas } = (await all.json()) as { schemas: { type: string }[] };
    expect(schemas.map(({ type }) => type)).toEqual(["Order", "Pedido/novo é"]);
    const one = await fetch(`${http.url}/api/schemas/Order`);
    expect(one.headers.get("content-type")).toBe("application/json");
    expect(await one.json()).toEqual({
      type: "Order",
      events: 1,
      first_seen_us: 1_700_000_000_000_000,
      last_seen_us: 1_700_000_000_000_000,
      expected_fields: 1,
      drift: { new_field: 0, type_change: 0, gone: 0 },
      fields: [
        {
          ...{ path: "id", types: ["integer"], fill_rate: 1, drift: null, sample: 7 },
          ...{ first_seen_us: 1_700_000_000_000_000, last_seen_us: 1_700_000_000_000_000 },
        },
        {
          ...{ path: "note", types: ["null"], fill_rate: 0, drift: null, sample: null },
          ...{ first_seen_us: 1_700_000_000_000_000, last_seen_us: 1_700_000_000_000_000 },
        },
      ],
    });
    const again: unknown = await (await fetch(`${http.url}/api/schemas/Order`)).json();
    expect(schemas[0] as unknown).toEqual(again);
    for (const path of ["Pedido%2Fnovo%20%C3%A9", "Pedido/novo%20%c3%a9"])
      expect(await (await fetch(`${http.url}/api/schemas/${path}`)).json()).toMatchObject({ events: 1 });
  });

  test("exports JSON Schema, of one type and of all", async () => {
    await using http = start();
    learn(http, "Order", { id: 7 });
    learn(http, "__proto__", JSON.parse('{"__proto__":1}'));
    const one = await fetch(`${http.url}/api/schemas/Order?format=jsonschema`);
    expect(one.headers.get("content-type")).toBe("application/schema+json");
    expect(await one.json()).toMatchObject({
      $schema: "https://json-schema.org/draft/2020-12/schema",
      type: "object",
      required: ["id"],
    });
    const all = await fetch(`${http.url}/api/schemas?format=jsonschema`);
    expect(all.headers.get("content-type")).toBe("application/schema+json");
    const document = (await all.json()) as { $schema: string; $defs: Record<string, { title: string }> };
    expect(document.$schema).toContain("2020-12");
    expect(Object.keys(document.$defs)).toEqual(["Order", "__proto__"]);
    expect(document.$defs.Order).not.toHaveProperty("$schema");
  });

  test("streams much in many pieces, and passes over what is dropped meanwhile", async () => {
    await using http = start();
    const wide = Object.fromEntries(Array.from({ length: 400 }, (_, n) => [`field_number_${n}`, n]));
    for (let n = 0; n < 40; n++) learn(http, `Type${n}`, wide);
    const answer = await fetch(`${http.url}/api/schemas`);
    let chunks = 0;
    let text = "";
    for await (const chunk of answer.body as unknown as AsyncIterable<Uint8Array>) {
      chunks += 1;
      text += new TextDecoder().decode(chunk);
    }
    expect(chunks).toBeGreaterThan(10);
    expect(JSON.parse(text).schemas).toHaveLength(40);
  });

  test("refuses unknown types, parameters and methods as problems", async () => {
    await using http = start();
    const missing = await problem(await fetch(`${http.url}/api/schemas/Nothing`), 404, "not_found");
    expect(missing.detail).toContain('"Nothing"');
    for (const path of ["", "%E0%A4%A", "x".repeat(2000), "UnknownEvent"])
      await problem(await fetch(`${http.url}/api/schemas/${path}`), 404, "not_found");
    learn(http, "Order", { id: 7 });
    for (const path of [
      "/api/schemas?format=xml",
      "/api/schemas/Order?format=JSONSchema",
      "/api/schemas?limit=5",
    ])
      await problem(await fetch(http.url + path), 400, "bad_parameter");
    await problem(await http.post("{}", { path: "/api/schemas/Order" }), 405, "method_not_allowed");
    expect((await fetch(`${http.url}/api/schemas/Order`, { method: "HEAD" })).status).toBe(200);
  });

  test("needs the token where there is one", async () => {
    await using http = start({ token: "secret" });
    await problem(await fetch(`${http.url}/api/schemas`), 401, "unauthorized");
    await problem(await fetch(`${http.url}/api/schemas/Order`), 401, "unauthorized");
    await problem(await http.post('{"msg":"Oi"}', { path: "/api/chat" }), 401, "unauthorized");
  });
});

/** Server-sent events as [event, data]. */
function eventsOf(text: string): [string, Record<string, unknown>][] {
  return text
    .split("\n\n")
    .filter((block) => block !== "")
    .map((block) => {
      const match = /^event: (\w+)\ndata: (.*)$/.exec(block);
      if (match === null) throw new Error(`no server-sent event: ${block}`);
      return [match[1] as string, JSON.parse(match[2] as string)];
    });
}

describe("/api/chat", () => {
  const chat = (http: Harness, body: string, headers: Record<string, string> = {}): Promise<Response> =>
    http.post(body, { path: "/api/chat", headers });
  const STREAM = { accept: "text/event-stream" };

  test("answers as documented", async () => {
    await using http = start();
    learn(http, "Refund", { order: "A1", reason: "x" });
    http.model.found = { intent: "Refund", slots: [{ name: "order", value: "B-77" }] };
    http.model.pieces = ["Qual é o ", "<b>motivo</b>?\n"];
    const answer = await chat(http, '{"msg":"Quero devolver o pedido B-77"}');
    expect(answer.headers.get("content-type")).toBe("application/json");
    expect(await answer.json()).toEqual({
      role: "assistant",
      content: "Qual é o motivo?",
      session_id: "session-1",
      intent: "Refund",
      slots: { order: "B-77" },
      missing: ["reason"],
      complete: false,
    });
    http.model.found = { intent: null, slots: { reason: "chegou quebrado" } };
    const next = await chat(http, '{"msg":"Chegou quebrado","session_id":"session-1"}');
    expect(await next.json()).toMatchObject({ session_id: "session-1", missing: [], complete: true });
    const metrics = await (await fetch(`${http.url}/metrics`)).text();
    expect(metrics).toContain("gateway_chat_turns_total 2");
    expect(metrics).toContain("gateway_chat_sessions 1");
    expect(metrics).toContain('gateway_http_requests_total{route="/api/chat",status="2xx"} 2');
  });

  test("streams state, pieces and the whole, while they come", async () => {
    await using http = start();
    const gate = Promise.withResolvers<void>();
    http.model.pieces = ["Um ", "<i>", "dois</i>"];
    const answer = await chat(http, '{"msg":"Oi","session_id":"a"}', STREAM);
    expect(answer.headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
    expect(answer.headers.get("cache-control")).toBe("no-store");
    const state = { session_id: "a", intent: null, slots: {}, missing: [], complete: false };
    expect(eventsOf(await answer.text())).toEqual([
      ["state", state],
      ["text", { content: "Um " }],
      ["text", { content: "dois" }],
      ["done", { role: "assistant", content: "Um dois", ...state }],
    ]);
    // The first words are there before the last ones are made.
    http.model.pieces = ["Primeiro"];
    const model = http.model;
    model.stream = async function* () {
      yield "Primeiro";
      await gate.promise;
      yield " e último";
    };
    const slow = await chat(http, '{"msg":"Oi"}', STREAM);
    const reader = (slow.body as ReadableStream<Uint8Array>).getReader();
    let text = "";
    while (!text.includes("Primeiro")) text += new TextDecoder().decode((await reader.read()).value);
    expect(text).not.toContain("último");
    gate.resolve();
    for (let step = await reader.read(); !step.done; step = await reader.read())
      text += new TextDecoder().decode(step.value);
    expect(eventsOf(text).at(-1)?.[1].content).toBe("Primeiro e último");
  });

  test("without a model is 503 llm_unavailable, and says what to start, streamed or not", async () => {
    await using http = start({}, { noModel: true });
    for (const headers of [{}, STREAM]) {
      const answer = await chat(http, '{"msg":"Oi"}', headers);
      expect(Number(answer.headers.get("retry-after"))).toBeGreaterThan(0);
      const body = await problem(answer, 503, "llm_unavailable");
      expect(body.hint).toContain("LM Studio");
    }
  });

  test("that fails in the middle of a stream ends it with the problem", async () => {
    await using http = start();
    const detail = "reset by peer";
    const unavailable = { code: "llm_unavailable", operation: "llm: ask", object: "stub", detail } as const;
    http.model.pieces = ["Um", new GatewayError(unavailable)];
    const known = eventsOf(await (await chat(http, '{"msg":"Oi"}', STREAM)).text());
    expect(known.map(([event]) => event)).toEqual(["state", "text", "error"]);
    expect(known.at(-1)?.[1]).toMatchObject({
      status: 503,
      code: "llm_unavailable",
      detail: "reset by peer",
    });
    // A mistake of ours is logged, and told without its details.
    http.model.pieces = ["Um", new TypeError("secret detail")];
    const mistake = await (await chat(http, '{"msg":"Oi"}', STREAM)).text();
    expect(eventsOf(mistake).at(-1)?.[1]).toMatchObject({ status: 500, code: "internal" });
    expect(mistake).not.toContain("secret detail");
    expect(http.logged.join("\n")).toContain("secret detail");
    await problem(await chat(http, '{"msg":"Oi"}'), 500, "internal");
  });

  test("a client that goes away ends the question to the model", async () => {
    await using http = start();
    http.model.pieces = Array(1_000).fill("mais ");
    http.model.hold = Promise.withResolvers<void>().promise;
    const abort = new AbortController();
    const body = '{"msg":"Oi","session_id":"gone"}';
    const headers = { "content-type": "application/json" };
    const request = { method: "POST", body, headers, signal: abort.signal };
    const whole = fetch(`${http.url}/api/chat`, request).catch((error: Error) => error.name);
    await until("the model to be asked", () => http.model.streamed.length === 1);
    abort.abort();
    expect(await whole).toBe("AbortError");
    await until("the stream to end", () => http.model.ended === 1);
    const second = new AbortController();
    const stream = { ...request, signal: second.signal, headers: { ...headers, ...STREAM } };
    http.model.hold = null;
    const answer = await fetch(`${http.url}/api/chat`, stream);
    const reader = (answer.body as ReadableStream<Uint8Array>).getReader();
    await reader.read();
    http.model.hold = Promise.withResolvers<void>().promise;
    second.abort();
    await until("the second stream to end", () => http.model.ended === 2);
  });

  test("a stream that is cancelled ends the turn, whether it waits for the model or for its reader", async () => {
    await using http = start();
    const routes = new ChatRoutes({
      chat: http.chat,
      problem: () => "",
      failed: () => ({ code: "internal", detail: "" }),
    });
    const headers = { "content-type": "application/json", ...STREAM };
    for (const hold of [null, Promise.withResolvers<void>().promise]) {
      http.model.pieces = Array(10).fill("mais ");
      http.model.hold = null;
      const ended = http.model.ended + 1;
      const request = new Request("http://x/api/chat", { method: "POST", body: '{"msg":"Oi"}', headers });
      const reply = await routes.take(request, () => {});
      if (!("body" in reply) || typeof reply.body === "string") throw new Error("expected a stream");
      const reader = reply.body.getReader();
      http.model.hold = hold;
      await reader.read();
      // The first piece is there already; the next one is what the model is waited for.
      const held = http.model.held + (hold === null ? 0 : 1);
      if (hold !== null) await reader.read();
      await until("the model to be waited for", () => http.model.held === held);
      await reader.cancel();
      await until("the stream of the model to end", () => http.model.ended === ended);
      await until("the turn to end", () => http.chat.gauges.chat_busy_turns === 0);
    }
  });

  test("is refused with a problem where the request is none", async () => {
    await using http = start();
    const refused = async (body: string, status: number, code: string, headers = {}): Promise<string> =>
      String((await problem(await chat(http, body, headers), status, code)).detail);
    await refused("", 400, "malformed");
    await refused('{"msg":', 400, "malformed");
    expect(await refused("7", 400, "bad_parameter")).toContain("JSON object");
    expect(await refused("{}", 400, "bad_parameter")).toBe('"msg" is missing');
    expect(await refused('{"msg":5}', 400, "bad_parameter")).toContain("string");
    expect(await refused('{"msg":" \\n"}', 400, "bad_parameter")).toContain("empty");
    expect(await refused(`{"msg":"${"x".repeat(4097)}"}`, 400, "bad_parameter")).toContain("4096");
    for (const id of ['""', '"a b"', "5", `"${"x".repeat(129)}"`])
      expect(await refused(`{"msg":"Oi","session_id":${id}}`, 400, "bad_parameter")).toContain("session_id");
    await refused(`{"msg":"Oi","x":"${"x".repeat(70_000)}"}`, 413, "too_large");
    await refused('{"msg":"Oi"}', 415, "unsupported_media_type", { "content-type": "text/plain" });
    await refused('{"msg":"Oi"}', 415, "unsupported_media_type", { "content-type": "application/x-ndjson" });
    await refused('{"msg":"Oi"}', 415, "unsupported_media_type", { "content-encoding": "gzip" });
    await problem(await fetch(`${http.url}/api/chat`), 405, "method_not_allowed");
    expect(http.model.streamed).toEqual([]);
    const latin = new Uint8Array([...new TextEncoder().encode('{"msg":"'), 0xe9, 0x22, 0x7d]);
    await problem(await http.post(latin, { path: "/api/chat" }), 400, "malformed");
  });

  test("is bounded where the body's size is not said", async () => {
    await using http = start();
    const endless = new ReadableStream<Uint8Array>({
      pull: (controller) => controller.enqueue(new Uint8Array(16_384).fill(32)),
    });
    const answer = await http.post(endless, { path: "/api/chat" }).catch((error: Error) => error);
    if (answer instanceof Response) await problem(answer, 413, "too_large");
    expect(http.model.streamed).toEqual([]);
  });

  test("a conversation that is being answered is 503, and so is the end of the gateway", async () => {
    await using http = start();
    http.model.hold = Promise.withResolvers<void>().promise;
    const first = chat(http, '{"msg":"Oi","session_id":"a"}');
    await until("the model to be asked", () => http.model.streamed.length === 1);
    await problem(await chat(http, '{"msg":"Oi","session_id":"a"}'), 503, "overloaded");
    http.server.drain();
    await problem(await first, 503, "draining");
    await problem(await chat(http, '{"msg":"Oi"}'), 503, "draining");
  });
});

describe("the Snapshot", () => {
  test("tells what the traffic has changed, and counts it", async () => {
    await using http = start();
    const headers = { accept: "application/json" };
    const snapshot = (await (await fetch(`${http.url}/metrics`, { headers })).json()) as {
      drift: unknown;
      counters: Record<string, number>;
    };
    expect(snapshot.drift).toEqual([
      { kind: "new_field", type: "Order", path: "late", at_us: 1_700_000_000_500_000 },
    ]);
    expect(snapshot.counters.chat_turns_total).toBe(0);
  });
});
