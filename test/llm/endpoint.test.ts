import { describe, expect, test } from "bun:test";
import { TooLargeError } from "../../src/llm/bounded-fetch.ts";
import { EndpointError } from "../../src/llm/endpoint.ts";
import { pieceOf } from "../../src/llm/reply-body.ts";
import { FakeClock } from "../fake-clock.ts";
import { scripted } from "./scripted.ts";

const CALL = { model: "m", input: ["a", "b"] };
const CHAT = { model: "m", messages: [{ role: "user" as const, content: "Hi" }], max_tokens: 9 };
const NEVER = new Promise<Response>(() => {});

async function failureOf(
  answer: () => Response | Promise<Response>,
  options: { apiKey?: string | null; clock?: FakeClock; signals?: AbortSignal[] } = {},
) {
  const { signals = [], ...rest } = options;
  const { endpoint, sent } = scripted(answer, rest);
  using limit = endpoint.limit(30_000, signals);
  const reply = await endpoint.complete(CHAT, limit);
  if (reply.ok) throw new Error("expected a failure");
  // The SDK does not retry.
  expect(sent.length).toBe(1);
  return reply.failure;
}

describe("a request", () => {
  test("has the right method, path and body", async () => {
    const { endpoint, sent } = scripted(() => Response.json({}));
    using limit = endpoint.limit(30_000, []);
    await endpoint.listModels(limit);
    await endpoint.embed(CALL, limit);
    await endpoint.complete(CHAT, limit);
    expect(sent.map(({ method, path, body }) => [method, path, body])).toEqual([
      ["GET", "/v1/models", null],
      ["POST", "/v1/embeddings", { ...CALL, encoding_format: "float" }],
      ["POST", "/v1/chat/completions", { ...CHAT, stream: false }],
    ]);
  });

  test("carries the key if there is one, and no authorization otherwise", async () => {
    for (const [apiKey, header] of [
      ["sesame", "Bearer sesame"],
      [null, null],
    ] as const) {
      const { endpoint, sent } = scripted(() => Response.json({}), { apiKey });
      using limit = endpoint.limit(1000, []);
      await endpoint.listModels(limit);
      expect(sent[0]?.headers.get("authorization")).toBe(header);
    }
  });

  test("takes nothing from the environment variables of the SDK", async () => {
    const names = ["OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_BASE_URL"] as const;
    const before = names.map((name) => process.env[name]);
    for (const name of names) process.env[name] = "from-env";
    try {
      const { endpoint, sent } = scripted(() => Response.json({}));
      using limit = endpoint.limit(1000, []);
      await endpoint.listModels(limit);
      expect([...(sent[0]?.headers.values() ?? [])].join()).not.toContain("from-env");
    } finally {
      names.forEach((name, at) => {
        if (before[at] === undefined) delete process.env[name];
        else process.env[name] = before[at];
      });
    }
  });

  test("lists models with their kinds, or gives null if the reply is not a list", async () => {
    const { endpoint } = scripted(() => Response.json({ data: [{ id: "bge-m3" }, { id: "qwen3-4b" }] }));
    using limit = endpoint.limit(1000, []);
    expect(await endpoint.listModels(limit)).toEqual({
      ok: true,
      value: [
        { id: "bge-m3", chats: false, embeds: true },
        { id: "qwen3-4b", chats: true, embeds: false },
      ],
    });
    const page = scripted(() => new Response("<html>", { headers: { "content-type": "text/html" } }));
    expect(await page.endpoint.listModels(limit)).toEqual({ ok: true, value: null });
  });

  test("is shown by an address without user, password and query", () => {
    expect(scripted(() => Response.json({})).endpoint.address).toBe("http://endpoint:1234/v1");
  });
});

