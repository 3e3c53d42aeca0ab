/** POST /api/chat. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { GatewayError } from "../../src/errors.ts";
import { ChatRoutes } from "../../src/http/chat.ts";
import { type Harness, learn, problem, start, until } from "./stubs.ts";

// The machine may be busy.
setDefaultTimeout(60_000);

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

  test("responds as documented", async () => {
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
    await (await chat(http, '{"msg":"Oi"}', STREAM)).text();
    // Whoever waits for the whole response loses nothing if it comes at the end.
    expect(http.model.streamed.map(({ whole }) => whole)).toEqual([true, false]);
    http.model.found = { intent: null, slots: { reason: "chegou quebrado" } };
    const next = await chat(http, '{"msg":"Chegou quebrado","session_id":"session-1"}');
    expect(await next.json()).toMatchObject({ session_id: "session-1", missing: [], complete: true });
    const metrics = await (await fetch(`${http.url}/metrics`)).text();
    expect(metrics).toContain("gateway_chat_turns_total 3");
    expect(metrics).toContain("gateway_chat_sessions 2");
    expect(metrics).toContain('gateway_http_requests_total{route="/api/chat",status="2xx"} 3');
  });

  test("streams the state and the pieces as they come, and the whole text at the end", async () => {
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
    // The first piece arrives before the last one is made.
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

  test("without a model is 503 llm_unavailable with advice, streamed or not", async () => {
    await using http = start({}, { noModel: true });
    for (const headers of [{}, STREAM]) {
      const answer = await chat(http, '{"msg":"Oi"}', headers);
      expect(Number(answer.headers.get("retry-after"))).toBeGreaterThan(0);
      const body = await problem(answer, 503, "llm_unavailable");
      expect(body.hint).toContain("LM Studio");
    }
  });

  test("that fails in the middle of a stream ends the stream with the problem", async () => {
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
    // An unexpected failure is logged, and its details do not reach the client.
    http.model.pieces = ["Um", new TypeError("secret detail")];
    const mistake = await (await chat(http, '{"msg":"Oi"}', STREAM)).text();
    expect(eventsOf(mistake).at(-1)?.[1]).toMatchObject({ status: 500, code: "internal" });
    expect(mistake).not.toContain("secret detail");
    expect(http.logged.join("\n")).toContain("secret detail");
    await problem(await chat(http, '{"msg":"Oi"}'), 500, "internal");
  });

  test("a client that closes the connection ends the call of the model", async () => {
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
    const routes = new ChatRoutes({ chat: http.chat, failed: () => ({ code: "internal", detail: "" }) });
    const headers = { "content-type": "application/json", ...STREAM };
    for (const hold of [null, Promise.withResolvers<void>().promise]) {
      http.model.pieces = Array(10).fill("mais ");
      http.model.hold = null;
      const ended = http.model.ended + 1;
      const req = new Request("http://x/api/chat", { method: "POST", body: '{"msg":"Oi"}', headers });
      const request = {
        req,
        parameter: "",
        query: "",
        accept: STREAM.accept,
        keepOpen: () => {},
        hold: () => true,
      };
      const reply = await routes.take(request);
      if (!("body" in reply && reply.body instanceof ReadableStream)) throw new Error("expected a stream");
      const reader = reply.body.getReader();
      http.model.hold = hold;
      await reader.read();
      // The first piece is already there; the second one is still held back by the model.
      const held = http.model.held + (hold === null ? 0 : 1);
      if (hold !== null) await reader.read();
      await until("the model to be waited for", () => http.model.held === held);
      await reader.cancel();
      await until("the stream of the model to end", () => http.model.ended === ended);
      await until("the turn to end", () => http.chat.gauges.chat_busy_turns === 0);
    }
  });

  test("refuses a malformed request with a problem", async () => {
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

  test("bounds a body of unknown size", async () => {
    await using http = start();
    const endless = new ReadableStream<Uint8Array>({
      pull: (controller) => controller.enqueue(new Uint8Array(16_384).fill(32)),
    });
    const answer = await http.post(endless, { path: "/api/chat" }).catch((error: Error) => error);
    if (answer instanceof Response) await problem(answer, 413, "too_large");
    expect(http.model.streamed).toEqual([]);
  });

  test("a second turn of a conversation is 503 while the first runs, and every turn is during a drain", async () => {
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