describe("a failure", () => {
  test("at the deadline is a timeout", async () => {
    const clock = new FakeClock();
    const failing = failureOf(() => NEVER, { clock });
    await clock.advance(30_000);
    expect(await failing).toMatchObject({ kind: "timeout", detail: "no reply within 30 s", status: null });
  });

  test("by another signal is a cancellation", async () => {
    const asker = new AbortController();
    const answer = (): Promise<Response> => {
      setImmediate(() => asker.abort());
      return NEVER;
    };
    expect(await failureOf(answer, { signals: [asker.signal] })).toMatchObject({ kind: "cancelled" });
  });

  test("with a status carries the status, the endpoint's message and its Retry-After", async () => {
    const clock = new FakeClock(Date.parse("2026-03-01T10:00:00Z") * 1000);
    const busy = (retryAfter: string) =>
      failureOf(
        () =>
          Response.json(
            { error: { message: "slow\n  down" } },
            { status: 429, headers: { "retry-after": retryAfter } },
          ),
        { clock },
      );
    expect(await busy("7")).toMatchObject({
      ...{ kind: "status", status: 429, retryAfterMs: 7000 },
      detail: "the endpoint responded 429 slow down",
    });
    expect((await busy("Sun, 01 Mar 2026 10:00:05 GMT")).retryAfterMs).toBe(5000);
  });

  test("has a message without control characters", async () => {
    const message = "boom \u001b]0;owned\u0007\u009b31m\nFAKE line";
    const { detail } = await failureOf(() => Response.json({ error: { message } }, { status: 500 }));
    expect(detail).toBe("the endpoint responded 500 boom ]0;owned 31m FAKE line");
  });

  test("has a message of at most 300 characters", async () => {
    const long = await failureOf(() => new Response("x".repeat(5000), { status: 500 }));
    expect(long.detail.length).toBe(300);
  });

  test("never shows the key", async () => {
    const answer = () => Response.json({ error: { message: "wrong key: sesame-4711" } }, { status: 401 });
    const { detail } = await failureOf(answer, { apiKey: "sesame-4711" });
    expect(detail).toBe("the endpoint responded 401 wrong key: ***");
  });

  test("that a success status hides is told by its words, and by its code if it has one", async () => {
    expect(
      await failureOf(() => Response.json({ error: { message: "slow down", code: 429 } })),
    ).toMatchObject({
      ...{ kind: "status", status: 429, detail: "the endpoint responded with an error: slow down" },
    });
    expect(await failureOf(() => Response.json({ error: "odd" }))).toMatchObject({
      kind: "status",
      status: null,
    });
  });

  test("with a status carries the endpoint's own words, wherever they stand", async () => {
    for (const body of [
      '{"error":"no room"}',
      '{"object":"error","message":"no room"}',
      '{"detail":"no room"}',
      "no room",
    ]) {
      const { detail } = await failureOf(() => new Response(body, { status: 500 }));
      expect(detail).toBe("the endpoint responded 500 no room");
    }
  });

  test("of a path that does not exist asks for /v1 if the address lacks it", async () => {
    const { endpoint } = scripted(
      () => Response.json({ error: "Unexpected endpoint or method. (GET /models)" }),
      {
        baseUrl: "http://endpoint:1234",
      },
    );
    using limit = endpoint.limit(1000, []);
    const reply = await endpoint.listModels(limit);
    expect(reply).toMatchObject({ failure: { status: 404 } });
    expect(reply.ok ? "" : reply.failure.detail).toMatch(/Unexpected endpoint.*does the address lack \/v1\?/);
  });

  test("of the network carries the network's message", async () => {
    const refused = await failureOf(() => Promise.reject(new TypeError("connection refused")));
    expect(refused).toMatchObject({ kind: "unreachable", detail: "connection refused", status: null });
  });

  test("by the network's own timeout is not taken for the deadline", async () => {
    const slow = await failureOf(() => Promise.reject(new TypeError("connect: operation timed out")));
    expect(slow).toMatchObject({ kind: "unreachable", detail: "connect: operation timed out" });
  });

  test("to parse the reply is told apart", async () => {
    const json = { headers: { "content-type": "application/json" } };
    expect(await failureOf(() => new Response("<html>", json))).toMatchObject({ kind: "not_json" });
  });

  test("at the bound of a body is told apart", async () => {
    const body = new ReadableStream({
      pull: () => Promise.reject(new TooLargeError("an answer of more than 1 bytes")),
    });
    const json = { headers: { "content-type": "application/json" } };
    const failed = await failureOf(() => new Response(body, json));
    expect(failed).toMatchObject({ kind: "too_large", detail: "an answer of more than 1 bytes" });
  });
});

describe("a stream", () => {
  const event = (content: string): string =>
    `data: ${JSON.stringify({ choices: [{ delta: { content } }] })}\n\n`;
  const sse = { headers: { "content-type": "text/event-stream" } };

  test("yields the chunks as they arrive", async () => {
    const { endpoint, sent } = scripted(
      () => new Response(`${event("a")}${event("b")}data: [DONE]\n\n`, sse),
    );
    using limit = endpoint.limit(1000, []);
    const got: unknown[] = [];
    for await (const chunk of endpoint.stream(CHAT, limit)) got.push(pieceOf(chunk));
    expect(got).toEqual(["a", "b"]);
    expect(sent[0]?.body).toEqual({ ...CHAT, stream: true });
  });

  test("that the deadline cuts off fails", async () => {
    const clock = new FakeClock();
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => controller.enqueue(new TextEncoder().encode(event("a"))),
    });
    const { endpoint } = scripted(() => new Response(body, sse), { clock });
    using limit = endpoint.limit(1000, []);
    const got: unknown[] = [];
    const reading = (async () => {
      for await (const chunk of endpoint.stream(CHAT, limit)) {
        got.push(pieceOf(chunk));
        void clock.advance(1000);
      }
    })();
    const error = await reading.then(
      () => null,
      (thrown: unknown) => thrown,
    );
    expect(error).toBeInstanceOf(EndpointError);
    expect([(error as EndpointError).failure.kind, got]).toEqual(["timeout", ["a"]]);
  });

  test("that the endpoint refuses fails before its first chunk", async () => {
    const { endpoint } = scripted(() => new Response("oops", { status: 500 }));
    using limit = endpoint.limit(1000, []);
    const read = async (): Promise<void> => {
      for await (const _ of endpoint.stream(CHAT, limit));
    };
    await expect(read()).rejects.toMatchObject({ failure: { kind: "status", status: 500 } });
  });
});
